"""Float operators between integer ones, rounded as ONNX Runtime rounds them.

Only what a following QuantizeLinear can tell apart has a place here; other float operators are the mirror's own.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror.integer.elementwise import logistic
from qcam.runtime.mirror.integer.kernel import straight_through
from qcam.runtime.mirror.integer.summation import column_sums, map_sums, row_sums
from qcam.runtime.mirror.registry import exact_operator


@exact_operator("BatchNormalization", versions=(9, 14, 15))
def batch_normalization(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    family: KernelFamily,
) -> torch.Tensor:
    """Return x · s + (bias - mean · s), s = (1 / sqrt(variance + epsilon)) · scale, each step rounded to float32.

    On ARM64 the reciprocal is NEON's own estimate, twice refined, and x · s + … is rounded once.
    """
    if training_mode:
        raise UnsupportedGraphError("BatchNormalization in training mode is not supported; export the model in evaluation mode")
    shape = [1, -1, *[1] * (x.dim() - 2)]
    # The square root in float64, rounded: PyTorch's own in float32 is not always correctly rounded.
    deviation = (variance + float(np.float32(epsilon))).double().sqrt().float()
    inverse = deviation.reciprocal()
    if family.fused_batch_norm:
        inverse = torch.from_numpy(_neon_reciprocal(deviation.cpu().numpy())).to(x.device)
    factor = inverse * scale
    offset = (bias - mean * factor).reshape(shape)
    factor = factor.reshape(shape)
    if family.fused_batch_norm:
        fused: torch.Tensor = (x.double() * factor.double() + offset.double()).float()
        return fused
    result: torch.Tensor = x * factor + offset
    return result


@exact_operator("ReduceMean", versions=(1, 11, 13, 18))
def reduce_mean(
    x: torch.Tensor,
    axes_input: torch.Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
    channels_last: bool = False,
    family: KernelFamily,
) -> torch.Tensor:
    """Arithmetic mean over axes: in the kernel's own order over axes side by side, else in float64, rounded.

    With `channels_last`, x is batch × channels × height × width, and the kernel has its channels last.
    """
    named = axes_input.tolist() if axes_input is not None else list(axes or [])
    if not named and noop_with_empty_axes:
        return x
    chosen = sorted({int(axis) % x.dim() for axis in named}) if named else list(range(x.dim()))
    ordered = x.dtype == torch.float32 and 0 < len(chosen) < x.dim() and chosen == list(range(chosen[0], chosen[-1] + 1))
    if ordered and (channels_last or chosen[-1] < x.dim() - 1):
        columns = x.shape[1] if channels_last else x.shape[chosen[-1] + 1 :].numel()
        ordered = columns > 1  # of a single one it is another product
    if not ordered or x.requires_grad:
        true = x.double().mean(dim=chosen, keepdim=bool(keepdims)).float()
        if not ordered:
            return true
    with torch.no_grad():
        sums = _sums_over(x.detach(), chosen[0], len(chosen), family, channels_last=channels_last)
        shape = [1 if axis in chosen else size for axis, size in enumerate(x.shape) if keepdims or axis not in chosen]
        exact = (sums / math.prod(x.shape[axis] for axis in chosen)).reshape(shape)
    return straight_through(true, exact) if x.requires_grad else exact


def _sums_over(x: torch.Tensor, first: int, count: int, family: KernelFamily, *, channels_last: bool) -> torch.Tensor:
    """Return the sums over `count` axes from the first on, one after the other; arguments otherwise as of `reduce_mean`."""
    if channels_last and (x.dim(), first, count) == (4, 2, 2):
        return column_sums(x.permute(0, 2, 3, 1).flatten(1, 2), in_fours=family.adds_in_fours)
    if first + count < x.dim():
        tables = x.reshape(math.prod(x.shape[:first]), -1, math.prod(x.shape[first + count :]))
        return column_sums(tables, in_fours=family.adds_in_fours)
    if x.dim() == 4 and (first, count) == (2, 2):
        return map_sums(x, neighbours=family.adds_neighbours)
    return row_sums(x.reshape(math.prod(x.shape[:first]), -1), neighbours=family.adds_neighbours)


@exact_operator("GlobalAveragePool", versions=(1, 22))
def global_average_pool(x: torch.Tensor, *, family: KernelFamily) -> torch.Tensor:
    """Mean over all positions of each channel, in float64, rounded."""
    return x.double().mean(dim=tuple(range(2, x.dim())), keepdim=True).float()


@exact_operator("Sigmoid", versions=(6, 13))
def sigmoid(x: torch.Tensor, *, family: KernelFamily) -> torch.Tensor:
    """The logistic function as ONNX Runtime approximates it; its gradient is the true one's."""
    approximated = torch.from_numpy(logistic(x.detach().cpu().numpy())).to(x.device)
    return straight_through(torch.sigmoid(x), approximated) if x.requires_grad else approximated


def _neon_reciprocal(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / values as Eigen computes it with NEON: an estimate of 8 bits (FRECPE), two Newton steps, whole vectors only.

    Args:
        values: float32, positive, channels; the last ones that fill no vector of four are divided as usual.
    """
    result: NDArray[np.float32] = np.float32(1) / values
    whole = len(values) // 4 * 4
    vectors = values[:whole]
    bits = vectors.view(np.uint32).astype(np.int64)
    fraction = 256 + ((bits >> 15) & 0xFF)
    estimate = (2**19 // (2 * fraction + 1) + 1) // 2
    found = (((253 - (bits >> 23 & 0xFF)) << 23) | ((estimate - 256) << 15)).astype(np.uint32).view(np.float32)
    for _ in range(2):  # FRECPS rounds 2 - v · r once
        found = (2 - vectors.astype(np.float64) * found.astype(np.float64)).astype(np.float32) * found
    result[:whole] = found
    return result
