"""The table in other forms: beside the paper's, as CSV, as LaTeX; and below it intervals, class flips and tests."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table

from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.report.published import NOT_COMPARED, SQUEEZENET, comparable, published
from qcam.evaluate.report.table import Entries, interval_cell, row_title, table_rows
from qcam.evaluate.results.folder import COMPARISONS
from qcam.runtime.bundle import PRECISIONS

Summary = Mapping[str, Any]

_CSV = (
    "model", "precision", "comparison", "metric", "mean", "std", "low", "high", "n", "undefined",
    "published_mean", "published_std", "difference",
)  # fmt: skip
_LATEX = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}  # fmt: skip
#: Rows of the paper's table, in its order: (comparison, precision).
_PAPER_ROWS = [(comparison, precision) for comparison in ("vs_saliency", "vs_f32") for precision in PRECISIONS]


def difference(entry: Mapping[str, Any]) -> float | None:
    """Return a cell's mean less the published one; None where there is none, or a difference would mean nothing."""
    known = published(entry["model"], entry["precision"], entry["comparison"], entry["metric"])
    if known is None or entry["mean"] is None or not comparable(entry["comparison"], entry["metric"]):
        return None
    return float(entry["mean"]) - known[0]


@dataclass(frozen=True)
class Section:
    """A table that stands below the main one.

    Attributes:
        title: What it shows.
        headings: Of its columns.
        rows: Texts, one for each column.
        left: How many columns are names rather than figures.
        remarks: What has to be said below it.
    """

    title: str
    headings: list[str]
    rows: list[list[str]]
    left: int
    remarks: list[str] = field(default_factory=list)

    def as_markdown(self) -> str:
        """Return the section as Markdown."""
        ruler = ["---"] * self.left + ["---:"] * (len(self.headings) - self.left)
        lines = "".join(
            "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in (self.headings, ruler, *self.rows)
        )
        return f"{self.title}:\n\n{lines}" + "".join(f"\n- {remark}" for remark in self.remarks) + "\n" * bool(self.remarks)

    def as_rich(self) -> Table:
        """Return the section for a terminal."""
        caption = "\n".join(escape(remark) for remark in self.remarks) or None
        table = Table(title=escape(self.title), title_justify="left", caption=caption, caption_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(escape(heading), justify="left" if index < self.left else "right")
        for row in self.rows:
            table.add_row(*(escape(text) for text in row))
        return table


def paper_section(entries: Entries, untrained: Collection[str] = ()) -> Section | None:
    """Put measured and published figures side by side.

    Args:
        entries: From `summary.summarise`.
        untrained: Models with random weights: nothing of them is held against the paper.

    Returns:
        None if the paper has none of the models.
    """
    cells = {(e["comparison"], e["precision"], e["metric"], e["model"]): e for e in entries}
    models = [
        model
        for model in dict.fromkeys(entry["model"] for entry in entries)
        if model not in untrained and published(model, "f32", "vs_saliency", "CC") is not None
    ]
    rows = []
    for comparison, precision in _PAPER_ROWS:
        for metric in METRICS:
            told = [_beside(cells.get((comparison, precision, metric, model))) for model in models]
            if any(text != "–" for text in told):
                rows.append([row_title(comparison, precision) if metric == METRICS[0] else "", metric, *told])
    if not rows:
        return None
    remarks = [NOT_COMPARED] + [SQUEEZENET] * any(model.startswith("squeezenet") for model in models)
    return Section("Measured; published; difference", ["", "", *models], rows, 2, remarks)


def interval_section(summary: Summary) -> Section | None:
    """Show how sure the means are; None without a figure of two images or more."""
    headings, rows = table_rows(summary["entries"], interval_cell)
    rows = [row for row in rows if any(text != "–" for text in row[2:])]
    return Section(f"Intervals of the means ({summary['interval']})", headings, rows, 2) if rows else None


def flip_section(summary: Summary) -> Section | None:
    """Tell class flips apart from drift without one; None without a quantized precision."""
    rows = []
    for flip in summary["flips"]:
        cells = [f"{_mean(flip[metric]['flipped'])} / {_mean(flip[metric]['kept'])}" for metric in METRICS]
        known = flip["flipped"] + flip["kept"]
        rows.append([flip["model"], flip["precision"], f"{flip['flipped']} of {known}", *cells])
    head = ["model", "precision", "class flips", *(f"{metric} v. f32 with / without flip" for metric in METRICS)]
    return Section("Class flips, and drift with and without one", head, rows, 2) if rows else None


def paired_section(summary: Summary) -> Section | None:
    """Show the paired tests; None without any."""
    rows = []
    for test in summary["tests"]:
        interval = "" if test["low"] is None else f" ({_signed(test['low'])} to {_signed(test['high'])})"
        compared = f"{row_title(test['comparison'], test['second'])} less {row_title(test['comparison'], test['first'])}"
        mean, effect = f"{_signed(test['mean_difference'])}{interval}", f"{test['effect']:+.2f}"
        p = _p(test["p_holm"]) + " (no image differs)" * (test.get("differing") == 0)
        rows.append([test["model"], compared, test["metric"], str(test["n"]), mean, p, effect])
    measured = ["mean difference (95 %)", "p (Wilcoxon, Holm)", "effect (rank-biserial)"]
    head = ["model", "paired comparison", "metric", "n", *measured]
    return Section("Precisions against each other, image by image", head, rows, 3) if rows else None


def beside_the_paper(entries: Entries, untrained: Collection[str] = ()) -> str:
    """Return `paper_section` as Markdown; empty without one."""
    return _markdown(paper_section(entries, untrained))


def intervals_as_markdown(summary: Summary) -> str:
    """Return `interval_section` as Markdown; empty without one."""
    return _markdown(interval_section(summary))


def flips_as_markdown(summary: Summary) -> str:
    """Return `flip_section` as Markdown; empty without one."""
    return _markdown(flip_section(summary))


def tests_as_markdown(summary: Summary) -> str:
    """Return `paired_section` as Markdown; empty without one."""
    return _markdown(paired_section(summary))


def _markdown(section: Section | None) -> str:
    return section.as_markdown() if section else ""


def _mean(found: Mapping[str, Any]) -> str:
    return "–" if found["mean"] is None else f"{found['mean']:.3f}"


def _signed(value: float) -> str:
    """Return a difference with four decimals, or as a power of ten where they would all be 0."""
    return "0" if value == 0 else f"{value:+.4f}" if abs(value) >= 0.0001 else f"{value:+.1e}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def _beside(entry: Mapping[str, Any] | None) -> str:
    known = entry and published(entry["model"], entry["precision"], entry["comparison"], entry["metric"])
    if not entry or not known or entry["mean"] is None:
        return "–"
    less = difference(entry)
    told = f"{entry['mean']:.2f} ± {entry['std']:.2f}; {known[0]:.2f} ± {known[1]:.2f}"
    return f"{told}; not compared" if less is None else f"{told}; {less:+.2f}"


def as_csv(summary: Summary, untrained: Collection[str] = ()) -> str:
    """Return every figure as CSV, one line each, with the published value and the difference where there is one.

    Args:
        summary: From `summary.summarise`.
        untrained: Models with random weights: they get neither.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV)
    for entry in summary["entries"]:
        held = entry["model"] not in untrained
        known = (held and published(entry["model"], entry["precision"], entry["comparison"], entry["metric"])) or ("", "")
        less = difference(entry) if held else None
        values = ["" if entry[name] is None else entry[name] for name in _CSV[:10]]
        # A spreadsheet would take a model's name that starts so for a formula.
        values[0] = "'" + values[0] if str(values[0])[:1] in "=+-@" else values[0]
        writer.writerow([*values, *known, "" if less is None else less])
    return buffer.getvalue()


def as_latex(summary: Summary) -> str:
    """Return the table in the paper's layout for LaTeX (needs the package booktabs)."""
    entries = summary["entries"]
    models = list(dict.fromkeys(entry["model"] for entry in entries))
    cells = {(e["comparison"], e["precision"], e["metric"], e["model"]): e for e in entries}
    lines = [
        "% mean and standard deviation over images; needs \\usepackage{booktabs}",
        "\\begin{tabular}{ll" + "c" * len(models) + "}",
        "\\toprule",
        " & & " + " & ".join(escape_latex(model) for model in models) + " \\\\",
    ]
    for comparison in COMPARISONS[:3]:
        block = []
        for precision in PRECISIONS:
            for metric in METRICS:
                found = [cells.get((comparison, precision, metric, model)) for model in models]
                if any(entry is not None and entry["n"] for entry in found):
                    head = row_title(comparison, precision) if metric == METRICS[0] else ""
                    texts = [
                        "--" if entry is None or entry["mean"] is None else f"${entry['mean']:.3f} \\pm {entry['std']:.3f}$"
                        for entry in found
                    ]
                    block.append(" & ".join([escape_latex(head), metric, *texts]) + " \\\\")
        if block:
            lines += ["\\midrule", *block]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def escape_latex(text: str) -> str:
    """Return a text whose special characters stand for themselves in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)
