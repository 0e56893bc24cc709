"""Bundles as other tools make them: without f32, under names of their own, with weights that nobody vouches for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from qcam.runtime.bundle import Bundle


def altered(
    bundle: Bundle,
    folder: Path,
    *,
    holds: Mapping[str, str],
    trained: bool | None = True,
    model: str = "tiny",
) -> Path:
    """Copy a bundle with another manifest, and return the copy's folder.

    Args:
        bundle: The bundle.
        folder: Where the copy goes.
        holds: Its precisions: the name → that of the precision in `bundle` whose file it is.
        trained: What it says of its weights; None: nothing.
        model: Its model id.
    """
    shutil.copytree(bundle.folder, folder)
    path = folder / "bundle.json"
    told = json.loads(path.read_text())
    entries = {entry["name"]: entry for entry in told["precisions"]}
    told["precisions"] = [entries[of] | {"name": name} for name, of in holds.items()]
    told["model"]["id"] = model
    told["model"]["weights"].pop("trained")
    if trained is not None:
        told["model"]["weights"]["trained"] = trained
    path.write_text(json.dumps(told))
    return folder
