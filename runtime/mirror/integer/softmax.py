"""QLinearSoftmax: exponentials from a table, shifted so that the largest code meets the table's end."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.runtime.mirror.integer.kernel import Kernel, Setting, kernel, limits, stored_type


@kernel("Softmax")
def softmax(setting: Setting) -> Kernel:
    """min(rne(e · floor(1 / y_scale) / sum e) + y_zp, hi), e from a table of exp in float32, added one after another.

    The sum is float32, product and quotient are not rounded to it.
    """
    (x,), output = setting.inputs, setting.output
    axis = int(setting.attributes.get("axis", -1))
    low, high = limits(x)
    levels = np.floor(np.float32(1) / output.scale)
    zero = int(output.zero_point)

    def run(codes: torch.Tensor) -> torch.Tensor:
        rows = np.moveaxis(codes.cpu().numpy(), axis, -1).astype(np.int64)
        table = _exponentials(float(x.scale), rows.shape[-1])
        values = table[rows - low + (high - rows.max(axis=-1, keepdims=True))]
        total = np.add.accumulate(values, axis=-1)[..., -1:]
        shares = values.astype(np.float64) * levels / total.astype(np.float64)
        result = np.minimum(np.rint(shares) + zero, limits(output)[1])
        found = torch.from_numpy(np.ascontiguousarray(np.moveaxis(result.astype(np.float32), -1, axis)))
        return found.to(codes.device, stored_type(output))

    return run


def _exponentials(scale: float, length: int) -> NDArray[np.float32]:
    """Return exp((code - 255) · scale) times a constant that leaves room for a sum of `length`, one value a code."""
    room = float(np.log(np.finfo(np.float32).max / np.float32(length)))  # both in float32
    shift = max(0.0, room - 5) / scale
    table: NDArray[np.float32] = np.exp((np.arange(256) - 255 + shift) * scale).astype(np.float32)
    return table
