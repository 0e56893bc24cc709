"""ONNX Runtime's real kernels of other processor families, run under qemu's user-mode emulation.

Import it in any test as `from emulation import ...` (pyproject.toml puts the folder on sys.path), in a script after
`sys.path.append(".../tests/emulation")`. `make emulators` fetches what it needs. This module imports no qcam.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
#: Where `make emulators` puts qemu/ and arm64/.
EMULATORS = HERE.parents[1] / "build" / "emulators"
#: The arm64 root's folder of Python packages: Debian's own, so that an isolated interpreter finds it.
PACKAGES = Path("usr/lib/python3/dist-packages")
#: qemu's x86 emulation has AVX2 since 7.2.
OLDEST_QEMU = (7, 2)

#: Kernel family → qemu's processor model. The x86 ones leave out what qemu would warn about.
CPUS = {
    "avx2": "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid",
    "arm64": "neoverse-n1",
    "arm64-nodot": "cortex-a72",
    "sandybridge": "SandyBridge,-pcid,-x2apic,-tsc-deadline",
}
KERNELS = tuple(CPUS)
#: The machine's own kernels, in a process of their own but without qemu.
NATIVE = "native"


class EmulationError(RuntimeError):
    """The emulated process failed; says how, with what it wrote to stderr."""


@dataclass(frozen=True)
class Job:
    """One model to open and run.

    Attributes:
        model: The file, or its bytes (then without external weights).
        inputs: What to feed.
        config: Session configuration entries.
        outputs: Which graph outputs to return; None: all.
        batch: Feed the inputs' common first dimension in portions of at most so many and join the outputs; None: at once.
        profile: Whether to return which kernels ran.
    """

    model: bytes | Path
    inputs: dict[str, NDArray]
    config: dict[str, str] = field(default_factory=dict)
    outputs: list[str] | None = None
    batch: int | None = None
    profile: bool = False


@dataclass(frozen=True)
class Result:
    """What a job gave.

    Attributes:
        outputs: By name, in the order asked for or the graph's.
        seconds: What the runs took, without opening the session.
        kernels: (node, operator) of every kernel of the first portion, in order; empty unless profiled. The names are those
            of ONNX Runtime's optimized graph: layout changes append to the file's.
    """

    outputs: dict[str, NDArray]
    seconds: float
    kernels: tuple[tuple[str, str], ...]


@cache
def qemu(machine: str) -> Path | None:
    """Return qemu's emulator of x86_64 or aarch64: the system's if it is new enough, else the one of `make emulators`."""
    name = f"qemu-{machine}"
    for path in filter(None, (shutil.which(name), shutil.which(f"{name}-static"), shutil.which(EMULATORS / "qemu" / name))):
        try:
            text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60).stdout
        except (OSError, subprocess.SubprocessError):
            continue  # one that does not start is none
        version = re.search(r"version (\d+)\.(\d+)", text)
        if version and tuple(map(int, version.groups())) >= OLDEST_QEMU:
            return Path(path)
    return None


def arm64_version() -> str | None:
    """Return the version of the arm64 root's onnxruntime, None without a root."""
    found = next((EMULATORS / "arm64" / PACKAGES).glob("onnxruntime-*.dist-info"), None)
    return found and found.stem.removeprefix("onnxruntime-")


def arm64_python() -> Path | None:
    """Return the arm64 root's interpreter."""
    return next((EMULATORS / "arm64/usr/bin").glob("python3.*"), None)


def installed_version() -> str:
    """Return the version of this environment's onnxruntime: kernels of different versions do not compare."""
    import onnxruntime

    return str(onnxruntime.__version__)


def why_not(kernel: str) -> str:
    """Return why a kernel family cannot run here and what to do about it; empty if it can."""
    if kernel == NATIVE:
        return ""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"{kernel} kernels are emulated on Linux x86-64 only, this is {platform.system()} {platform.machine()}"
    machine = _machine(kernel)
    if qemu(machine) is None:
        return f"no qemu-{machine} of version {'.'.join(map(str, OLDEST_QEMU))} or newer: run `make emulators`"
    if machine == "aarch64":
        if arm64_python() is None:
            return "no arm64 root: run `make emulators`"
        if arm64_version() != installed_version():
            return f"the arm64 root has onnxruntime {arm64_version()}, not {installed_version()}: run `make emulators`"
    return ""


def run(kernel: str, jobs: Sequence[Job], *, threads: int = 2, timeout: float = 900) -> list[Result]:
    """Run jobs one after the other in one process on a kernel family.

    Args:
        kernel: One of `KERNELS`, or `NATIVE`.
        jobs: Models with their inputs.
        threads: Of ONNX Runtime, within an operator.
        timeout: Seconds for all jobs together.

    Raises:
        EmulationError: If the kernel family cannot run here, a job fails or time is up.
    """
    if reason := why_not(kernel):
        raise EmulationError(reason)
    with tempfile.TemporaryDirectory(prefix="qcam-emulation-") as name:
        folder = Path(name)
        for index, job in enumerate(jobs):
            _write(folder, index, job)
        (folder / "jobs.json").write_text(json.dumps({"threads": threads, "jobs": len(jobs)}), encoding="utf-8")
        command = [*_python(kernel), str(HERE / "record.py"), name]
        try:
            # No input: an emulated interpreter must never wait for a terminal.
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise EmulationError(f"{kernel}: {len(jobs)} jobs took more than {timeout:g} seconds") from error
        if done.returncode:
            raise EmulationError(f"{kernel}: exit status {done.returncode}\n{done.stderr[-8000:].strip()}")
        return [_read(folder, index) for index in range(len(jobs))]


def _machine(kernel: str) -> str:
    if kernel not in CPUS:
        raise ValueError(f"no kernel family {kernel!r}: choose from {', '.join((*KERNELS, NATIVE))}")
    return "aarch64" if kernel.startswith("arm64") else "x86_64"


def _python(kernel: str) -> list[str]:
    """Return the command line of the interpreter: -P and -I keep this folder off its sys.path."""
    if kernel == NATIVE:
        return [sys.executable, "-B", "-P"]
    machine = _machine(kernel)
    start = [str(qemu(machine)), "-cpu", CPUS[kernel]]
    if machine == "x86_64":
        return [*start, sys.executable, "-B", "-P"]
    return [*start, "-L", str(EMULATORS / "arm64"), str(arm64_python()), "-B", "-I"]


def _write(folder: Path, index: int, job: Job) -> None:
    if isinstance(job.model, bytes):
        model = folder / f"{index}.onnx"
        model.write_bytes(job.model)
    else:
        model = Path(job.model).resolve()
    description = {
        "model": str(model), "inputs": list(job.inputs), "config": job.config,
        "outputs": job.outputs, "batch": job.batch, "profile": job.profile,
    }  # fmt: skip
    (folder / f"{index}.json").write_text(json.dumps(description), encoding="utf-8")
    # By position: the names of ONNX tensors make no good file names.
    np.savez(folder / f"{index}.inputs.npz", *job.inputs.values())


def _read(folder: Path, index: int) -> Result:
    told = json.loads((folder / f"{index}.result.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{index}.outputs.npz") as values:
        outputs = {name: values[f"arr_{position}"] for position, name in enumerate(told["outputs"])}
    return Result(outputs, told["seconds"], tuple((node, operator) for node, operator in told["kernels"]))
