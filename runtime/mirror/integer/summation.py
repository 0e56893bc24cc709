"""Float32 sums in the orders in which ONNX Runtime's ReduceMean, ReduceSum and InstanceNormalization add.

Over the last axes it is Eigen's order for a row (its linear vectorized reduction). A row is cut where it meets a 16-byte
boundary: from there on two accumulators of four lanes take turns; they are added, then the lanes, then what lies in front of
the boundary, then the rest. Rows follow each other without a gap, so where the boundary falls depends on the row's number. On
x86 lanes are added as (0 + 2) + (1 + 3), on ARM64 as (0 + 1) + (2 + 3).

Over axes in the middle, as of a map with its channels last, it is a matrix product with ones, column by column: on x86 four
values at a time (and two of what is left) are added before the sum gets them, on ARM64 each by itself. Tables fewer than the
session's threads, and a single one, are added row by row on either (`degree.py`): so on x86 an image alone can have another
mean than in a batch.
"""

from __future__ import annotations

import math

import torch

from qcam.runtime.mirror import compiled
from qcam.runtime.mirror.integer.rounding import multiply_add
from qcam.runtime.mirror.parallel import across, parts_of

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
    cycle = _LANES // math.gcd(length, _LANES)  # every so many rows the boundary is met at the same place
    for phase in range(min(cycle, rows)):
        start = min(-phase * length % _LANES, length)
        sums[phase::cycle] = _sums(x[phase::cycle], start, neighbours)
    return sums


def map_sums(x: torch.Tensor, *, neighbours: bool) -> torch.Tensor:
    """Return the sum of each map as `row_sums` of the maps, laid out one after the other, would; maps stay where they are.

    Args:
        x: float32, batch × channels × height × width, of any layout.
        neighbours: As of `row_sums`.

    Returns:
        float32, batch × channels.
    """
    batch, channels, height, width = x.shape
    loops = compiled.loops() if x.device.type == "cpu" and x.numel() else None
    last = x.permute(0, 2, 3, 1)
    if loops is None or not last.is_contiguous():
        return row_sums(x.reshape(-1, height * width), neighbours=neighbours).view(batch, channels)
    maps, sums = last.reshape(batch, height * width, channels), torch.empty(batch, channels)

    def work(part: slice) -> None:
        loops.sum_maps(maps[part].numpy(), part.start, neighbours, sums[part].numpy())

    across(parts_of(batch, channels * height * width, x.device), work)
    return sums


def column_sums(x: torch.Tensor, *, in_fours: bool) -> torch.Tensor:
    """Return the sums down the columns of tables.

    Args:
        x: float32, tables × length × columns.
        in_fours: Whether four values at a time are added first.

    Returns:
        float32, tables × columns.
    """
    tables, length, columns = x.shape
    loops = compiled.loops() if x.device.type == "cpu" and x.numel() else None
    sums = x.new_zeros(tables, columns)
    if loops is not None:
        x = x.contiguous()

        def work(part: slice) -> None:
            loops.sum_columns(x[part].numpy(), in_fours, sums[part].numpy())

        across(parts_of(tables, length * columns, x.device), work)
        return sums
    fours = length // 4 * 4 if in_fours else 0
    for row in range(0, fours, 4):
        sums += ((x[:, row] + x[:, row + 1]) + x[:, row + 2]) + x[:, row + 3]
    if in_fours and length - fours > 1:
        sums += x[:, fours] + x[:, fours + 1]
        fours += 2
    for row in range(fours, length):
        sums += x[:, row]
    return sums


def lane_sums(x: torch.Tensor, *, neighbours: bool) -> torch.Tensor:
    """Return the sum of each row as GlobalAveragePool adds it: in one accumulator of four lanes, from the row's start on.

    Args:
        x: float32, rows × length.
        neighbours: As of `row_sums`.

    Returns:
        float32, rows.
    """
    packets = x.shape[1] // _LANES
    total = x.new_zeros(len(x), _LANES)
    for packet in x[:, : packets * _LANES].reshape(len(x), packets, _LANES).transpose(0, 1).contiguous():
        total += packet
    return _in_turn(_across(total, neighbours), x[:, packets * _LANES :])


def square_sums(x: torch.Tensor, *, neighbours: bool, fused: bool) -> torch.Tensor:
    """Return the sum of squares of each row, as of a row that begins at a boundary.

    Args:
        x: float32, rows × length.
        neighbours: As of `row_sums`.
        fused: Whether a square is added in one rounding (ARM64). Of the first one or two that are added to each other, the
            first: the compiler has made a single instruction of it.

    Returns:
        float32, rows.
    """
    if not fused:
        return _sums(x * x, 0, neighbours)
    packets = x.shape[1] // _LANES
    if not packets:
        if x.shape[1] == 1:
            return x[:, 0] * x[:, 0]
        start = multiply_add(x[:, 0], x[:, 0], x[:, 1] * x[:, 1])
        return _squares_in_turn(start, x[:, 2:])
    lanes = x[:, : packets * _LANES].reshape(len(x), packets, _LANES)
    total = lanes[:, 0] * lanes[:, 0]
    if packets > 1:
        pairs = packets // 2
        both = lanes[:, : 2 * pairs].reshape(len(x), pairs, 2 * _LANES).transpose(0, 1).contiguous()
        total = both[0] * both[0]
        for pair in both[1:]:
            total = multiply_add(pair, pair, total)
        total = total[:, :_LANES] + total[:, _LANES:]
        if packets % 2:
            total = multiply_add(lanes[:, -1], lanes[:, -1], total)
    return _squares_in_turn(_across(total, neighbours), x[:, packets * _LANES :])


def sums_in_turn(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of each row, value by value; arguments as of `squares_in_turn`."""
    return column_sums(x.T.unsqueeze(0), in_fours=False)[0]


def squares_in_turn(x: torch.Tensor, *, fused: bool) -> torch.Tensor:
    """Return the sum of squares of each row, value by value.

    Args:
        x: float32, rows × length.
        fused: Whether a square is added in one rounding (ARM64).

    Returns:
        float32, rows.
    """
    return _squares_in_turn(x.new_zeros(len(x)), x) if fused else sums_in_turn(x * x)


def _squares_in_turn(total: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    for values in x.T.contiguous():
        total = multiply_add(values, values, total)
    return total


def _across(lanes: torch.Tensor, neighbours: bool) -> torch.Tensor:
    a, b, c, d = lanes.unbind(1)
    return (a + b) + (c + d) if neighbours else (a + c) + (b + d)


def _sums(x: torch.Tensor, start: int, neighbours: bool) -> torch.Tensor:
    length = x.shape[1]
    packets = (length - start) // _LANES
    if not packets:
        return _in_turn(x[:, 0], x[:, 1:])
    end = start + packets * _LANES
    pairs = packets // 2
    last = x[:, end - _LANES : end]
    if pairs:
        # Both accumulators at once, and the packets in front of the rows: each addition reads memory that lies together.
        both = x[:, start : start + 2 * pairs * _LANES].reshape(len(x), pairs, 2 * _LANES).transpose(0, 1).contiguous()
        total = both[0].clone()  # of a single row, `both` is a view of the caller's tensor
        for pair in both[1:]:
            total += pair
        total = total[:, :_LANES] + total[:, _LANES:]
        total = total + last if packets % 2 else total
    else:
        total = last
    return _in_turn(_in_turn(_across(total, neighbours), x[:, :start]), x[:, end:])


def _in_turn(total: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    for column in range(values.shape[1]):
        total = total + values[:, column]
    return total
