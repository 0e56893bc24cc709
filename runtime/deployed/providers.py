"""Execution providers by short name, and why one cannot be had."""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import metadata
from typing import Any

from qcam.common.errors import MissingExtraError, ProviderError

#: Short name → ONNX Runtime's name.
PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "TensorRT": "TensorrtExecutionProvider",
    "NvTensorRTRTX": "NvTensorRTRTXExecutionProvider",
    "OpenVINO": "OpenVINOExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "MIGraphX": "MIGraphXExecutionProvider",
    "QNN": "QNNExecutionProvider",
    "XNNPACK": "XnnpackExecutionProvider",
}
_EXTRA = {"CUDA": "cuda", "TensorRT": "cuda", "OpenVINO": "openvino", "CPU": "cpu"}
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def provider_name(text: str) -> str:
    """Return a provider's short name in its usual spelling, from any spelling or ONNX Runtime's own name.

    Raises:
        ProviderError: If there is none of that name.
    """
    for short, full in PROVIDERS.items():
        if text.lower() in (short.lower(), full.lower()):
            return short
    raise ProviderError(f"execution provider {text!r} is unknown; choose one of {', '.join(PROVIDERS)}")


def require_provider(short: str) -> str:
    """Check that the installed ONNX Runtime package contains a provider, before anything else is done.

    What is contained may still fail to load; only a session tells.

    Args:
        short: The provider's short name.

    Returns:
        ONNX Runtime's name for it.

    Raises:
        MissingExtraError: If no package is installed; says which to install.
        ProviderError: If it lacks the provider; likewise.
    """
    try:
        import onnxruntime
    except ImportError as error:
        extra = _EXTRA.get(short, "cpu")
        raise MissingExtraError(
            f'onnxruntime is not installed ({error}); install it with: pip install "qcam[{extra}]"'
        ) from error
    full = PROVIDERS[short]
    available = onnxruntime.get_available_providers()
    if full not in available:
        installed = [name for name in _PACKAGES if _is_installed(name)] or ["onnxruntime (from elsewhere)"]
        have = ", ".join(name for name, long in PROVIDERS.items() if long in available)
        message = f"the installed package {' and '.join(installed)} has no {short} provider, only {have}"
        if short in _EXTRA:
            remedy = f'pip uninstall -y {" ".join(installed)} && pip install "qcam[{_EXTRA[short]}]"'
            message += f"; the onnxruntime packages exclude each other: {remedy}"
        raise ProviderError(message)
    _require_placement(onnxruntime)
    if short in ("CUDA", "TensorRT") and hasattr(onnxruntime, "preload_dlls"):
        # CUDA's libraries from NVIDIA's Python packages, if they are installed, without LD_LIBRARY_PATH.
        with captured_output():
            onnxruntime.preload_dlls()
    return full


def explain_not_loaded(short: str, loader_messages: str) -> str:
    """Say why a provider that the package contains is not in the session, and what to install.

    Args:
        short: The provider's short name.
        loader_messages: What ONNX Runtime wrote to standard error meanwhile.
    """
    reason = _loader_reason(loader_messages)
    message = f"the {short} provider could not be loaded, ONNX Runtime would silently have used the CPU instead"
    message += f"; its loader says: {reason}" if reason else "; its loader gave no reason"
    missing = re.search(r"(lib(?:cublas|cudnn|cudart|cufft|curand|nvrtc|nvinfer)[\w.]*)", reason)
    if missing:
        what = "TensorRT" if "nvinfer" in missing.group(1) else "CUDA and cuDNN"
        remedy = "see its installation guide" if what == "TensorRT" else "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        message += f"; {missing.group(1)} belongs to {what}, which is to be installed ({remedy})"
    elif short in ("CUDA", "TensorRT"):
        message += "; check that this machine has an NVIDIA GPU with a driver (nvidia-smi), CUDA and cuDNN"
    return message + "; or use {provider} CPU, or {allow_fallback} to go on all the same"


def _loader_reason(text: str) -> str:
    """Pick the loader's own sentence out of log lines, without time stamps and file names."""
    lines = [_TERMINAL_COLOUR.sub("", line).strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        match = re.search(r"with error:\s*(.+)", line) or re.search(r"(CUDA failure.+|CUDA error.+|cudaError\w+.*)", line)
        if match:
            return match.group(1).strip()[:300]
    for line in lines:
        match = re.search(r"\]\s*(.+)$", line)
        if match:
            return match.group(1).strip()[:300]
    return lines[0][:300] if lines else ""


def _require_placement(onnxruntime: Any) -> None:
    """Refuse a package that does not tell which node it put where: that a run is what was asked for could not be shown.

    Raises:
        ProviderError: Names the package, and the first version that does.
    """
    own = onnxruntime.capi.onnxruntime_inference_collection.InferenceSession
    if not hasattr(own, "get_provider_graph_assignment_info"):
        name = next((name for name in _PACKAGES if _is_installed(name)), "onnxruntime")
        raise ProviderError(
            f"{name} {onnxruntime.__version__} does not tell which node runs on which provider, so that none could be shown "
            f'to be where it was asked for; from 1.24 on it does: pip install "{name}>=1.24"'
        )


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


@contextmanager
def captured_output() -> Iterator[list[str]]:
    """Collect what C++ code writes to standard error while the block runs, and hold back what Python code prints.

    ONNX Runtime tells nowhere else why a provider did not load.

    Yields:
        A list that holds the text once the block has ended.
    """
    text: list[str] = []
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no standard error at all
        yield text
        return
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            with redirect_stdout(io.StringIO()):
                yield text
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            stream.seek(0)
            text.append(stream.read().decode(errors="replace"))
