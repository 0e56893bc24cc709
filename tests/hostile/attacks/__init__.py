"""The attacks, a file for each kind."""

from __future__ import annotations

import importlib

from hostile.harness import Attack

_FILES = (
    "a1_pictures",
    "a2_names",
    "a3_parts",
    "a3_files",
    "a4_external",
    "a5_manifests",
    "a6_placement",
    "a7_force",
    "a8_weights",
    "b2_costs",
    "b6_graphs",
    "b8_jpegs",
    "c1_manifests",
    "c2_graphs",
    "c3_inputs",
    "c4_reports",
    "c5_silence",
    "d_messages",
    "u_urls",
)


def every_attack() -> list[Attack]:
    """Return all attacks in the order of the table."""
    return [attack for name in _FILES for attack in importlib.import_module(f"hostile.attacks.{name}").ATTACKS]
