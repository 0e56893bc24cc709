"""What was run, as name and value: the part of a page that lets a reader repeat it."""

from __future__ import annotations

import json
import re
from typing import Any

from qcam.evaluate.report.runs import Run

_HEXADECIMAL = re.compile("[0-9a-f]{40,}")
#: Characters of a fingerprint that are shown.
_HASH = 12


def record(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return sections of names and values: protocol and options, images, models, machine, versions, conventions, time."""
    told = run.results.run
    plan: dict[str, Any] = told.get("plan") or {}
    protocol = told.get("protocol") or {}
    fixes = ", ".join(protocol.get("fixes") or []) or "none"
    general = [("protocol", str(protocol.get("name", "deployed")))]
    if protocol.get("name") == "paper":
        general.append(("slips switched off", fixes))
    general += [("provider", str(told.get("provider", "?"))), ("complete", "yes" if run.complete else "NO")]
    general.append(("files", "held against their checksums" if run.results.verified else "NOT VERIFIED: without checksums"))
    images = plan.get("images") or {}
    general += [
        ("images", f"{images.get('count', len(run.results.images)):,}"),
        ("image set", _short(images.get("fingerprint"))),
        ("salient objects", _short(plan.get("saliency") or "none")),
        ("PyTorch device", _text(plan.get("device"))),
        ("images in a shard", _text(plan.get("shard_size"))),
    ]
    given = dict(plan.get("options") or {})
    settings = given.pop("settings", None) or {}
    given["precisions"] = given.get("precisions") or "all"
    options = _pairs(given | {name: value for name, value in settings.items() if value not in (None, {}, [])})
    machine = _pairs(told.get("machine"))
    kernels = told.get("kernels") or {}
    machine += [("kernel family", _text(kernels.get("family")))]
    if kernels.get("reason"):
        machine.append(("why", str(kernels["reason"])))
    machine.append(("int8 kernels saturate in pairs", "yes" if told.get("int8_kernels_saturate_in_pairs") else "no"))
    models = []
    for model, facts in (told.get("models") or {}).items():
        weights = facts.get("weights") or {}
        state = "trained" if weights.get("trained") else "RANDOM"
        parts = [f"{weights.get('name', '?')} ({state}, {_short(weights.get('sha256'))})", facts.get("geometry", "")]
        fingerprint = (plan.get("bundles") or {}).get(model)
        parts += [f"bundle {facts.get('bundle', '?')} {_short(fingerprint)}"]
        parts += [f"{name}: tap {of['tap']}" for name, of in facts.get("precisions", {}).items() if of.get("tap")]
        models.append((model, " · ".join(part for part in parts if part)))
    seconds = [(stage, f"{value:,.1f} s") for stage, value in (told.get("seconds") or {}).items()]
    sections = [
        ("Run", general), ("Options", options), ("Models", models), ("Conventions", _pairs(told.get("conventions"))),
        ("Machine", machine), ("Versions", _pairs(plan.get("versions"))), ("Time by stage", seconds),
    ]  # fmt: skip
    return [(title, pairs) for title, pairs in sections if pairs]


def _pairs(value: Any) -> list[tuple[str, str]]:
    return [(str(key).replace("_", " "), _text(item)) for key, item in (value or {}).items()]


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
