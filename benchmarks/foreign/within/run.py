"""Runs a tool's script, in the tool's own environment: no qcam is there.

    python within/run.py TOOL --describe                               what it needs and which variants it has, as JSON
    python within/run.py TOOL VARIANT MODEL PICTURES OUTPUT            writes OUTPUT, or fails with a message

A script, `tools/TOOL.py`, has NAME, REQUIREMENTS (what pip installs, with versions, the tool itself first) and VARIANTS: name →
how it is asked for, in the tool's own words, and the function that takes a `Job`. It imports what has to be installed inside
functions, so that `--describe` works anywhere. It is loaded by its path: it may be called like the package that it uses.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from job import Job


def main(tool: str, *arguments: str) -> None:
    """Do what the command line says."""
    script: Any = _load(Path(__file__).resolve().parents[1] / "tools" / f"{tool}.py")
    if arguments == ("--describe",):
        words = {variant: words for variant, (words, _) in script.VARIANTS.items()}
        print(json.dumps({"name": script.NAME, "requirements": script.REQUIREMENTS, "variants": words}))
        return
    variant, model, pictures, output = arguments
    job = Job(Path(model), np.load(pictures), Path(output))
    script.VARIANTS[variant][1](job)
    if not job.output.is_file():
        raise SystemExit("the tool ended without an error and wrote no file")


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("script_of_the_tool", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"no script: {path.name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
