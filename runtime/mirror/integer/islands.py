"""Float operators between integer ones, rounded as ONNX Runtime rounds them.

Only what a following QuantizeLinear can tell apart has a place here; other float operators are the mirror's own.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror.integer.elementwise import logistic
from qcam.runtime.mirror.integer.kernel import straight_through
from qcam.runtime.mirror.integer.rounding import multiply_add
from qcam.runtime.mirror.integer.summation import lane_sums, row_sums, square_sums
from qcam.runtime.mirror.operators.normalization import instance_normalization as simulated_instance_normalization
from qcam.runtime.mirror.operators.normalization import layer_normalization as simulated_layer_normalization
from qcam.runtime.mirror.operators.pooling import average_pool as simulated_average_pool
from qcam.runtime.mirror.operators.pooling import global_average_pool as simulated_global_average_pool
from qcam.runtime.mirror.registry import exact_operator

#: Least and largest size of a value that is a normal number as its reciprocal is.
_NORMAL = (2.0**-126, 2.0**126)


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
        return multiply_add(x, factor, offset)
    result: torch.Tensor = x * factor + offset
    return result


@exact_operator("LayerNormalization", versions=(17,))
def layer_normalization(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    family: KernelFamily,
) -> torch.Tensor:
    """Normalize over the axes from `axis` on, by one of two kernels.

    Eight values or more on x86: the mean is rounded once; squares of differences from it are added in eight lanes, each step in
    one rounding, the lanes by halves, then what is left; a value is (x - mean) · (1 / deviation) · scale + bias, the last
    product and sum in one rounding. Else mean and squares are updated value by value (Welford 1962), and a value is
    (x - mean) / deviation · scale + bias.

    Raises:
        UnsupportedGraphError: If means and deviations are not of float32.
    """
    if stash_type != 1:
        raise UnsupportedGraphError(f"LayerNormalization with stash_type {stash_type} is not supported; only 1 (float32) is")
    if x.dtype != torch.float32:
        other: torch.Tensor = simulated_layer_normalization(x, scale, bias, axis=axis, epsilon=epsilon)
        return other
    with torch.no_grad():
        rows = x.detach().reshape(-1, x.shape[axis:].numel())
        factors, offsets = scale.detach().reshape(-1), None if bias is None else bias.detach().reshape(-1)
        tiny = float(np.float32(epsilon))
        if family.normalises_eight and rows.shape[1] >= 8:
            exact = _normalised_by_eights(rows, factors, offsets, tiny)
        else:
            exact = _normalised_in_turn(rows, factors, offsets, tiny, fused=family.fused_batch_norm)
        exact = exact.reshape(x.shape)
    if not x.requires_grad:
        return exact
    return straight_through(simulated_layer_normalization(x, scale, bias, axis=axis, epsilon=epsilon), exact)


def _normalised_by_eights(rows: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    length = rows.shape[1]
    left = rows - rows.double().mean(dim=1, keepdim=True).float()
    lanes = rows.new_zeros(len(rows), 8)
    whole, fours = length // 8 * 8, length // 4 * 4
    for start in range(0, whole, 8):
        eight = left[:, start : start + 8]
        lanes = multiply_add(eight, eight, lanes)
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    squares = lanes[:, 0]
    for column in range(whole, length):  # of seven that are left compilers take four at a time, in two roundings each
        value = left[:, column]
        squares = squares + value * value if column < fours else multiply_add(value, value, squares)
    inverse = _deviation(squares, length, epsilon).reciprocal()[:, None]
    scaled = left * inverse
    return scaled * scale if bias is None else multiply_add(scaled, scale, bias)


def _normalised_in_turn(
    rows: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, epsilon: float, *, fused: bool
) -> torch.Tensor:
    mean, squares = rows.new_zeros(len(rows)), rows.new_zeros(len(rows))
    for column in range(rows.shape[1]):
        value = rows[:, column]
        before = value - mean
        mean = mean + before / mean.new_tensor(column + 1.0)  # by a number, PyTorch would multiply by its reciprocal
        behind = value - mean
        squares = multiply_add(before, behind, squares) if fused else squares + before * behind
    scaled = (rows - mean[:, None]) / _deviation(squares, rows.shape[1], epsilon)[:, None]
    if bias is None:
        return scaled * scale
    return multiply_add(scaled, scale, bias) if fused else scaled * scale + bias


@exact_operator("InstanceNormalization", versions=(6, 22))
def instance_normalization(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, epsilon: float = 1e-5, family: KernelFamily
) -> torch.Tensor:
    """Normalize each channel of each image over its positions.

    Its mean is added up as that of a row, and so are squares of differences from it, as if the row began at a boundary. A value
    is x · s + (bias - mean · s), s = (1 / deviation) · scale; on ARM64 each product and sum are rounded once.
    """
    if x.dtype != torch.float32 or not x.numel():
        other: torch.Tensor = simulated_instance_normalization(x, scale, bias, epsilon=epsilon)
        return other
    with torch.no_grad():
        rows = x.detach().reshape(x.shape[0] * x.shape[1], -1)
        length = rows.new_tensor(float(rows.shape[1]))
        mean = row_sums(rows, neighbours=family.adds_neighbours) / length
        squares = square_sums(rows - mean[:, None], neighbours=family.adds_neighbours, fused=family.fused_batch_norm)
        inverse = _deviation(squares, rows.shape[1], float(np.float32(epsilon))).reciprocal()
        factor = inverse * scale.detach().repeat(len(x))
        shift = bias.detach().repeat(len(x))
        if family.fused_batch_norm:
            exact = multiply_add(rows, factor[:, None], multiply_add(-mean, factor, shift)[:, None])
        else:
            exact = rows * factor[:, None] + (shift - mean * factor)[:, None]
        exact = exact.reshape(x.shape)
    if not x.requires_grad:
        return exact
    return straight_through(simulated_instance_normalization(x, scale, bias, epsilon=epsilon), exact)


def _deviation(squares: torch.Tensor, length: int, epsilon: float) -> torch.Tensor:
    # PyTorch's own square root of float32 is not always correctly rounded.
    return (squares / squares.new_tensor(float(length)) + epsilon).double().sqrt().float()


@exact_operator("HardSigmoid", versions=(6, 22))
def hard_sigmoid(x: torch.Tensor, *, alpha: float = 0.2, beta: float = 0.5, family: KernelFamily) -> torch.Tensor:
    """clamp(alpha · x + beta, 0, 1), the product and the sum rounded each, or once."""
    slope, offset = (float(np.float32(value)) for value in (alpha, beta))
    simulated = (x * slope + offset).clamp(0, 1)
    if not family.fused_batch_norm or x.dtype != torch.float32:
        return simulated
    exact = multiply_add(x.detach(), x.new_tensor(slope), x.new_tensor(offset)).clamp(0, 1)
    return straight_through(simulated, exact) if x.requires_grad else exact


@exact_operator("GlobalAveragePool", versions=(1, 22))
def global_average_pool(x: torch.Tensor, *, family: KernelFamily) -> torch.Tensor:
    """Mean over all positions of each channel: four lanes take turns, then they are added, then what is left."""
    if x.dtype != torch.float32 or not x.numel():
        other: torch.Tensor = simulated_global_average_pool(x)
        return other
    with torch.no_grad():
        rows = x.detach().reshape(x.shape[0] * x.shape[1], -1)
        sums = lane_sums(rows, neighbours=family.adds_neighbours)
        exact = (sums / sums.new_tensor(float(rows.shape[1]))).reshape(*x.shape[:2], *[1] * (x.dim() - 2))
    return straight_through(simulated_global_average_pool(x), exact) if x.requires_grad else exact


@exact_operator("AveragePool", versions=(1, 7, 10, 11, 19, 22))
@wraps(simulated_average_pool)
def average_pool(x: torch.Tensor, *, family: KernelFamily, **attributes: Any) -> torch.Tensor:
    """Mean over windows, value by value, then divided, as PyTorch's own operator has it: alike on all families."""
    result: torch.Tensor = simulated_average_pool(x, **attributes)
    return result


@exact_operator("Reciprocal", versions=(6, 13))
def reciprocal(x: torch.Tensor, *, family: KernelFamily) -> torch.Tensor:
    """1 / x; on ARM64 NEON's own estimate, twice refined, in whole vectors of the tensor as it lies in memory, channels first.

    Of values that are no normal number, or the reciprocal of none, it is 1 / x everywhere here.
    """
    simulated = x.reciprocal()
    if not family.fused_batch_norm or x.dtype != torch.float32:
        return simulated
    values = x.detach().cpu().contiguous()
    sizes = values.abs()
    normal = (sizes >= _NORMAL[0]) & (sizes <= _NORMAL[1])
    found = _neon_reciprocal(torch.where(normal, sizes, 1).flatten().numpy()).reshape(values.shape)
    exact = torch.where(normal, torch.from_numpy(found).copysign(values), values.reciprocal()).to(x.device)
    return straight_through(simulated, exact) if x.requires_grad else exact


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
