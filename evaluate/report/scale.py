"""Drift in units that a reader knows: what storing a picture as a JPEG does to the same maps, how far another picture's are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qcam.common.vocabulary import Reference
from qcam.evaluate.report.layout import in_order
from qcam.evaluate.results.records import Scaled
from qcam.evaluate.showing.numbers import multiple

#: The unit, and what its sentence says that it does.
_UNIT, _DOES = Reference.JPEG95, "storing the picture as JPEG 95"
#: By what maps are told apart.
_METRIC = "CC"


def sentences(scaled: Iterable[tuple[str, Scaled]]) -> list[str]:
    """Say for each precision how large its drift from f32 is.

    Args:
        scaled: What a model, or a model of a run, is called, and its drift in units of references.
    """
    found = [(title, of) for title, of in scaled if of.metric == _METRIC]
    return [
        line
        for precision in in_order(of.precision for _, of in found)
        if (line := _sentence(precision, [(title, of) for title, of in found if of.precision == precision]))
    ]


def _sentence(precision: str, scaled: Sequence[tuple[str, Scaled]]) -> str:
    units, floors = _ranked(scaled, _UNIT), _ranked(scaled, Reference.FLOOR)
    if not units:
        return ""
    line = f"{precision} moves CAMs {_span(units, '')} times as much as {_DOES} does"
    if len(units) == 1:
        ((_, only),) = units
        if only.low is not None and only.high is not None:
            line += f" (95 %: {multiple(only.low)} to {multiple(only.high)})"
    if floors:
        line += f", and {_span(floors, ' %', 100)} of the way to another picture's CAM"
    counts = _counts(units)
    if floors and _counts(floors) != counts:
        counts += f", of other pictures' CAMs {_counts(floors)}"
    return f"{line} (1 - CC; n {counts})."


def _counts(scaled: Sequence[tuple[str, Scaled]]) -> str:
    """Return how many images a ratio is of, from the fewest to the most where models differ."""
    found = sorted({of.n for _, of in scaled})
    return " to ".join(str(n) for n in (found[0], found[-1])[: len(found)])


def _ranked(scaled: Sequence[tuple[str, Scaled]], reference: Reference) -> list[tuple[str, Scaled]]:
    return sorted(((title, of) for title, of in scaled if of.reference == reference), key=lambda found: found[1].ratio)


def _span(ranked: Sequence[tuple[str, Scaled]], unit: str, times: int = 1) -> str:
    """Return the smallest and the largest ratio, with the models where there are several."""
    (low_title, low), (high_title, high) = ranked[0], ranked[-1]
    first = f"{multiple(times * low.ratio)}{unit}"
    if len(ranked) == 1:
        return first
    return f"{first} ({low_title}) to {multiple(times * high.ratio)}{unit} ({high_title})"
