"""Loops over many values, compiled by numba: one pass over memory, and no turn at Python's lock in between.

PyTorch has no single operator for what integer kernels do to each of their sums (multiply, clamp, round, make a byte of it). As
a row of operators it takes ten times as long as the arithmetic, most of it spent on memory, and on two threads that hand
Python's lock to each other after each. Nothing here is computed otherwise than there: no fused multiply-add, no reordering, no
reciprocal. Where numba is missing or does not work, PyTorch's operators do the same, slower.

Compiled code is kept by numba: beside this file, or else in the user's cache. NUMBA_DISABLE_JIT=1 switches it off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from qcam.common.errors import first_line

_I32 = np.int32
#: Types that sums can have.
_SUMS = ("float32", "float64")


@dataclass(frozen=True)
class Loops:
    """The compiled loops, each on NumPy arrays without gaps; bytes of signed codes are given as unsigned ones."""

    requantize: Callable[..., None]
    fake_quantize: Callable[..., None]
    fake_quantized: Callable[..., None]
    count_clipped: Callable[..., None]
    look_up: Callable[..., None]
    look_up_pairs: Callable[..., None]
    saturate: Callable[..., None]
    sum_maps: Callable[..., None]
    sum_columns: Callable[..., None]


@lru_cache(maxsize=1)
def loops() -> Loops | None:
    """Compile the loops, or load what was compiled before; None where that is impossible or switched off.

    Warns:
        RuntimeWarning: If it is impossible, once.
    """
    try:
        import numba

        return None if numba.config.DISABLE_JIT else _compiled(numba)  # type: ignore[attr-defined]
    except Exception as error:  # whatever ails numba or LLVM here: the same is computed without
        why = f"numba does not work here ({type(error).__name__}: {first_line(error)})"
        warnings.warn(f"{why}: mirrors compute the same numbers, several times slower", RuntimeWarning, stacklevel=2)
        return None


def _compiled(numba: Any) -> Loops:
    def loop(signature: str | list[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def compiled(function: Callable[..., None]) -> Callable[..., None]:
            options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
            try:
                result: Callable[..., None] = numba.njit(signature, cache=True, **options)(function)
            except Exception:  # no folder to keep it in, a full disk, a damaged file: compiled for this process
                result = numba.njit(signature, **options)(function)
            return result

        return compiled

    @loop("void(float32[:, ::1], float32[::1], float32, float32, int32, uint8[:, ::1])")
    def requantize(sums: Any, multipliers: Any, low: Any, high: Any, zero: Any, into: Any) -> None:
        for row in range(sums.shape[0]):
            for channel in range(sums.shape[1]):
                steps = sums[row, channel] * multipliers[channel]
                if steps < low:
                    steps = low
                elif steps > high:
                    steps = high
                into[row, channel] = np.uint8(_I32(np.rint(steps)) + zero)

    # In place it is a loop of its own: where two arrays might overlap, LLVM does one value at a time.
    @loop("void(float32[::1], float32, float32, float32)")
    def fake_quantize(values: Any, scale: Any, low: Any, high: Any) -> None:
        for place in range(values.shape[0]):
            steps = values[place] / scale
            if steps < low:
                steps = low
            elif steps > high:
                steps = high
            values[place] = np.rint(steps) * scale

    @loop("void(float32[::1], float32, float32, float32, float32[::1])")
    def fake_quantized(values: Any, scale: Any, low: Any, high: Any, into: Any) -> None:
        for place in range(values.shape[0]):
            steps = values[place] / scale
            if steps < low:
                steps = low
            elif steps > high:
                steps = high
            into[place] = np.rint(steps) * scale

    # What is clipped is rare: LLVM counts a block, several values at a time, and only where there is any is it looked at.
    @loop("void(float32[::1], float64[::1], float64[::1])")
    def count_clipped(values: Any, limits: Any, counts: Any) -> None:
        low, high = np.float32(limits[0]), np.float32(limits[1])
        for start in range(0, values.shape[0], 4096):
            block = values[start : start + 4096]
            below = above = _I32(0)
            for place in range(block.shape[0]):
                below += 1 if block[place] < low else 0
                above += 1 if block[place] > high else 0
            if below + above == 0:
                continue
            counts[1] += below
            counts[2] += above
            for place in range(block.shape[0]):
                value = np.float64(block[place])
                if block[place] < low:
                    excess = limits[2] - max(value, limits[4])
                    counts[3] = max(counts[3], excess)
                elif block[place] > high:
                    excess = min(value, limits[5]) - limits[3]
                    counts[4] = max(counts[4], excess)
                else:
                    continue
                counts[5] += (excess / limits[6]) ** 2

    @loop([f"void({kind}[::1], uint8[::1], {kind}[::1])" for kind in ("uint8", "float32")])
    def look_up(table: Any, codes: Any, into: Any) -> None:
        for place in range(codes.shape[0]):
            into[place] = table[codes[place]]

    @loop("void(uint8[::1], uint8[::1], uint8[::1], uint8[::1])")
    def look_up_pairs(table: Any, first: Any, second: Any, into: Any) -> None:
        for place in range(first.shape[0]):
            into[place] = table[(_I32(first[place]) << _I32(8)) | _I32(second[place])]

    @loop([f"void(uint8[::1], int64[::1], int64[:, ::1], int32[:, ::1], int64[::1], {kind}[:, ::1])" for kind in _SUMS])
    def saturate(codes: Any, sizes: Any, offsets: Any, weights: Any, outputs: Any, sums: Any) -> None:
        batch, rows, columns, channels, height, width, down, right = sizes
        for image in range(batch):
            for row in range(height):
                for column in range(width):
                    start = ((image * rows + row * down) * columns + column * right) * channels
                    place = (image * height + row) * width + column
                    for pair in range(outputs.shape[0]):
                        first, second = codes[start + offsets[0, pair]], codes[start + offsets[1, pair]]
                        total = _I32(first) * weights[pair, 0] + _I32(second) * weights[pair, 1]
                        if total > 32767:
                            sums[place, outputs[pair]] -= total - 32767
                        elif total < -32768:
                            sums[place, outputs[pair]] -= total + 32768

    # One function: numba keeps none that calls another one of here, but compiles it anew in each process.
    @loop("void(float32[:, :, ::1], int64, boolean, float32[:, ::1])")
    def sum_maps(maps: Any, first: Any, neighbours: Any, into: Any) -> None:
        images, length, channels = maps.shape
        second, third = (1, 2) if neighbours else (2, 1)
        lanes = np.empty((8, channels), np.float32)
        one = np.empty(8, np.float32)
        for image in range(images):
            if length % 4 == 0:  # every map meets the boundary at its start: channel beside channel
                packets = length // 4
                pairs = packets // 2 * 8
                for place in range(pairs):
                    for channel in range(channels):
                        if place < 8:
                            lanes[place, channel] = maps[image, place, channel]
                        else:
                            lanes[place % 8, channel] += maps[image, place, channel]
                for lane in range(4):
                    for channel in range(channels):
                        if pairs:
                            lanes[lane, channel] += lanes[lane + 4, channel]
                        if packets % 2 and pairs:
                            lanes[lane, channel] += maps[image, pairs + lane, channel]
                        elif packets % 2:
                            lanes[lane, channel] = maps[image, lane, channel]
                for channel in range(channels):
                    left = lanes[0, channel] + lanes[second, channel]
                    into[image, channel] = left + (lanes[third, channel] + lanes[3, channel])
                continue
            for channel in range(channels):
                start = min((-((first + image) * channels + channel) * length) % 4, length)
                packets = (length - start) // 4
                end = start + 4 * packets
                if packets == 0:
                    total = maps[image, 0, channel]
                    for place in range(1, length):
                        total += maps[image, place, channel]
                    into[image, channel] = total
                    continue
                for place in range(start, min(start + 8, end)):
                    one[place - start] = maps[image, place, channel]
                for place in range(start + 8, start + packets // 2 * 8):
                    one[(place - start) % 8] += maps[image, place, channel]
                for lane in range(4):
                    if packets > 1:
                        one[lane] += one[lane + 4]
                    if packets > 1 and packets % 2:
                        one[lane] += maps[image, end - 4 + lane, channel]
                total = (one[0] + one[second]) + (one[third] + one[3])
                for place in range(start):
                    total += maps[image, place, channel]
                for place in range(end, length):
                    total += maps[image, place, channel]
                into[image, channel] = total

    @loop("void(float32[:, :, ::1], boolean, float32[:, ::1])")
    def sum_columns(tables: Any, in_fours: Any, into: Any) -> None:
        length = tables.shape[1]
        for table in range(tables.shape[0]):
            fours = length // 4 * 4 if in_fours else 0
            into[table, :] = 0
            for row in range(0, fours, 4):
                for column in range(tables.shape[2]):
                    four = tables[table, row, column] + tables[table, row + 1, column]
                    four = (four + tables[table, row + 2, column]) + tables[table, row + 3, column]
                    into[table, column] += four
            if in_fours and length - fours > 1:
                for column in range(tables.shape[2]):
                    into[table, column] += tables[table, fours, column] + tables[table, fours + 1, column]
                fours += 2
            for row in range(fours, length):
                for column in range(tables.shape[2]):
                    into[table, column] += tables[table, row, column]

    return Loops(
        requantize, fake_quantize, fake_quantized, count_clipped, look_up, look_up_pairs, saturate, sum_maps, sum_columns
    )  # fmt: skip


def loops_for(*tensors: torch.Tensor) -> Loops | None:
    """Return the loops if they can work on these: tensors of bytes on the CPU."""
    fitting = all(each.device.type == "cpu" and each.dtype in (torch.uint8, torch.int8) for each in tensors)
    return loops() if fitting else None


def in_bytes(values: torch.Tensor) -> Any:
    """Return codes of 8 bits, in order in memory, as an array of unsigned bytes that shares their memory."""
    return values.view(torch.uint8).numpy()
