"""Pictures of more than 8 bits: how their levels become 256, by one rule, which is told in the row's remark.

16-bit levels: of the declared depth, else of the smallest power of two that holds the maximum; the upper 8 bits of that depth
are kept, fewer bits are spread. 32-bit and float levels: what lies between the 0.1 and the 99.9 percentile is spread over 0 to
255. Pixels that are not finite are black, and counted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

#: Percentiles between which 32-bit and float levels are spread.
LOW, HIGH = 0.1, 99.9
#: All but LOW % of the pixels on either side lie within so many of 256 levels: then a picture is nearly uniform.
UNIFORM_LEVELS = 4
#: Most pixels of a picture of 16 bits, and of one of 32 bits or floats: on the way to 8 bits several copies are in memory.
MAX_DEEP, MAX_WIDE = 40_000_000, 25_000_000
#: Of levels that have 16 bits, whatever part of them is used.
UNDECLARED = 17
#: What decodes the low bytes where Pillow keeps the high ones of 16-bit channels.
_NATIVE = "L" if sys.byteorder == "little" else "B"
_TWINS = {
    f"{mode};16{end}": f"{mode};16{'B' if (_NATIVE if end == 'N' else end) == 'L' else 'L'}"
    for mode in ("RGB", "RGBA", "RGBX")
    for end in "LBN"
}
_GRAY_ALPHA = "LA;16B"
_TWINS[_GRAY_ALPHA] = "RGBA"
#: Rows that are scaled at a time.
_ROWS = 256
_MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE, _SAMPLE_FORMAT = 281, 258, 339
_PHOTOMETRIC, _PLANAR, _SAMPLES = 262, 284, 277
_WHITE_IS_ZERO, _SEPARATE = 0, 2


class LevelsError(Exception):
    """Levels that cannot be shown as 256; the message says why."""


@dataclass(frozen=True)
class Scaled:
    """A picture of 8 bits that had more.

    Attributes:
        image: The picture, L or RGB.
        remark: How it was scaled.
    """

    image: Image.Image
    remark: str


def is_deep(picture: Image.Image, data: bytes) -> bool:
    """Tell whether a picture that was opened has channels of more than 8 bits, whether or not Pillow keeps them."""
    return picture.mode.startswith("I") or picture.mode == "F" or _deep_colour(picture, data)


def refuse_layout(picture: Image.Image) -> None:
    """Refuse TIFFs of more than 8 bits whose layout Pillow takes for another one.

    Args:
        picture: A deep picture, opened and perhaps not loaded.

    Raises:
        LevelsError: If its levels count down from white, or its colours lie in planes.
    """
    tags = getattr(picture, "tag_v2", None)
    if tags is None:
        return
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise LevelsError(
            "more than 8 bits that count down from white (MinIsWhite), which are not read here: write it as MinIsBlack"
        )
    if tags.get(_PLANAR, 1) == _SEPARATE and tags.get(_SAMPLES, 1) > 1:
        raise LevelsError(
            "more than 8 bits in a plane for each channel, which are not read here: write the channels of a pixel side by side"
        )


def refuse_size(picture: Image.Image) -> None:
    """Refuse a picture of more than 8 bits that would take too much memory on the way to 8.

    Args:
        picture: A deep picture, opened and not loaded.

    Raises:
        LevelsError: If it has more pixels than that.
    """
    most = MAX_WIDE if picture.mode in ("I", "F") else MAX_DEEP
    if picture.width * picture.height > most:
        raise LevelsError(
            f"{picture.width}×{picture.height} pixels of more than 8 bits, more than {most // 10**6} million are refused: "
            "write it in 8 bits"
        )


def low_bytes(picture: Image.Image) -> Image.Image | None:
    """Return the low bytes of a picture of 16-bit colour channels, opened and not loaded; None where they cannot be had."""
    tiles: list[Any] = list(getattr(picture, "tile", ()))
    changed, raws = [], set()
    for tile in tiles:
        codec, extents, offset, arguments = tile
        raw = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
        if raw not in _TWINS:
            return None
        raws.add(raw)
        new = _TWINS[raw] if isinstance(arguments, str) else (_TWINS[raw], *arguments[1:])
        changed.append(tile._replace(args=new) if hasattr(tile, "_replace") else (codec, extents, offset, new))
    if len(raws) != 1:
        return None
    vars(picture)["tile"] = changed
    picture.load()
    upright = picture
    ImageOps.exif_transpose(upright, in_place=True)
    if raws == {_GRAY_ALPHA}:  # decoded as four channels: gray's high and low byte, alpha's high and low byte
        return Image.merge("RGB", [upright.getchannel(1)] * 3)
    return upright


def scaled(upright: Image.Image, low: Image.Image | None, declared: int, name: str) -> Scaled:
    """Return a picture of 8 bits.

    Args:
        upright: The picture as Pillow decodes it: `I;16`, `I`, `F`, or colour of which the high bytes were kept.
        low: The low bytes of colour; None where they cannot be had.
        declared: From `declared_depth`.
        name: What is scaled, for the remark: the mode.

    Raises:
        LevelsError: If they cannot be shown.
    """
    if upright.mode == "F":
        return _by_percentiles(np.asarray(upright, np.float64), name)
    if upright.mode == "I" and declared == 0:
        return _by_percentiles(np.asarray(upright).astype(np.float64), name)
    if upright.mode.startswith("I"):
        return _by_depth(np.clip(np.asarray(upright), 0, 65535).astype(np.uint16), declared, name)
    if low is None:
        high = np.asarray(upright)[..., :3]
        if int(high.max(initial=0)) < 128 and declared != 16:
            raise LevelsError("16-bit colour that seems to use fewer bits, laid out as it is not read here: write it in 8 bits")
        return Scaled(upright.convert("RGB"), f"converted from {name}: the upper 8 bits")
    return _by_depth(_joined(upright, low), declared, name)


def declared_depth(picture: Image.Image, data: bytes) -> int:
    """Return the depth that a file declares for its levels, as Pillow hands them out.

    Returns:
        Bits; `UNDECLARED` where levels have 16 bits and it is not said how many are used; 0 where they have more.
    """
    if picture.format == "PNG":
        return _significant_bits(data) or UNDECLARED
    if picture.format == "PPM":
        largest = largest_of_ppm(data)
        return 16 if 255 < largest < 65535 else UNDECLARED if largest == 65535 else 0  # Pillow has spread them over 16 bits
    if picture.format == "JPEG2000":
        return 16 if 8 < _precision(data) < 16 else UNDECLARED
    tags = getattr(picture, "tag_v2", None)
    if tags is not None:
        bits = tags.get(_BITS_PER_SAMPLE, (0,))[0]
        if 8 < bits < 16:
            return int(bits)
        largest = tags.get(_MAX_SAMPLE_VALUE, 0)
        largest = max(largest) if isinstance(largest, tuple) else largest
        if 1 < int(largest) < 65535:
            return int(largest).bit_length()
        return UNDECLARED if bits == 16 and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1 else 0
    return 0


def unsigned(picture: Image.Image, values: Image.Image) -> Image.Image:
    """Return 32-bit levels of a TIFF that has them unsigned; Pillow hands them out as signed ones."""
    tags = getattr(picture, "tag_v2", None)
    if values.mode != "I" or tags is None:
        return values
    if (tags.get(_BITS_PER_SAMPLE, (0,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0]) != (32, 1):
        return values
    return Image.fromarray(np.asarray(values).view(np.uint32).astype(np.float32))


def is_nearly_uniform(picture: Image.Image) -> bool:
    """Tell whether nearly all pixels of an 8-bit picture have the same level in each channel (`UNIFORM_LEVELS`)."""
    counts = np.asarray(picture.histogram(), np.int64).reshape(-1, 256)
    reached = np.cumsum(counts, axis=1)
    left = reached[:, -1:] * LOW / 100
    low = (reached > left).argmax(axis=1)
    high = (reached >= reached[:, -1:] - left).argmax(axis=1)
    return bool((high - low < UNIFORM_LEVELS).all())


def _joined(high: Image.Image, low: Image.Image) -> NDArray[np.uint16]:
    """Return the levels of which two pictures hold the high and the low bytes, height × width × 3; some rows at a time."""
    values = np.empty((high.height, high.width, 3), np.uint16)
    for row in range(0, high.height, _ROWS):
        box = (0, row, high.width, min(row + _ROWS, high.height))
        upper, lower = (np.asarray(picture.crop(box))[..., :3] for picture in (high, low))
        values[row : row + _ROWS] = (upper.astype(np.uint16) << 8) | lower
    return values


def _by_depth(values: NDArray[np.uint16], declared: int, name: str) -> Scaled:
    """Keep the upper 8 of so many bits, or spread fewer."""
    largest = int(values.max(initial=0))
    needed = max(largest.bit_length(), 1)
    told = 0 < declared <= 16 and needed <= declared
    depth = declared if told else needed
    why = "as declared" if told else f"which its largest value, {largest}, needs"
    eight = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), _ROWS):  # some rows at a time: of a large picture every copy takes 100 megabytes
        some = values[row : row + _ROWS]
        levels = some >> (depth - 8) if depth >= 8 else some * 255 // ((1 << depth) - 1)
        eight[row : row + _ROWS] = np.clip(levels, 0, 255)
    return Scaled(Image.fromarray(eight), f"converted from {name}: {depth} bits, {why}")


def _by_percentiles(values: NDArray[np.float64], name: str) -> Scaled:
    """Spread what lies between two percentiles."""
    finite = np.isfinite(values)
    if not finite.any():
        raise LevelsError("none of its pixels is a finite number")
    known = values[finite]
    # Of few pixels, too, the outermost one on either side does not count.
    low, high = float(np.percentile(known, LOW, method="higher")), float(np.percentile(known, HIGH, method="lower"))
    span = high - low
    eight = np.zeros(values.shape, np.uint8)
    if span > 0:
        eight[finite] = np.rint(np.clip((known - low) / span, 0, 1) * 255).astype(np.uint8)
    lost = int((~finite).sum())
    remark = f"converted from {name}: {low:.6g} to {high:.6g} ({LOW} to {HIGH} % of its pixels) as 0 to 255"
    if lost:
        remark += f", {lost:,} {'pixel' if lost == 1 else 'pixels'} not finite and black"
    return Scaled(Image.fromarray(eight), remark)


def _deep_colour(picture: Image.Image, data: bytes) -> bool:
    """Tell whether a colour picture has 16 bits in each channel, of which Pillow keeps the upper 8."""
    if picture.mode not in ("RGB", "RGBA", "RGBX", "LA"):
        return False
    if picture.format == "PNG":
        return len(data) > 24 and data[24] == 16
    if picture.format == "PPM":
        return largest_of_ppm(data) == 65535
    if picture.format == "JPEG2000":
        return _precision(data) == 16
    bits = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
    return bool(bits[0] == 16)


def _significant_bits(data: bytes) -> int:
    """Return what a PNG's sBIT says; 0 without one."""
    place = 8
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind in (b"IDAT", b"IEND"):
            return 0
        if kind == b"sBIT" and 0 < size <= 4:
            return max(data[place + 8 : place + 8 + size])
        place += 12 + size
    return 0


def largest_of_ppm(data: bytes) -> int:
    """Return the largest value that a PPM or PGM declares; 0 if there is none."""
    words: list[bytes] = []
    for line in data[:4096].split(b"\n"):
        words += line.partition(b"#")[0].split()
        if len(words) >= 4:
            break
    return int(words[3]) if len(words) >= 4 and words[0] in (b"P2", b"P3", b"P5", b"P6") and words[3].isdigit() else 0


def _precision(data: bytes) -> int:
    """Return the bits of the first component of a JPEG 2000 picture; 0 if they cannot be told."""
    place = data.find(b"\xff\x4f\xff\x51")
    return (data[place + 42] & 0x7F) + 1 if 0 <= place < len(data) - 42 else 0
