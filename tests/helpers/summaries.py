"""Summaries of a few images, and runs made of figures alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common.records import as_record
from qcam.evaluate.report.runs import Run
from qcam.evaluate.results.folder import ROW_SCHEMA, Columns, Row
from qcam.evaluate.results.records import RunRecord, Summary
from qcam.evaluate.results.summary import ModelColumns

#: Precision → CC v. f32 of six images; None where one could not be evaluated.
CCS = {"f32": [1.0] * 6, "int16": [0.99, 0.98, 1.0, 0.97, 0.99, None], "int8": [0.9, 0.8, 0.95, 0.5, 0.7, None]}
FLIPPED = [False, False, False, True, True, None]


def rows(model: str = "mobilenet_v2") -> list[Row]:
    """Return result rows of the six images under one model."""
    made = []
    for precision, ccs in CCS.items():
        for index, cc in enumerate(ccs):
            status = "ok" if cc is not None else "refused: not an image"
            common = {"image": f"{index}.jpg", "image_sha256": "", "model": model, "precision": precision, "status": status}
            agrees = None if FLIPPED[index] is None else precision != "int8" or not FLIPPED[index]
            values = {} if cc is None else {"CC": cc, "SIM": cc - 0.1, "KLD": 1 - cc}
            made.append(Row(**common, comparison="vs_f32", top1_agrees=agrees, logit_error=0.5, **values))
            values = {} if cc is None else {"CC": cc / 2, "SIM": cc / 3, "KLD": 2 - cc, "energy_in_object": cc / 4}
            top1 = None if cc is None else 3
            head = common | {"status": "no_object: largest probability 0.1" if index == 2 and cc is not None else status}
            made.append(Row(**head, comparison="vs_saliency", top1=top1, label=3 if index < 2 else 4, **values))
    return made


def entry(summary: dict[str, Any], precision: str, comparison: str, metric: str) -> dict[str, Any]:
    (found,) = [
        e for e in summary["entries"] if (e["precision"], e["comparison"], e["metric"]) == (precision, comparison, metric)
    ]
    return found


def summary_record(value: Any) -> Summary:
    """Return what summary.json says of a summary."""
    return as_record(value, Summary, "summary.json")


def run_of(entries: list[dict[str, Any]], *, trained: bool | None = True, **further: Any) -> Run:
    models = list(dict.fromkeys(entry["model"] for entry in entries))
    facts = {"weights": {"trained": trained}, "precisions": {}}
    told = {"complete": True, "plan": {}, "models": dict.fromkeys(models, facts), "warnings": [], **further.pop("run", {})}
    record = as_record(told, RunRecord, "run.json")
    statistics = summary_record({"entries": entries, **further})
    return Run("run", SimpleNamespace(run=told, record=record, statistics=statistics, models=models, folder=Path()))  # type: ignore[arg-type]


def figure_of(precision: str, mean: float | None, **further: Any) -> dict[str, Any]:
    return {
        "model": "mobilenet_v2", "precision": precision, "comparison": "vs_f32", "metric": "CC", "mean": mean, "std": 0.1,
        "low": 0.9, "high": 0.95, "n": 20, "undefined": 0,
    } | further  # fmt: skip


def columns_of(rows: Iterable[Row]) -> dict[str, ModelColumns]:
    """Put rows into the form of `Results.columns`, model by model."""
    groups: dict[str, dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        groups.setdefault(row.model, {}).setdefault((row.precision, row.comparison), []).append(row)
    return {model: {key: _columns(found) for key, found in of.items()} for model, of in groups.items()}


def _columns(rows: Sequence[Row]) -> Columns:
    return {name: _array([getattr(row, name) for row in rows], name) for name in ROW_SCHEMA.names}


def _array(values: list[Any], name: str) -> NDArray[Any]:
    if str(ROW_SCHEMA.field(name).type) == "string":
        return np.array(values, object)
    return np.array([np.nan if value is None else float(value) for value in values])
