"""The layout of the study's table: which lines in which order, and for each its title, unit, digits and direction.

This is the one description; terminal, Markdown, CSV, LaTeX and HTML only render it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from qcam.common.vocabulary import PRECISIONS, Reference
from qcam.evaluate.report.published import in_paper
from qcam.evaluate.results.records import Entry
from qcam.runtime.manifest import precision_order

#: Where a figure stands in a summary, less its model: comparison, precision, metric.
Address = tuple[str, str, str]
#: The figures of one column of a table.
Figures = Mapping[Address, Entry]


class Unit(StrEnum):
    """What a figure is counted in."""

    NUMBER = ""
    NATS = "nats"
    SHARE = "%"


class Better(StrEnum):
    """Which way a figure is better."""

    HIGHER = "↑"
    LOWER = "↓"


@dataclass(frozen=True)
class Measure:
    """Something that is measured: one line for each precision.

    Attributes:
        comparison: The comparison of the summary that it reads.
        metric: The metric of the summary that it reads.
        title: What it is called in every table.
        better: Which way it is better.
        digits: Behind the point; a share has a style of its own.
        unit: What it is counted in.
    """

    comparison: str
    metric: str
    title: str
    better: Better
    digits: int = 3
    unit: Unit = Unit.NUMBER

    @property
    def places(self) -> int | None:
        """Return the digits behind the point; None for a share, as `numbers` takes it."""
        return None if self.unit is Unit.SHARE else self.digits


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        title: In its first column; the same for all lines of a group.
        label: In its second column.
        precision: The precision that it reads.
        measure: What it shows.
        null: Whether it is of the null row: f32, or the first precision of a bundle without it, run a second time.
    """

    title: str
    label: str
    precision: str
    measure: Measure
    null: bool = False

    @property
    def address(self) -> Address:
        """Return which figure it reads."""
        return self.measure.comparison, self.precision, self.measure.metric

    @property
    def published(self) -> bool:
        """Tell whether the paper has this line."""
        return in_paper(self.precision, self.measure.comparison, self.measure.metric)


@dataclass(frozen=True)
class Block:
    """Lines under a common heading.

    Attributes:
        title: The heading, where a medium shows one.
        lines: In their order.
        maps: Whether it compares maps by SIM, CC and KLD, as the paper's table does.
    """

    title: str
    lines: tuple[Line, ...]
    maps: bool


@dataclass(frozen=True)
class FilledLine:
    """A line with a figure for each column.

    Attributes:
        line: The line.
        entries: A figure, or None, for each column.
        first: Whether it is the first of its title: media may leave out the title of the others.
    """

    line: Line
    entries: tuple[Entry | None, ...]
    first: bool

    @property
    def defined(self) -> bool:
        """Tell whether any figure is defined for any image."""
        return any(entry is not None and entry.n for entry in self.entries)

    @property
    def measured(self) -> bool:
        """Tell whether any figure was tried for any image."""
        return any(entry is not None and (entry.n or entry.undefined) for entry in self.entries)


#: What stands behind the precision or the metric: `int8 v. f32`, `CC v. salient object`.
_AGAINST = {
    "vs_saliency": "v. salient object",
    "vs_f32": "v. f32",
    "vs_itself": "v. itself",
    "fake_quant_vs_deployed": "fake-quant v. deployed",
    "on_model": "on the deployed model",
    "vs_label": "right",
}
#: Comparisons of maps, in the order of every table, with their headings.
MAP_COMPARISONS = {
    "vs_saliency": "CAMs against the salient object",
    "vs_f32": "What quantization did: CAMs against those of f32",
    "vs_itself": "Without f32, the null row: a precision run a second time",
    "fake_quant_vs_deployed": "What a simulation predicts: fake-quant against deployed",
}
_FURTHER_TITLE = "Further measures"
_SCALE_TITLE = "A scale: what other changes, and maps that know nothing, come to"
#: Reference → what its lines are called.
SCALE = {
    Reference.ONE_LEVEL: "every value ±1 of 255",
    Reference.JPEG95: "picture as JPEG 95",
    Reference.JPEG75: "picture as JPEG 75",
    Reference.ONE_PIXEL: "picture moved by 1 pixel",
    Reference.FLOOR: "another picture's CAM",
    Reference.SHUFFLED: "another picture's CAM v. salient object",
    Reference.CENTRED: "centred Gaussian v. salient object",
    Reference.BEST: "best map of the CAM's grid v. salient object",
    Reference.AREA: "the same everywhere v. salient object",
}
#: What is shown of a reference row.
_SCALED = (("SIM", "SIM", Better.HIGHER), ("CC", "CC", Better.HIGHER), ("energy_in_object", "energy", Better.HIGHER))
#: What the paper's table shows of each comparison.
_PAPER_METRICS = (("SIM", Better.HIGHER, Unit.NUMBER), ("CC", Better.HIGHER, Unit.NUMBER), ("KLD", Better.LOWER, Unit.NATS))
#: All that stands below, in its order.
FURTHER = (
    Measure("vs_f32", "rank_correlation", "rank correlation with f32", Better.HIGHER),
    Measure("vs_f32", "native_SIM", "SIM with f32 at the CAM's own resolution", Better.HIGHER),
    Measure("vs_f32", "native_CC", "CC with f32 at the CAM's own resolution", Better.HIGHER),
    Measure("vs_f32", "overlap", "overlap of top 20 % with f32", Better.HIGHER),
    Measure("vs_saliency", "rank_correlation", "rank correlation with salient object", Better.HIGHER),
    Measure("vs_saliency", "native_SIM", "SIM with salient object at the CAM's own resolution", Better.HIGHER),
    Measure("vs_saliency", "native_CC", "CC with salient object at the CAM's own resolution", Better.HIGHER),
    Measure("vs_saliency", "overlap", "overlap of top 20 % with salient object", Better.HIGHER),
    Measure("vs_saliency", "energy_in_object", "energy in salient object", Better.HIGHER),
    Measure("on_model", "drop", "drop of confidence", Better.LOWER),
    Measure("on_model", "increase", "increase of confidence", Better.HIGHER, unit=Unit.SHARE),
    Measure("vs_f32", "top1_agreement", "top-1 as f32", Better.HIGHER, unit=Unit.SHARE),
    Measure("vs_label", "accuracy", "top-1 right", Better.HIGHER, unit=Unit.SHARE),
    Measure("vs_f32", "logit_error", "logit error v. f32", Better.LOWER, digits=4),
    Measure("fake_quant_vs_deployed", "skill_SIM", "drift that fake-quant foretells, by SIM", Better.HIGHER, unit=Unit.SHARE),
    Measure("fake_quant_vs_deployed", "skill_CC", "drift that fake-quant foretells, by CC", Better.HIGHER, unit=Unit.SHARE),
    Measure("fake_quant_vs_deployed", "codes_equal", "tap codes equal, fake-quant v. deployed", Better.HIGHER, unit=Unit.SHARE),
    Measure("fake_quant_vs_deployed", "logit_error", "logit error, fake-quant v. deployed", Better.LOWER, digits=4),
)
#: What the measures are called on an axis, and which side is the good one.
AXES = {
    "SIM": "SIM  (1: the same map)",
    "CC": "CC  (1: the same map)",
    "KLD": "KLD in nats  (0: the same map)",
    "drop": "drop of the class's probability",
}


def against(comparison: str) -> str:
    """Return what a comparison is called behind a metric; one of a later version by its own name.

    >>> against("vs_saliency")
    'v. salient object'
    """
    return _AGAINST.get(comparison, comparison)


def precision_title(comparison: str, precision: str) -> str:
    """Return what a precision is called in a comparison: f32 v. f32 is the null row.

    >>> precision_title("vs_f32", "f32"), precision_title("vs_saliency", "f32"), precision_title("vs_itself", "int8")
    ('f32 again', 'f32', 'int8 again')
    """
    return f"{precision} again" if is_null(comparison, precision) else precision


def row_title(comparison: str, precision: str) -> str:
    """Return what the lines of a precision are called in a comparison.

    >>> row_title("vs_f32", "int8"), row_title("vs_f32", "f32"), row_title("vs_itself", "int8")
    ('int8 v. f32', 'f32 again v. f32', 'int8 again v. int8')
    """
    other = f"v. {precision}" if comparison == "vs_itself" else against(comparison)
    return f"{precision_title(comparison, precision)} {other}"


def is_null(comparison: str, precision: str) -> bool:
    """Tell whether figures are of the null row."""
    return comparison == "vs_itself" or (comparison, precision) == ("vs_f32", "f32")


def in_order(precisions: Iterable[str]) -> list[str]:
    """Return precisions in the order of every table, each once."""
    return sorted(set(precisions), key=precision_order)


def blocks(precisions: Iterable[str] = PRECISIONS) -> list[Block]:
    """Return the whole layout: a block for each comparison of maps, and one for all further measures.

    Args:
        precisions: Those that were run.
    """
    order = in_order(precisions)
    found = [
        Block(heading, tuple(line for precision in order for line in _map_lines(comparison, precision)), maps=True)
        for comparison, heading in MAP_COMPARISONS.items()
    ]
    scale = tuple(line for precision in order for reference in SCALE for line in _scale_lines(reference, precision))
    further = tuple(line for measure in FURTHER for line in _further_lines(measure, order))
    return [*found, Block(_SCALE_TITLE, scale, maps=False), Block(_FURTHER_TITLE, further, maps=False)]


def _scale_lines(reference: Reference, precision: str) -> list[Line]:
    title = SCALE[reference] if precision == "f32" else f"{SCALE[reference]} ({precision})"
    return [
        Line(title, label, precision, Measure(reference.value, metric, label, better)) for metric, label, better in _SCALED
    ]


def _map_lines(comparison: str, precision: str) -> list[Line]:
    title, null = row_title(comparison, precision), is_null(comparison, precision)
    return [
        Line(title, metric, precision, Measure(comparison, metric, metric, better, unit=unit), null)
        for metric, better, unit in _PAPER_METRICS
    ]


def _further_lines(measure: Measure, precisions: Sequence[str]) -> list[Line]:
    # The null row is of maps; f32 agrees with itself in all else.
    order = [precision for precision in precisions if not is_null(measure.comparison, precision)]
    return [Line(measure.title, precision, precision, measure) for precision in order]


def fill(columns: Sequence[Figures]) -> list[tuple[Block, list[FilledLine]]]:
    """Fill the layout with the figures of some columns.

    Args:
        columns: Address → figure, of each column.

    Returns:
        Every block, with its lines for which anything was measured.
    """
    precisions = {precision for figures in columns for _, precision, _ in figures}
    return [(block, _filled(block, columns)) for block in blocks(precisions)]


def _filled(block: Block, columns: Sequence[Figures]) -> list[FilledLine]:
    found: list[FilledLine] = []
    for line in block.lines:
        first = not found or found[-1].line.title != line.title
        filled = FilledLine(line, tuple(figures.get(line.address) for figures in columns), first)
        if filled.measured:
            found.append(filled)
    return found


def by_model(entries: Iterable[Entry]) -> dict[str, dict[Address, Entry]]:
    """Return the figures of every model by where they stand, models in the order of the entries."""
    found: dict[str, dict[Address, Entry]] = {}
    for entry in entries:
        found.setdefault(entry.model, {})[entry.comparison, entry.precision, entry.metric] = entry
    return found
