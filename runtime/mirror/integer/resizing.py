"""Resize, rounded as ONNX Runtime's kernels round it."""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror.integer.kernel import straight_through
from qcam.runtime.mirror.integer.rounding import multiply_add
from qcam.runtime.mirror.operators.resizing import corners_of, linear
from qcam.runtime.mirror.operators.resizing import resize as simulated_resize
from qcam.runtime.mirror.registry import exact_operator


@exact_operator("Resize", versions=(11, 13, 18, 19))
@wraps(simulated_resize)
def resize(x: torch.Tensor, *inputs: torch.Tensor | None, family: KernelFamily, **attributes: Any) -> torch.Tensor:
    """Return x at other sizes; arguments as of the simulated operator."""
    interpolate = partial(_interpolated, fused=family.fused_batch_norm)
    result: torch.Tensor = simulated_resize(x, *inputs, **attributes, interpolate=interpolate)
    return result


def _interpolated(x: torch.Tensor, places: dict[int, NDArray[np.float32]], *, fused: bool) -> torch.Tensor:
    """Return values between four of an image, which may have its channels last; what has no two such axes is simulated.

    An axis that keeps its size is resized, too: its last value is taken in two halves. On ARM64, a product is added in one
    rounding to what is there, the first to the second.
    """
    axes = (0, 1) if x.dim() == 2 else (1, 2) if 1 in places else (2, 3)
    if x.dim() not in (2, 4) or not set(places) <= set(axes):
        return linear(x, places)
    with torch.no_grad():
        everywhere = {axis: places.get(axis, np.arange(x.shape[axis], dtype=np.float32)) for axis in axes}
        (weight, value), *others = corners_of(x.detach(), everywhere)
        if fused:
            (other, beside), *others = others
            exact = multiply_add(weight, value, other * beside)
        else:
            exact = weight * value
        for weight, value in others:
            exact = multiply_add(weight, value, exact) if fused else exact + weight * value
    return straight_through(linear(x, places), exact) if x.requires_grad else exact
