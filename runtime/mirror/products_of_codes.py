"""Large matrix products of a tail, forward by bytes.

On the way to the scores, a layer that gradients pass decides only which gates behind it are open: which values a ReLU or a
quantizer lets through. Its float32 weights are what takes the time, a few hundred megabytes read once a batch (VGG-16), and
again on the way back. The file's own codes are a quarter of that, and their sums are exact: rounded once, where float32 rounds
at every step. So forward takes the codes, and back the same float32 weights as ever.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from qcam.runtime.graph import Graph
from qcam.runtime.mirror.integer.products import Product, matrix, of_bytes
from qcam.runtime.mirror.operators.quantization import BYTES
from qcam.runtime.mirror.steps import Step

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

    def __init__(self, codes: NDArray[Any], scales: NDArray[np.float32], of_input: tuple[np.float32, int, torch.dtype]) -> None:
        """Take the weight's codes, less their zero point, outputs × inputs; and scale, zero point and type of the input."""
        self._scale, self._zero, self._kind = of_input
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
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | step.attributes
    if step.operator != "Gemm" or plain != {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}:
        return step
    x, weight = (graph.producer.get(name) for name in step.inputs[:2])
    if x is None or weight is None or x.op_type != "DequantizeLinear" or weight.op_type != "DequantizeLinear":
        return step
    stored = graph.initializers.get(weight.input[0])
    if stored is None or int(np.prod(stored.dims)) < LARGE:
        return step
    of_input, of_weight = _parameters(x, graph), _parameters(weight, graph)
    if of_input is None or of_weight is None or of_input[0].size != 1 or of_input[1].size != 1:
        return step
    codes = numpy_helper.to_array(stored)
    (scales, zeros), zero = of_weight, of_input[1].reshape(())
    kind = torch.from_numpy(np.zeros(0, zero.dtype)).dtype
    if scales.ndim > 1:
        return step
    axis = next((attribute.i for attribute in weight.attribute if attribute.name == "axis"), 1)
    if (scales.size > 1 and axis % 2 != 0) or np.any(zeros) or codes.dtype != np.int8 or kind not in BYTES:
        return step
    if codes.ndim != 2 or codes.shape[1] * 255 * 128 > _HIGHEST_SUM or not of_bytes(codes, device):
        return step
    compute = _ByCodes(codes, scales.astype(np.float32), (np.float32(of_input[0].reshape(())), int(zero), kind))
    return replace(step, compute=compute)


def _parameters(node: onnx.NodeProto, graph: Graph) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return scale and zero point of a DequantizeLinear, if they are constants of the file and explicit."""
    held = [graph.initializers.get(name) for name in node.input[1:3]]
    if len(held) < 2 or any(value is None for value in held):
        return None
    scale, zero = (numpy_helper.to_array(value) for value in held if value is not None)
    return (scale, zero) if scale.dtype == np.float32 else None
