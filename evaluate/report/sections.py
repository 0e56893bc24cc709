"""The tables of a study as texts: the main one; beside the paper's; intervals, class flips, paired tests.

`terminal` and `markdown` render them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from qcam.common.counted import counted
from qcam.common.vocabulary import Reference
from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.report.layout import SCALE, FilledLine, Measure, by_model, fill, row_title
from qcam.evaluate.report.published import NOT_COMPARED, SQUEEZENET, comparable, published
from qcam.evaluate.results.records import Entry, NonInferiority, PairedTest, Summary
from qcam.evaluate.showing import numbers

#: A row that only parts two groups.
RULE: list[str] = []


@dataclass(frozen=True)
class Section:
    """A table.

    Attributes:
        title: What it shows.
        headings: Of its columns.
        rows: Texts, one for each column; `RULE` between groups.
        left: How many columns are names rather than figures.
        remarks: What has to be said below it.
    """

    title: str
    headings: list[str]
    rows: list[list[str]]
    left: int
    remarks: list[str] = field(default_factory=list)


def mean_cell(entry: Entry | None, measure: Measure) -> str:
    """Return `mean ± standard deviation`, and how many images are undefined where any is; a dash without a figure."""
    if entry is None or entry.mean is None:
        return numbers.NONE
    missing = f" ({entry.undefined} undefined)" if entry.undefined else ""
    return numbers.fixed_mean(entry.mean, entry.std, measure.places) + missing


def interval_cell(entry: Entry | None, measure: Measure) -> str:
    """Return the interval of the mean; a dash without one."""
    if entry is None or entry.low is None or entry.high is None:
        return numbers.NONE
    return numbers.fixed_interval(entry.low, entry.high, measure.places)


def main_section(
    entries: Iterable[Entry], title: str = "", cell: Callable[[Entry | None, Measure], str] = mean_cell
) -> Section:
    """Lay a summary out as the paper's table: title and label of the line, one cell per model.

    Args:
        entries: Of a summary.
        title: Above it.
        cell: What is said of a figure.
    """
    models = by_model(entries)
    rows: list[list[str]] = []
    for block, lines in fill(list(models.values())):
        found = [_row(line, cell, whole=not block.maps) for line in lines if line.defined]
        if rows and found:
            rows.append(RULE)
        rows += found
    return Section(title, ["", "", *models], rows, 2)


def _row(filled: FilledLine, cell: Callable[[Entry | None, Measure], str], *, whole: bool = False) -> list[str]:
    """Return a line as texts, its title where it is the first of its group, or always."""
    line = filled.line
    title = line.title if filled.first or whole else ""
    return [title, line.label, *(cell(entry, line.measure) for entry in filled.entries)]


def paper_section(entries: Iterable[Entry], untrained: Collection[str] = ()) -> Section | None:
    """Put measured and published figures side by side.

    Args:
        entries: Of a summary.
        untrained: Models of which it is not known that they are trained: nothing of them is held against the paper.

    Returns:
        None if the paper has none of the models.
    """
    models = {
        model: figures
        for model, figures in by_model(entries).items()
        if model not in untrained and published(model, "f32", "vs_saliency", "CC") is not None
    }
    lines = [line for _, lines in fill(list(models.values())) for line in lines if line.line.published]
    rows = [_row(line, _beside_cell) for line in lines]
    rows = [row for row in rows if any(text != numbers.NONE for text in row[2:])]
    if not rows:
        return None
    remarks = [NOT_COMPARED]
    if any(model.startswith("squeezenet") for model in models):
        remarks.append(SQUEEZENET)
    return Section("Measured; published; difference", ["", "", *models], rows, 2, remarks)


def _beside_cell(entry: Entry | None, measure: Measure) -> str:
    known = None if entry is None else published(entry.model, entry.precision, entry.comparison, entry.metric)
    if entry is None or known is None or entry.mean is None:
        return numbers.NONE
    less = paper_difference(entry)
    compared = "not compared" if less is None else numbers.fixed_difference(less)
    return f"{numbers.fixed_mean(entry.mean, entry.std, 2)}; {numbers.fixed_mean(*known, 2)}; {compared}"


def paper_difference(entry: Entry) -> float | None:
    """Return a figure's mean less the published one; None where there is none, or a difference would mean nothing."""
    known = published(entry.model, entry.precision, entry.comparison, entry.metric)
    if known is None or entry.mean is None or not comparable(entry.precision, entry.comparison, entry.metric):
        return None
    return entry.mean - known[0]


def interval_section(summary: Summary) -> Section | None:
    """Show how sure the means are; None without a figure of two images or more."""
    section = main_section(summary.entries, f"Intervals of the means ({summary.interval})", interval_cell)
    rows = [row for row in section.rows if any(text != numbers.NONE for text in row[2:])]
    return Section(section.title, section.headings, rows, section.left) if rows else None


def drift_section(summary: Summary, *, short: bool = False) -> Section | None:
    """Show how 1 - CC lies over the images, drift beside what else moves f32's maps; None without any.

    Args:
        summary: The summary.
        short: For a terminal: of several models only what drift is tested against stands beside it, and neither the number of
            images nor the worst one, nor the p of a test, is told.
    """
    held = {(of.model, of.precision): of for of in summary.non_inferiority}
    kept = {"vs_f32", *(of.reference for of in summary.non_inferiority)}
    several = len({of.model for of in summary.drift}) > 1
    rows = []
    for of in summary.drift:
        if short and several and of.comparison not in kept:
            continue
        title = row_title(of.comparison, of.precision) if of.comparison == "vs_f32" else SCALE[Reference(of.comparison)]
        test = held.get((of.model, of.precision)) if of.comparison == "vs_f32" else None
        figures = [numbers.drift(value) for value in (of.median, of.q1, of.q3, of.worst)]
        told = numbers.NONE if test is None else held_in_words(test)
        rows.append([of.model, title, str(of.n), figures[0], f"{figures[1]} to {figures[2]}", figures[3], of.worst_image, told])
    units = list(dict.fromkeys(of.reference for of in summary.non_inferiority))
    if short and rows:
        against = f"less than {' and '.join(SCALE[Reference(unit)] for unit in units)}?" if units else "tested against"
        shown = [[*row[0 if several else 1 : 2], *row[3:6], row[7].partition(" image")[0].strip(numbers.NONE)] for row in rows]
        head = [*(["model"] if several else []), "maps moved by", "median", "quartiles", "worst", against]
        return Section("Drift, image by image: 1 - CC", head, shown, len(head) - 4)
    against = f"moves maps less than: {', '.join(SCALE[Reference(unit)] for unit in units)}" if units else "tested against"
    head = ["model", "maps moved by", "n", "median", "quartiles", "worst", "worst image", against]
    return Section("Drift, image by image: 1 - CC", head, rows, 2) if rows else None


def held_in_words(test: NonInferiority) -> str:
    """Return a verdict with what it rests on: `yes: 17 of 20 images, p 0.001`."""
    verdict = {"less": "yes", "more": "no"}.get(test.verdict, "undecided")
    p = test.p_above_holm if test.verdict == "more" else test.p_holm
    return f"{verdict}: {test.below} of {counted(test.n, 'image')}, p {numbers.small_p(p)}"


def flip_section(summary: Summary) -> Section | None:
    """Tell class flips apart from drift without one; None without a quantized precision."""
    rows = []
    for flip in summary.flips:
        cells = [" / ".join(_fixed_or_none(mean) for mean in flip.means[metric]) for metric in METRICS]
        rows.append([flip.model, flip.precision, f"{flip.flipped} of {flip.flipped + flip.kept}", *cells])
    head = ["model", "precision", "class flips", *(f"{metric} v. f32 with / without flip" for metric in METRICS)]
    return Section("Class flips, and drift with and without one", head, rows, 2) if rows else None


def _fixed_or_none(value: float | None) -> str:
    return numbers.NONE if value is None else numbers.fixed(value)


def paired_section(summary: Summary) -> Section | None:
    """Show the paired tests; None without any."""
    rows = [_paired_row(test) for test in summary.tests]
    measured = ["mean difference (95 %)", "p (Wilcoxon; of accuracy McNemar; Holm)", "effect"]
    head = ["model", "paired comparison", "metric", "n", *measured]
    return Section("Precisions against each other, image by image", head, rows, 3) if rows else None


def _paired_row(test: PairedTest) -> list[str]:
    compared = f"{row_title(test.comparison, test.second)} less {row_title(test.comparison, test.first)}"
    difference = numbers.fine_difference(test.mean_difference)
    if test.low is not None and test.high is not None:
        difference += f" ({numbers.fine_difference(test.low)} to {numbers.fine_difference(test.high)})"
    p = numbers.small_p(test.p_holm)
    if test.differing == 0:
        p += " (no image differs)"
    return [test.model, compared, test.metric, str(test.n), difference, p, numbers.fixed_difference(test.effect)]
