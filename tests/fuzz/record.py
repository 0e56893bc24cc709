"""Write what was fuzzed into docs/security.md: `PYTHONPATH=tests python -m fuzz.record` (lines are counted anew)."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from fuzz.harness import CORPUS, NAMES
from fuzz.run import HERE

_PAGE = HERE / "docs" / "security.md"
_BEGIN, _END = "<!-- fuzz: begin -->", "<!-- fuzz: end -->"
_HEAD = "| target | CPU seconds | inputs | refused in one line | taken | lines reached | found |\n|---|--:|--:|--:|--:|--:|--:|"


def main() -> None:
    """Collect the records, count lines, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=HERE / "build" / "fuzz", help="folder of the state (default: build/fuzz)")
    parser.add_argument("--seconds", type=float, default=60, help="most CPU seconds for a target's lines (default: 60)")
    given = parser.parse_args()
    rows = [
        row(name, _record(given.state / name), _lines(name, given.state / name, given.seconds))
        for name in NAMES
        if (given.state / name).is_dir()
    ]
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("atheris", "hypothesis", "coverage") if _installed(name)
    )
    told = f"Python {platform.python_version()}, {versions}."
    text = _PAGE.read_text(encoding="utf-8")
    head, rest = text.split(_BEGIN)
    _PAGE.write_text(
        f"{head}{_BEGIN}\n{told}\n\n{_HEAD}\n" + "\n".join(rows) + f"\n{_END}{rest.split(_END)[1]}", encoding="utf-8"
    )


def row(name: str, record: dict[str, Any], lines: dict[str, int]) -> str:
    """Return the row of a target: what all runs of its record come to, and the lines that its inputs reach."""
    share = f"{lines['reached']:,} of {lines['lines']:,} ({100 * lines['reached'] / max(lines['lines'], 1):.0f} %)"
    stay = len(list((CORPUS / name).glob("*")))
    counts = " | ".join(f"{record[key]:,}" for key in ("inputs", "refused", "accepted"))
    return f"| {name} | {record['seconds']:,.0f} | {counts} | {share} | {stay} |"


def _record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "record.json").read_text()))


def _lines(name: str, folder: Path, seconds: float) -> dict[str, int]:
    command = [sys.executable, "-m", "fuzz.lines", name, "--state", str(folder), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
