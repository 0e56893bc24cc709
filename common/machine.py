"""What ran here: processor features and package versions, for the record of a run."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

#: The instruction sets that choose ONNX Runtime's integer kernels, by their Linux names; others would only lengthen records.
KERNEL_FEATURES = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni",
    "amx_int8", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip

#: File systems whose files lie in memory.
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_PACKAGES = (
    "qcam", "numpy", "pillow", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxscript",
    "torch", "torchvision", "timm", "pyarrow",
)  # fmt: skip


def cpu_features() -> list[str]:
    """Return the instruction sets of this processor that matter to integer kernels, by their Linux names.

    Empty where the system does not tell (no /proc/cpuinfo).
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    flags: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags.update(value.split())
    return [name for name in KERNEL_FEATURES if name in flags]


def versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that can change a figure, where installed."""
    return {"python": platform.python_version()} | installed(_PACKAGES)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed, in the order given."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def available_cores() -> int:
    """Return the number of processor cores this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes of memory that new processes can have without swapping; all of it where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "MemAvailable":
                return min(int(value.split()[0]) * 1024, _memory_limit())
    except (OSError, ValueError, IndexError):
        pass
    return _memory_limit()


def _memory_limit() -> int:
    """Return the bytes that this container may still take; a very large number without a limit."""
    try:
        folder = Path("/sys/fs/cgroup")
        limit = int((folder / "memory.max").read_text())
        taken = int((folder / "memory.current").read_text())
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit - taken + int(fields.get("inactive_file", 0))  # files that were read are given up when it gets tight
    except (OSError, ValueError):  # no such files, or "max"
        return 1 << 62


def in_memory(folder: Path) -> bool:
    """Tell whether a folder lies in memory and not on a disk; False where the system does not tell."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
        real = folder.resolve()
    except OSError:
        return False
    kinds = {}
    for line in lines:
        _, place, kind, *_ = line.split(" ")
        kinds[re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place)] = kind  # what is mounted last is seen
    nearest = next((str(each) for each in (real, *real.parents) if str(each) in kinds), "")
    return kinds.get(nearest, "") in _MEMORY_FILE_SYSTEMS


def give_memory_back() -> None:
    """Give back to the system what was freed: the C library keeps blocks of some megabytes for later, and asks for others."""
    with suppress(OSError, AttributeError):  # a system without glibc does as it likes
        ctypes.CDLL(None).malloc_trim(0)


#: Parameters of glibc's `mallopt`; the largest block that can be kept, in bytes; twice as much is, in all of a thread.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _BLOCK = -3, -1, 32 << 20


def has_gpu() -> bool:
    """Tell whether this machine has a GPU that PyTorch may find, without importing it."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def let_idle_threads_rest() -> None:
    """Make OpenMP's threads sleep when they have nothing to do, unless the user says otherwise; before PyTorch is imported.

    They would spin for some milliseconds after each parallel operation, and take a core from the ONNX Runtime session that
    runs next.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> None:
    """Let the C library keep memory that is freed for what is asked for next, unless the user says otherwise.

    By itself it gives blocks back to the system as long as it has not seen larger ones, and each of their pages has to be made
    anew: in a virtual machine that takes longer than a metric of the map that lies in it.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with suppress(OSError, AttributeError):  # a system without glibc does as it likes
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _BLOCK)
        library.mallopt(_TRIM_THRESHOLD, 2 * _BLOCK)


def describe() -> dict[str, object]:
    """Return the machine's architecture, system, cores and kernel features as JSON-ready values."""
    return {
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": available_cores(),
        "cpu_features": cpu_features(),
    }
