"""Which images of a study are shown: the worst, the best, and some drawn at random. All others stay in Parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcam.evaluate.results.folder import Columns

#: Precisions from the coarsest on: the first that was run ranks the images.
_COARSEST_FIRST = ("int8", "int16", "f32")
#: Why an image is shown.
WORST, BEST, RANDOM, ALL = "worst", "best", "random", "all"


@dataclass(frozen=True)
class Chosen:
    """An image that is shown.

    Attributes:
        image: Its name.
        why: `WORST`, `BEST`, `RANDOM`; `ALL` where every image is shown.
    """

    image: str
    why: str


def choose(columns: Mapping[tuple[str, str], Columns], count: int, seed: int = 0) -> list[Chosen]:
    """Choose images of one model: half of them the worst, a quarter the best, the rest drawn at random.

    Images are ranked by CC v. f32 of the coarsest precision, without one by CC v. salient object. An image whose CC is
    undefined counts as worse than any other. The random ones are the same for every model as far as its worst and best allow.

    Args:
        columns: (precision, comparison) → figures of the model; at least `image`, `CC` and `top1`.
        count: How many at most.
        seed: Draws the random ones.

    Returns:
        The images, worst first; none that could not be evaluated.
    """
    names, values = _ranking(columns)
    order = sorted(range(len(names)), key=lambda place: (-np.inf if np.isnan(values[place]) else values[place], names[place]))
    ranked = [names[place] for place in order]
    if len(ranked) <= count:
        return [Chosen(name, ALL) for name in ranked]
    worst, best = (count + 1) // 2, count // 4
    why = dict.fromkeys(ranked[:worst], WORST) | dict.fromkeys(ranked[len(ranked) - best :] if best else [], BEST)
    left = [name for name in ranked if name not in why]
    rest = sorted(left, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    why |= dict.fromkeys(rest[: count - len(why)], RANDOM)
    return [Chosen(name, why[name]) for name in ranked if name in why]


def _ranking(columns: Mapping[tuple[str, str], Columns]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the images that were evaluated, and what they are ranked by."""
    for comparison in ("vs_f32", "vs_saliency", "fake_quant_vs_deployed"):
        for precision in _COARSEST_FIRST:
            found = columns.get((precision, comparison))
            if found is None:
                continue
            evaluated = ~np.isnan(found["top1"])
            if evaluated.any():
                return [str(name) for name in found["image"][evaluated]], found["CC"][evaluated]
    return [], np.empty(0)
