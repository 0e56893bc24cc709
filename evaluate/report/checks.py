"""What qcam-check found, for the report: agreement over depth, and verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qcam.common.errors import QcamError
from qcam.common.places import file_names, refuse_unprintable
from qcam.evaluate.report.charts import Chart, depth
from qcam.evaluate.report.numbers import figure, share
from qcam.evaluate.report.runs import Run

_FILE = "check.json"
#: Version of check.json that is read.
_VERSION = 1
#: Name under which the logits stand among the tensors; they have no codes.
_LOGITS = "logits"


def read_check(folder: Path) -> dict[str, Any]:
    """Return the content of a check.json.

    Args:
        folder: Of qcam-check, or the file itself.

    Raises:
        QcamError: If there is none, or of another version.
    """
    path = folder if folder.is_file() else folder / _FILE
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise QcamError(f"--check {folder}: no {_FILE} there; make one with qcam-check --output {folder}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise QcamError(f"cannot read {path}: {error}; run qcam-check again") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != _VERSION or not isinstance(value.get("results"), list):
        raise QcamError(f"{path} has schema version {version}, this qcam reads {_VERSION}; run qcam-check again")
    refuse_unprintable([item.get("model") if isinstance(item, dict) else item for item in value["results"]], path)
    found: dict[str, Any] = value
    return found


def find_checks(runs: Sequence[Run], given: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the checks that were given; without any, those beside the results that are of the very same bundles.

    Raises:
        QcamError: If one that was given cannot be read.
    """
    if given:
        return [read_check(folder) for folder in given]
    found: dict[Path, dict[str, Any]] = {}
    for run in runs:
        bundles = (run.results.run.get("plan") or {}).get("bundles") or {}
        folder = run.results.folder
        for place in (folder / _FILE, folder / "check" / _FILE, folder.parent / "check" / _FILE):
            if not place.is_file() or place.resolve() in found:
                continue
            try:
                value = read_check(place)
            except QcamError:  # nobody asked for it
                continue
            known = {name: (facts or {}).get("fingerprint") for name, facts in (value.get("bundles") or {}).items()}
            value["results"] = [item for item in value["results"] if known.get(item["model"], "") == bundles.get(item["model"])]
            if value["results"]:
                found[place.resolve()] = value
    return list(found.values())


def depth_charts(checks: Iterable[dict[str, Any]]) -> list[Chart]:
    """Draw agreement over depth, a chart for each model and check."""
    charts = []
    for place, check in enumerate(checks):
        models = list(dict.fromkeys(str(item["model"]) for item in check["results"]))
        for model, name in zip(models, file_names(models), strict=True):
            lines = {}
            for item in check["results"]:
                shares = [
                    (tensor["equal"], tensor.get("equal_fed_with_deployed_codes"))
                    for tensor in item.get("tensors") or []
                    if tensor["name"] != _LOGITS and tensor.get("equal") is not None
                ]
                if str(item["model"]) == model and shares:
                    lines[f"{item['precision']}, {_arithmetic(item)}"] = shares
            if lines:
                charts.append(depth(model, f"depth-{place}-{name}", lines))
    return charts


def check_table(checks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return verdicts: a row for each model, precision and arithmetic."""
    rows = []
    for check in checks:
        for item in check["results"]:
            figures = item.get("figures") or {}
            first = item.get("first_difference")
            rows.append(
                {
                    "model": item["model"],
                    "precision": item["precision"],
                    "arithmetic": _arithmetic(item),
                    "provider": item.get("provider", ""),
                    "tap": share(figures.get("tap")),
                    "codes": share(figures.get("codes")),
                    "cc": figure(figures.get("cc")),
                    "cc_min": figure(figures.get("cc_min")),
                    "first": "none" if first is None else f"{first['operator']} → {first['tensor']}",
                    "verdict": item.get("verdict", ""),
                    "holds": bool(item.get("holds")),
                }
            )
    return rows


def _arithmetic(item: dict[str, Any]) -> str:
    kernel = item.get("kernel")
    return f"{item['arithmetic']} ({kernel})" if kernel else str(item["arithmetic"])

