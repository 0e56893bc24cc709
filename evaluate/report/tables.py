"""The tables of a page, as texts: the paper's table cell by cell, flips, tests, placement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.report.charts import heading, held_against, row_name
from qcam.evaluate.report.numbers import count, difference, figure, share, small_p, spread
from qcam.evaluate.report.published import NOT_COMPARED, SQUEEZENET
from qcam.evaluate.report.runs import Column, Entry, Run, published_of
from qcam.runtime.bundle import PRECISIONS

_GROUPS = {
    "vs_f32": "What quantization did: CAMs against those of f32",
    "vs_saliency": "CAMs against the salient object",
    "fake_quant_vs_deployed": "What a simulation predicts: fake-quant against deployed",
}
#: What a figure begins with that is only known to lie beyond the digits shown.
_BOUNDS = "<>≈"
#: Comparison, metric, title, digits (None: a share).
_FURTHER: tuple[tuple[str, str, str, int | None], ...] = (
    ("vs_f32", "rank_correlation", "rank correlation with f32", 3),
    ("vs_f32", "overlap", "overlap of top 20 % with f32", 3),
    ("vs_saliency", "rank_correlation", "rank correlation with salient object", 3),
    ("vs_saliency", "overlap", "overlap of top 20 % with salient object", 3),
    ("vs_saliency", "energy_in_object", "energy in salient object", 3),
    ("on_model", "drop", "drop of confidence", 3),
    ("on_model", "increase", "increase of confidence", None),
    ("vs_f32", "top1_agreement", "top-1 class as f32", None),
    ("vs_label", "accuracy", "top-1 class is the label", None),
    ("vs_f32", "logit_error", "logit error v. f32", 4),
    ("fake_quant_vs_deployed", "codes_equal", "tap codes equal, fake-quant v. deployed", None),
    ("fake_quant_vs_deployed", "logit_error", "logit error, fake-quant v. deployed", 4),
)


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
    """A row: `int8 v. f32`, its metric, a cell for each column."""

    name: str
    metric: str
    cells: list[TableCell]
    null: bool = False
    first: bool = True


@dataclass
class Group:
    """Rows under a common heading."""

    title: str
    rows: list[TableRow] = field(default_factory=list)


def main_table(columns: Sequence[Column]) -> list[Group]:
    """Lay every figure out in the paper's way: rows by comparison, precision and metric, a column for each model and run."""
    groups = []
    for comparison, title in _GROUPS.items():
        group = Group(title)
        for precision in PRECISIONS:
            for metric in METRICS:
                cells = [_cell(column, _entry(column, comparison, precision, metric), metric) for column in columns]
                if any(cell.text for cell in cells):
                    null = (comparison, precision) == ("vs_f32", "f32")
                    name = row_name(comparison, precision)
                    group.rows.append(TableRow(name, metric, cells, null, metric == METRICS[0]))
        groups.append(group)
    further = Group("Further measures")
    for comparison, metric, title, digits in _FURTHER:
        first = True
        for precision in PRECISIONS:
            if comparison == "vs_f32" and precision == "f32":
                continue
            cells = [_cell(column, _entry(column, comparison, precision, metric), metric, digits) for column in columns]
            if any(cell.text for cell in cells):
                further.rows.append(TableRow(title, precision, cells, first=first))
                first = False
    return [group for group in [*groups, further] if group.rows]


def paper_remarks(columns: Sequence[Column]) -> list[str]:
    """Return what has to be said beside published figures; empty if the paper has none of the models."""
    known = [
        column
        for column in columns
        if any(published_of(entry) for key, entry in column.run.entries.items() if key[3] == column.model)
    ]
    return ([NOT_COMPARED] if known else []) + ([SQUEEZENET] if any("squeezenet" in column.model for column in known) else [])


def _entry(column: Column, comparison: str, precision: str, metric: str) -> Entry | None:
    return column.run.entries.get((comparison, precision, metric, column.model))


def _cell(column: Column, entry: Entry | None, metric: str, digits: int | None = 3) -> TableCell:
    if entry is None:
        return TableCell("")
    undefined = int(entry.get("undefined") or 0)
    n = f"n {entry['n']:,}"
    if entry["mean"] is None:
        return TableCell("–" if undefined else "", n=n, undefined=undefined)
    write = share if digits is None else (lambda value: figure(value, digits))
    text = write(entry["mean"])
    if digits is not None:
        deviation = spread(entry["std"], digits)
        if not (text[0] in _BOUNDS and deviation[0] in _BOUNDS):  # `> 0.99999 ± < 0.00001` says no more than its first half
            text += f" ± {deviation}"
    low, high = entry.get("low"), entry.get("high")
    interval = "" if low is None or high is None or low == high else f"{write(low)} to {write(high)}"
    if interval and write(low) == write(high) and interval[0] in _BOUNDS:
        interval = ""
    null = (entry["comparison"], entry["precision"]) == ("vs_f32", "f32")
    odd = null and metric in ("SIM", "CC") and entry["mean"] != 1
    return TableCell(text, interval, n, undefined, _published(entry, column), odd)


def _published(entry: Entry, column: Column) -> str:
    known = published_of(entry)
    if known is None:
        return ""
    told = f"{known[0]:.2f} ± {known[1]:.2f}"
    if not column.trained:
        return told  # a difference from random weights means nothing
    return f"{told} ({difference(entry['mean'] - known[0], 2)})" if held_against(entry) else f"{told} (not compared)"


def flip_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return class flips apart from drift without one: a row for each run, model and precision."""
    rows = []
    for run in runs:
        for flip in run.results.summary.get("flips") or []:
            known = flip["flipped"] + flip["kept"]
            rows.append(
                {
                    "run": run.name,
                    "model": flip["model"],
                    "trained": run.trained(flip["model"]),
                    "precision": flip["precision"],
                    "flipped": f"{flip['flipped']:,} of {known:,}",
                    "share": share(flip["flipped"] / known) if known else "–",
                    "any": flip["flipped"] > 0,
                    "metrics": [[_mean(flip.get(metric), group) for group in ("flipped", "kept")] for metric in METRICS],
                }
            )
    return rows


def _mean(found: Any, group: str) -> str:
    value = (found or {}).get(group) or {}
    return figure(value.get("mean"))


def paired_table(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Return the paired tests, metric by metric."""
    by_metric: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for test in run.results.summary.get("tests") or []:
            low, high = test.get("low"), test.get("high")
            p = test.get("p_holm")
            by_metric.setdefault(test["metric"], []).append(
                {
                    "run": run.name,
                    "model": test["model"],
                    "trained": run.trained(test["model"]),
                    "compared": _pair(test),
                    "n": f"{test['n']:,}",
                    "difference": difference(test["mean_difference"], 4),
                    "interval": "" if low is None else f"{difference(low, 4)} to {difference(high, 4)}",
                    "p": small_p(p),
                    "clear": p is not None and p < 0.05,
                    "effect": difference(test.get("effect"), 2),
                }
            )
    return {metric: by_metric[metric] for metric in ("CC", "SIM", "KLD") if metric in by_metric}


def _pair(test: dict[str, Any]) -> str:
    """Return what a test compares: `int8 less int16, v. f32`."""
    names = [
        "f32 again" if (test["comparison"], test[side]) == ("vs_f32", "f32") else str(test[side])
        for side in ("second", "first")
    ]
    return f"{names[0]} less {names[1]}, {heading(test['comparison'])}"


def status_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return how many images ended how, where not all went well."""
    return [
        {"run": run.name, "model": model, "told": "; ".join(f"{status}: {count(n, 'image')}" for status, n in found.items())}
        for run in runs
        for model, found in (run.results.summary.get("statuses") or {}).items()
        if set(found) - {"ok"}
    ]


def placement_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what ran where and in which arithmetic: a row for each run, model and precision."""
    rows = []
    for run in runs:
        stored = run.results.placement
        for model, facts in run.results.run["models"].items():
            for precision, told in facts["precisions"].items():
                told = {**told, **((stored.get(model) or {}).get(precision) or {})}
                coverage = told.get("integer_coverage")
                if coverage is None:  # what the paper's protocol runs is placed nowhere
                    continue
                kernels = [
                    [kernel["operator"], kernel["provider"].removesuffix("ExecutionProvider"), f"{kernel['count']:,}"]
                    for kernel in sorted(told.get("kernels") or [], key=lambda kernel: -kernel["count"])
                ]
                rows.append(
                    {
                        "run": run.name,
                        "model": model,
                        "precision": precision,
                        "arithmetic": told.get("arithmetic", ""),
                        "count": share(coverage.get("count")),
                        "macs": share(coverage.get("macs")),
                        "bar": coverage.get("macs") if coverage.get("macs") is not None else coverage.get("count"),
                        "providers": ", ".join(sorted({kernel[1] for kernel in kernels})),
                        "fallback": told.get("fallback") or "",
                        "kernels": kernels,
                    }
                )
    return rows
