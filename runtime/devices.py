"""Where PyTorch computes."""

from __future__ import annotations

from qcam.common import machine
from qcam.common.arguments import whole
from qcam.common.errors import ProviderError
from qcam.common.extras import naming_extras
from qcam.common.vocabulary import Device, require


def torch_device(wanted: str, threads: int) -> str:
    """Set PyTorch up and return its device: cpu or cuda.

    Args:
        wanted: One of `Device`.
        threads: PyTorch's threads.

    Raises:
        QcamError: If there is no such device, or the number of threads is none from 1.
        ProviderError: If the device cannot be had.
        MissingExtraError: If PyTorch is not installed.
    """
    device = require(Device, wanted, "device")
    threads = whole(threads, "{threads}")
    machine.let_idle_threads_rest()
    with naming_extras("the mirror"):
        import torch
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == Device.CUDA and not available:
        raise ProviderError("device cuda: PyTorch finds no CUDA device; use device cpu")
    return "cuda" if device != Device.CPU and available else "cpu"
