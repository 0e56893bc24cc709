"""Fuzz qcam's doors: `PYTHONPATH=tests python -m fuzz.run [TARGET...] --seconds N`.

Each target runs in processes of its own. State is below build/fuzz and is taken up by the next run; what is
found is made small and put into tests/fuzz/corpus, to be committed with what mends it. Exit code 1 if anything was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzz.harness import CORPUS, NAMES

HERE = Path(__file__).resolve().parents[2]
#: Largest input that is committed.
_COMMITTED = 1 << 16
#: Seconds that one input may take before its process is ended, where libFuzzer does not do it.
_HANGS = 600.0
#: Processes that an input may end before a target is given up.
_MOST_ENDS = 20


def main() -> None:
    """Run the targets that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}; by default all")
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds of each target (default: 600)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default: 1)")
    parser.add_argument("--seed", type=int, default=None, help="of the inputs; by default another one each time")
    parser.add_argument("--driver", choices=("auto", "atheris", "hypothesis"), default="auto")
    parser.add_argument("--state", type=Path, default=HERE / "build" / "fuzz", help="folder of the state (default: build/fuzz)")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where findings go (default: tests/fuzz/corpus)")
    given = parser.parse_args()
    if unknown := [name for name in given.targets if name not in NAMES]:
        parser.error(f"no target {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    seed = given.seed if given.seed is not None else int(time.time())
    with ThreadPoolExecutor(given.jobs) as pool:
        records = pool.map(
            lambda name: fuzz(name, given.seconds, seed, given.driver, given.state / name, given.corpus), given.targets or NAMES
        )
        found = sum(len(record["new"]) for record in records)
    sys.exit(1 if found else 0)


def fuzz(name: str, seconds: float, seed: int, driver: str, folder: Path, corpus: Path) -> dict[str, Any]:
    """Run one target for some CPU seconds.

    Returns:
        What `record.json` says of all runs so far, and the findings of this one as `new`: a sentence each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "record.json"
    record: dict[str, Any] = {"seconds": 0.0, "inputs": 0, "accepted": 0, "refused": 0, "findings": {}}
    if path.is_file():
        record = json.loads(path.read_text())
    shutil.rmtree(folder / "findings", ignore_errors=True)  # what is not mended is found again
    left, new, ended = seconds, list[str](), 0
    seen = set[str]()
    total: dict[str, Any] = {"seconds": 0.0, "inputs": 0, "accepted": 0, "refused": 0}
    while left > 0 and ended < _MOST_ENDS:
        told = folder / "told.json"
        for before in (told, folder / "current"):
            before.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "fuzz.worker", name, "--folder", folder, "--seconds", left, "--seed", seed,
            "--driver", driver,
        ]  # fmt: skip
        with (folder / "log").open("ab") as log:
            worker = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            try:
                while worker.poll() is None:
                    time.sleep(0.2)
                    if _since(folder / "current") > _HANGS:
                        worker.kill()
                    _show(name, _read(told), seconds - left, seconds, len(new))
            finally:
                worker.kill()
                worker.wait()
        done = _read(told)
        for key in total:
            record[key] += done[key]
            total[key] += done[key]
        left -= max(done["seconds"], 1.0)
        seed += 1
        if worker.returncode:
            ended += 1
            keep_ended(folder, worker.returncode)
        new += collect(name, folder, corpus, record, seen)
        path.write_text(json.dumps(record, indent=2))
    _show(name, total, 0, seconds, len(new), last=True)
    sys.stderr.write("".join(f"  found: {sentence}\n" for sentence in new))
    if ended == _MOST_ENDS:
        sys.stderr.write(f"  given up: inputs ended {ended} processes, see {folder / 'log'}\n")
    return record | {"new": new}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {"seconds": 0.0, "inputs": 0, "accepted": 0, "refused": 0}


def _show(name: str, told: dict[str, Any], before: float, seconds: float, found: int, *, last: bool = False) -> None:
    """Tell how far a run is, over and over on a terminal; in a log only at its end."""
    if last or sys.stderr.isatty():
        rate = told["inputs"] / told["seconds"] if told["seconds"] else 0
        counts = f"{told['inputs']:,} inputs ({rate:.0f}/s), {told['refused']:,} refused, {told['accepted']:,} taken"
        line = f"{name}: {before + told['seconds']:.0f} of {seconds:.0f} s, {counts}, {found} found"
        sys.stderr.write(f"{line:<110}" + ("\n" if last else "\r"))
        sys.stderr.flush()


def keep_ended(folder: Path, code: int) -> None:
    """Put the input that ended a process among the findings."""
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    artifacts = sorted(folder.glob("native-*"))
    hung = any("timeout" in path.name for path in artifacts)
    source = artifacts[0] if artifacts else folder / "current"
    tail = (folder / "log").read_bytes()[-4000:].decode("utf-8", "replace")
    if not source.is_file():
        sys.exit(f"error: the target did not start ({how})\n{tail}")
    kind = "an input that ended the process: " + ("it hangs" if hung else how)
    place = folder / "findings" / f"ended-{code}-{len(list((folder / 'findings').glob('ended-*.bin')))}"
    shutil.copy(source, place.with_suffix(".bin"))
    place.with_suffix(".txt").write_text(f"{kind}\n\n{tail}")
    for artifact in artifacts:
        artifact.unlink()


def _since(path: Path) -> float:
    """Return the seconds since a file was written; 0 if there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def collect(name: str, folder: Path, corpus: Path, record: dict[str, Any], seen: set[str]) -> list[str]:
    """Put findings that are new into the corpus, small ones only; return a sentence for each."""
    new = []
    for text in sorted((folder / "findings").glob("*.txt")):
        if text.stem in seen:
            continue
        seen.add(text.stem)
        kind = text.read_text(encoding="utf-8").partition("\n")[0]
        data = text.with_suffix(".bin").read_bytes()
        record["findings"][text.stem] = kind
        where = f"{len(data):,} bytes, in {text.with_suffix('.bin')}"
        if len(data) <= _COMMITTED:
            place = corpus / name / f"{text.stem}-{hashlib.sha256(data).hexdigest()[:8]}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            where = str(place)
        new.append(f"{kind} ({where})")
    return new


if __name__ == "__main__":
    main()
