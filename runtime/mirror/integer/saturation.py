"""What x86 kernels for AVX2 without VNNI lose: products added in pairs into 16 bits, which saturates (MLAS, vpmaddubsw).

The sum over pairs of sat16(x[2i]·w[2i] + x[2i+1]·w[2i+1]), x being raw codes and pairs running along K = (kernel row, kernel
column, input channel of the group), differs from the exact sum only where a pair leaves 16 bits. That takes two weights of one
sign with |w| + |w'| ≥ 129 and two large codes: few pairs. So the difference is computed for those alone that the codes at hand
can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.runtime.mirror import compiled
from qcam.runtime.mirror.integer.kernel import EXACT_BELOW

#: What 16 bits hold.
LOWEST, HIGHEST = -(2**15), 2**15 - 1
#: Smallest sum of two weights' magnitudes that can saturate: 129 · 255 > 2^15 ≥ 128 · 255.
_SATURABLE = 129
#: Sums of pairs that are worked on at a time where no compiled loop does it.
_CHUNK = 2**20


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
    """The difference that saturation makes to exact sums."""

    def __init__(self, pairs: Pairs, device: torch.device) -> None:
        """Lay the pairs out.

        Args:
            pairs: At least one.
            device: Where it computes.
        """
        self._device = device
        self._outputs = pairs.output
        self._weights = pairs.weights.astype(np.int32)
        #: Of either factor of each pair: its channel; its row and its column in the kernel.
        self._factors = [pairs.rows[which] for which in (pairs.first, pairs.second)]
        downwards = pairs.weights.min(axis=1) < 0
        #: What the magnitude of a pair's sum may be.
        self._limits = np.where(downwards, -LOWEST, HIGHEST)
        lost = np.zeros((2, int(pairs.output.max()) + 1), np.int64)
        most = np.abs(pairs.weights).sum(axis=1) * 255 - self._limits
        np.add.at(lost, (downwards.astype(np.int64), pairs.output), most)
        #: The largest magnitude that the difference of one sum can have.
        self.most = int(lost.max())

    def with_room(self, sums: torch.Tensor, reach: int) -> torch.Tensor:
        """Return exact sums in a type that holds them with their difference, too.

        Args:
            sums: The sums.
            reach: The largest magnitude that they can have.
        """
        return sums if reach + self.most < EXACT_BELOW else sums.to(torch.float64)

    def add_to_product(self, sums: torch.Tensor, codes: torch.Tensor) -> None:
        """Add the difference to the exact sums of a matrix product.

        Args:
            sums: positions × outputs, from `with_room`, changed in place.
            codes: positions × inputs, raw.
        """
        self._add(sums[None, None], codes[None, None], (1, 1), (1, 1))

    def add_to_convolution(
        self, sums: torch.Tensor, padded: torch.Tensor, stride: Sequence[int], dilation: Sequence[int]
    ) -> None:
        """Add the difference to the exact sums of a convolution.

        Args:
            sums: batch × outputs × rows × columns, from `with_room`, changed in place.
            padded: Raw codes (unsigned), padded with the zero point.
            stride: Of the convolution.
            dilation: Of the convolution.
        """
        self._add(sums.permute(0, 2, 3, 1), padded.permute(0, 2, 3, 1), stride, dilation)

    def _add(self, sums: torch.Tensor, codes: torch.Tensor, stride: Sequence[int], dilation: Sequence[int]) -> None:
        """Add the difference; channels are last in both."""
        if not sums.numel():
            return
        codes = codes.contiguous()
        largest = codes.reshape(-1, codes.shape[3]).amax(dim=0).cpu().numpy().astype(np.int64)
        weights = np.abs(self._weights.astype(np.int64))
        reach = sum(largest[factor[:, 0]] * weights[:, which] for which, factor in enumerate(self._factors))
        chosen = np.flatnonzero(reach > self._limits)
        if not len(chosen):
            return
        batch, rows, columns, channels = codes.shape
        steps = (1, dilation[0] * columns * channels, dilation[1] * channels)
        #: How far behind the first code of a window, in memory, either factor lies.
        offsets = np.stack([factor[chosen] @ np.array(steps, np.int64) for factor in self._factors])
        pairs = offsets, self._weights[chosen], self._outputs[chosen]
        loops = compiled.loops_for(codes)
        if loops is not None and sums.is_contiguous():
            sizes = np.array([batch, rows, columns, channels, *sums.shape[1:3], *stride], np.int64)
            loops.saturate(compiled.in_bytes(codes).reshape(-1), sizes, *pairs, sums.view(-1, sums.shape[3]).numpy())
            return
        begins = torch.arange(rows * columns, device=codes.device).view(rows, columns)[:: stride[0], :: stride[1]]
        begins = begins[: sums.shape[1], : sums.shape[2]].reshape(-1)
        starts = ((torch.arange(batch, device=codes.device) * rows * columns)[:, None] + begins).reshape(-1) * channels
        self._add_by_pairs(sums, codes.reshape(-1), starts, pairs)

    def _add_by_pairs(
        self,
        sums: torch.Tensor,
        codes: torch.Tensor,
        starts: torch.Tensor,
        pairs: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]],
    ) -> None:
        """Add the difference without the compiled loop.

        Args:
            sums: As of `_add`.
            codes: Flat.
            starts: For each position the place of its window's first code.
            pairs: Offsets, weights and outputs of those that can saturate.
        """
        offsets, weights, outputs = (torch.from_numpy(values).to(codes.device) for values in pairs)
        total = torch.zeros(len(starts), sums.shape[3], dtype=sums.dtype, device=sums.device)
        step = max(1, _CHUNK // len(starts))
        for begin in range(0, len(outputs), step):
            part = slice(begin, begin + step)
            first, second = (codes[starts[:, None] + offsets[which, part]].to(torch.int32) for which in (0, 1))
            both = first * weights[part, 0] + second * weights[part, 1]
            total.index_add_(1, outputs[part], (both.clamp(LOWEST, HIGHEST) - both).to(sums.dtype))
        sums.add_(total.view(sums.shape))
