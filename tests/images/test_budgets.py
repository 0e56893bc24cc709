"""Budgets are counted from a file's own bytes, before a decoder runs; real pictures of every kind are far below them."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from qcam.images import budgets
from qcam.images.budgets import over_budget
from qcam.images.decoding import PictureError, decode, open_picture
from qcam.images.embedded import evaluation_photographs
from qcam.images.kinds import HEAD, kind_of


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


def repeated_scans(count: int, size: int = 2000) -> bytes:
    data = saved(Image.new("RGB", (size, size), (90, 90, 90)), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def tiff_of(directories: int, entries: int = 1, order: str = "<", *, big: bool = False, size: int = 1) -> bytes:
    """A chain of directories, each entry an ImageWidth or, larger, so many bytes of the file."""
    sign = b"II" if order == "<" else b"MM"
    head = sign + struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else sign + struct.pack(order + "HI", 42, 8)
    count, entry, link = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    place, made = len(head), []
    for number in range(directories):
        kind = (256, 4, 1, 1) if size == 1 else (700, 1, size, 0)
        body = struct.pack(order + count, entries) + struct.pack(order + entry, *kind) * entries
        place += len(body) + struct.calcsize(order + link)
        made.append(body + struct.pack(order + link, place if number + 1 < directories else 0))
    return head + b"".join(made)


def gif_of(frames: int, comment: bytes = b"") -> bytes:
    frame = b"\x2c" + bytes(4) + b"\x01\0\x01\0" + b"\0" + b"\x02\x02\x44\x01\0"
    return b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6) + comment + frame * frames + b";"


def png_of(chunks: int) -> bytes:
    data = saved(Image.new("L", (1, 1)), "PNG")
    text = b"x\0"
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    return data[:33] + chunk * chunks + data[33:]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (repeated_scans(600), "scans of 4,000,000 pixels"),
        (b"\xff\xd8" + b"\xff\xe1\0\x02" * 30_000 + b"\xff\xd9", "more than 20,000 segments"),
        (b"\xff\xd8" + b"\xff" * (3 << 20) + b"\xd9", "more than 1 MiB between its segments"),
        (b"\xff\xd8\xff\xe1\0\x02" + bytes(3 << 20) + b"\xff\xd9", "more than 1 MiB between its segments"),
        (tiff_of(2000), "more than 1,000 directories"),
        (tiff_of(2000, order=">"), "more than 1,000 directories"),
        (tiff_of(2000, big=True), "more than 1,000 directories"),
        (tiff_of(20, 6000), "more than 100,000 entries"),
        (tiff_of(1, 100, size=1000), "entries of one directory that hold more bytes than the file"),
        (gif_of(20_000), "more than 10,000 frames"),
        (gif_of(1, b"\x21\xfe" + b"\x01x" * 2_100_000 + b"\0"), "more than 2,000,000 blocks"),
        (png_of(250_000), "more than 200,000 chunks"),
        (b"P6\n3000 2000\n254\n" + bytes(18_000_000), "more than 16 MiB of levels from 0 to 254: write it with 255 or 65535"),
        (b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(12) + b"\x01\0\0\0" + bytes(49 << 20), "more than 48 MiB of runs"),
        (b"\xff\x4f\xff\x51" + bytes(49 << 20), "more than 48 MiB of JPEG 2000"),
        (b"P3\n1000 1000\n255\n" + b"1 2 3 " * 1_000_000, "numbers written out over more than 4 MiB"),
    ],
    ids=str.split("scans segments fill junk tiff tiff-mm tiff-big entries values gif blocks png ppm254 bmp jp2 ppm"),
)
def test_what_takes_too_long_is_refused_by_name_before_it_is_decoded(data, why, tmp_path, monkeypatch):
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *given, **more: opened.append(given) or real(*given, **more))
    with pytest.raises(PictureError, match="takes too much to decode: ") as caught:
        open_picture(data)
    assert why in str(caught.value)
    path = tmp_path / "odd"
    path.write_bytes(data)
    assert why in decode(path).refusal
    assert not opened


def test_a_directory_that_leads_back_to_itself_is_counted_to_the_budget():
    data = bytearray(tiff_of(1))
    data[-4:] = struct.pack("<I", 8)
    assert over_budget(bytes(data), "TIFF") == "more than 1,000 directories"


FRAMES = {"save_all": True, "append_images": [noise().rotate(turn) for turn in range(0, 360, 20)]}


@pytest.mark.parametrize(
    "data",
    [
        *[photograph.path.read_bytes() for photograph in evaluation_photographs()[:4]],
        saved(noise(), "JPEG", progressive=True, comment=b"\xff\xda" * 400, exif=b"Exif\0\0" + b"\xff\xda" * 400),
        saved(noise(), "JPEG", restart_marker_blocks=1),
        saved(noise(), "TIFF", **FRAMES),
        saved(noise(), "TIFF", big_tiff=True),
        saved(noise(), "GIF", **FRAMES),
        saved(noise(), "PNG", **FRAMES),
        saved(noise(), "PPM"),
        saved(noise(), "WEBP"),
    ],
)
def test_real_pictures_are_far_below_every_budget(data, monkeypatch):
    kind = kind_of(data[:HEAD])
    for name in ("MAX_SEGMENTS", "MAX_JUNK", "MAX_DIRECTORIES", "MAX_ENTRIES", "MAX_FRAMES", "MAX_BLOCKS", "MAX_CHUNKS"):
        monkeypatch.setattr(budgets, name, getattr(budgets, name) // 20)
    assert over_budget(data, kind) == ""
    with open_picture(data) as picture:
        picture.load()
        assert picture.format == kind


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "GIF", "PNG", "PPM"])
def test_counting_ends_whatever_the_bytes(kind):
    random = np.random.default_rng(1)
    heads = {"JPEG": b"\xff\xd8\xff", "TIFF": b"II*\0\x08\0\0\0", "GIF": b"GIF89a", "PNG": b"\x89PNG\r\n\x1a\n", "PPM": b"P6\n"}
    start = time.monotonic()
    for size in (0, 1, 5, 40, 300, 5000):
        for _ in range(40):
            assert isinstance(over_budget(heads[kind] + random.bytes(size), kind), str)
            assert isinstance(over_budget((heads[kind] + random.bytes(size))[:size], kind), str)
    assert time.monotonic() - start < 60


def test_formats_that_are_copied_have_a_smaller_budget(monkeypatch):
    monkeypatch.setattr("qcam.images.decoding.MAX_COPIED", {"WEBP": 3000})
    with pytest.raises(PictureError, match="64×48 pixels, more than 3,000 are refused"):
        open_picture(saved(noise(), "WEBP"))
    open_picture(saved(noise(), "PNG"))


def test_sides_and_depths_have_budgets_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("qcam.images.decoding.MAX_SIDE", 60)
    with pytest.raises(PictureError, match="64×48 pixels, a side of more than 60 is refused"):
        open_picture(saved(noise(), "PNG"))
    monkeypatch.undo()
    monkeypatch.setattr("qcam.images.levels.MAX_DEEP", 100)
    monkeypatch.setattr("qcam.images.levels.MAX_WIDE", 50)
    for array, side in ((np.full((10, 11), 9, np.uint16), "11×10"), (np.full((8, 7), 1.0, np.float32), "7×8")):
        path = tmp_path / "deep.tif"
        Image.fromarray(array).save(path)
        assert decode(path).refusal.startswith(f"{side} pixels of more than 8 bits, more than ")
