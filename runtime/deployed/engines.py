"""What TensorRT is told: shapes it builds an engine for, 8 bits, and where it keeps the engine.

TensorRT times its kernels while it builds an engine: two builds of one file may compute in other kernels, and give other bits.
So an engine is kept, and a run that goes on finds the one it began with. It is found again by all that it was built from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qcam.common.errors import QcamError
from qcam.common.files import fingerprint
from qcam.common.machine import installed
from qcam.common.storage import cache_folder
from qcam.runtime.gpu import Gpu

#: Packages whose version decides what is built.
_PACKAGES = (
    "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-cu12-libs", "tensorrt-cu13-libs",
    "tensorrt-rtx",
)  # fmt: skip


def profile_shapes(inputs: Mapping[str, Sequence[int]], batch: int, image: Sequence[int], prefix: str) -> dict[str, str]:
    """Return for which shapes an engine is built: batches of 1 up to the one that runs, for which it is made fast.

    Args:
        inputs: Input of the graph → its sizes, 0 where one is left open.
        batch: The largest batch that will run.
        image: Channels, height and width.
        prefix: What the options begin with: trt or nv.

    Returns:
        Options; none where the graph fixes its batch itself.
    """
    if any(sizes and sizes[0] > 0 for sizes in inputs.values()):
        return {}
    bounds = {"min": 1, "opt": batch, "max": batch}
    return {
        f"{prefix}_profile_{which}_shapes": ",".join(f"{name}:{'x'.join(map(str, (size, *image)))}" for name in inputs)
        for which, size in bounds.items()
    }


def engine_folder(sha256: str, gpu: Gpu, told: Mapping[str, str], *, tf32: bool) -> Path:
    """Return where engines of one file on one GPU, built by the same versions with the same options, are kept.

    Args:
        sha256: Of the file.
        gpu: The GPU.
        told: What the provider is told otherwise.
        tf32: Whether TF32 is allowed.

    Raises:
        QcamError: If the folder cannot be made.
    """
    gpu_key = {key: value for key, value in gpu.to_json().items() if key in ("name", "capability", "driver")}
    key = fingerprint([sha256, gpu_key, installed(_PACKAGES), dict(told), tf32])
    folder = cache_folder("tensorrt") / key[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QcamError(
            f"cannot keep TensorRT's engines in {folder}: {error.strerror}; set QCAM_CACHE to a folder that can be written"
        ) from error
    return folder


def engine_options(folder: Path) -> dict[str, str]:
    """Return the options that keep an engine, and the times of its kernels, in a folder."""
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
