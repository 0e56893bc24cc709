"""B2 to B5: files of some kilobytes that take minutes or gigabytes: at most 10 seconds and 1 GiB more than good files take."""

from __future__ import annotations

import io
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hostile.ground import OPTIONS
from hostile.harness import Attack, Outcome, Scene, Verdict, fell, held

#: What one file may take: seconds, and MB.
_SECONDS, _ROOM = 10.0, 1024.0
#: What a command is killed at, in MB above the usual.
_KILLED = 3_000.0


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _png(width: int, height: int, depth: int, colour: int, row: bytes) -> bytes:
    """Return a PNG of equal rows."""
    packer, many = zlib.compressobj(1), max(1, (1 << 20) // (len(row) + 1))
    whole, left = (b"\0" + row) * many, (b"\0" + row) * (height % many)
    body = b"".join(packer.compress(whole) for _ in range(height // many)) + packer.compress(left) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    written = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + written


def _scans() -> bytes:
    data = _saved(Image.new("RGB", (3000, 3000), (90, 90, 90)), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * 1000 + b"\xff\xd9"


def _directories() -> bytes:
    entry = struct.pack("<HHII", 256, 4, 1, 1)
    made = [
        struct.pack("<H", 1) + entry + struct.pack("<I", 8 + 18 * (number + 1) if number < 31_999 else 0)
        for number in range(32_000)
    ]
    return b"II*\0\x08\0\0\0" + b"".join(made)


def _frames() -> bytes:
    frame = b"\x2c" + bytes(4) + b"\x01\0\x01\0" + b"\0" + b"\x02\x02\x44\x01\0"
    return b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6) + frame * 1_000_000 + b";"


def _deep() -> bytes:
    return _png(10_000, 9_990, 16, 2, b"\x12\x34" * 30_000)


def _text() -> bytes:
    return b"P3\n3000 3000\n255\n" + b"1 2 3\n" * 9_000_000


PICTURES: list[tuple[str, str, str, Callable[[], bytes]]] = [
    ("B2", "JPEG of 1,000 scans", "evil.jpg", _scans),
    ("B2", "JPEG of 100,000 segments", "evil.jpg", lambda: b"\xff\xd8" + b"\xff\xe1\0\x02" * 100_000 + _scans()[2:2000]),
    ("B2", "JPEG of 60 MB of fill bytes", "evil.jpg", lambda: b"\xff\xd8" + b"\xff" * 60_000_000 + b"\xd9"),
    ("B3", "TIFF of 32,000 directories", "evil.tif", _directories),
    ("B3", "GIF of a million frames", "evil.gif", _frames),
    ("B5", "16-bit colour PNG of 100 million pixels", "evil.png", _deep),
    ("B5", "1×99,000,000 PNG", "evil.png", lambda: _png(1, 99_000_000, 8, 0, b"\x55")),
    ("B5", "PPM of 54 MB of text", "evil.ppm", _text),
    ("B5", "8-bit colour PNG of 100 million pixels", "evil.png", lambda: _png(10_000, 9_990, 8, 2, b"\x12" * 30_000)),
]


def _dictionary(path: Path) -> None:
    """Write one picture of 80 kB that 40,000 rows share."""
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3)).astype(np.uint8)
    image = _saved(Image.fromarray(noise), "PNG")
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), pa.array([image], pa.binary()))
    pq.write_table(pa.table({"image": shared}), path, store_schema=False)


def _nothing(path: Path) -> None:
    pq.write_table(pa.table({"image": pa.nulls(3_000_000, pa.binary())}), path)


def _long_labels(path: Path) -> None:
    rows = 3_000
    small = _saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)), "PNG")
    label = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 1_000_000]))
    table = pa.table({"image": pa.array([small] * rows, pa.binary()), "label": label})
    pq.write_table(table, path, store_schema=False, use_dictionary=["label"], compression="none")


TABLES: list[tuple[str, Callable[[Path], None]]] = [
    ("Parquet: 40,000 rows share a picture of 80 kB", _dictionary),
    ("Parquet: 3 million empty rows", _nothing),
    ("Parquet: 3,000 rows share a label of 1 MB", _long_labels),
]


def evaluated(scene: Scene, images: Path, name: str, most: float = 0.0) -> tuple[Outcome, float]:
    """Run a small evaluation; return it with its seconds."""
    begun = time.monotonic()
    outcome = scene.run(
        "qcam-eval", scene.ground.bundle, "--images", images, "--limit", "20", "--saliency", "none", "--output",
        scene.work / name, *OPTIONS, "--precision", "f32", alone=True, most=most,
    )  # fmt: skip
    return outcome, time.monotonic() - begun


def _judged(scene: Scene, images: Path) -> Verdict:
    """Run good photographs, then the place with the evil file; hold both against each other."""
    usual, seconds = evaluated(scene, scene.ground.photographs, "usual")
    outcome, taken = evaluated(scene, images, "out", usual.peak + _KILLED)
    more, longer = outcome.peak - usual.peak, taken - seconds
    if outcome.code is None:
        return fell(f"killed after {taken:.0f} s at {more / 1024:.1f} GiB more")
    if outcome.fault():
        return fell(outcome.fault())
    # The machine may be busy: what is refused takes no time of its own, what is not took half a minute and more.
    if longer > _SECONDS + seconds:
        return fell(f"{longer:.0f} s more than good photographs")
    if more > _ROOM:
        return fell(f"{more / 1024:.1f} GiB more than good photographs")
    if outcome.code == 2:
        return outcome.refused("evil")
    if outcome.code != 0:
        return fell(f"exit {outcome.code}")
    rows = pq.read_table(scene.work / "out" / "results.parquet").to_pylist()
    refused = [row for row in rows if "evil" in row["image"] and row["status"].startswith("refused")]
    return held("refused in the results, by name" if refused else "read, within 10 s and 1 GiB")


def put_picture(scene: Scene, name: str, make: Callable[[], bytes]) -> Path:
    """Make a folder of a good photograph and a picture that is none; return it."""
    folder = scene.work / "photographs"
    folder.mkdir()
    good = sorted(scene.ground.photographs.iterdir())[0]
    shutil.copy(good, folder / "good.jpg")
    (folder / name).write_bytes(make())
    return folder


def put_table(scene: Scene, name: str, make: Callable[[Path], None]) -> Path:
    """Make a Parquet file; return it."""
    path = scene.work / name
    make(path)
    return path


def _picture(name: str, make: Callable[[], bytes]) -> Callable[[Scene], Verdict]:
    return lambda scene: _judged(scene, put_picture(scene, name, make))


def _table(make: Callable[[Path], None]) -> Callable[[Scene], Verdict]:
    return lambda scene: _judged(scene, put_table(scene, "evil.parquet", make))


def _numbered() -> list[Attack]:
    runs = [(kind, told, _picture(name, make)) for kind, told, name, make in PICTURES]
    runs[5:5] = [("B4", told, _table(make)) for told, make in TABLES]
    counts: dict[str, int] = {}
    made = []
    for kind, told, run in runs:
        counts[kind] = counts.get(kind, 0) + 1
        made.append(Attack(f"{kind}.{counts[kind]}", told, run))
    return made


ATTACKS = _numbered()
