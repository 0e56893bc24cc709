"""Exact integer sums of products, handed out as floating-point numbers.

Float32 adds whole numbers exactly as long as no partial sum reaches 2^24, whatever the order. The bound is known from the
weights: with x - zp in [low, high], no partial sum of a channel leaves [-(P·|low| + N·high), P·high + N·|low|], P and N being
the sums of its positive and negative weights. Where one convolution could leave it, the input channels are cut into parts
that cannot; where that is impossible, float64 serves (exact to 2^53).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.runtime.mirror.integer.kernel import EXACT_BELOW
from qcam.runtime.mirror.integer.products import Maker, Product


class ExactSum:
    """A linear operator on whole numbers, with exact results."""

    def __init__(
        self,
        weight: NDArray[Any],
        bias: NDArray[np.int64] | None,
        low: int,
        high: int,
        make: Maker,
        device: torch.device,
        *,
        cuttable: bool,
    ) -> None:
        """Choose how to add.

        Args:
            weight: outputs × inputs (× window), whole numbers, zero points subtracted.
            bias: One whole number per output, or None.
            low: Smallest value of x - zp.
            high: Largest value.
            make: Makes the product of a part of the inputs.
            device: Where it computes.
            cuttable: Whether the inputs may be cut along axis 1 (no groups).
        """
        # Other devices may multiply in reduced precision or by transforms (Winograd): there float64, rounded, is safe.
        cuts = _cuts(weight, low, high) if device.type == "cpu" else None
        if cuts is not None and len(cuts) > 1 and not cuttable:
            cuts = None
        kind = torch.float64 if cuts is None else torch.float32
        cuts = cuts or [slice(0, weight.shape[1])]
        bounds = [_bound(weight[:, cut], low, high) for cut in cuts]
        #: The largest magnitude that a sum without the bias can have.
        self.reach = sum(bounds)
        self._kind = kind
        self._parts: list[tuple[slice, Product]] = [(cut, make(weight[:, cut], kind)) for cut in cuts]
        #: Whether sums without the bias stay below 2^24.
        self._small = kind == torch.float32 and self.reach < EXACT_BELOW
        # A layer with a channel that is next to nothing has a bias for it of any size; float32 holds the others.
        whole = np.zeros(weight.shape[0], np.int64) if bias is None else np.array(bias)
        narrow = np.where(np.abs(whole) < EXACT_BELOW, whole, 0)
        self._bias = torch.from_numpy(narrow).to(device, torch.float32) if narrow.any() else None
        self._wide = torch.from_numpy(np.flatnonzero(whole != narrow)).to(device)
        self._wide_bias = torch.from_numpy(whole[whole != narrow]).to(device, torch.float64)
        # Two exact numbers may be added in float32: their sum is rounded once, as wanted.
        self._one = kind == torch.float32 and len(cuts) == 1 and not len(self._wide)
        reach = int(np.abs(narrow).max(initial=0))
        self._two = kind == torch.float32 and len(cuts) == 2 and bounds[0] + reach < EXACT_BELOW and not len(self._wide)

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the sums rounded once to float32, as the kernels convert their int32 accumulators.

        Args:
            codes: Raw codes, batch × inputs (× positions).
        """
        if self._one:
            return self._parts[0][1](codes, self._bias)
        if self._two:
            (first, product), (second, other) = self._parts
            return product(codes[:, first], self._bias).add_(other(codes[:, second], None))
        return self.with_bias(self.exact(codes))

    def exact(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the exact sums without the bias: float32 where they stay below 2^24, else float64."""
        kind = torch.float32 if self._small else torch.float64
        if len(self._parts) == 1:
            total = self._parts[0][1](codes, None).to(kind)
        else:
            (cut, product), *others = self._parts
            total = product(codes[:, cut], None).to(kind)
            for cut, product in others:
                total.add_(product(codes[:, cut], None))
        return total.round_() if self._kind == torch.float64 else total

    def with_bias(self, total: torch.Tensor) -> torch.Tensor:
        """Return exact sums with the bias, as float32 by way of the kernels' int32 accumulators; they may be overwritten."""
        shape = [-1, *[1] * (total.dim() - 2)]
        wide = None
        if len(self._wide):
            wide = total.index_select(1, self._wide).to(torch.float64).add_(self._wide_bias.reshape(shape))
        if self._bias is not None:
            total.add_(self._bias.reshape(shape))
        result = self.rounded(total)
        if wide is not None:
            result.index_copy_(1, self._wide, self.rounded(wide))
        return result

    @staticmethod
    def rounded(total: torch.Tensor) -> torch.Tensor:
        """Return sums as float32, by way of the kernels' int32 accumulators."""
        if total.dtype == torch.float32:
            return total
        return total.to(torch.int64).to(torch.int32).to(torch.float32)


def _cuts(weight: NDArray[Any], low: int, high: int) -> list[slice] | None:
    """Cut the inputs into as few equal parts as keep every partial sum below 2^24; None if that takes too many."""
    inputs = weight.shape[1]
    for count in (1, 2, 3, 4, 6, 8, 12, 16):
        if count > inputs:
            return None
        edges = [round(index * inputs / count) for index in range(count + 1)]
        parts = [slice(start, stop) for start, stop in pairwise(edges)]
        if all(_bound(weight[:, part], low, high) < EXACT_BELOW for part in parts):
            return parts
    return None


def _bound(weight: NDArray[Any], low: int, high: int) -> int:
    """Return the largest magnitude that any partial sum of any output can reach."""
    axes = tuple(range(1, weight.ndim))
    total = weight.sum(axis=axes, dtype=np.int64)
    magnitude = np.abs(weight).sum(axis=axes, dtype=np.int64)
    positive, negative = (magnitude + total) // 2, (magnitude - total) // 2
    up, down = max(high, 0), max(-low, 0)
    return int(np.maximum(positive * up + negative * down, positive * down + negative * up).max(initial=0))
