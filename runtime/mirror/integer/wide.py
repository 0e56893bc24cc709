"""16-bit groups: the true integer result, as an accelerator with 64-bit accumulators would compute it.

ONNX Runtime's CPU provider has no such kernels: it computes 16-bit graphs in float32 between DequantizeLinear and
QuantizeLinear. Products of two 16-bit numbers summed in float64 are exact below 2^53, that is up to four million products a
sum; every result is rounded once, from float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.codes import Codes
from qcam.runtime.mirror.integer.kernel import Kernel, Setting, requantize
from qcam.runtime.mirror.operators.activation import sigmoid as plain_sigmoid
from qcam.runtime.mirror.operators.pooling import global_average_pool as plain_global_average_pool

#: Operators whose functions would round to float32 as ONNX Runtime's float kernels do.
_UNROUNDED: dict[str, Callable[..., torch.Tensor]] = {
    "Sigmoid": plain_sigmoid,
    "GlobalAveragePool": plain_global_average_pool,
}


def build(setting: Setting) -> Kernel:
    """Build the kernel of a 16-bit group: rne(clamp(real result / y_scale)) + y_zp, everything before exact or float64."""
    operator = setting.group.node.op_type
    output = setting.group.output
    matrix = operator in ("Conv", "Gemm", "MatMul")
    attributes = dict(setting.attributes)
    factor = float(np.float32(attributes.pop("alpha", 1.0))) if operator == "Gemm" else 1.0  # there only without a bias
    function: Callable[..., Any] = _UNROUNDED.get(operator, setting.function)
    operands = setting.inputs
    constants: list[torch.Tensor | None] = []
    for index, codes in enumerate(operands):
        value = setting.constant(index)
        constants.append(None if value is None else _steps(setting.tensor(value).double(), codes, setting.device))
    if len(setting.group.inputs) > len(operands):
        raise UnsupportedGraphError(f"the mirror needs a quantized bias, at {setting.group.label}")
    step = 1.0 if output is None else float(output.scale)
    if matrix:  # whole numbers go through the operator, one multiplication follows
        scales_of_outputs = float(operands[0].scale) * operands[1].scale.astype(np.float64) * factor / step
        scale = setting.tensor(np.asarray(scales_of_outputs))
        if operator == "Conv":
            scale = scale.reshape(-1, 1, 1)
    scales = [float(codes.scale) if not matrix else 1.0 for codes in operands]

    def run(*given: torch.Tensor) -> torch.Tensor:
        rest = iter(given)
        values = [
            _steps(next(rest).double(), codes, setting.device) if constant is None else constant
            for codes, constant in zip(operands, constants, strict=True)
        ]
        values = [value if step_of == 1.0 else value * step_of for value, step_of in zip(values, scales, strict=True)]
        result = function(*values, *rest, **attributes)
        result = result.round_().mul_(scale) if matrix else result / step
        return result.float() if output is None else requantize(result, output)

    return run


def _steps(codes: torch.Tensor, meaning: Codes, device: Any) -> torch.Tensor:
    """Return codes less their zero point, float64."""
    zero = torch.from_numpy(np.asarray(meaning.zero_point, np.float64)).to(device)
    if zero.dim():
        zero = zero.reshape([-1 if axis == meaning.axis % codes.dim() else 1 for axis in range(codes.dim())])
    return codes - zero
