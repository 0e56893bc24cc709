"""Operators that make values out of shapes and numbers."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.registry import operator

#: Values that a Range may have.
_MOST = 1 << 26


@operator("ConstantOfShape", versions=(9, 20, 21, 23, 24, 25))
def constant_of_shape(shape: torch.Tensor, *, value: onnx.TensorProto | None = None) -> torch.Tensor:
    """Return a tensor of one value everywhere, 0 of float32 if none is told."""
    try:
        filled = np.zeros(1, np.float32) if value is None else np.array(onnx.numpy_helper.to_array(value))
        one = torch.from_numpy(filled)
    except TypeError as error:
        kind = onnx.TensorProto.DataType.Name(0 if value is None else value.data_type)
        raise UnsupportedGraphError(f"the mirror cannot hold a ConstantOfShape of type {kind}") from error
    return one.reshape(()).repeat([int(size) for size in shape.tolist()])


@operator("Range", versions=(11,))
def range_(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Return start, start + delta, … before the limit; each is the one before + delta, as ONNX Runtime adds them.

    Raises:
        UnsupportedGraphError: If the steps are 0, if a float is no number that can be counted to, or if a gradient is wanted.
    """
    if start.requires_grad or delta.requires_grad:
        raise UnsupportedGraphError("Range of values that depend on the CAM layer is not supported")
    first, last, step = (value.item() for value in (start, limit, delta))
    if step == 0:
        raise UnsupportedGraphError("Range with steps of 0 has no end")
    if start.is_floating_point():
        steps = (last - first) / step
        if not np.isfinite(steps):
            raise UnsupportedGraphError(f"Range from {first} to {last} in steps of {step} has no number of values")
        count = int(np.ceil(steps))
    else:
        count = int(-((first - last) // step))  # exact, however large
    if count > _MOST:
        raise UnsupportedGraphError(f"Range of {count} values is not supported; {_MOST} are")
    values = np.full(max(count, 0), step, start.cpu().numpy().dtype)
    values[:1] = first
    return torch.from_numpy(np.add.accumulate(values, dtype=values.dtype)).to(start.device)


@operator("CumSum", versions=(11, 14))
def cumulative_sum(x: torch.Tensor, axis: torch.Tensor, *, exclusive: int = 0, reverse: int = 0) -> torch.Tensor:
    """Sums of all values up to each place along an axis, from the end if `reverse`, without its own if `exclusive`."""
    if x.dim() == 0:
        raise UnsupportedGraphError("CumSum of a single number is not possible")
    along = int(axis)
    turned = x.flip(along) if reverse else x
    sums = turned.cumsum(along, dtype=x.dtype)
    if exclusive:
        none = torch.zeros_like(sums.narrow(along, 0, min(1, sums.shape[along])))
        sums = torch.cat([none, sums.narrow(along, 0, max(sums.shape[along] - 1, 0))], dim=along)
    return sums.flip(along) if reverse else sums
