"""What a session takes of memory and time, by where its weights lie: four ways to open the same file.

    python benchmarks/sharing.py FILE.onnx... [--rounds 3] [--json FILE]

- plain: the file, as it is
- mapped: the weights are handed in from a mapped file (`add_external_initializers`)
- mapped, not packed: likewise, and ONNX Runtime packs no weight for its kernels
- packed: ONNX Runtime's own optimized graph, written down before with packed weights (`runtime/deployed/packed.py`)

Each run is a process of its own, of one thread, and they alternate; files are written by another process before. Resident and
anonymous memory are what opening and one picture added: pages of a file count as resident, and the system takes them back when
memory gets short; anonymous memory is the process's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import readable_json, write_atomically
from qcam.runtime.deployed.packed import GRAPH, PackedCopies, digest

WAYS = ("plain", "mapped", "mapped, not packed", "packed")
TOLD = ("resident_mib", "anonymous_mib", "open_s", "run_ms")
MAPPED, DATA = "mapped.onnx", "mapped.bin"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each way.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(files: tuple[Path, ...], rounds: int, json_path: Path | None) -> None:
    """Open files in four ways and print what each took: the median, and for time the least."""
    found: list[dict[str, Any]] = []
    console.out.print("| file | | resident, MiB | anonymous, MiB | open, s | run, ms | same bits |", markup=False)
    console.out.print("|---|---|---:|---:|---:|---:|---|", markup=False)
    for file in files:
        with tempfile.TemporaryDirectory(prefix="qcam-sharing-") as folder:
            for way in ("write mapped", "write packed"):
                told(file, way, folder)
            runs = [{way: told(file, way, folder) for way in WAYS} for _ in range(rounds)]
        for way in WAYS:
            each = [run[way] for run in runs]
            one = {name: median(run[name] for run in each) for name in TOLD[:2]} | {
                name: min(run[name] for run in each) for name in TOLD[2:]
            }
            same = all(run[way]["bits"] == run["plain"]["bits"] for run in runs)
            name = f"{file.parent.name}/{file.stem}"
            found.append({"file": name, "way": way, "same": same, "load": os.getloadavg()[0]} | one)
            cells = [name, way, *(f"{one[key]:.{digits}f}" for key, digits in zip(TOLD, (0, 0, 2, 1), strict=True))]
            console.out.print(f"| {' | '.join(cells)} | {'yes' if same else 'no'} |", markup=False)
    if json_path:
        value = {"runs": found, "rounds": rounds, "machine": machine.describe(), "versions": machine.versions()}
        write_atomically(json_path, readable_json(value))


def told(file: Path, way: str, folder: str) -> Any:
    """Open a file in one way, in a process of its own; return what it tells."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(file), way, folder], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def one(file: Path, way: str, folder: Path) -> dict[str, Any]:
    """Be that process."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    held: list[Any] = []
    if way == "write mapped":
        whole = onnx.load(file)
        onnx.save(whole, folder / MAPPED, save_as_external_data=True, location=DATA, size_threshold=1024)
        return {}
    if way == "write packed":
        copy = PackedCopies(folder).of({})
        copy.begin(0)
        copy.prepare(options)
        onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        copy.finish()
        return {}
    path = str(file)
    if way.startswith("mapped"):
        path = str(folder / MAPPED)
        held = mapped(onnx.load(path, load_external_data=False), folder / DATA)
        options.add_external_initializers([name for name, _ in held], [value for _, value in held])
        if way != "mapped":
            options.add_session_config_entry("session.disable_prepacking", "1")
    if way == "packed":
        (path,) = map(str, folder.glob(f"*/{GRAPH}"))
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    before, start = memory(), time.perf_counter()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    opened = time.perf_counter() - start
    taken = session.get_inputs()[0]
    shape = [length if isinstance(length, int) else 1 for length in taken.shape]
    picture = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values = session.run(None, {taken.name: picture})
    after = memory()
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        session.run(None, {taken.name: picture})
        seconds.append(time.perf_counter() - start)
    grown = {name: (now - then) / 1024 for name, now, then in zip(TOLD, after, before, strict=False)}
    return grown | {"open_s": opened, "run_ms": min(seconds) * 1000, "bits": digest(values)}


def mapped(model: Any, data: Path) -> list[tuple[str, Any]]:
    """Return the weights of a model that lie in another file, as values over the mapped file."""
    import onnx
    import onnxruntime

    found = []
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            # Writable in memory only: ONNX Runtime takes no array that cannot be written.
            array = np.memmap(data, kind, "c", int(place["offset"]), tuple(tensor.dims))
            found.append((tensor.name, onnxruntime.OrtValue.ortvalue_from_numpy(array)))
    return found


def memory() -> tuple[int, int]:
    """Return what this process has in memory, in KiB: resident, and anonymous of it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
    return sizes["Rss"], sizes["Anonymous"]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))))
    else:
        main()
