"""What x86 kernels for AVX2 without VNNI lose: products added in pairs into 16 bits, which saturates (MLAS, vpmaddubsw).

The sum over pairs of sat16(x[2i]·w[2i] + x[2i+1]·w[2i+1]), x being raw codes and pairs running along K = (kernel row, kernel
column, input channel of the group), differs from the exact sum only where a pair leaves 16 bits. That takes two weights of one
sign with |w| + |w'| ≥ 129 and two large codes: few pairs, at few positions. So the difference is computed for those alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

#: What 16 bits hold.
LOWEST, HIGHEST = -(2**15), 2**15 - 1
#: Smallest sum of two weights' magnitudes that can saturate: 129 · 255 > 2^15 ≥ 128 · 255.
_SATURABLE = 129
#: Entries that are expanded at a time.
_CHUNK = 4_000_000


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
        """Lay the pairs out by the factors they share.

        Args:
            pairs: At least one.
            device: Where it computes.
        """
        self._rows = pairs.rows
        both = np.stack([pairs.first, pairs.second], axis=1)
        factors, start, count = np.unique(both, axis=0, return_index=True, return_counts=True)
        self._first = torch.from_numpy(factors[:, 0].copy()).to(device)
        self._second = torch.from_numpy(factors[:, 1].copy()).to(device)
        self._start = torch.from_numpy(start).to(device)
        self._count = torch.from_numpy(count).to(device)
        self._weights = torch.from_numpy(pairs.weights.astype(np.float32)).to(device)
        self._outputs = torch.from_numpy(pairs.output).to(device)
        # The largest weights among the outputs that share two factors bound what any of them can reach.
        magnitudes = np.abs(pairs.weights)
        bounds = np.maximum.reduceat(magnitudes, start, axis=0).astype(np.float32)
        self._bounds = torch.from_numpy(bounds).to(device)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Return input channel, kernel row and column of each row of K that is needed, rows × 3."""
        return self._rows

    def reachable(self, largest: torch.Tensor) -> torch.Tensor:
        """Return the pairs of factors that can saturate when each row's codes are at most `largest` (one value a row)."""
        reach = largest[self._first] * self._bounds[:, 0] + largest[self._second] * self._bounds[:, 1]
        return (reach > HIGHEST).nonzero()[:, 0]

    def rows_of(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the rows that pairs of factors read, ascending, each once."""
        rows: torch.Tensor = torch.unique(torch.cat([self._first[factors], self._second[factors]]))
        return rows

    def add_to(self, sums: torch.Tensor, planes: torch.Tensor, factors: torch.Tensor, rows: torch.Tensor) -> None:
        """Add the difference to exact sums.

        Args:
            sums: positions × outputs, changed in place.
            planes: rows × positions, the raw codes that each row of K multiplies, float32.
            factors: From `reachable`.
            rows: From `rows_of`: the rows that `planes` holds.
        """
        first, second = (torch.searchsorted(rows, which[factors]) for which in (self._first, self._second))
        bounds = self._bounds[factors]
        step = max(1, _CHUNK // max(planes.shape[1], 1))
        for begin in range(0, len(factors), step):
            part = slice(begin, begin + step)
            a, b = planes[first[part]], planes[second[part]]
            reach = (a * bounds[part, 0:1]).addcmul_(b, bounds[part, 1:2])
            factor, position = (reach > HIGHEST).nonzero(as_tuple=True)
            if len(factor) == 0:
                continue
            a, b, factor = a[factor, position], b[factor, position], factors[part][factor]
            for chunk in _chunks(self._count[factor]):
                self._add(sums, a[chunk], b[chunk], factor[chunk], position[chunk])

    def add_to_product(self, sums: torch.Tensor, codes: torch.Tensor) -> None:
        """Add the difference to the exact sums of a matrix product.

        Args:
            sums: positions × outputs, changed in place.
            codes: positions × inputs, raw, float32.
        """
        channels = torch.from_numpy(self._rows[:, 0]).to(codes.device)
        factors = self.reachable(codes.amax(dim=0)[channels])
        if len(factors):
            rows = self.rows_of(factors)
            self.add_to(sums, codes.T[channels[rows]], factors, rows)

    def _add(self, sums: torch.Tensor, a: torch.Tensor, b: torch.Tensor, factor: torch.Tensor, position: torch.Tensor) -> None:
        """Add the difference of every output at the given positions."""
        count = self._count[factor]
        entry = torch.repeat_interleave(torch.arange(len(factor), device=count.device), count)
        within = torch.arange(len(entry), device=count.device) - torch.repeat_interleave(count.cumsum(0) - count, count)
        pair = self._start[factor][entry] + within
        products = a[entry] * self._weights[pair, 0] + b[entry] * self._weights[pair, 1]
        difference = products.clamp(LOWEST, HIGHEST).sub_(products)
        places = position[entry] * sums.shape[1] + self._outputs[pair]
        sums.view(-1).index_add_(0, places, difference.to(sums.dtype))


def _chunks(counts: torch.Tensor) -> list[slice]:
    """Cut entries so that each part expands to about `_CHUNK` at most."""
    total = counts.cumsum(0)
    edges = [0]
    while edges[-1] < len(counts):
        done = int(total[edges[-1] - 1]) if edges[-1] else 0
        edges.append(max(int(torch.searchsorted(total, done + _CHUNK, right=True)), edges[-1] + 1))
    return [slice(start, stop) for start, stop in pairwise(edges)]
