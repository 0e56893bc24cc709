"""Which lines of a target's modules its inputs reach: `python -m fuzz.lines TARGET --state FOLDER`.

Inputs are the good ones, those of the committed corpus, and those that the runs so far have kept; as many as the time
allows. One JSON line comes out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path

import coverage

_ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Replay the inputs of one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--state", type=Path, required=True, help="folder of the target's state")
    parser.add_argument("--seconds", type=float, default=60, help="most CPU seconds (default: 60)")
    given = parser.parse_args()
    counted = coverage.Coverage(data_file=None, include=[f"{_ROOT}/*"], config_file=False)
    counted.start()
    from fuzz.harness import judged, target

    found = target(given.target)
    kept = sorted((given.state / "corpus").glob("*"))
    inputs = [*found.seeds(), *(path.read_bytes() for path in (*found.corpus(), *kept))]
    start, replayed = time.process_time(), 0
    for data in inputs:
        if time.process_time() - start > given.seconds:
            break
        judged(found.one, data)
        replayed += 1
    counted.stop()
    lines = reached = 0
    for file in files_of(found.covered):
        _, statements, _, missing, _ = counted.analysis2(str(file))
        lines += len(statements)
        reached += len(statements) - len(missing)
    sys.stdout.write(json.dumps({"lines": lines, "reached": reached, "replayed": replayed, "kept": len(kept)}) + "\n")


def files_of(modules: tuple[str, ...]) -> list[Path]:
    """Return the files of modules; of a package those of all modules in it."""
    found = []
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name)
        file = Path(spec.origin).resolve()  # rooms are links in src/qcam
        found += sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return found


if __name__ == "__main__":
    main()
