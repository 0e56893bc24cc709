"""Several runs side by side: what differs between their plans, and image by image between their maps and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from qcam.evaluate.maps.metrics import correlation
from qcam.evaluate.maps.statistics import bootstrap_intervals
from qcam.evaluate.report.runs import Run, trained_together
from qcam.evaluate.results.folder import MAPS, Columns
from qcam.evaluate.showing.numbers import difference, figure, share

#: Parts of run.json in which runs can differ to a figure's effect, besides their models.
_TOLD = ("provider", "protocol", "plan", "machine", "kernels", "int8_kernels_saturate_in_pairs")
#: Facts that only repeat others.
_LEFT_OUT = ("plan.cpu_features", "plan.kernels", "plan.options.settings.provider", "kernels.answers")
_HASH = re.compile("[0-9a-f]{40,}")
#: Characters of a value that are shown.
_BRIEF = 90


def plan_differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what differs between the runs: name, and the value of each run, `–` where it has none."""
    common = [model for model in runs[0].results.models if all(model in run.results.models for run in runs)]
    flat = [
        {"models": ", ".join(run.results.models)}
        | _flat({key: run.results.run.get(key) for key in _TOLD})
        | _flat({model: _facts(run, model) for model in common})
        for run in runs
    ]
    names = dict.fromkeys(name for of in flat for name in of)
    rows = []
    for name in names:
        values = [of.get(name, "–") for of in flat]
        # A model that not every run has is named once, with the models.
        elsewhere = name.startswith("plan.bundles.") and name.removeprefix("plan.bundles.") not in common
        if len(set(values)) > 1 and not elsewhere and not name.startswith(_LEFT_OUT):
            rows.append({"name": name, "values": [{"brief": _brief(value), "whole": value} for value in values]})
    return rows


def _facts(run: Run, model: str) -> dict[str, Any]:
    """Return what tells one model of two runs apart."""
    told = run.record.models[model]
    facts: dict[str, Any] = {"weights": run.results.run["models"][model].get("weights"), "geometry": told.geometry}
    for precision, of in told.precisions.items():
        coverage = share(of.coverage.macs)
        facts[precision] = {"file": of.sha256, "tap": of.tap, "integer coverage": coverage, "fallback": of.fallback}
    return facts


def image_differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Compare every run with the first, image by image, where both hold the very same image (by name and content).

    Returns:
        A row for each other run, model and precision: images in common; CC of the two runs' CAMs at the tap's resolution, mean
        and smallest; images whose CAMs are equal to the last bit; difference of CC v. f32 with a 95 % bootstrap interval and
        its largest; images with another top-1 class. Numbers are `maps`, `equal_maps`, `smallest`, `changed` (classes),
        `images` (in common) and `all_images` (the most that one of the two evaluated); all others are texts.
    """
    rows = []
    first = runs[0]
    for other in runs[1:]:
        for model in first.results.models:
            if model not in other.results.models:
                continue
            mine, theirs = first.figures[model], other.figures[model]
            for precision in first.results.precisions(model):
                key = next((k for k in mine if k[0] == precision and k in theirs), None)
                if key is not None:
                    rows.append(_compared(first, other, model, precision, mine, theirs, key))
    return rows


def _compared(
    first: Run,
    other: Run,
    model: str,
    precision: str,
    mine: Mapping[tuple[str, str], Columns],
    theirs: Mapping[tuple[str, str], Columns],
    key: tuple[str, str],
) -> dict[str, Any]:
    left, right = _common(mine[key], theirs[key])
    row: dict[str, Any] = {"run": other.name, "base": first.name, "model": model, "precision": precision, "n": f"{len(left):,}"}
    row["trained"] = trained_together([first.trained(model), other.trained(model)])
    names = [str(name) for name in mine[key]["image"][left]]
    row |= _maps_compared(first, other, model, precision, set(names))
    top1 = mine[key]["top1"][left], theirs[key]["top1"][right]
    changed = int((top1[0] != top1[1]).sum())
    row["top1"] = f"{changed:,} of {len(left):,}"
    row |= {"changed": changed, "images": len(left), "all_images": max(_evaluated(mine[key]), _evaluated(theirs[key]))}
    row |= {"difference": "–", "interval": "", "largest": "–", "at": ""}
    against = (precision, "vs_f32")
    if against in mine and against in theirs:
        left, right = _common(mine[against], theirs[against])
        change = theirs[against]["CC"][right] - mine[against]["CC"][left]
        defined = np.isfinite(change)
        if defined.any():
            low, high = bootstrap_intervals(change[:, None])
            place = int(np.nanargmax(np.abs(change)))
            row["difference"] = difference(float(change[defined].mean()), 4)
            row["interval"] = (
                f"{difference(float(low[0]), 4)} to {difference(float(high[0]), 4)}" if np.isfinite(low[0]) else ""
            )
            row["largest"] = difference(float(change[place]), 4)
            row["at"] = str(mine[against]["image"][left][place]) if change[place] else ""
    return row


def _evaluated(of: Columns) -> int:
    return int(np.isfinite(of["top1"]).sum())


def _common(mine: Columns, theirs: Columns) -> tuple[list[int], list[int]]:
    """Return the places of the images that both have evaluated, by name and content."""
    known = {pair: place for place, pair in enumerate(zip(theirs["image"], theirs["image_sha256"], strict=True))}
    left, right = [], []
    for place, pair in enumerate(zip(mine["image"], mine["image_sha256"], strict=True)):
        # An image that one of them refused has no top-1 class.
        if pair in known and np.isfinite(mine["top1"][place]) and np.isfinite(theirs["top1"][known[pair]]):
            left.append(place)
            right.append(known[pair])
    return left, right


def _maps_compared(first: Run, other: Run, model: str, precision: str, names: set[str]) -> dict[str, Any]:
    told: dict[str, Any] = {"cc": "–", "cc_min": "–", "equal": "–", "worst": "", "maps": 0, "equal_maps": 0, "smallest": None}
    if len({run.record.models[model].geometry for run in (first, other)}) > 1:
        return told  # the same cell shows another part of the image
    mine, theirs = (_maps(run, model, precision) for run in (first, other))
    shared = [name for name in mine if name in names and name in theirs and mine[name].shape == theirs[name].shape]
    if not shared:
        return told
    # float32 CAMs that are the same to the last bit; a constant one has no correlation.
    equal = sum(np.array_equal(mine[name], theirs[name]) for name in shared)
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name in shared:
        shapes.setdefault(mine[name].shape, []).append(name)
    found: dict[str, float] = {}
    for members in shapes.values():
        pairs = [np.stack([of[name] for name in members]).astype(np.float64) for of in (mine, theirs)]
        found |= dict(zip(members, correlation(*pairs).tolist(), strict=True))
    defined = {name: value for name, value in found.items() if np.isfinite(value)}
    told |= {"equal": f"{equal:,} of {len(shared):,}", "maps": len(shared), "equal_maps": equal}
    if defined:
        worst = min(defined, key=lambda name: (defined[name], name))
        told["cc"], told["cc_min"] = figure(float(np.mean(list(defined.values())))), figure(defined[worst])
        told["smallest"] = defined[worst]
        told["worst"] = worst if defined[worst] != 1 else ""
    return told


def _maps(run: Run, model: str, precision: str) -> dict[str, NDArray[np.float32]]:
    """Return the deployed CAMs of one model and precision, image by image, without a Python object for each value."""
    chosen = (pc.field("model") == model) & (pc.field("precision") == precision) & (pc.field("kind") == "deployed")
    table = run.results.read(MAPS, columns=["image", "height", "width", "values"], filters=chosen)
    column = table["values"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    ends = np.cumsum([0, *pc.list_value_length(column).to_pylist()])
    shapes = zip(table["height"].to_pylist(), table["width"].to_pylist(), strict=True)
    return {
        name: values[ends[place] : ends[place + 1]].reshape(shape)
        for place, (name, shape) in enumerate(zip(table["image"].to_pylist(), shapes, strict=True))
    }


def _flat(value: Any, where: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, item in value.items():
            found |= _flat(item, f"{where}.{key}" if where else str(key))
        return found
    if isinstance(value, list) and len(value) > 0 and isinstance(value[0], dict):
        return {where: json.dumps(value)}
    return {where: ", ".join(map(str, value)) if isinstance(value, list) else "–" if value in (None, "") else str(value)}


def _brief(text: str) -> str:
    text = _HASH.sub(lambda found: found[0][:12] + "…", text)
    return text if len(text) <= _BRIEF else text[: _BRIEF - 1] + "…"
