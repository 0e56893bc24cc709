"""Damage of a JPEG that its decoder does not tell of: it fills what is missing with grey, and takes zeros for data.

libjpeg only warns of such files, and Pillow passes no warning on. What is found here is found for certain, or by what no
encoder writes; what is not found stands in docs/security.md.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image, ImageChops

#: So many zeros one after the other in a scan's data are none of an encoder's.
_RUN = bytes(64)
#: What samples are of which nothing is known.
_GREY = 128
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
#: A marker inside a scan's data: any but stuffed bytes, restarts and fill bytes.
_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SCAN, _END, _TABLES, _RESTARTS = 0xDA, 0xD9, 0xC4, 0xDD
#: Frames of Huffman codes: sequential and progressive.
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
#: Bytes that stand for further data, none of them a marker.
_MORE = bytes(random.Random(0).choices(range(1, 255), k=256))


class _Segment(NamedTuple):
    """A segment: its marker, its content, and where the data of a scan behind it begin and end."""

    marker: int
    content: bytes
    begin: int
    end: int


@dataclass
class _Told:
    """What the segments of a JPEG say.

    Attributes:
        progressive: Whether it is; None if it is neither that nor sequential, or damaged.
        depths: Component → for each of 64 coefficients by how many bits it is short; -1 of which nothing came.
        end: Where the data of the last scan end.
        restarts: Whether there are restart markers.
        zeros: Where zeros begin that no encoder writes; -1 if nowhere.
    """

    progressive: bool | None = None
    depths: dict[int, list[int]] = field(default_factory=dict)
    end: int = 0
    restarts: bool = False
    zeros: int = -1


def wrong_data(data: bytes) -> str:
    """Say what is wrong with the data of a JPEG; empty if nothing is found.

    Args:
        data: The file's bytes.

    Returns:
        That scans are missing, or that a part was zeroed; empty of what is no JPEG.
    """
    told = _told(data)
    if told.zeros >= 0:
        return f"a part of its data is zero, from byte {told.zeros:,} on"
    if told.progressive is None or not told.depths or not told.end:
        return ""
    return "its last scans are missing" if any(-1 in of or max(of) > 0 for of in told.depths.values()) else ""


def is_cut_short(data: bytes, picture: Image.Image, decode: Callable[[bytes], Image.Image]) -> bool:
    """Tell whether the data of a sequential JPEG end before its pixels do, as where a file was cut and ended.

    What is missing is decoded as grey. Where the last pixel is of that grey, the file is decoded once more with further data
    behind its own: only a file that was cut takes them.

    Args:
        data: The file's bytes.
        picture: What it was decoded to, as its decoder left it.
        decode: Decodes bytes in the same way.
    """
    if picture.mode not in ("RGB", "L") or min(picture.size) < 1:
        return False
    if set(picture.crop((picture.width - 1, picture.height - 1, *picture.size)).tobytes()) != {_GREY}:
        return False
    told = _told(data)
    if told.progressive is not False or not told.end:
        return False
    more = _MORE
    if told.restarts:
        more += b"".join(bytes((0xFF, 0xD0 + number)) + _MORE for number in range(8)) * 2
    # A lone 0xFF there would make a marker of what follows.
    other = decode(data[: told.end].rstrip(b"\xff") + more + data[told.end :])
    return ImageChops.difference(picture, other).getbbox() is not None


def _told(data: bytes) -> _Told:
    told = _Told()
    first: dict[int, int] = {}  # table of coefficients → what its shortest code, all zeros, stands for
    for marker, content, begin, end in _segments(data):
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            told.progressive = marker == _PROGRESSIVE
            told.depths = {part: [-1] * 64 for part in content[6::3]}
        elif marker == _TABLES:
            first |= _first_codes(content)
        elif marker == _RESTARTS:
            told.restarts = content[:2] != b"\0\0"
        elif marker == _SCAN and content:
            count = content[0]
            parts, tail = content[1 : 1 + 2 * count], content[1 + 2 * count : 4 + 2 * count]
            if len(tail) < 3:
                return _Told()
            # Zeros are flat areas where the shortest code says that a block ends.
            if told.progressive is False and all(first.get(table & 15, 0) for table in parts[1::2][:1]):
                place = data.find(_RUN, begin, end)
                told.zeros = place if told.zeros < 0 else told.zeros
            low, high, left = (tail[0], tail[1], tail[2] & 15) if told.progressive else (0, 63, 0)
            for part in parts[::2]:
                if part in told.depths:
                    told.depths[part][low : high + 1] = [left] * len(told.depths[part][low : high + 1])
            told.end = end
    return told


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield the segments up to the first end of an image."""
    place = 2
    while (found := _MARKER.search(data, place)) is not None:
        marker, place = found[0][-1], found.end()
        if marker == _END:
            return
        if marker == 1 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            continue
        begin = end = place + max(int.from_bytes(data[place : place + 2], "big"), 2)
        if marker == _SCAN:
            following = _IN_SCAN.search(data, begin)
            end = len(data) if following is None else following.start()
        yield _Segment(marker, data[place + 2 : begin], begin, end)
        place = end


def _first_codes(content: bytes) -> dict[int, int]:
    """Return number of each table for coefficients → the value of its first code."""
    found = {}
    place = 0
    while place + 17 <= len(content):
        count = sum(content[place + 1 : place + 17])
        if content[place] >> 4 == 1 and count and place + 17 < len(content):
            found[content[place] & 15] = content[place + 17]
        place += 17 + count
    return found
