"""Finite differences at the tap: how the deployed tail's logits answer to moved codes, against what the gradient foretells.

Deployed, a network maps whole numbers to whole numbers. It has no derivative, only slopes over steps of some size. A step that
is too small shows only the rounding behind the tap. One that is too large reaches over the kinks of ReLU and max-pool. So steps
of several sizes are taken, and a figure names its own.

A direction d gives each channel a sign in each quarter of the map. With y the explained score, A the tap's codes,
A± = clip(A ± k·d) those moved by k codes within their type, s the tap's scale, g the mirror's gradient and |·| the Euclidean
norm:

    measured = (y(A+) - y(A-)) / (s·|A+ - A-|)        foretold = g · (A+ - A-) / |A+ - A-|

Both are logits for a unit of activation, of a step that was really made: a code at the end of its type moves to one side alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.common.errors import UnsupportedGraphError
from qcam.evaluate.showing.numbers import four_digits
from qcam.runtime.deployed import DeployedOutputs
from qcam.runtime.deployed.tail_session import TailSession
from qcam.runtime.mirror import Mirror

#: Steps to either side, in codes of 8 bits: from 1/256 to 1/8 of what the tap's type reaches. Of 16 bits, 256 times as many.
STEPS = (1, 2, 4, 8, 16, 32)
#: Directions that each image is moved in, and the seed of their signs.
DIRECTIONS, _SEED = 8, 1998
#: Parts of a map that have signs of their own, along each side.
_PARTS = 2


@dataclass
class StepResult:
    """Measured and foretold slopes at steps of one size, one pair for each image and direction.

    Attributes:
        codes: How many codes of the tap a step has, to either side.
        foretold: By the mirror's gradient, logits for a unit of activation.
        measured: Of the deployed tail, likewise.
    """

    codes: int
    foretold: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)

    @property
    def correlation(self) -> float | None:
        """Return Pearson's r of both; None where one of them is constant or not finite."""
        pairs = np.array([self.foretold, self.measured])
        if pairs.shape[1] < 2 or not np.isfinite(pairs).all() or not pairs.std(axis=1).all():
            return None
        return float(np.corrcoef(pairs)[0, 1])

    @property
    def slope(self) -> float | None:
        """Return the factor from foretold to measured that fits best, Σ fm / Σ f²; None where r is undefined."""
        if self.correlation is None:
            return None
        foretold, measured = np.array(self.foretold), np.array(self.measured)
        return float(foretold @ measured / (foretold @ foretold))

    def to_json(self) -> dict[str, Any]:
        """Return what stands in check.json."""
        return {"codes": self.codes, "pairs": len(self.measured), "correlation": self.correlation, "slope": self.slope}


def best(steps: Sequence[StepResult]) -> StepResult | None:
    """Return the steps of the size at which r is largest; None where it is undefined at all of them."""
    defined = [(step.correlation, step) for step in steps if step.correlation is not None]
    return max(defined, key=lambda pair: pair[0])[1] if defined else None


def told(steps: Sequence[StepResult]) -> str:
    """Say what was found at steps of every size, the best first."""
    chosen = best(steps)
    if chosen is None:
        return "finite differences at the tap: undefined, the explained score does not answer to moved codes"
    others = ", ".join(f"{four_digits(step.correlation)} at {step.codes}" for step in steps if step is not chosen)
    return (
        f"finite differences at the tap: measured v. foretold slopes of the deployed tail r {four_digits(chosen.correlation)}, "
        f"factor {chosen.slope:.4f}, over {len(chosen.measured)} steps of ±{chosen.codes} codes (r {others})"
    )


class Slopes:
    """The deployed tail, asked how its logits answer."""

    def __init__(self, tail: TailSession) -> None:
        """Take the tail, of a tap that hands out codes."""
        self._tail = tail
        self._tap = tail.entry.tap
        self._limits = np.iinfo(self._tap.dtype)
        self._unit = 1 if self._limits.bits == 8 else 256
        self._images = 0

    def empty(self) -> list[StepResult]:
        """Return the results of no image."""
        return [StepResult(step * self._unit) for step in STEPS]

    def add(
        self,
        outputs: DeployedOutputs,
        targets: NDArray[np.int64],
        mirrors: Sequence[tuple[Mirror, list[StepResult]]],
    ) -> None:
        """Measure the slopes of one batch, and hold each mirror's gradient against them.

        Args:
            outputs: What the whole deployed file gave of the batch.
            targets: Where in the logits the explained score of each image stands, batch.
            mirrors: Each with its results, which grow.

        Raises:
            UnsupportedGraphError: If the tail alone does not give the logits of the whole file.
        """
        try:
            self._tail.prove(outputs)
        except UnsupportedGraphError as error:
            remedy = "leave {finite_differences} out, or choose another {precision}"
            raise UnsupportedGraphError(f"{error.template}; {remedy}") from error
        gradients = [_gradient(mirror, self._tail, outputs, targets) for mirror, _ in mirrors]
        rows = np.arange(len(targets))
        for number, upper, lower in self._moved(outputs.tap):
            step = upper.astype(np.int32) - lower
            length = np.sqrt(np.square(step, dtype=np.int64).sum(axis=(1, 2, 3), dtype=np.float64))
            above, below = (self._tail.run(values, outputs.skips)[rows, targets] for values in (upper, lower))
            with np.errstate(invalid="ignore"):  # logits that are not finite have no slope, and are told as such
                measured = (above.astype(np.float64) - below) / (length * float(np.float32(self._tap.scale)))
            for (_, results), gradient in zip(mirrors, gradients, strict=True):
                foretold = np.einsum("nchw,nchw->n", gradient, step, dtype=np.float64) / length
                results[number].foretold += foretold.tolist()
                results[number].measured += measured.tolist()
        self._images += len(targets)

    def _moved(self, tap: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
        """Yield the number of a step's size and the tap moved up and down, each image in directions of its own."""
        channels, height, width = tap.shape[1:]
        shape = (DIRECTIONS, channels, _PARTS, _PARTS)
        # By the number of the image: batches of another size have the same directions.
        made = [np.random.default_rng((_SEED, self._images + image)).integers(0, 2, shape) for image in range(len(tap))]
        signs = np.stack(made, axis=1).astype(np.int32) * 2 - 1
        row, column = (_PARTS * np.arange(size) // size for size in (height, width))
        values = tap.astype(np.int32)
        for direction in signs:
            along = direction[:, :, row[:, None], column[None, :]]
            for number, step in enumerate(STEPS):
                by = step * self._unit * along
                low, high = self._limits.min, self._limits.max
                upper, lower = (np.clip(moved, low, high).astype(tap.dtype) for moved in (values + by, values - by))
                yield number, upper, lower


def _gradient(mirror: Mirror, tail: TailSession, outputs: DeployedOutputs, targets: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return a mirror's gradient at the deployed tap, float32, of the tap's shape."""
    activation, *skips = (
        mirror.dequantize(tap, values) for tap, values in zip(tail.taps, (outputs.tap, *outputs.skips), strict=True)
    )
    gradient: torch.Tensor = mirror.gradient(activation, targets, skips)
    return gradient.cpu().numpy()
