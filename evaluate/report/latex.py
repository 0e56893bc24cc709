"""The table in the paper's layout for LaTeX (needs the package booktabs): table.tex."""

from __future__ import annotations

from collections.abc import Iterable

from qcam.common.printable import printable
from qcam.evaluate.report.layout import FilledLine, by_model, fill
from qcam.evaluate.results.records import Entry
from qcam.evaluate.showing.numbers import fixed

_SPECIAL = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
            "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
            "<": r"\textless{}", ">": r"\textgreater{}", '"': r"\textquotedbl{}"}  # fmt: skip
_END = " \\\\"


def as_latex(entries: Iterable[Entry], remarks: Iterable[str] = ()) -> str:
    """Return the comparisons of maps, a column for each model.

    Args:
        entries: Of a summary.
        remarks: What stands above the table, as comments.
    """
    models = by_model(entries)
    lines = [
        "% mean and standard deviation over images; needs \\usepackage{booktabs}",
        *(f"% {printable(remark)}" for remark in remarks),
        "\\begin{tabular}{ll" + "c" * len(models) + "}",
        "\\toprule",
        " & & " + " & ".join(escape_latex(model) for model in models) + _END,
    ]
    for block, filled in fill(list(models.values())):
        rows = [_row(line) for line in filled if block.maps and line.defined]
        if rows:
            lines += ["\\midrule", *rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _row(filled: FilledLine) -> str:
    title = filled.line.title if filled.first else ""
    return " & ".join([escape_latex(title), filled.line.label, *map(_cell, filled.entries)]) + _END


def _cell(entry: Entry | None) -> str:
    if entry is None or entry.mean is None or entry.std is None:
        return "--"
    return f"${fixed(entry.mean)} \\pm {fixed(entry.std)}$"


def escape_latex(text: str) -> str:
    """Return a text whose special characters stand for themselves in LaTeX, in one line."""
    return "".join(_SPECIAL.get(character, character) for character in printable(text))
