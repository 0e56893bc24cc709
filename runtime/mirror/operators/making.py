"""Operators that make values out of shapes and numbers."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.registry import operator


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
    """Return start, start + delta, … before the limit; each is start + its number · delta."""
    first, last, step = (value.item() for value in (start, limit, delta))
    if step == 0:
        raise UnsupportedGraphError("Range with steps of 0 has no end")
    count = max(int(np.ceil((last - first) / step)), 0)
    numbers = torch.arange(count, dtype=start.dtype, device=start.device)
    return numbers * delta.reshape(()) + start.reshape(())


@operator("CumSum", versions=(11, 14))
def cumulative_sum(x: torch.Tensor, axis: torch.Tensor, *, exclusive: int = 0, reverse: int = 0) -> torch.Tensor:
    """Sums of all values up to each place along an axis, from the end if `reverse`, without its own if `exclusive`."""
    along = int(axis)
    turned = x.flip(along) if reverse else x
    sums = turned.cumsum(along, dtype=x.dtype)
    if exclusive:
        none = torch.zeros_like(sums.narrow(along, 0, min(1, sums.shape[along])))
        sums = torch.cat([none, sums.narrow(along, 0, max(sums.shape[along] - 1, 0))], dim=along)
    return sums.flip(along) if reverse else sums
