"""The tables of a page, as texts: the study's table cell by cell, flips, tests, placement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qcam.common.counted import counted
from qcam.common.vocabulary import Reference, words
from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.report.layout import Line, against, fill, precision_title
from qcam.evaluate.report.published import NOT_COMPARED, SQUEEZENET
from qcam.evaluate.report.runs import Column, Run, held_against, published_of
from qcam.evaluate.results.records import Entry, PairedTest, PrecisionRecord
from qcam.evaluate.showing.numbers import NONE, difference, figure, fixed_mean, interval, mean, share, small_p

#: Figures that the table shows at once.
_KEPT = frozenset({"CC", "top1_agreement", "accuracy"})


@dataclass(frozen=True)
class TableCell:
    """One figure of the table.

    Attributes:
        text: Mean ± standard deviation; a share alone; empty where nothing was measured.
        interval: `0.91 to 0.95`; empty without one.
        n: How many images it is of, and how many are undefined.
        undefined: How many images have no such figure.
        published: What the paper has, and the difference; empty without.
        odd: Whether the reader must look: the null row differs from 1.
    """

    text: str
    interval: str = ""
    n: str = ""
    undefined: int = 0
    published: str = ""
    odd: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row: its line of the layout, a cell for each column, and whether its title is shown or only read out."""

    line: Line
    cells: list[TableCell]
    first: bool

    @property
    def kept(self) -> bool:
        """Tell whether it is shown at once: CC and classes, and what the reader must look at; the rest on demand."""
        if any(cell.odd for cell in self.cells):
            return True
        measure = self.line.measure
        return measure.metric in _KEPT and measure.comparison not in words(Reference) and not self.line.null


@dataclass(frozen=True)
class RowGroup:
    """Rows under a common heading."""

    title: str
    rows: list[TableRow]

    @property
    def kept(self) -> bool:
        """Tell whether any of its rows is shown at once."""
        return any(row.kept for row in self.rows)


@dataclass(frozen=True)
class FlipRow:
    """Class flips of a run, model and precision.

    Attributes:
        run: Name of the run.
        model: Model id.
        trained: Whether its weights mean something; None where nobody knows.
        precision: The precision.
        flipped: `3 of 20`.
        share: `15 %`.
        has_flips: Whether there is any.
        metrics: For each metric the mean with a flip and without.
    """

    run: str
    model: str
    trained: bool | None
    precision: str
    flipped: str
    share: str
    has_flips: bool
    metrics: list[list[str]]


@dataclass(frozen=True)
class TestRow:
    """A paired test, as texts; `clear` tells whether p is below 0.05."""

    run: str
    model: str
    trained: bool | None
    compared: str
    n: str
    difference: str
    interval: str
    p: str
    clear: bool
    effect: str


@dataclass(frozen=True)
class StatusRow:
    """How many images of a model ended how."""

    run: str
    model: str
    told: str


@dataclass(frozen=True)
class PlacementRow:
    """What ran where: a run, model and precision.

    Attributes:
        run: Name of the run.
        model: Model id.
        precision: The precision.
        arithmetic: In words.
        count: Integer coverage by count.
        macs: Integer coverage by work.
        bar: The same, 0..1; None if unknown.
        providers: Where kernels ran.
        fallback: Why not all ran where they were asked to; empty if they did.
        kernels: Operator, provider, how often; the most frequent first.
    """

    run: str
    model: str
    precision: str
    arithmetic: str
    count: str
    macs: str
    bar: float | None
    providers: str
    fallback: str
    kernels: list[list[str]] = field(default_factory=list)


def main_table(columns: Sequence[Column]) -> list[RowGroup]:
    """Lay every figure out: a row for each line of the layout, a column for each model and run."""
    groups = []
    for block, lines in fill([column.entries for column in columns]):
        rows = [
            TableRow(
                of.line, [_cell(column, entry, of.line) for column, entry in zip(columns, of.entries, strict=True)], of.first
            )
            for of in lines
        ]
        if rows:
            groups.append(RowGroup(block.title, rows))
    return groups


def paper_remarks(columns: Sequence[Column]) -> list[str]:
    """Return what has to be said beside published figures; empty if the paper has none of the models."""
    shown = [column for column in columns if column.trained is not None]
    known = [column for column in shown if any(published_of(entry) for entry in column.entries.values())]
    remarks = [NOT_COMPARED] if known else []
    if any("squeezenet" in column.model for column in known):
        remarks.append(SQUEEZENET)
    return remarks


def _cell(column: Column, entry: Entry | None, line: Line) -> TableCell:
    if entry is None:
        return TableCell("")
    n, places = f"n {entry.n:,}", line.measure.places
    if entry.mean is None:
        return TableCell(NONE if entry.undefined else "", n=n, undefined=entry.undefined)
    return TableCell(
        text=mean(entry.mean, entry.std, places),
        interval=interval(entry.low, entry.high, places),
        n=n,
        undefined=entry.undefined,
        published=_published(entry, entry.mean, trained=column.trained),
        odd=line.null and entry.metric in ("SIM", "CC") and entry.mean != 1,
    )


def _published(entry: Entry, measured: float, *, trained: bool | None) -> str:
    known = published_of(entry) if trained is not None else None
    if known is None:
        return ""
    told = fixed_mean(*known, 2)
    if not trained:
        return told  # a difference from random weights means nothing
    return f"{told} ({difference(measured - known[0], 2)})" if held_against(entry) else f"{told} (not compared)"


def flip_table(runs: Sequence[Run]) -> list[FlipRow]:
    """Return class flips apart from drift without one: a row for each run, model and precision."""
    rows = []
    for run in runs:
        for flip in run.summary.flips:
            known = flip.flipped + flip.kept
            rows.append(
                FlipRow(
                    run=run.name,
                    model=flip.model,
                    trained=run.trained(flip.model),
                    precision=flip.precision,
                    flipped=f"{flip.flipped:,} of {known:,}",
                    share=share(flip.flipped / known) if known else NONE,
                    has_flips=flip.flipped > 0,
                    metrics=[[figure(value) for value in flip.means[metric]] for metric in METRICS],
                )
            )
    return rows


def paired_table(runs: Sequence[Run]) -> dict[str, list[TestRow]]:
    """Return the paired tests, metric by metric."""
    by_metric: dict[str, list[TestRow]] = {}
    for run in runs:
        for test in run.summary.tests:
            by_metric.setdefault(test.metric, []).append(_test_row(run, test))
    return {metric: by_metric[metric] for metric in ("CC", "SIM", "KLD", "accuracy") if metric in by_metric}


def _test_row(run: Run, test: PairedTest) -> TestRow:
    bounds = "" if test.low is None else f"{difference(test.low, 4)} to {difference(test.high, 4)}"
    return TestRow(
        run=run.name,
        model=test.model,
        trained=run.trained(test.model),
        compared=_pair(test),
        n=f"{test.n:,}",
        difference=difference(test.mean_difference, 4),
        interval=bounds,
        p=small_p(test.p_holm),
        clear=test.p_holm is not None and test.p_holm < 0.05,
        effect=difference(test.effect, 2),
    )


def _pair(test: PairedTest) -> str:
    """Return what a test compares: `int8 less int16, v. f32`."""
    first, second = (precision_title(test.comparison, precision) for precision in (test.first, test.second))
    return f"{second} less {first}, {against(test.comparison)}"


def status_table(runs: Sequence[Run]) -> list[StatusRow]:
    """Return how many images ended how, where not all went well."""
    return [
        StatusRow(run.name, model, "; ".join(f"{status}: {counted(n, 'image')}" for status, n in found.items()))
        for run in runs
        for model, found in run.summary.statuses.items()
        if set(found) - {"ok"}
    ]


def placement_table(runs: Sequence[Run]) -> list[PlacementRow]:
    """Return what ran where and in which arithmetic: a row for each run, model and precision that was placed."""
    rows = []
    for run in runs:
        for model, of in run.record.models.items():
            for precision, told in of.precisions.items():
                # placement.json has every kernel; where it is silent, run.json's counts do.
                placed = run.results.placements.get(model, {}).get(precision, told)
                if placed.integer_coverage is not None:
                    rows.append(_placement_row(run, model, precision, placed))
    return rows


def _placement_row(run: Run, model: str, precision: str, placed: PrecisionRecord) -> PlacementRow:
    kernels = [
        [kernel.operator, kernel.provider.removesuffix("ExecutionProvider"), f"{kernel.count:,}"]
        for kernel in sorted(placed.kernels, key=lambda kernel: -kernel.count)
    ]
    coverage = placed.coverage
    return PlacementRow(
        run=run.name,
        model=model,
        precision=precision,
        arithmetic=placed.arithmetic,
        count=share(coverage.count),
        macs=share(coverage.macs),
        bar=coverage.macs if coverage.macs is not None else coverage.count,
        providers=", ".join(sorted({kernel[1] for kernel in kernels})),
        fallback=placed.fallback,
        kernels=kernels,
    )
