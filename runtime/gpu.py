"""Which GPU computes, and with which libraries, asked of the driver and of the libraries themselves; PyTorch is not needed.

Two GPUs, drivers or versions of cuDNN choose other kernels and give other bits: what is read here is part of a run's plan.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qcam.common.errors import ProviderError

#: CUDA's numbers of the two attributes that make a compute capability.
_MAJOR, _MINOR = 75, 76
_UNKNOWN = "unknown"
#: Library → the start of its file's name, and the function that tells its version.
_LIBRARIES = {
    "cuda": ("libcudart.so", "cudaRuntimeGetVersion"),
    "cudnn": ("libcudnn.so", "cudnnGetVersion"),
    "tensorrt": ("libnvinfer.so", "getInferLibVersion"),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU, and what computes on it in this process.

    Attributes:
        name: What its maker calls it.
        capability: Its compute capability.
        driver: Version of the driver.
        cuda: Versions of the CUDA runtime that are loaded.
        cudnn: Versions of cuDNN that are loaded; empty if none is.
        tensorrt: Versions of TensorRT that are loaded; empty if none is.
    """

    name: str
    capability: str = _UNKNOWN
    driver: str = _UNKNOWN
    cuda: str = ""
    cudnn: str = ""
    tensorrt: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the GPU as JSON-ready values."""
        return asdict(self)

    def describe(self) -> str:
        """Say in a line which GPU it is."""
        parts = {"driver": self.driver, "CUDA": self.cuda, "cuDNN": self.cudnn, "TensorRT": self.tensorrt}
        return f"{self.name} ({self.capability}), " + ", ".join(f"{what} {which}" for what, which in parts.items() if which)

    def differences(self, other: Gpu) -> list[str]:
        """Name what another one has otherwise: `driver 570.86 → 580.65`; empty if nothing."""
        mine, others = asdict(self), asdict(other)
        titles = {"name": "GPU", "capability": "compute capability", "cuda": "CUDA", "cudnn": "cuDNN", "tensorrt": "TensorRT"}
        return [
            f"{titles.get(field.name, field.name)} {mine[field.name] or '(none)'} → {others[field.name] or '(none)'}"
            for field in fields(self)
            if mine[field.name] != others[field.name]
        ]


def read_gpu(index: int = 0) -> Gpu:
    """Ask which GPU this is.

    Args:
        index: Which one, of those that this process sees (CUDA_VISIBLE_DEVICES), counted from 0.

    Raises:
        ProviderError: If there is none.
    """
    name, capability = _from_driver(index) or _from_torch(index) or ("", "")
    if not name:
        raise ProviderError(
            f"neither NVIDIA's driver (libcuda) nor PyTorch tells which GPU number {index} is: results of GPUs that nobody "
            "knows cannot be told apart; check the driver with nvidia-smi, or compute on the CPU"
        )
    return Gpu(name, capability, _driver_version(), **loaded_versions())


def gpu_names() -> list[str]:
    """Return the names of all GPUs that this process sees, in the order in which they are counted; empty where none is."""
    names: list[str] = []
    while (found := _from_driver(len(names)) or _from_torch(len(names))) is not None:
        names.append(found[0])
    return names


def loaded_versions() -> dict[str, str]:
    """Return which versions of CUDA, cuDNN and TensorRT are loaded in this process, each once; empty where none is."""
    paths = _mapped_files()
    found: dict[str, str] = {}
    for library, (start, function) in _LIBRARIES.items():
        versions = {_version_of(library, path, function) for path in paths if Path(path).name.startswith(start)}
        found[library] = ", ".join(sorted(versions - {""}))
    return found


def version_text(library: str, number: int) -> str:
    """Spell the number that a library calls its version.

    Args:
        library: cuda, cudnn or tensorrt.
        number: As the library returns it.

    >>> version_text("cuda", 12080), version_text("cudnn", 91002), version_text("cudnn", 8907), version_text("tensorrt", 101303)
    ('12.8', '9.10.2', '8.9.7', '10.13.3')
    """
    if library == "cuda":
        return f"{number // 1000}.{number % 1000 // 10}"
    large = 10_000 if number >= 10_000 else 1000
    return f"{number // large}.{number % large // 100}.{number % 100}"


def _library(name: str) -> Any:
    """Load a library by its name, or by the path at which it is loaded already.

    Raises:
        OSError: If there is none.
    """
    return ctypes.CDLL(name)


def _mapped_files() -> set[str]:
    """Return the paths of all files that are mapped into this process; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {line[line.index("/") :].removesuffix(" (deleted)") for line in lines if "/" in line}


def _version_of(library: str, path: str, function: str) -> str:
    """Return the version of a library that is loaded; unknown if it does not tell."""
    try:
        call = getattr(_library(path), function)
        if library == "cuda":
            number = ctypes.c_int()
            return _UNKNOWN if call(ctypes.byref(number)) else version_text(library, number.value)
        call.restype = ctypes.c_size_t if library == "cudnn" else ctypes.c_int
        return version_text(library, int(call()))
    except (OSError, AttributeError):
        return _UNKNOWN


def _from_driver(index: int) -> tuple[str, str] | None:
    """Return name and compute capability as the driver has them; None if it does not answer."""
    try:
        cuda = _library("libcuda.so.1")
        device, count = ctypes.c_int(), ctypes.c_int()
        text = ctypes.create_string_buffer(256)
        version = [ctypes.c_int(), ctypes.c_int()]
        answers: Iterable[int] = (
            cuda.cuInit(0),
            cuda.cuDeviceGetCount(ctypes.byref(count)),
            cuda.cuDeviceGet(ctypes.byref(device), index),
            cuda.cuDeviceGetName(text, len(text), device),
            *(
                cuda.cuDeviceGetAttribute(ctypes.byref(part), which, device)
                for part, which in zip(version, (_MAJOR, _MINOR), strict=True)
            ),
        )
    except (OSError, AttributeError):
        return None
    if any(answers) or index >= count.value:
        return None
    return text.value.decode(errors="replace"), f"{version[0].value}.{version[1].value}"


def _from_torch(index: int) -> tuple[str, str] | None:
    """Return name and compute capability as PyTorch has them, if it is loaded already: a GPU of another maker, say."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return None
    return str(torch.cuda.get_device_name(index)), ".".join(map(str, torch.cuda.get_device_capability(index)))


def _driver_version() -> str:
    """Return the version of the driver; unknown if nothing tells."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(errors="replace")
        if found := re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text):
            return found[1]
    except OSError:
        pass
    try:  # as on WSL
        library, buffer = _library("libnvidia-ml.so.1"), ctypes.create_string_buffer(96)
        if library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(buffer, len(buffer)):
            return _UNKNOWN
        return buffer.value.decode(errors="replace")
    except (OSError, AttributeError):
        return _UNKNOWN
