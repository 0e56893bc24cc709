"""Where PyTorch computes."""

from __future__ import annotations

from qcam.common import machine
from qcam.common.errors import QcamError
from qcam.common.extras import naming_extras
from qcam.common.vocabulary import Device, require


def torch_device(wanted: str, threads: int) -> str:
    """Set PyTorch up and return its device: cpu or cuda.

    Args:
        wanted: One of `Device`.
        threads: PyTorch's threads.

    Raises:
        QcamError: If there is no such device, PyTorch is not installed, or the device cannot be had.
    """
    device = require(Device, wanted, "device")
    machine.let_idle_threads_rest()
    with naming_extras("the mirror"):
        import torch
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == Device.CUDA and not available:
        raise QcamError("device cuda: PyTorch finds no CUDA device; use device cpu")
    return "cuda" if device != Device.CPU and available else "cpu"
