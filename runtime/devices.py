"""Where PyTorch computes, and that it computes there the same each time."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qcam.common import machine
from qcam.common.arguments import whole
from qcam.common.errors import OutOfMemoryError, ProviderError, first_line
from qcam.common.extras import naming_extras
from qcam.common.vocabulary import Device, require
from qcam.runtime.tf32 import refuse_tf32_override

#: What makes cuBLAS repeat itself; it is read when PyTorch first uses the GPU. The first is taken where nothing is said.
_CUBLAS, _REPEATABLE = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")

#: What errors of a full GPU say that are not of PyTorch's own kind: those of CUDA and its libraries.
_FULL = re.compile(r"CUDA error: out of memory|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED")


def torch_device(wanted: str, threads: int, *, tf32: bool = False, index: int = 0) -> str:
    """Set PyTorch up and return its device: cpu or cuda.

    On a GPU it computes float32 in float32 unless TF32 is allowed, whatever PyTorch's default is (its convolutions take TF32),
    and takes kernels that give the same bits each time. Both are settings of the whole process.

    Args:
        wanted: One of `Device`.
        threads: PyTorch's threads.
        tf32: Whether a GPU may compute float32 products in TF32.
        index: Which GPU, of those that this process sees.

    Raises:
        QcamError: If there is no such device, or the number of threads is none from 1.
        ProviderError: If the device cannot be had, or not as asked for.
        MissingExtraError: If PyTorch is not installed.
    """
    device = require(Device, wanted, "device")
    threads = whole(threads, "{threads}")
    machine.let_idle_threads_rest()
    machine.keep_freed_memory()
    repeatable = os.environ.get(_CUBLAS)
    if device != Device.CPU:
        os.environ.setdefault(_CUBLAS, _REPEATABLE[0])
    with naming_extras("the mirror"):
        import torch
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == Device.CUDA and not available:
        raise ProviderError("device cuda: PyTorch finds no CUDA device; use device cpu")
    if device == Device.CPU or not available:
        return "cpu"
    if repeatable is not None and repeatable not in _REPEATABLE:
        raise ProviderError(
            f"{_CUBLAS}={repeatable} lets cuBLAS give other bits each time; unset it, or choose {' or '.join(_REPEATABLE)}"
        )
    _set_up_gpu(torch, tf32=tf32, index=index)
    return "cuda"


def numbered(device: str, index: int) -> str:
    """Return a device with its number: a GPU that is PyTorch's current one is that of one thread only.

    Args:
        device: What `torch_device` returned.
        index: Which GPU, of those that this process sees.
    """
    return f"{device}:{index}" if device == "cuda" else device


def gpu_is_full(error: BaseException) -> bool:
    """Tell whether an error says that PyTorch's memory on a GPU is full; PyTorch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.cuda.OutOfMemoryError) or bool(_FULL.search(str(error)))


@contextmanager
def telling_full_gpu(remedy: str) -> Iterator[None]:
    """Make an error of a full GPU in PyTorch one that the user can mend; a decorator as well.

    Args:
        remedy: What to do, with tokens for options (`wording`).

    Raises:
        OutOfMemoryError: If PyTorch's memory on the GPU is full.
    """
    try:
        yield
    except RuntimeError as error:
        if not gpu_is_full(error):
            raise
        raise OutOfMemoryError(f"PyTorch's memory on the GPU is full ({first_line(error)}); take {remedy}") from error


def tf32_in_torch() -> bool:
    """Tell whether PyTorch may compute in TF32; it has been imported."""
    import torch

    return bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)


def _set_up_gpu(torch: Any, *, tf32: bool, index: int) -> None:
    """Make a GPU PyTorch's current one, its arithmetic what was asked for, and its kernels repeatable.

    Raises:
        ProviderError: If there is no such GPU, or something makes PyTorch take TF32 all the same.
    """
    refuse_tf32_override(tf32=tf32)
    count = torch.cuda.device_count()
    if index >= count:
        raise ProviderError(f"{{provider_option}} device_id={index}: PyTorch finds {count} GPUs, counted from 0")
    torch.cuda.set_device(index)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if not tf32 and tf32_in_torch():
        raise ProviderError("PyTorch computes in TF32 although it was told not to; allow it by {tf32}, or use device cpu")
