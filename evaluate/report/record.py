"""What was run, as name and value: the part of a page that lets a reader repeat it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from qcam.evaluate.report.runs import Run
from qcam.evaluate.report.stored import ModelRecord, RunRecord

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
        ("Options", _options(told)),
        ("Models", _models(told)),
        ("Conventions", _pairs(told.conventions)),
        ("Machine", _machine(told)),
        ("Versions", _pairs(told.versions)),
        ("Time by stage", [(stage, f"{value:,.1f} s") for stage, value in told.seconds.items()]),
    ]
    return [(title, pairs) for title, pairs in sections if pairs]


def _general(run: Run) -> Pairs:
    told = run.record
    pairs = [("protocol", told.protocol)]
    if told.protocol == "paper":
        pairs.append(("slips switched off", ", ".join(told.fixes) or "none"))
    images = len(run.results.images) if told.images is None else told.images
    return [
        *pairs,
        ("provider", told.provider),
        ("complete", "yes" if run.complete else "NO"),
        ("files", "held against their checksums" if run.results.verified else "NOT VERIFIED: without checksums"),
        ("images", f"{images:,}"),
        ("image set", _short(told.image_set)),
        ("salient objects", _short(told.plan["saliency"] or "none")),
        ("PyTorch device", _text(told.plan["device"])),
        ("images in a shard", _text(told.plan["shard_size"])),
    ]


def _options(told: RunRecord) -> Pairs:
    precisions = told.options.get("precisions") or "all"
    chosen = {name: value for name, value in told.settings.items() if value not in (None, {}, [])}
    return _pairs(told.options | {"precisions": precisions} | chosen)


def _models(told: RunRecord) -> Pairs:
    return [(model, " · ".join(filter(None, _parts(of)))) for model, of in told.models.items()]


def _parts(model: ModelRecord) -> list[str]:
    state = "trained" if model.trained else "RANDOM"
    return [
        f"{model.weights} ({state}, {_short(model.weights_sha256)})",
        model.geometry,
        f"bundle {model.bundle} {_short(model.fingerprint)}",
        *(f"{name}: tap {of.tap}" for name, of in model.precisions.items() if of.tap),
    ]


def _machine(told: RunRecord) -> Pairs:
    why = [("why", told.kernels_why)] if told.kernels_why else []
    return [
        *_pairs(told.machine),
        ("kernel family", told.kernels or "none"),
        *why,
        ("int8 kernels saturate in pairs", "yes" if told.saturates else "no"),
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
