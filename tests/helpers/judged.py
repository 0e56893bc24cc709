"""A result with one tensor that differs and one image, under gates."""

from __future__ import annotations

import torch

from qcam.evaluate.check.result import LOGITS, CheckResult, ImageResult, TensorResult
from qcam.evaluate.check.verdicts import Gate, Judged

LOW, HIGH, NONE = Gate("codes", 0.9, 0.5), Gate("cc", 0.9, 0.9), Gate("sim", 0.0, None)


def judged(*gates: Gate, model: str = "m", arithmetic: str = "integer", error: float = 0.0) -> Judged:
    image = ImageResult("a.jpg", 1.0, error, error == 0, True, {"SIM": 1.0, "CC": 0.99999, "KLD": 0.0})
    tensors = [TensorResult("t", "Conv a"), TensorResult(LOGITS, "Gemm b")]
    tensors[0].add(torch.zeros(2), torch.tensor([0.0, 1.0]))
    tensors[1].add(torch.zeros(2), torch.zeros(2))
    kernel = "vnni" if arithmetic == "integer" else ""
    return Judged(CheckResult(model, "int8", arithmetic, kernel, "CPU", True, [image], tensors), gates)
