"""What x86 kernels for AVX2 without VNNI lose: products added in pairs into 16 bits, which saturates (MLAS, vpmaddubsw).

The sum over pairs of sat16(x[2i]·w[2i] + x[2i+1]·w[2i+1]), x being raw codes and pairs running along K = (kernel row, kernel
column, input channel of the group), differs from the exact sum only where a pair leaves 16 bits. That takes two weights of one
sign with |w| + |w'| ≥ 129 and two large codes: few pairs. So the difference is computed for those alone that the codes at hand
can reach, at all positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.runtime.mirror.parallel import scratch

#: What 16 bits hold.
LOWEST, HIGHEST = -(2**15), 2**15 - 1
#: Smallest sum of two weights' magnitudes that can saturate: 129 · 255 > 2^15 ≥ 128 · 255.
_SATURABLE = 129
#: Sums of pairs that are worked on at a time: they stay in the processor's cache.
_CHUNK = 2**17


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

    def difference(self, planes: torch.Tensor, outputs: int) -> torch.Tensor | None:
        """Return what has to be added to exact sums; None if it is nothing.

        Args:
            planes: rows × positions: the raw codes that each row of K multiplies, float32.
            outputs: Number of outputs.

        Returns:
            float32, positions × outputs.
        """
        largest = planes.amax(dim=1)
        first, second, weights = self._first, self._second, self._weights
        reach = (largest[first] * weights[:, 0]).addcmul_(largest[second], weights[:, 1])
        chosen = (reach > self._limits).nonzero()[:, 0]
        if not len(chosen):
            return None
        positions = planes.shape[1]
        result = scratch(2, outputs * positions, torch.float32, planes.device).view(outputs, positions).zero_()
        step = max(1, _CHUNK // max(planes.shape[1], 1))
        for begin in range(0, len(chosen), step):
            pair = chosen[begin : begin + step]
            above = planes.index_select(0, first[pair]).mul_(weights[pair, 0:1])
            above.add_(planes.index_select(0, second[pair]).mul_(weights[pair, 1:2]))
            above.sub_(self._limits[pair, None]).clamp_(min=0).mul_(self._signs[pair, None])
            result.index_add_(0, self._outputs[pair], above)
        return result.t().contiguous()

    def add_to_product(self, sums: torch.Tensor, codes: torch.Tensor) -> None:
        """Add the difference to the exact sums of a matrix product.

        Args:
            sums: positions × outputs, changed in place.
            codes: positions × inputs, raw.
        """
        channels = torch.from_numpy(self.rows[:, 0]).to(codes.device)
        difference = self.difference(codes.T.index_select(0, channels).to(torch.float32), sums.shape[1])
        if difference is not None:
            sums.add_(difference)

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
        batch, outputs, height, width = sums.shape
        used, places = np.unique(self.rows[:, 0], return_inverse=True)
        channels = padded.transpose(0, 1).index_select(0, torch.from_numpy(used).to(padded.device))
        channels = channels.contiguous().to(torch.float32)
        shape = (len(self.rows), batch, height, width)
        planes = scratch(3, prod(shape), torch.float32, padded.device).view(shape)
        kernel_places = self.rows[:, 1:]
        edges = [0, *(np.flatnonzero(np.diff(kernel_places, axis=0).any(axis=1)) + 1).tolist(), len(kernel_places)]
        for begin, end in pairwise(edges):
            top, left = (int(place) * step for place, step in zip(kernel_places[begin], dilation, strict=True))
            rows = slice(top, top + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(left, left + (width - 1) * stride[1] + 1, stride[1])
            which = torch.from_numpy(places[begin:end]).to(padded.device)
            planes[begin:end] = channels[:, :, rows, columns].index_select(0, which)
        difference = self.difference(planes.reshape(len(planes), -1), outputs)
        if difference is not None:
            sums.add_(difference.view(batch, height, width, outputs).permute(0, 3, 1, 2))
