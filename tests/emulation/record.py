"""Runs the jobs of a folder and writes their outputs beside them: `record.py FOLDER`, as emulation.py lays it out.

It runs under another processor's interpreter, so it imports the standard library, numpy and onnxruntime only.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime


def main(folder: Path) -> None:
    """Run every job; a failing one ends the process with its traceback."""
    told = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
    for index in range(told["jobs"]):
        try:
            record(folder, index, told["threads"])
        except Exception:
            print(f"job {index} of {told['jobs']} failed:", file=sys.stderr)
            raise


def record(folder: Path, index: int, threads: int) -> None:
    """Run one job in portions, profiling the first, and write what came out."""
    job = json.loads((folder / f"{index}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{index}.inputs.npz") as values:
        feeds = {name: values[f"arr_{position}"] for position, name in enumerate(job["inputs"])}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Idle threads that spin cost an emulator, and whoever shares the machine, more than they save.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in job["config"].items():
        options.add_session_config_entry(key, value)
    if job["profile"]:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / str(index))
    session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    names = job["outputs"] or [output.name for output in session.get_outputs()]
    count = len(next(iter(feeds.values()))) if job["batch"] else 1
    size = job["batch"] or 1
    portions, kernels, seconds = [], [], 0.0
    for start in range(0, count, size):
        portion = {name: value[start : start + size] for name, value in feeds.items()} if job["batch"] else feeds
        began = time.perf_counter()
        portions.append(session.run(names, portion))
        seconds += time.perf_counter() - began
        if job["profile"] and start == 0:
            kernels = kernels_of(Path(session.end_profiling()))
    # A single portion is not joined: outputs without dimensions are then possible.
    joined = portions[0] if len(portions) == 1 else [np.concatenate(parts) for parts in zip(*portions, strict=True)]
    np.savez(folder / f"{index}.outputs.npz", *joined)
    result = {"outputs": names, "seconds": seconds, "kernels": kernels}
    (folder / f"{index}.result.json").write_text(json.dumps(result), encoding="utf-8")


def kernels_of(profile: Path) -> list[tuple[str, str]]:
    """Return (node, operator) of every kernel that a profile saw, in order; the names are the optimized graph's."""
    suffix = "_kernel_time"
    events = json.loads(profile.read_text(encoding="utf-8"))
    return [
        (event["name"].removesuffix(suffix), event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(suffix)
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
