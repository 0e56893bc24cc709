"""Every figure as CSV, one line each: table.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qcam.common.printable import printable
from qcam.evaluate.report.published import published
from qcam.evaluate.report.sections import paper_difference
from qcam.evaluate.results.records import Entry

_FIGURES = ("model", "precision", "comparison", "metric", "mean", "std", "low", "high", "n", "undefined")
#: How formulas begin, in the full width as well.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_PAPER = ("published_mean", "published_std", "difference")
_WEIGHTS = ("weights",)


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run.

    Attributes:
        entries: Of its summary.
        weights: Model → trained, random or unknown; what it is silent of is unknown. None but those of trained ones are held
            against a published figure.
    """

    entries: Iterable[Entry]
    weights: Mapping[str, str]


def as_csv(entries: Iterable[Entry], weights: Mapping[str, str]) -> str:
    """Return the figures of a run, with the published value and the difference where there is one (`RunFigures`)."""
    return _text([_FIGURES + _PAPER + _WEIGHTS, *_lines(RunFigures(entries, weights))])


def several_as_csv(runs: Mapping[str, RunFigures]) -> str:
    """Return the figures of several runs, with a column for the run."""
    lines = [[_harmless(name), *line] for name, figures in runs.items() for line in _lines(figures)]
    return _text([("run", *_FIGURES, *_PAPER, *_WEIGHTS), *lines])


def _lines(figures: RunFigures) -> list[list[object]]:
    lines = []
    for entry in figures.entries:
        found = [getattr(entry, name) for name in _FIGURES[1:]]
        values = ["" if value is None else _harmless(value) if isinstance(value, str) else value for value in found]
        weights = figures.weights.get(entry.model, "unknown")
        lines.append([_harmless(entry.model), *values, *_paper(entry, held=weights == "trained"), weights])
    return lines


def _paper(entry: Entry, *, held: bool) -> tuple[object, ...]:
    known = published(entry.model, entry.precision, entry.comparison, entry.metric) if held else None
    if known is None:
        return "", "", ""
    less = paper_difference(entry)
    return *known, "" if less is None else less


def _harmless(name: str) -> str:
    """Return a name that no spreadsheet takes for a formula, and that stays in its line: what does not print is escaped."""
    return printable("'" + name if name.lstrip()[:1] in _FORMULA or name[:1] in ("\t", "\r", "\n") else name)


def _text(lines: Iterable[Iterable[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()
