"""Counting what the quantizers of a mirror clip, while it runs: per image and quantizer, sums and a maximum, no copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.runtime.clipping import QuantizerRange
from qcam.runtime.mirror import compiled
from qcam.runtime.mirror.parallel import across, memory

#: What is counted of an image at a quantizer, by column: values; of them clipped at the lowest and at the highest code; how far
#: the farthest lies below and above the range, in the tensor's units; the sum of the squares of the steps by which values lie
#: outside.
VALUES, LOW, HIGH, BELOW, ABOVE, SQUARES = range(6)
_COLUMNS = 6
#: Values that are counted and then quantized while they are in the cache.
BLOCK = 2**18


class ClippedValues:
    """What is counted in one forward pass; threads may count different images at a time.

    A tensor whose first axis is not made of the images counts with the first image of those that are run together: sums over
    images are right, whatever its layout.

    Attributes:
        images: How many images are run.
    """

    def __init__(self, ranges: Iterable[QuantizerRange], images: int, device: torch.device) -> None:
        """Start at nothing.

        Args:
            ranges: Of the quantizers that are looked at.
            images: How many images are run.
            device: Where the mirror computes.
        """
        self.images = images
        self._device = device
        self._ranges = {each.codes: each for each in ranges}
        self._rows = {name: torch.zeros((images, _COLUMNS), dtype=torch.float64, device=device) for name in self._ranges}

    def part(self, images: slice) -> ClippedPart:
        """Return what counts some of the images."""
        return ClippedPart(self._ranges, {name: rows[images] for name, rows in self._rows.items()})

    def apart(self, images: int) -> ClippedValues:
        """Return what counts so many images in a pass of their own."""
        return ClippedValues(self._ranges.values(), images, self._device)

    def take(self, images: slice, other: ClippedValues) -> None:
        """Take over what was counted of some images in a pass of their own, which others may have filled up."""
        for name, rows in self._rows.items():
            rows[images] = other._rows[name][: images.stop - images.start]

    def counted(self) -> dict[str, NDArray[np.float64]]:
        """Return name of the codes → what was counted, float64, images × 6 (`VALUES` … `SQUARES`), in graph order."""
        if not self._rows:
            return {}
        together = torch.stack(list(self._rows.values())).cpu().numpy()
        return dict(zip(self._rows, together, strict=True))


class ClippedPart:
    """Counts some images of a forward pass."""

    def __init__(self, ranges: dict[str, QuantizerRange], rows: dict[str, torch.Tensor]) -> None:
        self._ranges, self._rows = ranges, rows

    def of(self, codes: str) -> ClippedTensor | None:
        """Return what counts at a quantizer, by the name of its output; None if it is not looked at."""
        found = self._ranges.get(codes)
        return None if found is None else ClippedTensor(found, self._rows[codes])


class ClippedTensor:
    """Counts what one quantizer clips of some images.

    Attributes:
        images: How many.
    """

    def __init__(self, range_: QuantizerRange, rows: torch.Tensor) -> None:
        self.images = len(rows)
        self._range, self._rows = range_, rows
        low, high = range_.thresholds
        self._limits = np.array([low, high, range_.lowest, range_.highest, range_.least, range_.most, range_.step])

    def with_each(self, values: NDArray[np.float32], work: Callable[[slice], None]) -> bool:
        """Count block by block, an image by one thread, and let work be done on each block that was counted.

        Args:
            values: All values of the tensor as they lie in memory, on the CPU.
            work: Is called with each block, and may write over it.

        Returns:
            Whether it was done: not where loops are not compiled, the values are not of the images one after another, or they
            are too few to give each thread one.
        """
        loops = compiled.loops()
        if loops is None or len(values) % self.images or self.images < torch.get_num_threads():
            return False
        size = len(values) // self.images

        def count_and_work(image: slice) -> None:
            self._count_blocks(loops, values, image.start, size, work)

        across([slice(image, image + 1) for image in range(self.images)], count_and_work)
        return True

    def _count_blocks(
        self, loops: compiled.Loops, values: NDArray[np.float32], image: int, size: int, work: Callable[[slice], None]
    ) -> None:
        row = self._rows.numpy()[image]
        row[VALUES] = size
        for begin in range(image * size, (image + 1) * size, BLOCK):
            block = slice(begin, min(begin + BLOCK, (image + 1) * size))
            loops.count_clipped(values[block], self._limits, row)
            work(block)

    def count(self, x: torch.Tensor) -> None:
        """Count a tensor, float32, before it is quantized."""
        flat = memory(x)
        flat = x.reshape(-1) if flat is None else flat
        apart = self.images if len(flat) % self.images == 0 else 1
        loops = compiled.loops()
        if loops is not None and flat.device.type == "cpu" and flat.dtype == torch.float32:
            for image in range(apart):
                self._count_blocks(loops, flat.numpy(), image, len(flat) // apart, lambda _block: None)
            return
        values, told = flat.view(apart, -1), self._range
        low, high = (np.float32(threshold) for threshold in told.thresholds)
        rows = self._rows[:apart]
        rows[:, VALUES] = values.shape[1]
        sides = (
            (LOW, BELOW, values < float(low), told.lowest - values.clamp(min=told.least)),
            (HIGH, ABOVE, values > float(high), values.clamp(max=told.most) - told.highest),
        )
        for number, farthest, clipped, excess in sides:
            outside = torch.where(clipped, excess, 0.0).to(torch.float64)
            rows[:, number] = clipped.sum(1).to(torch.float64)
            rows[:, farthest] = outside.amax(1) if outside.shape[1] else 0.0
            rows[:, SQUARES] += outside.div_(told.step).square_().sum(1)


def counting(quantize: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a quantizer that counts what it clips if it is told to.

    Args:
        quantize: Of the tensor, its parameters and attributes.
    """

    def compute(x: torch.Tensor, *parameters: Any, clipped: ClippedTensor | None = None, **attributes: Any) -> torch.Tensor:
        if clipped is not None:
            clipped.count(x)
        return quantize(x, *parameters, **attributes)

    return compute
