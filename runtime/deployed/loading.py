"""Why an execution provider did not load, or failed while it ran, and what to do about it.

ONNX Runtime's own words name a library or an error of CUDA. What they mean depends on the wheels that are installed: whichever
are of one CUDA major belong together.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from qcam.common.errors import first_line
from qcam.common.machine import installed
from qcam.runtime.deployed.provider_options import NVIDIA
from qcam.runtime.deployed.providers import ONNXRUNTIME_PACKAGES, captured_output

#: Providers that compute with CUDA.
CUDA_PROVIDERS = frozenset({"CUDA", "TensorRT"})
#: Words by which ONNX Runtime says that a provider, and not the model, is what failed.
_PROVIDER_FAILED = re.compile(
    r"CUDA (?:failure|error)|CUDNN (?:failure|error)|CUBLAS (?:failure|error)|cudaError|TensorRT EP|Failed to load library"
    r"|libraries as mentioned|EP Error|Failed to create \w+ExecutionProvider|Invalid device[ _]ID"
    r"|Failed to parse provider option",
    re.IGNORECASE,
)
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|Failed to allocate memory|BFCArena|(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED|bad_alloc",
    re.IGNORECASE,
)
_NO_CUDNN = re.compile(
    r"cuDNN is (?:unavailable|not available)|cuDNN handle is required|cudnn\w*\.(?:so|dll)",
    re.IGNORECASE,
)
_CUDNN_NOT_STARTED = re.compile(r"(?:CUDNN|CUBLAS)_STATUS_NOT_INITIALIZED", re.IGNORECASE)
_OLD_DRIVER = re.compile(r"driver version is insufficient|CUDA failure 35\b|cudaErrorInsufficientDriver")
_NO_CARD = re.compile(r"no CUDA-capable device|CUDA failure 100\b|cudaErrorNoDevice")
_NO_SUCH_CARD = re.compile(
    r"CUDA failure 101\b|cudaErrorInvalidDevice\b|invalid device ordinal|Invalid device[ _]ID",
    re.IGNORECASE,
)
_CARD_BUSY = re.compile(r"CUDA failure 46\b|cudaErrorDevicesUnavailable|all CUDA-capable devices are busy", re.IGNORECASE)
_OTHER_CARD = re.compile(r"CUDA failure 209\b|cudaErrorNoKernelImageForDevice|no kernel image is available", re.IGNORECASE)
#: A library that was not found: its file, its name without prefix, its major.
_LIBRARY = re.compile(
    r"\b(lib([a-zA-Z_]+)\.so(?:\.(\d+))?[.\d]*): cannot open|\"(([a-zA-Z]+)(?:64)?_?(\d+)\.dll)\" which is missing"
)
_NOT_STARTED = (
    "a library of CUDA did not start: the GPU's memory is full (nvidia-smi shows who holds it; try a smaller {batch_size}), or "
    "the library is broken or of another version: pip install 'onnxruntime-gpu[cuda,cudnn]'"
)
_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: Stands before the reason for which torch could not be imported.
NO_TORCH = "torch could not be imported for its libraries: "
#: Most of a sentence of ONNX Runtime that a message repeats.
_LONGEST = 300


@dataclass(frozen=True)
class Wheels:
    """Which packages are installed, and for which CUDA they were built.

    Attributes:
        onnxruntime: Name and version of ONNX Runtime's package; empty if unknown.
        onnxruntime_cuda: Its CUDA major; None if it says none.
        torch: Name and version of torch; empty if it is not installed.
        torch_cuda: Its CUDA major; None if it computes on the CPU alone.
    """

    onnxruntime: str = ""
    onnxruntime_cuda: int | None = None
    torch: str = ""
    torch_cuda: int | None = None

    @property
    def differ(self) -> bool:
        """Tell whether both are built for CUDA, of different majors."""
        majors = (self.onnxruntime_cuda, self.torch_cuda)
        return None not in majors and majors[0] != majors[1]


def installed_wheels() -> Wheels:
    """Return what is installed here; torch is not imported for it."""
    import onnxruntime

    named = [f"{package} {version}" for package, version in installed(ONNXRUNTIME_PACKAGES).items()]
    own = named[-1] if named else ""
    torch, torch_cuda = _torch()
    return Wheels(own, _major(getattr(onnxruntime, "cuda_version", "")), torch, torch_cuda)


def explain_not_loaded(short: str, loader_messages: str, wheels: Wheels | None = None) -> str:
    """Say why a provider that the package contains is not in the session, and what to install.

    How to go on without it is left to the caller: it may be accepted.

    Args:
        short: The provider's short name.
        loader_messages: What ONNX Runtime wrote and raised meanwhile.
        wheels: What is installed; None: asked for.
    """
    wheels = wheels or installed_wheels()
    reason = loader_reason(loader_messages)
    message = f"the {short} provider could not be loaded, ONNX Runtime would silently have used the CPU instead"
    message += f"; its loader says: {reason}" if reason else "; its loader gave no reason"
    remedy = _remedy(short, loader_messages, wheels)
    return f"{message}; {remedy}" if remedy else message


def explain_failed_run(short: str, message: str) -> str:
    """Say what to do about a run that failed; empty where nothing is known to help.

    Args:
        short: The provider's short name.
        message: What ONNX Runtime raised.
    """
    if out_of_memory(message):
        return "try a smaller {batch_size}"
    if short in CUDA_PROVIDERS and _NO_CUDNN.search(message):
        return (
            "the CUDA provider loads without cuDNN, but Conv does not run without it: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    if short in CUDA_PROVIDERS and _CUDNN_NOT_STARTED.search(message):
        return _NOT_STARTED
    return _about_card(message, None) if short in NVIDIA else ""


def out_of_memory(message: str) -> bool:
    """Tell whether ONNX Runtime's words say that memory is full."""
    return bool(_OUT_OF_MEMORY.search(message))


def provider_failed(message: str) -> bool:
    """Tell whether a session was not made because of its provider, as far as ONNX Runtime's words say so."""
    return bool(_PROVIDER_FAILED.search(message))


def torch_may_help(short: str, loader_messages: str, wheels: Wheels) -> bool:
    """Tell whether importing torch may bring the library that was not found.

    It does where torch comes with CUDA of the same major, and has not been imported yet: a process keeps what it has loaded,
    and ONNX Runtime looks again for each session.

    Args:
        short: The provider's short name.
        loader_messages: What ONNX Runtime wrote meanwhile.
        wheels: What is installed.
    """
    missing = _missing(loader_messages)
    return (
        short in CUDA_PROVIDERS
        and missing is not None
        and not _is_drivers(missing.name)
        and not _is_tensorrts(missing.name)
        and wheels.torch_cuda is not None
        and wheels.torch_cuda == wheels.onnxruntime_cuda
        and "torch" not in sys.modules
    )


def import_torch() -> str:
    """Import torch for the libraries that it brings into the process.

    Returns:
        Why it could not be imported; empty if it was.
    """
    with captured_output():
        try:
            # Not by a statement: what is deployed needs no torch, and only a device whose libraries are torch's comes here.
            import_module("torch")
        except Exception as error:  # a broken install raises anything
            return first_line(error)
    return ""


def whole_text(error: BaseException) -> str:
    """Return all that an exception says, in as many lines as it takes; its type where it says nothing."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # an exception whose text cannot be made still has a type
        return type(error).__name__


def loader_reason(text: str) -> str:
    """Pick the loader's own sentence out of log lines, without time stamps and file names; empty if there is none."""
    lines = [_TERMINAL_COLOUR.sub("", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line.strip("* ")]
    for pattern in (r"with error:\s*(.+)", r"(CUDA failure \d+:[^;]+|CUDA failure.+|CUDA error.+|cudaError\w+.*)"):
        for line in lines:
            match = re.search(pattern, line)
            if match:
                return match.group(1).strip()[:_LONGEST]
    for line in lines:
        match = re.search(r"\]\s*(.+)$", line)
        if match:
            return match.group(1).strip()[:_LONGEST]
    return lines[0][:_LONGEST] if lines else ""


@dataclass(frozen=True)
class _Missing:
    """A library that was not found: its file, its name, its major."""

    file: str
    name: str
    major: int | None


def _missing(text: str) -> _Missing | None:
    match = _LIBRARY.search(text)
    if match is None:
        return None
    file, name, major = match.groups()[:3] if match.group(1) else match.groups()[3:]
    return _Missing(file, name.lower(), int(major) if major else None)


def _remedy(short: str, text: str, wheels: Wheels) -> str:
    """Say what to do about a provider that did not load; empty where nothing is known."""
    missing = _missing(text)
    if missing is not None and _is_tensorrts(missing.name):
        return _install_tensorrt(missing, wheels)
    card = _about_card(text, wheels.onnxruntime_cuda) if short in NVIDIA else ""
    if card:
        return card
    if missing is not None and _is_drivers(missing.name):
        return (
            f"{missing.file} belongs to NVIDIA's driver: this machine has none, or a container was started without its GPUs "
            "(nvidia-smi shows what there is)"
        )
    if short not in CUDA_PROVIDERS:
        return ""
    if missing is None:
        if _CUDNN_NOT_STARTED.search(text):
            return _NOT_STARTED
        silent = not loader_reason(text)
        return "check that this machine has an NVIDIA GPU with a driver (nvidia-smi), CUDA and cuDNN" if silent else ""
    if wheels.differ:
        return (
            f"{wheels.onnxruntime} is built for CUDA {wheels.onnxruntime_cuda}, {wheels.torch} for CUDA {wheels.torch_cuda}: "
            "libraries of one major do not serve the other, and wheels of both must not be mixed; install a torch for CUDA "
            f"{wheels.onnxruntime_cuda} or for the CPU, or an onnxruntime-gpu for CUDA {wheels.torch_cuda}"
        )
    major = f" {wheels.onnxruntime_cuda}" if wheels.onnxruntime_cuda else ""
    what = "cuDNN" if missing.name.startswith("cudnn") else f"CUDA{major}"
    torch = f", also with {wheels.torch} imported first" if "torch" in sys.modules and wheels.torch_cuda else ""
    broken = re.search(f"{NO_TORCH}.+", text)
    torch += f" ({broken.group()})" if broken else ""
    return (
        f"{missing.file} belongs to {what}, which was not found{torch}; install CUDA and cuDNN for it: "
        "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


def _about_card(text: str, cuda: int | None) -> str:
    """Say what is wrong with the driver or the card, if the text says that something is."""
    if _OLD_DRIVER.search(text):
        needs = f"CUDA {cuda}" if cuda else "this CUDA"
        return (
            f"the NVIDIA driver is older than {needs} needs: update it (nvidia-smi shows the newest CUDA that it serves), or "
            "install an onnxruntime-gpu for an older CUDA"
        )
    if _NO_CARD.search(text):
        return "no NVIDIA GPU can be seen: look at nvidia-smi, and at CUDA_VISIBLE_DEVICES"
    if _NO_SUCH_CARD.search(text):
        return (
            "there is no GPU of that number: look at {provider_option} device_id, at CUDA_VISIBLE_DEVICES, and at nvidia-smi "
            "for what there is"
        )
    if _CARD_BUSY.search(text):
        return "another program holds the GPU (nvidia-smi shows which): wait for it, or choose another GPU"
    if _OTHER_CARD.search(text):
        whose = f" for CUDA {cuda}" if cuda else ""
        return f"this onnxruntime-gpu{whose} was not built for this GPU: install one that was, or choose another GPU"
    return ""


def _install_tensorrt(missing: _Missing, wheels: Wheels) -> str:
    """Name the package that brings a library of TensorRT: its major stands in the file's name, CUDA's in the wheel."""
    version = f"TensorRT {missing.major}" if missing.major else "TensorRT"
    below = f"<{missing.major + 1}" if missing.major else ""
    if wheels.onnxruntime_cuda:
        package = f"pip install 'tensorrt-cu{wheels.onnxruntime_cuda}{below}'"
    else:
        package = f"pip install 'tensorrt-cu12{below}' or 'tensorrt-cu13{below}', whichever CUDA onnxruntime-gpu is built for"
    return (
        f"{missing.file} belongs to {version}, which is to be installed: {package}, with its folder tensorrt_libs on "
        "LD_LIBRARY_PATH"
    )


def _is_drivers(name: str) -> bool:
    return name in ("cuda", "nvcuda", "nvidia-ml")


def _is_tensorrts(name: str) -> bool:
    return name.startswith(("nvinfer", "nvonnxparser"))


def _torch() -> tuple[str, int | None]:
    """Return torch's name and version, and its CUDA major, as its files say: importing it takes seconds."""
    try:
        version = metadata.version("torch")
        spec = find_spec("torch")
        folder = Path(spec.origin).parent if spec is not None and spec.origin else None
        said = "" if folder is None else (folder / "version.py").read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError, ValueError, ImportError):
        return "", None
    cuda = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", said, re.MULTILINE)
    return f"torch {version}", _major(cuda.group(1)) if cuda else None


def _major(version: object) -> int | None:
    match = re.match(r"\d+", str(version or ""))
    return int(match.group()) if match else None
