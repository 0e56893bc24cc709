"""Bytes that come as a bundle's manifest, beside good files: a bundle that is what it says, or one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

from PIL import Image

from fuzz.edits import as_json, edited
from fuzz.harness import GOOD, Broken, scratch
from fuzz.reader import Reader, with_decisions
from qcam.runtime.bundle import MANIFEST, load_bundle, load_onnx
from qcam.runtime.manifest import parse_manifest

COVERED = ("qcam.runtime.manifest", "qcam.runtime.bundle", "qcam.runtime.agreement", "qcam.runtime.described",
           "qcam.runtime.feeding",
           "qcam.common.records", "qcam.images.preprocessing")  # fmt: skip
_BUNDLE = GOOD / "bundle"


def one(data: bytes) -> None:
    """Open one bundle, read its files, and cut a picture as it says."""
    reader = Reader(data)
    folder = scratch() / "bundle"
    if not folder.is_dir():
        shutil.copytree(_BUNDLE, folder)
    text = as_json(edited(json.loads((_BUNDLE / MANIFEST).read_bytes()), reader, 4)) if reader.yes() else reader.rest()
    (folder / MANIFEST).write_bytes(text)
    bundle = load_bundle(str(folder))
    again = parse_manifest(bundle.manifest_text().encode(), folder, "again")
    if again.fingerprint != bundle.fingerprint:
        raise Broken("a manifest that is read and written is the same")
    bundle._repr_html_()
    for entry in bundle.precisions:
        load_onnx(bundle, entry.name)
    picture = Image.new("RGB", (40, 50), (10, 200, 30))
    if max(bundle.preprocessing.crop) <= 512:
        bundle.preprocessing.normalise(bundle.preprocessing.crop_image(picture)[None])


def seeds() -> Iterator[bytes]:
    """Yield the good manifest, as text and as edits of it."""
    import random

    numbers = random.Random(0)
    yield with_decisions((_BUNDLE / MANIFEST).read_bytes(), 0)
    for _ in range(60):
        yield with_decisions(numbers.randbytes(40), 1)
