"""What was run, as name and value: the part of a page that lets a reader repeat it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from qcam.evaluate.report.runs import Run
from qcam.evaluate.results.records import ModelRecord, RunRecord

_HEXADECIMAL = re.compile("[0-9a-f]{40,}")
#: Characters of a fingerprint that are shown.
_HASH = 12
#: Names and values.
Pairs = list[tuple[str, str]]


def record(run: Run) -> list[tuple[str, Pairs]]:
    """Return sections of names and values: protocol and options, images, models, machine, versions, conventions, time."""
    told = run.record
    sections = [
        ("Run", _general(run)),
        ("What was given", [(line.topic, line.text) for line in told.account]),
        ("Options", _options(told)),
        ("Models", _models(told)),
        ("Conventions", _pairs(told.conventions)),
        ("Machine", _machine(told)),
        ("Versions", _pairs(told.plan.versions)),
        ("Time by stage", [(stage, f"{value:,.1f} s") for stage, value in told.seconds.items()]),
    ]
    return [(title, pairs) for title, pairs in sections if pairs]


def _general(run: Run) -> Pairs:
    told = run.record
    plan, protocol = told.plan, told.protocol
    pairs = [("protocol", protocol.name)]
    if protocol.name == "paper":
        pairs.append(("slips switched off", ", ".join(protocol.fixes) or "none"))
    images = len(run.results.images) if plan.images.count is None else plan.images.count
    return [
        *pairs,
        ("provider", told.provider),
        ("complete", "yes" if run.complete else "NO"),
        ("files", "held against their checksums" if run.results.verified else "NOT VERIFIED: without checksums"),
        ("images", f"{images:,}"),
        ("image set", _short(plan.images.fingerprint)),
        ("salient objects", _short(plan.saliency or "none")),
        ("PyTorch device", _text(plan.device)),
        ("images in a shard", _text(plan.shard_size)),
    ]


def _options(told: RunRecord) -> Pairs:
    options = {name: value for name, value in told.plan.options.items() if name != "settings"}
    chosen = {name: value for name, value in told.plan.settings.items() if value not in (None, {}, [])}
    return _pairs(options | {"precisions": options.get("precisions") or "all"} | chosen)


def _models(told: RunRecord) -> Pairs:
    bundles = told.plan.bundles
    return [(model, " · ".join(filter(None, _parts(of, bundles.get(model, ""))))) for model, of in told.models.items()]


def _parts(model: ModelRecord, fingerprint: str) -> list[str]:
    state = {True: "trained", False: "RANDOM", None: "not known whether trained"}[model.weights.trained]
    return [
        f"{model.weights.name} ({state}, {_short(model.weights.sha256)})",
        model.geometry,
        f"bundle {model.bundle} {_short(fingerprint)}",
        *(f"{name}: tap {of.tap}" for name, of in model.precisions.items() if of.tap),
    ]


def _machine(told: RunRecord) -> Pairs:
    why = [("why", told.kernels.reason)] if told.kernels.reason else []
    return [
        *_pairs(told.machine),
        ("kernel family", told.kernels.family or "none"),
        *why,
        ("int8 kernels saturate in pairs", "yes" if told.int8_kernels_saturate_in_pairs else "no"),
    ]


def _pairs(value: Mapping[str, Any]) -> Pairs:
    return [(key.replace("_", " "), _text(item)) for key, item in value.items()]


def _text(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, str) and _HEXADECIMAL.fullmatch(value):
        return _short(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _short(value: Any) -> str:
    text = str(value or "")
    return text[:_HASH] + "…" if len(text) > _HASH + 1 else text or "?"
