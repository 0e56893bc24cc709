"""Values of two runs held against each other: how many are equal, and how far the others are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

#: Types of which a difference has no room in the type itself, and has in the unsigned one.
_BYTES = (torch.uint8, torch.int8)
#: Values at a time on a processor: what lies between two operations then stays in its cache.
_AT_A_TIME = 2**20


def compared(simulated: torch.Tensor, deployed: torch.Tensor, *, whole: bool) -> tuple[int, float]:
    """Count equal values, and find the largest difference.

    Args:
        simulated: Values of any type and any order in memory.
        deployed: Likewise, of the same shape, on the same device.
        whole: Whether all are whole numbers below 2^24, of which float32 has every difference.

    Returns:
        How many values are equal, and the largest difference of two; infinite if something of what differs is no finite number.
    """
    same, largest = 0, 0.0
    for one, other in zip(_pieces(simulated), _pieces(deployed), strict=True):
        if one.dtype != other.dtype:  # codes in their own type on one side, as float32 on the other
            one, other = one.float(), other.float()
        equal = int(torch.count_nonzero(one == other))
        same += equal
        if equal < one.numel():
            largest = max(largest, _largest(one, other, whole=whole))
    return same, largest


def laid_out_as(values: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """Return values in the order in memory of another tensor of their shape, if that is channels last: compared in one sweep."""
    if values.dim() != 4 or values.shape != model.shape:
        return values
    last = torch.channels_last
    wanted = model.is_contiguous(memory_format=last) and not model.is_contiguous()
    return values.contiguous(memory_format=last) if wanted else values


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two float32 tensors are the same bit for bit: no number is like itself, and -0 is not like 0."""
    if one.dtype != torch.float32 or other.dtype != torch.float32:
        return False
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


def _pieces(values: torch.Tensor) -> Iterator[torch.Tensor]:
    if values.dim() == 0 or values.device.type != "cpu" or values.numel() <= _AT_A_TIME:
        yield values
        return
    yield from values.split(max(1, _AT_A_TIME * len(values) // values.numel()))


def _largest(one: torch.Tensor, other: torch.Tensor, *, whole: bool) -> float:
    if one.dtype in _BYTES:
        # The larger without the smaller, modulo 256: from 0 to 255.
        return float((torch.maximum(one, other) - torch.minimum(one, other)).view(torch.uint8).max())
    wide = torch.float32 if whole else torch.float64
    # What is no number on one side is infinitely far off.
    return float((one.to(wide) - other.to(wide)).abs_().nan_to_num_(nan=math.inf, posinf=math.inf).max())
