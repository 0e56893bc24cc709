"""Runs of qcam-eval for tests of engines: how they are started, found and compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from qcam.common.files import sha256_file
from qcam.evaluate.results.clipping import CLIPPING
from qcam.evaluate.results.folder import IMAGES, MAPS, PICTURES, REFERENCES, RESULTS, RUN, SUMMARY, write_run

#: Whatever is a matter of figures; run.json and placement.json hold times and names of machines besides.
SAME = (RESULTS, REFERENCES, MAPS, PICTURES, CLIPPING, IMAGES, SUMMARY)


def command(bundle: object, photographs: object, output: object, *options: object) -> list[str]:
    """Return a run that is all computing: one thread a worker, no pictures."""
    fixed = ["--saliency", "spectral", "--batch-size", 4, "--threads", 1, "--grid-rows", 0, "--no-report"]
    return [
        sys.executable, "-m", "qcam.commands.eval", str(bundle), "--images", str(photographs), "--output", str(output),
        *map(str, [*fixed, *options]),
    ]  # fmt: skip


def finish(command: list[str], cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False, **options)


def wait_for_parts(folder: Path, wanted: int = 1) -> None:
    """Wait until so many shards of a run are finished, two minutes at most."""
    until = time.monotonic() + 120
    while len(list((folder / "parts").glob("*.parquet"))) < wanted and time.monotonic() < until:
        time.sleep(0.01)


def hear_ctrl_c() -> None:
    """Let a child process hear SIGINT: what a shell starts in the background ignores it, and so do all its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def children(pid: int) -> list[int]:
    """Return the processes that one has started, and those have, and so on."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as stream:
                    parents[int(name)] = int(stream.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def reseal(folder: Path) -> None:
    """Let run.json say that the files of a result folder are as they ought to be, after a test has changed some."""
    run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    write_run(folder / RUN, run | {"files": {name: sha256_file(folder / name) for name in run["files"]}})
