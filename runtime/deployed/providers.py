"""Execution providers by short name, and why one cannot be had."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
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
#: ONNX Runtime's packages; they exclude each other.
ONNXRUNTIME_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")


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
        installed = [name for name in ONNXRUNTIME_PACKAGES if _is_installed(name)] or ["onnxruntime (from elsewhere)"]
        have = ", ".join(name for name, long in PROVIDERS.items() if long in available)
        message = f"the installed package {' and '.join(installed)} has no {short} provider, only {have}"
        if short in _EXTRA:
            remedy = f'pip uninstall -y {" ".join(installed)} && pip install "qcam[{_EXTRA[short]}]"'
            message += f"; the onnxruntime packages exclude each other: {remedy}"
        raise ProviderError(message)
    _require_placement(onnxruntime)
    return full


def preload(short: str) -> str:
    """Load CUDA's libraries from NVIDIA's Python packages, if they are installed and needed, without LD_LIBRARY_PATH.

    Args:
        short: The provider's short name.

    Returns:
        What ONNX Runtime said of those that it found nowhere; empty if of none.
    """
    import onnxruntime

    if short not in ("CUDA", "TensorRT") or not hasattr(onnxruntime, "preload_dlls"):
        return ""
    with captured_output() as said:
        onnxruntime.preload_dlls()
    return said.text


def _require_placement(onnxruntime: Any) -> None:
    """Refuse a package that does not tell which node it put where: that a run is what was asked for could not be shown.

    Raises:
        ProviderError: Names the package, and the first version that does.
    """
    own = onnxruntime.capi.onnxruntime_inference_collection.InferenceSession
    if not hasattr(own, "get_provider_graph_assignment_info"):
        name = next((name for name in ONNXRUNTIME_PACKAGES if _is_installed(name)), "onnxruntime")
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


@dataclass
class Captured:
    """What was written while a block ran; empty until the block has ended.

    Attributes:
        errors: What C++ and Python code wrote to standard error.
        printed: What Python code printed.
    """

    errors: str = ""
    printed: str = ""

    @property
    def text(self) -> str:
        """Return both, what was printed last."""
        return "\n".join(filter(None, (self.errors.strip(), self.printed.strip())))


@contextmanager
def captured_output() -> Iterator[Captured]:
    """Collect what C++ code writes to standard error while the block runs, and what Python code prints.

    ONNX Runtime tells nowhere else why a provider did not load, and its Python code prints that another one takes its place.

    Yields:
        What holds both once the block has ended.
    """
    captured, printed = Captured(), io.StringIO()
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no standard error at all
        try:
            with redirect_stdout(printed):
                yield captured
        finally:
            captured.printed = printed.getvalue()
        return
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            with redirect_stdout(printed):
                yield captured
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            stream.seek(0)
            captured.errors = stream.read().decode(errors="replace")
            captured.printed = printed.getvalue()
