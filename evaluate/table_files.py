"""The table in other forms: beside the paper's, as CSV, as LaTeX; tests and class flips in Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from qcam.evaluate.metrics import METRICS
from qcam.evaluate.published import NOT_COMPARED, SQUEEZENET, comparable, published
from qcam.evaluate.results import COMPARISONS
from qcam.evaluate.table import row_title
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


def beside_the_paper(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return measured and published figures side by side, as Markdown; empty if the paper has none of the models."""
    cells = {(e["comparison"], e["precision"], e["metric"], e["model"]): e for e in entries}
    models = [
        model
        for model in dict.fromkeys(entry["model"] for entry in entries)
        if published(model, "f32", "vs_saliency", "CC") is not None
    ]
    rows = []
    for comparison, precision in _PAPER_ROWS:
        for metric in METRICS:
            found = [cells.get((comparison, precision, metric, model)) for model in models]
            told = [_beside(entry) for entry in found]
            if any(text != "–" for text in told):
                rows.append([row_title(comparison, precision) if metric == METRICS[0] else "", metric, *told])
    if not rows:
        return ""
    remarks = [NOT_COMPARED] + [SQUEEZENET] * any(model.startswith("squeezenet") for model in models)
    return (
        "Measured; published; difference:\n\n"
        + _markdown([["", "", *models], ["---"] * 2 + ["---:"] * len(models), *rows])
        + "\n"
        + "".join(f"- {remark}\n" for remark in remarks)
    )


def _beside(entry: Mapping[str, Any] | None) -> str:
    known = entry and published(entry["model"], entry["precision"], entry["comparison"], entry["metric"])
    if not entry or not known or entry["mean"] is None:
        return "–"
    less = difference(entry)
    told = f"{entry['mean']:.2f} ± {entry['std']:.2f}; {known[0]:.2f} ± {known[1]:.2f}"
    return f"{told}; not compared" if less is None else f"{told}; {less:+.2f}"


def as_csv(summary: Summary) -> str:
    """Return every figure as CSV, one line each, with the published value and the difference where there is one."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV)
    for entry in summary["entries"]:
        known = published(entry["model"], entry["precision"], entry["comparison"], entry["metric"]) or ("", "")
        less = difference(entry)
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


def flips_as_markdown(summary: Summary) -> str:
    """Return class flips apart from drift without one, as Markdown; empty without a quantized precision."""
    rows = []
    for flip in summary["flips"]:
        cells = [f"{_mean(flip[metric]['flipped'])} / {_mean(flip[metric]['kept'])}" for metric in METRICS]
        share = flip["flipped"] + flip["kept"]
        rows.append([flip["model"], flip["precision"], f"{flip['flipped']} of {share}", *cells])
    if not rows:
        return ""
    head = ["model", "precision", "class flips", *(f"{metric} v. f32 with / without flip" for metric in METRICS)]
    return _markdown([head, ["---"] * 2 + ["---:"] * 4, *rows])


def tests_as_markdown(summary: Summary) -> str:
    """Return the paired tests as Markdown; empty without any."""
    rows = []
    for test in summary["tests"]:
        interval = "" if test["low"] is None else f" ({test['low']:+.4f} to {test['high']:+.4f})"
        compared = f"{row_title(test['comparison'], test['second'])} less {row_title(test['comparison'], test['first'])}"
        mean, p, effect = f"{test['mean_difference']:+.4f}{interval}", f"{test['p_holm']:.2g}", f"{test['effect']:+.2f}"
        rows.append([test["model"], compared, test["metric"], str(test["n"]), mean, p, effect])
    if not rows:
        return ""
    measured = ["mean difference (95 %)", "p (Wilcoxon, Holm)", "effect (rank-biserial)"]
    head = ["model", "paired comparison", "metric", "n", *measured]
    return _markdown([head, ["---"] * 3 + ["---:"] * 4, *rows])


def _mean(found: Mapping[str, Any]) -> str:
    return "–" if found["mean"] is None else f"{found['mean']:.3f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)
