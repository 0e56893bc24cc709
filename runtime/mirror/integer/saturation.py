"""What x86 kernels for AVX2 without VNNI lose: products added in pairs into 16 bits, which saturates (MLAS, vpmaddubsw).

The sum over pairs of sat16(x[2i]·w[2i] + x[2i+1]·w[2i+1]), x being raw codes and pairs running along K = (kernel row, kernel
column, input channel of the group), differs from the exact sum only where a pair leaves 16 bits. That takes two weights of one
sign with |w| + |w'| ≥ 129 and two large codes: few pairs. So the difference is computed for those alone that the codes at hand
can reach, at the spans of positions where they can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.runtime.mirror.integer.kernel import EXACT_BELOW
from qcam.runtime.mirror.parallel import scratch

#: What 16 bits hold.
LOWEST, HIGHEST = -(2**15), 2**15 - 1
#: Smallest sum of two weights' magnitudes that can saturate: 129 · 255 > 2^15 ≥ 128 · 255.
_SATURABLE = 129
#: Sums of pairs that are worked on at a time: they stay in the processor's cache.
_CHUNK = 2**17
#: Positions of which it is asked together whether a pair can saturate: fewer leave more out, and cost more to ask.
_SHORTEST, _LONGEST = 256, 2048


#: Lays out the raw codes that some rows of K multiply: rows × positions, float32.
Planes = Callable[[NDArray[np.int64]], torch.Tensor]


@dataclass(frozen=True)
class Pairs:
    """Pairs of products that can saturate.

    Attributes:
        rows: Input channel, kernel row and kernel column of each row of K that takes part: rows × 3.
        first: For each pair the index into `rows` of its first factor.
        second: Likewise its second.
        output: For each pair the output channel.
        weights: For each pair both weights: pairs × 2. Sorted by (first, second): outputs that share factors are neighbours.
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    output: NDArray[np.int64]
    weights: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.output)


def saturable_pairs(weight: NDArray[np.int16], groups: int = 1) -> Pairs:
    """Find the pairs that can saturate whatever the codes.

    Args:
        weight: outputs × inputs of the group × rows × columns (1 × 1 for a matrix), raw signed 8-bit weights.
        groups: Number of groups; pairs do not cross them.
    """
    outputs, channels, _, width = weight.shape
    flat = weight.transpose(0, 2, 3, 1).reshape(outputs, -1)  # (row, column, channel): the order of K
    length = flat.shape[1] // 2 * 2  # a last, single product cannot leave 16 bits
    even, odd = flat[:, 0:length:2], flat[:, 1:length:2]
    # Weights of one sign whose magnitudes reach 129 together: 129 · 255 leaves 16 bits on either side, 128 · 255 does not.
    output, pair = np.nonzero(np.abs(even + odd) >= _SATURABLE)
    same_sign = (even[output, pair] < 0) == (odd[output, pair] < 0)
    same_sign |= (even[output, pair] == 0) | (odd[output, pair] == 0)
    output, pair = output[same_sign], pair[same_sign]
    group = output // (outputs // groups)

    def key(k: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return one number for (row, column, channel of the whole input): rows of one place of the kernel are neighbours."""
        place, channel = np.divmod(k, channels)
        keys: NDArray[np.int64] = place * (groups * channels) + group * channels + channel
        return keys

    first, second = key(2 * pair), key(2 * pair + 1)
    order = np.lexsort((output, second, first))
    used, places = np.unique(np.concatenate([first[order], second[order]]), return_inverse=True)
    place, channel = np.divmod(used, groups * channels)
    rows = np.stack([channel, place // width, place % width], axis=1) if len(used) else np.zeros((0, 3), np.int64)
    weights = np.stack([even[output, pair], odd[output, pair]], axis=1)[order].astype(np.int64)
    return Pairs(rows, places[: len(order)], places[len(order) :], output[order], weights)


def _span(positions: int) -> int:
    """Return how many positions are asked at a time whether a pair can saturate there: a divisor of their number."""
    fitting = [span for span in range(_SHORTEST, min(positions, _LONGEST) + 1) if positions % span == 0]
    return fitting[-1] if fitting else max(positions, 1)


class Saturation:
    """The difference that saturation makes to exact sums.

    Attributes:
        rows: Input channel, kernel row and kernel column of each row of K that is needed: rows × 3, those of one place of the
            kernel beside each other.
    """

    def __init__(self, pairs: Pairs, device: torch.device) -> None:
        """Lay the pairs out.

        Args:
            pairs: At least one.
            device: Where it computes.
        """
        self.rows = pairs.rows
        order = np.argsort(pairs.output, kind="stable")  # differences of one output are added beside each other
        downwards = pairs.weights[order].min(axis=1) < 0
        self._first, self._second, self._outputs = (
            torch.from_numpy(values[order]).to(device) for values in (pairs.first, pairs.second, pairs.output)
        )
        self._weights = torch.from_numpy(np.abs(pairs.weights[order]).astype(np.float32)).to(device)
        #: What the magnitude of a pair's sum may be, and what is added for each 1 that it is above.
        self._limits = torch.from_numpy(np.where(downwards, -LOWEST, HIGHEST).astype(np.float32)).to(device)
        self._signs = torch.from_numpy(np.where(downwards, 1, -1).astype(np.float32)).to(device)

        most = np.abs(pairs.weights[order]).sum(axis=1) * 255 - np.where(downwards, -LOWEST, HIGHEST)
        lost = np.zeros((2, int(pairs.output.max()) + 1), np.int64)
        np.add.at(lost, (downwards.astype(np.int64), pairs.output[order]), most)
        self._most = int(lost.max())

    def with_room(self, sums: torch.Tensor, reach: int) -> torch.Tensor:
        """Return exact sums in a type that holds them with their difference, too.

        Args:
            sums: The sums.
            reach: The largest magnitude that they can have.
        """
        return sums if reach + self._most < EXACT_BELOW else sums.to(torch.float64)

    def add_to(self, sums: torch.Tensor, largest: torch.Tensor, planes_of: Planes) -> None:
        """Add the difference to exact sums.

        Args:
            sums: outputs × positions (of one or several dimensions), from `with_room`, changed in place.
            largest: For each row of K the largest raw code that it multiplies, or more; float32.
            planes_of: Lays out the codes of some rows of K.
        """
        positions = sums[0].numel()
        chosen = (self._reach(largest[self._first], largest[self._second], self._weights) > self._limits).nonzero()[:, 0]
        if not len(chosen):
            return
        first, second, weights, limits = (values[chosen] for values in (self._first, self._second, self._weights, self._limits))
        signs, into = self._signs[chosen], self._outputs[chosen]
        needed = torch.zeros(len(self.rows), dtype=torch.bool, device=largest.device)
        needed[first] = needed[second] = True
        places = needed.cumsum(0) - 1
        planes = planes_of(needed.nonzero()[:, 0].cpu().numpy())
        span = _span(positions)
        spans = positions // span
        pieces = planes.reshape(-1, span)  # piece of a row: row · spans + number
        highest = pieces.amax(dim=1).view(-1, spans)
        first, second = places[first], places[second]
        reach = self._reach(highest[first], highest[second], weights[:, None])
        pairs, numbers = (reach > limits[:, None]).nonzero(as_tuple=True)
        if not len(pairs):
            return
        outputs, into = torch.unique_consecutive(into[pairs], return_inverse=True)  # sorted: pairs are
        first, second, into = (values * spans + numbers for values in (first[pairs], second[pairs], into))
        result = scratch(2, len(outputs) * positions, sums.dtype, planes.device).view(-1, span).zero_()
        step = max(1, _CHUNK // span)
        for begin in range(0, len(pairs), step):
            part = slice(begin, begin + step)
            pair = pairs[part]
            above = pieces.index_select(0, first[part]).mul_(weights[pair, 0:1])
            above.add_(pieces.index_select(0, second[part]).mul_(weights[pair, 1:2]))
            above.sub_(limits[pair, None]).clamp_(min=0).mul_(signs[pair, None])
            result.index_add_(0, into[part], above.to(sums.dtype))
        sums.index_add_(0, outputs, result.view(-1, *sums.shape[1:]))

    @staticmethod
    def _reach(first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return how far the sum of a pair gets from nothing."""
        return (first * weights[..., 0]).addcmul_(second, weights[..., 1])

    def add_to_product(self, sums: torch.Tensor, codes: torch.Tensor) -> None:
        """Add the difference to the exact sums of a matrix product.

        Args:
            sums: positions × outputs, changed in place.
            codes: positions × inputs, raw.
        """
        if not len(codes):
            return

        def planes_of(rows: NDArray[np.int64]) -> torch.Tensor:
            channels = torch.from_numpy(self.rows[rows, 0]).to(codes.device)
            return codes.index_select(1, channels).T.contiguous().to(torch.float32)

        largest = codes.amax(dim=0).to(torch.float32)[torch.from_numpy(self.rows[:, 0]).to(codes.device)]
        self.add_to(sums.T, largest, planes_of)

    def add_to_convolution(
        self, sums: torch.Tensor, padded: torch.Tensor, stride: Sequence[int], dilation: Sequence[int]
    ) -> None:
        """Add the difference to the exact sums of a convolution.

        Args:
            sums: batch × outputs × rows × columns, changed in place.
            padded: Raw codes (unsigned), padded with the zero point.
            stride: Of the convolution.
            dilation: Of the convolution.
        """
        batch, _, height, width = sums.shape
        if not batch:
            return

        def planes_of(rows: NDArray[np.int64]) -> torch.Tensor:
            chosen = self.rows[rows]
            used, places = np.unique(chosen[:, 0], return_inverse=True)
            channels = padded.permute(0, 2, 3, 1).index_select(3, torch.from_numpy(used).to(padded.device))
            channels = channels.permute(3, 0, 1, 2).contiguous().to(torch.float32)
            shape = (len(rows), batch, height, width)
            planes = scratch(3, prod(shape), torch.float32, padded.device).view(shape)
            edges = [0, *(np.flatnonzero(np.diff(chosen[:, 1:], axis=0).any(axis=1)) + 1).tolist(), len(chosen)]
            for begin, end in pairwise(edges):
                top, left = (int(place) * step for place, step in zip(chosen[begin, 1:], dilation, strict=True))
                high = slice(top, top + (height - 1) * stride[0] + 1, stride[0])
                wide = slice(left, left + (width - 1) * stride[1] + 1, stride[1])
                which = torch.from_numpy(places[begin:end]).to(padded.device)
                planes[begin:end] = channels[:, :, high, wide].index_select(0, which)
            return planes.reshape(len(planes), -1)

        largest = padded.amax(dim=(0, 2, 3)).to(torch.float32)[torch.from_numpy(self.rows[:, 0]).to(padded.device)]
        self.add_to(sums.transpose(0, 1), largest, planes_of)
