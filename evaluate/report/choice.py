"""Which images of a study are shown: the worst, the best, and some drawn at random. All others stay in Parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcam.common.vocabulary import PRECISIONS
from qcam.evaluate.report.layout import in_order
from qcam.evaluate.results.folder import Columns

#: Quantized precisions of qcam's own, the coarsest first.
_COARSEST = ("int8", "int16")
#: Comparisons whose CC ranks the images: the first that there is.
RANKING = ("vs_f32", "vs_saliency", "fake_quant_vs_deployed")
#: Why an image is shown.
WORST, BEST, RANDOM, ALL = "worst", "best", "random", "all"


def coarsest_first(precisions: Iterable[str]) -> list[str]:
    """Return precisions from the coarsest on; the first that was run ranks the images.

    How coarse a name of somebody's own is, nobody knows: those come behind int8 and int16, in the order of every table, and
    before f32, which has no drift to rank by.

    >>> coarsest_first(["f32", "vendor", "int16", "a8", "int8"])
    ['int8', 'int16', 'a8', 'vendor', 'f32']
    """
    every = in_order(precisions)
    own = [name for name in every if name not in PRECISIONS]
    return [*(name for name in _COARSEST if name in every), *own, *(name for name in every if name == "f32")]


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

    Images are ranked by CC v. f32 of the coarsest precision, without one by CC v. salient object, without that by CC of the
    simulation v. the deployed run. An image whose CC is
    undefined counts as worse than any other. The random ones are the same for every model as far as its worst and best allow.

    Args:
        columns: (precision, comparison) → figures of the model; at least `image`, `CC` and `top1`.
        count: How many at most.
        seed: Draws the random ones.

    Returns:
        The images, worst first; none that could not be evaluated.
    """
    by = ranked_by(columns)
    names, values = ([], np.empty(0)) if by is None else _evaluated(columns[by])
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


def ranked_by(columns: Mapping[tuple[str, str], Columns]) -> tuple[str, str] | None:
    """Return precision and comparison whose CC ranks the images; None where no image could be evaluated.

    Args:
        columns: As in `choose`.
    """
    evaluated = [
        (precision, comparison)
        for comparison in RANKING
        for precision in coarsest_first(name for name, _ in columns)
        if (found := columns.get((precision, comparison))) is not None and _evaluated(found)[0]
    ]
    # Without f32 and without salient objects, only the simulation has a CC to rank by.
    ranking = [key for key in evaluated if np.isfinite(_evaluated(columns[key])[1]).any()]
    return next(iter([*ranking, *evaluated]), None)


def _evaluated(columns: Columns) -> tuple[list[str], NDArray[np.float64]]:
    """Return the images that were evaluated, and their CC."""
    evaluated = ~np.isnan(columns["top1"])
    return [str(name) for name in columns["image"][evaluated]], columns["CC"][evaluated]
