"""In which entries two records differ: the plans of two runs, what two workers are."""

from __future__ import annotations

import json
from typing import Any


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Name the entries in which two plans differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in {**before, **now}:
            found += differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if before == now else [f"{where} {_brief(before)} → {_brief(now)}"]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    if len(text) <= 24:
        return text
    return f'{text[:12]}…"' if text.startswith('"') else f"{text[:12]}…"
