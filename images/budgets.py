"""Budgets before decoding: what a picture would cost, counted from its own markers before any decoder sees it.

Decoders read some files far longer than their size suggests: a hundred scans over the same pixels, a chain of directories, a
million frames that nobody asked for. What is counted here costs time in step with the file's bytes, and stops at the budget.
A picture that is no such file, or damaged, is none of this module's business: its decoder refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from qcam.images.levels import largest_of_ppm

#: Most passes over the pixels of a progressive JPEG, times pixels: a second for every 200 million or so.
MAX_SCANNED = 1_800_000_000
#: Most segments of a JPEG, and most bytes between them that belong to none.
MAX_SEGMENTS, MAX_JUNK = 20_000, 1 << 20
#: Most directories of a TIFF, and most entries in all of them.
MAX_DIRECTORIES, MAX_ENTRIES = 1_000, 100_000
#: Most frames of a GIF, and most blocks.
MAX_FRAMES, MAX_BLOCKS = 10_000, 2_000_000
#: Most chunks of a PNG.
MAX_CHUNKS = 200_000
#: Most bytes of a PPM whose numbers are written out, and of one of other levels than 256 and 65,536: Python reads both.
MAX_TEXT, MAX_LEVELS = 4 << 20, 16 << 20
#: Most bytes of a BMP in runs, and of a picture in JPEG 2000.
MAX_RUNS, MAX_WAVELETS = 48 << 20, 48 << 20

#: A marker inside a scan's data: any but stuffed bytes, restarts and fill bytes.
_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_SCAN, _END, _FRAMES = 0xDA, 0xD9, {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
#: Bytes of a value by TIFF's type; others take none.
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def over_budget(data: bytes, kind: str) -> str:
    """Say why a picture costs more than is spent on one; empty if it does not.

    Args:
        data: The file's bytes.
        kind: Pillow's name of its format, from `kind_of`.
    """
    count = _BY_KIND.get(kind)
    return "" if count is None else count(data)


def _jpeg(data: bytes) -> str:
    place, segments, scans, pixels, junk = 2, 0, 0, 0, 0
    while (found := _MARKER.search(data, place)) is not None:
        marker = found[0][-1]
        junk += found.end() - place - 2
        segments += 1
        if junk > MAX_JUNK:
            return f"more than {MAX_JUNK >> 20} MiB between its segments"
        if segments > MAX_SEGMENTS:
            return f"more than {MAX_SEGMENTS:,} segments"
        place = found.end()
        if marker == _END:
            break
        if marker == 1 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        if marker in _FRAMES and not pixels:
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (3, 5))
            pixels = height * width
        place += max(length, 2)
        if marker == _SCAN:
            scans += 1
            if scans * pixels > MAX_SCANNED:
                return f"{scans:,} or more scans of {pixels:,} pixels"
            following = _IN_SCAN.search(data, place)
            if following is None:
                break
            place = following.start()
    return ""


def _tiff(data: bytes) -> str:
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in (b"+\0", b"\0+")
    wide, counted, size = (8, 8, 20) if big else (4, 2, 12)

    def number(place: int, length: int) -> int:
        return int.from_bytes(data[place : place + length], order)

    place, directories, entries = number(8 if big else 4, wide), 0, 0
    while 0 < place < len(data):
        directories += 1
        count = number(place, counted)
        entries += count
        if directories > MAX_DIRECTORIES:
            return f"more than {MAX_DIRECTORIES:,} directories"
        if entries > MAX_ENTRIES:
            return f"more than {MAX_ENTRIES:,} entries in its directories"
        first, told = place + counted, 0
        for at in range(first, min(first + count * size, len(data)), size):
            value = number(at + 4, wide) * _TIFF_SIZES.get(number(at + 2, 2), 0)
            told += value if value > wide else 0
        if told > len(data):
            return "entries of one directory that hold more bytes than the file"
        place = number(first + count * size, wide)
    return ""


def _gif(data: bytes) -> str:
    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    place, frames, blocks = 13 + table(data[10] if len(data) > 10 else 0), 0, 0
    while place < len(data):
        kind = data[place]
        if kind == 0x2C:
            frames += 1
            flags = data[place + 9] if place + 9 < len(data) else 0
            place += 11 + table(flags)
        elif kind == 0x21:
            place += 2
        else:  # the end, or a byte that Pillow skips
            if kind == 0x3B:
                break
            place += 1
            blocks += 1
            continue
        while place < len(data) and data[place]:
            place += data[place] + 1
            blocks += 1
            if blocks > MAX_BLOCKS:
                return f"more than {MAX_BLOCKS:,} blocks"
        place += 1
        blocks += 1
        if frames > MAX_FRAMES:
            return f"more than {MAX_FRAMES:,} frames"
        if blocks > MAX_BLOCKS:
            return f"more than {MAX_BLOCKS:,} blocks"
    return ""


def _png(data: bytes) -> str:
    place, chunks = 8, 0
    while place + 8 <= len(data):
        chunks += 1
        if chunks > MAX_CHUNKS:
            return f"more than {MAX_CHUNKS:,} chunks"
        if data[place + 4 : place + 8] == b"IEND":
            break
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return ""


def _ppm(data: bytes) -> str:
    if data[1:2] in (b"1", b"2", b"3") and len(data) > MAX_TEXT:
        return f"numbers written out over more than {MAX_TEXT >> 20} MiB: write it in binary"
    if len(data) > MAX_LEVELS and data[1:2] in (b"5", b"6") and largest_of_ppm(data) not in (255, 65535):
        return f"more than {MAX_LEVELS >> 20} MiB of levels from 0 to {largest_of_ppm(data)}: write it with 255 or 65535"
    return ""


def _bmp(data: bytes) -> str:
    runs = int.from_bytes(data[30:34], "little") in (1, 2)
    return f"more than {MAX_RUNS >> 20} MiB of runs" if runs and len(data) > MAX_RUNS else ""


def _jpeg2000(data: bytes) -> str:
    return f"more than {MAX_WAVELETS >> 20} MiB of JPEG 2000" if len(data) > MAX_WAVELETS else ""


_BY_KIND: dict[str, Callable[[bytes], str]] = {
    "JPEG": _jpeg, "TIFF": _tiff, "GIF": _gif, "PNG": _png, "PPM": _ppm, "BMP": _bmp, "JPEG2000": _jpeg2000,
}  # fmt: skip
