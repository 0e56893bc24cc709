"""Large matrix products of a tail, forward by bytes.

On the way to the scores, a layer that gradients pass decides only which gates behind it are open: which values a ReLU or a
quantizer lets through. Its float32 weights are what takes the time, a few hundred megabytes read once a batch (VGG-16), and
again on the way back. The file's own codes are a quarter of that, and their sums are exact: rounded once, where float32 rounds
at every step. So forward takes the codes, and back the same float32 weights as ever.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.runtime.codes import Codes, codes_of_dequantized
from qcam.runtime.graph import Graph
from qcam.runtime.mirror.integer.products import Product, matrix, of_bytes
from qcam.runtime.mirror.steps import Step
from qcam.runtime.mirror.tail import is_linear

#: Weights that are worth it: as float32 (16 MiB) more than a processor keeps at hand.
LARGE = 1 << 22
#: Sums of bytes, added as int32.
_HIGHEST_SUM = 2**31 - 1


class _Product(torch.autograd.Function):
    """One value forward, the gradient of x · weightᵀ back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, by_codes: _ByCodes) -> torch.Tensor:
        ctx.weight = weight  # a constant: nothing to save for
        return by_codes.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] @ ctx.weight, None, None


class _ByCodes:
    """The function of a Gemm whose operands are dequantized codes of 8 bits."""

    #: What `Tail.follows` asks for: forward, no sum rounds before it is done.
    exact_sums = True

    def __init__(self, codes: NDArray[Any], scales: NDArray[np.float32], x: Codes) -> None:
        """Take the weight's codes (outputs × inputs, zero point 0), one scale or one for each output, and the input's codes."""
        self._scale, self._zero = np.float32(x.scale), int(x.zero_point)
        self._kind = torch.uint8 if x.dtype == np.uint8 else torch.int8
        self._scales = torch.from_numpy(np.broadcast_to(scales * self._scale, (len(codes),)).copy())
        self._sums: Product = matrix(self._zero, torch.device("cpu"))(codes, torch.float32)

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        """Return x · weightᵀ + bias; x is batch × inputs, on the input's grid."""
        result: torch.Tensor = _Product.apply(x, weight, self)
        return result if bias is None else result + bias

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Return x · weightᵀ, each sum rounded once and then scaled."""
        nowhere = x.isnan().any(dim=1)
        codes = (x.detach() / float(self._scale)).round_().add_(self._zero).to(self._kind)
        result = self._sums(codes, None).mul_(self._scales)
        if bool(nowhere.any()):  # no code stands for it
            result[nowhere] = torch.nan
        return result


def by_codes(steps: list[Step], graph: Graph, device: torch.device) -> list[Step]:
    """Let large products of codes compute forward by bytes, where this processor's products of bytes are exact.

    Args:
        steps: The steps of a tail.
        graph: Where they come from.
        device: Where they compute.

    Returns:
        The steps; those of Gemms with a constant weight of 8 bits and an input of 8 bits with other functions.
    """
    return [_changed(step, graph, device) for step in steps]


def _changed(step: Step, graph: Graph, device: torch.device) -> Step:
    if not is_linear(step):
        return step
    x, w = (codes_of_dequantized(graph, name) for name in step.inputs[:2])
    stored = None if w is None else graph.initializers.get(w.tensor)
    if x is None or w is None or stored is None or prod(stored.dims) < LARGE or len(stored.dims) != 2:
        return step
    if x.dtype not in (np.uint8, np.int8) or x.scale.size != 1 or w.dtype != np.int8 or np.any(w.zero_point):
        return step
    if w.scale.ndim > 1 or (w.scale.size > 1 and w.axis % 2 != 0) or stored.dims[1] * 255 * 128 > _HIGHEST_SUM:
        return step
    codes = graph.array(w.tensor)
    return replace(step, compute=_ByCodes(codes, w.scale, x)) if of_bytes(codes, device) else step
