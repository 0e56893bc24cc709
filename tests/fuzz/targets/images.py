"""Bytes that come as a photograph: decoded to upright 8-bit RGB, or refused with the reason; never anything else."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from fuzz.harness import Broken, scratch
from fuzz.reader import Reader, with_decisions
from qcam.images.decoding import PictureError, decode, decode_picture

COVERED = ("qcam.images.decoding", "qcam.images.budgets", "qcam.images.kinds", "qcam.images.levels")
_PNG = b"\x89PNG\r\n\x1a\n"


def one(data: bytes) -> None:
    """Decode one file, as a photograph and as a mask."""
    reader = Reader(data)
    mend, grey = reader.yes(), reader.yes()
    picture = reader.rest()
    if mend:
        picture = with_checksums(picture)
    path = scratch() / "picture"
    path.write_bytes(picture)
    found = decode(path)
    if (found.image is None) == (not found.refusal):
        raise Broken("a picture is either decoded or refused", f"{found}")
    if found.image is not None and (found.image.mode != "RGB" or min(found.image.size) < 1 or not found.key):
        raise Broken("what is decoded is 8-bit RGB of at least one pixel", f"{found}")
    if len(found.refusal) + len(found.remark) > 2000:
        raise Broken("what is said of a picture is a line", found.refusal[:200])
    try:
        decode_picture(picture, "L" if grey else "RGB")
    except PictureError as error:
        if not str(error):
            raise Broken("a refusal says why") from error


def with_checksums(data: bytes) -> bytes:
    """Make the checksum of every chunk of a PNG right, so that what is changed in them is read."""
    if not data.startswith(_PNG):
        return data
    made, place = [_PNG], len(_PNG)
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if place + 12 + size > len(data):
            break
        body = data[place + 4 : place + 8 + size]
        made += [data[place : place + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        place += 12 + size
    return b"".join(made) + data[place:]


def seeds() -> Iterator[bytes]:
    """Yield small pictures of every format that is read, in the modes that matter."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 4), np.uint8)
    colour, deep = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    turned = Image.Exif()
    turned[0x0112] = 6
    cases: list[tuple[Image.Image, str, dict[str, object]]] = [
        (colour, "JPEG", {"quality": 60}), (colour, "JPEG", {"progressive": True, "exif": turned}),
        (colour.convert("L"), "JPEG", {}), (colour.convert("CMYK"), "JPEG", {}), (colour, "PNG", {}), (colour, "PNG",
        {"exif": turned}),
        (Image.fromarray(pixels), "PNG", {}), (deep, "PNG", {}), (colour.convert("P"), "PNG", {"transparency": 3}),
        (colour.convert("1"), "PNG", {}), (colour, "WEBP", {}), (colour, "WEBP", {"lossless": True}), (colour, "BMP", {}),
        (colour, "TIFF", {}), (colour, "TIFF", {"compression": "tiff_lzw"}), (deep, "TIFF", {}),
        (Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF", {}), (Image.fromarray(pixels[..., 0].astype(np.int32)),
        "TIFF", {}),
        (colour.convert("L"), "TIFF", {"compression": "packbits"}), (colour.convert("1"), "TIFF", {"compression": "group4"}),
        (colour, "TIFF", {"save_all": True, "append_images": [colour]}), (colour, "GIF", {"save_all": True,
        "append_images": [deep.convert("L")]}),
        (colour, "PPM", {}), (colour.convert("L"), "PPM", {}), (colour, "AVIF", {}), (colour, "JPEG2000", {}),
    ]  # fmt: skip
    for image, kind, options in cases:
        buffer = io.BytesIO()
        try:
            image.save(buffer, kind, **options)  # type: ignore[arg-type]
        except (KeyError, OSError):  # the installed Pillow cannot write it
            continue
        yield with_decisions(buffer.getvalue(), 1, 0)
    yield with_decisions(b"P3 2 1 255 1 2 3 4 5 6\n", 0, 1)
    yield with_decisions(b"P5 2 2 65535\n" + bytes(range(8)), 0, 1)
    yield with_decisions(b"P2 2 1 1023 1 1000\n", 0, 1)
