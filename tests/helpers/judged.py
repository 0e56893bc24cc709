"""A result with one tensor that differs and one image, under gates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from qcam.evaluate.check.checked import Checked
from qcam.evaluate.check.kernels import Kernels
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.result import LOGITS, CheckResult, ImageResult, TensorResult
from qcam.evaluate.check.verdicts import Gate, Judged
from qcam.runtime.kernels import KERNELS

LOW, HIGH, NONE = Gate("codes", 0.9, 0.5), Gate("cc", 0.9, 0.9), Gate("sim", 0.0, None)


def judged(*gates: Gate, model: str = "m", arithmetic: str = "integer", error: float = 0.0) -> Judged:
    image = ImageResult("a.jpg", 1.0, error, error == 0, True, {"SIM": 1.0, "CC": 0.99999, "KLD": 0.0})
    tensors = [TensorResult("t", "Conv a"), TensorResult(LOGITS, "Gemm b")]
    tensors[0].add(torch.zeros(2), torch.tensor([0.0, 1.0]))
    tensors[1].add(torch.zeros(2), torch.zeros(2))
    kernel = "vnni" if arithmetic == "integer" else ""
    return Judged(CheckResult(model, "int8", arithmetic, kernel, "CPU", True, [image], tensors), gates)


def checked(*items: Judged, **further: Any) -> Checked:
    """Return what a check found of results, on a CPU of which nothing is known."""
    kernels = Kernels(None, KERNELS["vnni"])
    return replace(Checked(CheckOptions(), kernels, items, (), {}, {}, (), (), {}), **further)
