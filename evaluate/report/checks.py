"""What qcam-check found, for the report: agreement over depth, and verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qcam.common.errors import QcamError
from qcam.common.places import file_names, refuse_unprintable
from qcam.common.vocabulary import Arithmetic
from qcam.evaluate.report.runs import Run
from qcam.evaluate.showing.canvas import Chart
from qcam.evaluate.showing.depth import DepthLine, depth_chart
from qcam.evaluate.showing.numbers import figure, share

_FILE = "check.json"
#: Versions of check.json that are read; the first has no verdict of the whole, and words of its own for results.
_VERSIONS = (1, 2)
#: What a result is called that was told for information only.
_INFORMATION = "for information"
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
        raise QcamError(f"{{check}} {folder}: no {_FILE} there; make one with qcam-check {{output}} {folder}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise QcamError(f"cannot read {path}: {error}; run {{qcam-check}} again") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version not in _VERSIONS or not isinstance(value.get("results"), list):
        known = " and ".join(map(str, _VERSIONS))
        raise QcamError(f"{path} has schema version {version}, this qcam reads {known}; run {{qcam-check}} again")
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
        bundles = {model: of.fingerprint for model, of in run.record.models.items()}
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
            lines = [_line(item) for item in check["results"] if str(item["model"]) == model]
            drawn = [line for line in lines if line.shares]
            if drawn:
                charts.append(depth_chart(model, f"depth-{place}-{name}", drawn))
    return charts


def _line(item: dict[str, Any]) -> DepthLine:
    tensors = [of for of in item.get("tensors") or [] if of["name"] != _LOGITS and of.get("equal") is not None]
    return DepthLine(
        label=f"{item['precision']}, {_arithmetic(item)}",
        precision=str(item["precision"]),
        exact=item["arithmetic"] == Arithmetic.INTEGER,
        shares=[of["equal"] for of in tensors],
        fed=[of.get("equal_fed_with_deployed_codes") for of in tensors],
    )


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
                    "verdict": _verdict(item),
                    "holds": bool(item.get("holds")),
                }
            )
    return rows


def _verdict(item: dict[str, Any]) -> str:
    """Return a result's verdict in the words of today: version 1 called what is undecided undefined."""
    verdict = str(item.get("verdict") or _INFORMATION)
    return "undecided" if verdict == "undefined" else verdict


def _arithmetic(item: dict[str, Any]) -> str:
    kernel = item.get("kernel")
    return f"{item['arithmetic']} ({kernel})" if kernel else str(item["arithmetic"])
