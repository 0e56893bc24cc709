"""What a simulation's quantizers clip, counted while it runs, as rows of the results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcam.evaluate.results.clipping import ClippedRow
from qcam.runtime.mirror import Mirror
from qcam.runtime.mirror.clipped import ABOVE, BELOW, HIGH, LOW, SQUARES, VALUES, ClippedValues


class Clipped:
    """What is counted of one batch.

    Attributes:
        values: What the mirror counts with.
    """

    def __init__(self, mirror: Mirror, images: int) -> None:
        """Start at nothing.

        Args:
            mirror: Of the precision.
            images: Of the batch.
        """
        self._ranges = mirror.ranges
        self.values = ClippedValues(mirror.ranges, images, mirror.device)

    def rows(self, images: Sequence[str], model: str, precision: str) -> list[ClippedRow]:
        """Return one row per image; none of a precision without quantizers.

        Args:
            images: Their names, in the order of the batch.
            model: Model id.
            precision: The precision.
        """
        counted = self.values.counted()
        if not counted:
            return []
        table = np.stack([counted[each.codes] for each in self._ranges], axis=2)  # images × columns × quantizers
        names = [each.codes for each in self._ranges]
        lowest, highest = [each.lowest for each in self._ranges], [each.highest for each in self._ranges]
        spans = np.subtract(highest, lowest)
        return [
            ClippedRow(
                image, model, precision, names, lowest, highest,
                values=of[VALUES].astype(np.int64).tolist(),
                low=of[LOW].astype(np.int64).tolist(),
                high=of[HIGH].astype(np.int64).tolist(),
                below=(of[BELOW] / spans).tolist(),
                above=(of[ABOVE] / spans).tolist(),
                squares=of[SQUARES].tolist(),
            )
            for image, of in zip(images, table, strict=True)
        ]  # fmt: skip
