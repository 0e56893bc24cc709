"""Graphs that are checked: where ONNX Runtime and the mirror take one and equal codes are promised, they are equal."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from fuzz.edits import edit_message
from fuzz.graphs import drawn
from fuzz.harness import Broken, scratch
from fuzz.reader import Reader
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.result import LOGITS
from qcam.evaluate.check.run import run_check
from qcam.evaluate.check.verdicts import Verdict
from qcam.images.preprocessing import Preprocessing
from qcam.images.sources import ImageFile
from qcam.runtime.bundle import Bundle, PrecisionEntry, Tap
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.described import Calibration, CamLayer, Weights
from qcam.runtime.feeding import Input

COVERED = ("qcam.runtime.mirror", "qcam.runtime.loaded", "qcam.runtime.normal", "qcam.runtime.grouping", "qcam.runtime.codes",
           "qcam.runtime.graph", "qcam.runtime.deployed.session", "qcam.runtime.deployed.inspection",
           "qcam.evaluate.check.checker")  # fmt: skip
_PICTURES = 2
torch.set_num_threads(1)


def one(data: bytes) -> None:
    """Check one graph as `qcam-check` does: the deployed run beside the mirror, tensor by tensor."""
    reader = Reader(data)
    side = (reader.integer(4, 12), reader.integer(4, 12))
    preprocessing = Preprocessing(None, side, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
    pixels = np.random.default_rng(reader.integer(0, 255)).integers(0, 256, (_PICTURES, *side, 3), np.uint8)
    if (graph := drawn(reader, preprocessing.normalise(pixels))) is None:
        return
    for _ in range(max(reader.integer(0, 7) - 5, 0)):
        edit_message(graph.model.graph, reader)
    folder = scratch()
    (folder / "graph.onnx").write_bytes(graph.model.SerializeToString())
    photographs = []
    for place, picture in enumerate(pixels):
        path = folder / f"{place}.png"
        Image.fromarray(picture).save(path, compress_level=0)
        photographs.append(ImageFile(path.name, path))
    entry = PrecisionEntry(
        "fuzz", "graph.onnx", "", graph.logits, Tap("images", graph.codes, graph.dtype, graph.scale, graph.zero_point),
        input=Input("images", size=side, channels=3, batch=graph.batch),
    )  # fmt: skip
    bundle = Bundle(
        folder, "fuzz", "fuzz", Weights(), preprocessing, tuple(map(str, range(graph.classes))), CamLayer(), Calibration(),
        (entry,), {},
    )  # fmt: skip
    options = CheckOptions(settings=SessionSettings(threads=1), other_cpus=False, batch_size=_PICTURES)
    checked = run_check([bundle], photographs, options)
    for item in checked.judged:
        scores = next((each for each in item.result.tensors if each.name == LOGITS), None)
        if not item.result.exact or (scores is not None and not math.isfinite(scores.largest)):  # of NaN nothing is promised
            continue
        for gate in item.gates:
            if gate.verdict is Verdict.FALLS_SHORT:
                wrong = [
                    f"{each.name} of {each.operator}: {each.share:.4f}, {each.largest:g} apart"
                    for each in item.result.tensors
                    if each.share < 1
                ]
                first = next((each.operator.split()[0] for each in item.result.tensors if each.share < 1), "")
                raise Broken(
                    f"{gate.name} fall short where equal codes are promised, first behind {first}",
                    "; ".join([gate.sentence, *wrong]),
                )


def seeds() -> Iterator[bytes]:
    """Yield bytes that draw graphs of one to several operators."""
    numbers = np.random.default_rng(0)
    for size in (40, 80, 160, 320):
        for _ in range(30):
            yield numbers.bytes(size)
