"""A1: pictures that are something else: a program for Ghostscript, a document, a bomb."""

from __future__ import annotations

import functools
import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hostile.ground import OPTIONS, write_image_table, write_tar
from hostile.harness import Attack, Scene, Verdict, fell, held, sign_results

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) run\nshowpage\n%%EOF\n"
PDF = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'
#: What a report may take more than that of a good run, in MB.
_ROOM = 300.0
#: And what it is killed at.
_KILLED = 2_000.0
_SIDE = 13_000


def _png_bomb() -> bytes:
    """Return a PNG of 13,000 × 13,000 pixels in 20 kB."""
    row = b"\0" + bytes((_SIDE + 7) // 8)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 1, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * _SIDE, 9)),
        (b"IEND", b""),
    )
    written = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + written


@functools.cache
def _saved(form: str, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side), 90).save(buffer, form)
    return buffer.getvalue()


def _cut() -> bytes:
    return _saved("JPEG", 224)[:300]


def _watch_for_ghostscript(scene: Scene) -> Path:
    """Put a Ghostscript of our own first on the path; return the file that it leaves when it is started."""
    folder, marker = scene.work / "programs", scene.work / "cache" / "ghostscript-was-here"
    folder.mkdir()
    marker.parent.mkdir(exist_ok=True)
    for name in ("gs", "gswin64c", "gswin32c"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho started >> '{marker}'\nexit 1\n")
        program.chmod(0o755)
    scene.variables["PATH"] = f"{folder}:/usr/bin:/bin"
    return marker


def _stored(column: str, make: Callable[[], bytes], *, signed: bool = True, bomb: bool = False) -> Callable[[Scene], Verdict]:
    """Put bytes in the place of a stored picture, then draw a report."""

    def run(scene: Scene) -> Verdict:
        marker = _watch_for_ghostscript(scene)
        out = scene.copy(scene.ground.run)
        usual = scene.run("qcam-report", out, "--output", scene.work / "usual", alone=True).peak if bomb else 0.0
        path = out / "pictures.parquet"
        table = pq.read_table(path)
        place = table.schema.get_field_index(column)
        kept = table.column(column).to_pylist()
        evil = pa.array([make(), *kept[1:]], table.schema.field(column).type)
        pq.write_table(table.set_column(place, table.schema.field(place), evil), path, compression="zstd")
        if signed:
            sign_results(out)
        most = usual + _KILLED if bomb else 0.0
        outcome = scene.run("qcam-report", out, "--output", scene.work / "report", alone=bomb, most=most)
        if marker.exists():
            return fell("Ghostscript was started")
        if bomb and outcome.peak > usual + _ROOM:
            more = "more than " if outcome.code is None or outcome.code < 0 else ""
            return fell(f"{more}{min(outcome.peak - usual, _KILLED) / 1000:.1f} GB of memory")
        if not outcome.fault() and outcome.code == 0 and "pictures.parquet" in outcome.err:
            return held("left out of the report, pictures.parquet named")
        return outcome.refused("pictures.parquet")

    return run


def _photograph(place: str) -> Callable[[Scene], Verdict]:
    """Give a program for Ghostscript as one of two photographs, or as a mask."""

    def run(scene: Scene) -> Verdict:
        marker = _watch_for_ghostscript(scene)
        good = sorted(scene.ground.photographs.iterdir())[0]
        folder = scene.work / "photographs"
        folder.mkdir()
        shutil.copy(good, folder / "good.jpg")
        images, saliency = folder, "none"
        if place == "mask":
            saliency = "masks:masks"
            (scene.work / "masks").mkdir()
            (scene.work / "masks" / "good.png").write_bytes(EPS)
        elif place == "tar":
            images = scene.work / "two.tar"
            write_tar(images, {"good.jpg": good.read_bytes(), "evil.jpg": EPS})
        elif place == "parquet":
            images = scene.work / "two.parquet"
            write_image_table(images, [good.read_bytes(), EPS])
        else:
            (folder / place).write_bytes(EPS)
        out = scene.work / "out"
        outcome = scene.run(
            "qcam-eval", scene.ground.bundle, "--images", images, "--saliency", saliency, "--output", out, *OPTIONS,
            "--precision", "f32",
        )  # fmt: skip
        if marker.exists():
            return fell("Ghostscript was started")
        if outcome.fault() or outcome.code != 0:
            return fell(outcome.fault() or f"exit {outcome.code}: one bad picture ends the run")
        statuses = set(pq.read_table(out / "results.parquet")["status"].to_pylist())
        if place == "evil.eps":
            return held("not taken for a photograph")
        found = [status for status in statuses if status.startswith(("refused", "no_reference"))]
        return held("refused in the results, by name") if found else fell("taken for a picture")

    return run


_STORED = [
    ("EPS as stored photograph", "photo", lambda: EPS),
    ("EPS as stored saliency map", "saliency", lambda: EPS),
    ("EPS behind a preview's header", "photo", lambda: struct.pack("<III", 0xC6D3D0C5, 32, len(EPS)).ljust(32, b"\0") + EPS),
    ("PDF as stored photograph", "photo", lambda: PDF),
    ("PDF as stored saliency map", "saliency", lambda: PDF),
    ("TIFF as stored photograph", "photo", lambda: _saved("TIFF", 64)),
    ("GIF as stored saliency map", "saliency", lambda: _saved("GIF", 64)),
    ("SVG with a script as stored photograph", "photo", lambda: SVG),
    ("SVG as stored saliency map", "saliency", lambda: SVG),
    ("no picture at all as stored photograph", "photo", lambda: b"\0\1\2no picture" * 9),
    ("no picture at all as stored saliency map", "saliency", lambda: b"\0\1\2no picture" * 9),
    ("empty stored photograph", "photo", lambda: b""),
    ("stored photograph cut short", "photo", _cut),
]  # fmt: skip
_BOMBS = [
    ("13,000×13,000 PNG as stored photograph", "photo", _png_bomb),
    ("13,000×13,000 JPEG as stored photograph", "photo", lambda: _saved("JPEG", _SIDE)),
    ("13,000×13,000 PNG as stored saliency map", "saliency", _png_bomb),
]
_PHOTOGRAPHS = [
    ("EPS as photograph .jpg", "evil.jpg"),
    ("EPS as photograph .tif", "evil.tif"),
    ("EPS as photograph .eps", "evil.eps"),
    ("EPS as mask", "mask"),
    ("EPS in a tar of images", "tar"),
    ("EPS in a Parquet file of images", "parquet"),
]
_RUNS = [
    ("EPS as stored photograph, digests left as they were", _stored("photo", lambda: EPS, signed=False)),
    *((kind, _stored(column, make)) for kind, column, make in _STORED),
    *((kind, _stored(column, make, bomb=True)) for kind, column, make in _BOMBS),
    *((kind, _photograph(place)) for kind, place in _PHOTOGRAPHS),
]
ATTACKS = [Attack(f"A1.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
