"""The table: the paper's layout, models as columns, mean ± standard deviation in the cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.report.placement_table import placement_as_markdown
from qcam.evaluate.run.facts import ModelFacts
from qcam.runtime.bundle import PRECISIONS
from qcam.runtime.deployed import Placement
from qcam.runtime.deployed.providers import PROVIDERS

_NAMES = {"vs_saliency": "{} v. salient object", "vs_f32": "{} v. f32", "fake_quant_vs_deployed": "{} fake-quant v. deployed"}
#: The null row: f32 run a second time.
_NULL = "f32 again v. f32"
_EXTRA = (
    ("vs_f32", "rank_correlation", "rank correlation with f32"),
    ("vs_f32", "overlap", "overlap of top 20 % with f32"),
    ("vs_saliency", "rank_correlation", "rank correlation with salient object"),
    ("vs_saliency", "overlap", "overlap of top 20 % with salient object"),
    ("vs_saliency", "energy_in_object", "energy in salient object"),
    ("on_model", "drop", "drop of confidence"),
    ("on_model", "increase", "increase of confidence"),
    ("vs_f32", "top1_agreement", "top-1 as f32"),
    ("vs_label", "accuracy", "top-1 right"),
    ("vs_f32", "logit_error", "logit error v. f32"),
    ("fake_quant_vs_deployed", "codes_equal", "tap codes equal, fake-quant v. deployed"),
    ("fake_quant_vs_deployed", "logit_error", "logit error, fake-quant v. deployed"),
)

#: Figures shown as percentages, or with four digits; all others with three.
_SHARES = {"top1_agreement": True, "accuracy": True, "codes_equal": True, "increase": True, "logit_error": False}

#: Columns that the two headings, and one model, take in a terminal.
_HEAD_WIDTH, _CELL_WIDTH = 52, 21

Entries = Sequence[dict[str, Any]]


def mean_cell(entry: dict[str, Any] | None, share: bool | None = None) -> str:
    """Return `mean ± standard deviation`, and how many images are undefined where any is.

    Args:
        entry: A figure; None where there is none.
        share: True: a percentage alone. False: four digits. None: three.
    """
    if entry is None or entry["mean"] is None:
        return "–"
    missing = f" ({entry['undefined']} undefined)" if entry["undefined"] else ""
    if share:
        return f"{entry['mean']:.1%}{missing}"
    digits = 4 if share is False else 3
    return f"{_rounded(entry['mean'], digits)} ± {entry['std']:.{digits}f}{missing}"


def interval_cell(entry: dict[str, Any] | None, share: bool | None = None) -> str:
    """Return the interval of the mean, `0.912 to 0.934`, or one figure where all are equal to the last bit, as in the null row.

    Arguments as `mean_cell`.
    """
    if entry is None or entry["low"] is None or entry["high"] is None:
        return "–"
    digits = 4 if share is False else 3
    ends = [f"{end:.1%}" if share else _rounded(end, digits) for end in (entry["low"], entry["high"])]
    return " to ".join(dict.fromkeys(ends) if entry["low"] == entry["high"] else ends)


def _rounded(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # rounded first, and no -0.000


def table_rows(
    entries: Entries, cell: Callable[[dict[str, Any] | None, bool | None], str] = mean_cell
) -> tuple[list[str], list[list[str]]]:
    """Lay a summary out as the paper's table.

    Args:
        entries: From `summary.summarise`.
        cell: What is said of a figure.

    Returns:
        Column headings, and rows of texts: comparison, metric, one cell per model; an empty row between groups.
    """
    models = list(dict.fromkeys(entry["model"] for entry in entries))
    cells = {(e["comparison"], e["precision"], e["metric"], e["model"]): e for e in entries}
    rows: list[list[str]] = []
    for comparison in _NAMES:
        for precision in PRECISIONS:
            for metric in METRICS:
                found = [cells.get((comparison, precision, metric, model)) for model in models]
                if any(entry is not None and entry["n"] for entry in found):
                    name = row_title(comparison, precision) if metric == METRICS[0] else ""
                    rows.append([name, metric, *(cell(entry, None) for entry in found)])
        rows.append([])
    for comparison, metric, title in _EXTRA:
        for precision in PRECISIONS:
            if comparison == "vs_f32" and precision == "f32":
                continue
            found = [cells.get((comparison, precision, metric, model)) for model in models]
            if any(entry is not None and entry["n"] for entry in found):
                rows.append([title, precision, *(cell(entry, _SHARES.get(metric)) for entry in found)])
    while rows and not rows[-1]:
        rows.pop()
    return ["", "", *models], rows


def row_title(comparison: str, precision: str) -> str:
    """Return what a row of the table is called: `int8 v. f32`."""
    return _NULL if (comparison, precision) == ("vs_f32", "f32") else _NAMES[comparison].format(precision)


def as_rich(entries: Entries, title: str, width: int | None = None) -> list[Table]:
    """Return the table for a terminal, cut into several by models where it would be wider.

    Args:
        entries: From `summary.summarise`.
        title: Above each table.
        width: Columns of the terminal; None does not limit.
    """
    models = list(dict.fromkeys(entry["model"] for entry in entries))
    per_table = len(models) if width is None else max(1, (width - _HEAD_WIDTH) // _CELL_WIDTH)
    return [
        _as_rich([entry for entry in entries if entry["model"] in models[start : start + per_table]], title)
        for start in range(0, len(models), max(per_table, 1))
    ]


def _as_rich(entries: Entries, title: str) -> Table:
    headings, rows = table_rows(entries)
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(escape(heading), justify="left" if index < 2 else "right", no_wrap=True)
    for row in rows:
        if row:
            table.add_row(*row)
        else:
            table.add_section()
    return table


def as_markdown(entries: Entries) -> str:
    """Return the table as Markdown."""
    headings, rows = table_rows(entries)
    lines = [headings, ["---"] * 2 + ["---:"] * (len(headings) - 2), *(row for row in rows if row)]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def arithmetic_lines(models: Sequence[ModelFacts], provider: str) -> list[str]:
    """Say for each model and precision what the provider really computes in, and whether it fell back."""
    lines = []
    for model in models:
        if not model.deployed:
            continue
        said = [f"{name}: {_arithmetic(name, session.placement)}" for name, session in model.deployed.items()]
        ran = {name for session in model.deployed.values() for _, name in session.placement.kernels}
        where = provider if not fallback_reasons([model]) else f"{', '.join(sorted(ran))} (asked for {provider})"
        lines.append(f"{model.bundle.model_id} on {where} — " + "; ".join(said))
    return lines


def _arithmetic(precision: str, placement: Placement) -> str:
    if precision == "f32" and placement.float_kernels:
        return "float"
    said = placement.describe()
    if precision == "int16" and placement.float_kernels and not placement.integer_kernels:
        providers = {provider for _, provider in placement.kernels}
        if providers == {PROVIDERS["CPU"]}:
            return f"{said}: the CPU provider has no 16-bit integer kernels"
    return said


def placement_section(placements: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the placement of every session, from placement.json, as Markdown."""
    read = {
        (model, name): Placement.from_json(value) for model, sessions in placements.items() for name, value in sessions.items()
    }
    return "".join(
        f"\n{model} {name}: {placement.describe()}\n\n{placement_as_markdown(placement)}"
        for (model, name), placement in read.items()
    )


def fallback_reasons(models: Sequence[ModelFacts]) -> list[str]:
    """Return why sessions are not wholly on the provider that was asked for, each reason once."""
    reasons = (session.placement.fallback for model in models for session in model.deployed.values())
    return list(dict.fromkeys(reason for reason in reasons if reason))
