"""Files of other people's quantizers with something odd in them: a bundle that keeps their bytes, or one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from google.protobuf.message import Error

import qcam
from fuzz.edits import edit_message
from fuzz.harness import Broken, scratch
from fuzz.reader import Reader, with_decisions
from qcam.runtime.bundle import load_bundle

COVERED = ("qcam.exporters.importing", "qcam._importing", "qcam.runtime.normal", "qcam.runtime.qoperators",
           "qcam.runtime.external",
           "qcam.runtime.agreement", "qcam.runtime.bounded")  # fmt: skip
_FILES = Path(__file__).resolve().parents[2] / "data" / "foreign"
#: Of every way of writing one: QDQ and integer operators, codes of 8 and 16 bits, scales of Microsoft's domain, fixed batches.
_NAMES = ("ort-default", "ort-qoperator", "ort-a16w8ms", "brevitas-default", "esp_ppq-openvinoint8", "nncf-mixed",
          "quark-xint8", "modelopt-default",
          "aimet-a8w8", "tiny")  # fmt: skip
torch.set_num_threads(1)


def one(data: bytes) -> None:
    """Import one file, and open the bundle again."""
    reader = Reader(data)
    raw = reader.integer(0, 7) == 7
    name = reader.pick(*_NAMES)
    stated = reader.integer(0, 3)
    given = {} if stated == 0 else {"mean": 0.5, "std": 0.5}
    if stated == 2:
        given |= {"values": "normalised", "layout": "NCHW", "size": 32}
    if raw:
        file = reader.rest()
    else:
        path = _FILES / (f"{name}-tiny.onnx" if name != "tiny" else "tiny.onnx")
        model = onnx.load(str(path), load_external_data=False)
        for _ in range(reader.integer(0, 3)):
            edit_message(model, reader)
        try:
            file = model.SerializeToString()
        except (Error, UnicodeError, ValueError):  # there is no such file
            return
    place, output = scratch() / "vendor.onnx", scratch() / "bundles"
    shutil.rmtree(output, ignore_errors=True)
    place.write_bytes(file)
    bundle = qcam.import_onnx(place, output=output, name="vendor", **given)  # type: ignore[arg-type]
    if load_bundle(str(bundle.folder)).fingerprint != bundle.fingerprint:
        raise Broken("a bundle that was imported is the one that is opened")
    if bundle.deployed_path(bundle.precisions[-1].name).read_bytes() != file:
        raise Broken("the bytes of an imported file are kept")


def seeds() -> Iterator[bytes]:
    """Yield good files of every way, and bytes that decide edits of them."""
    import random

    numbers = random.Random(0)
    for place in range(len(_NAMES)):
        yield with_decisions(b"", 0, place, 1, 0)
        for _ in range(3):
            yield with_decisions(numbers.randbytes(30), 0, place, 2, 1)
