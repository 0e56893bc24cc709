"""Values of two runs held against each other: how many are equal, and how far the others are apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Types of which a difference has no room in the type itself, and has in the unsigned one.
_BYTES = (np.dtype(np.uint8), np.dtype(np.int8))
#: Values at a time: what lies between two operations then stays in the processor's cache.
_AT_A_TIME = 2**16


def compared(simulated: torch.Tensor, deployed: torch.Tensor, *, whole: bool) -> tuple[int, float]:
    """Count equal values, and find the largest difference.

    Args:
        simulated: Values of any type, in any order in memory, on any device.
        deployed: Likewise, of the same shape.
        whole: Whether all are whole numbers below 2^24, of which float32 has every difference.

    Returns:
        How many values are equal, and the largest difference of two; infinite if something of what differs is no finite number.
    """
    same, largest = 0, 0.0
    rows = _in_one_order(simulated.cpu(), deployed.cpu())
    if rows[0].dtype == rows[1].dtype and torch.equal(*rows):  # most often, and in one pass over memory
        return rows[0].numel(), 0.0
    ours, theirs = (row.numpy() for row in rows)
    for start in range(0, ours.size, _AT_A_TIME):
        one, other = ours[start : start + _AT_A_TIME], theirs[start : start + _AT_A_TIME]
        equal = int(np.count_nonzero(one == other))
        same += equal
        if equal < one.size:
            largest = max(largest, _largest(one, other, whole=whole))
    return same, largest


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two float32 tensors are the same bit for bit: a NaN is like itself, and -0 is not like 0."""
    if one.dtype != torch.float32 or other.dtype != torch.float32:
        return False
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


def _channels_last(values: torch.Tensor) -> bool:
    return values.dim() == 4 and not values.is_contiguous() and values.is_contiguous(memory_format=torch.channels_last)


def _in_one_order(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values of both in a row, in one order: that of the first in memory."""
    if _channels_last(one) and other.dim() == 4:
        one, other = (values.permute(0, 2, 3, 1) for values in (one, other.contiguous(memory_format=torch.channels_last)))
    return one.reshape(-1), other.reshape(-1)


def _largest(one: NDArray[Any], other: NDArray[Any], *, whole: bool) -> float:
    if one.dtype == other.dtype and one.dtype in _BYTES:
        # The larger without the smaller, modulo 256: from 0 to 255.
        return float((np.maximum(one, other) - np.minimum(one, other)).view(np.uint8).max())
    with np.errstate(invalid="ignore", over="ignore"):
        most = float(np.abs(np.subtract(one, other, dtype=np.float32 if whole else np.float64)).max())
    return math.inf if math.isnan(most) else most  # what is no number on one side is infinitely far off
