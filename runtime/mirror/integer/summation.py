"""Float32 sums in the order in which Eigen adds a row (its linear vectorized reduction), as ONNX Runtime's ReduceMean does.

A row is cut where it meets a 16-byte boundary: from there on two accumulators of four lanes take turns; they are added, then
the lanes, then what lies in front of the boundary, then the rest. Rows follow each other without a gap, so where the boundary
falls depends on the row's number. On x86 lanes are added as (0 + 2) + (1 + 3), on ARM64 as (0 + 1) + (2 + 3).
"""

from __future__ import annotations

import torch

_LANES = 4


def row_sums(x: torch.Tensor, *, neighbours: bool) -> torch.Tensor:
    """Return the sum of each row.

    Args:
        x: float32, rows × length, the whole of a tensor that begins at a 16-byte boundary.
        neighbours: Whether neighbouring lanes are added first (ARM64).

    Returns:
        float32, rows.
    """
    rows, length = x.shape
    sums = torch.empty(rows, dtype=x.dtype, device=x.device)
    for phase in range(min(_LANES, rows)):  # rows of one phase meet the boundary at the same place
        start = min(-phase * length % _LANES, length)
        sums[phase::_LANES] = _sums(x[phase::_LANES], start, neighbours)
    return sums


def _sums(x: torch.Tensor, start: int, neighbours: bool) -> torch.Tensor:
    length = x.shape[1]
    packets = (length - start) // _LANES
    if not packets:
        return _in_turn(x[:, 0], x[:, 1:])
    end = start + packets * _LANES
    lanes = x[:, start:end].reshape(len(x), packets, _LANES)
    total = lanes[:, 0]
    if packets > 1:
        pairs = packets // 2
        other = lanes[:, 1]
        for pair in range(1, pairs):
            total, other = total + lanes[:, 2 * pair], other + lanes[:, 2 * pair + 1]
        total = total + other
        if packets % 2:
            total = total + lanes[:, packets - 1]
    a, b, c, d = total.unbind(1)
    result = (a + b) + (c + d) if neighbours else (a + c) + (b + d)
    return _in_turn(_in_turn(result, x[:, :start]), x[:, end:])


def _in_turn(total: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    for column in range(values.shape[1]):
        total = total + values[:, column]
    return total
