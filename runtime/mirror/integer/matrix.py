"""QGemm, QLinearMatMul and MatMulIntegerToFloat: exact int32 sums, then one multiplication in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.integer.accumulate import ExactSum
from qcam.runtime.mirror.integer.convolution import bias_codes, centred, saturation_of
from qcam.runtime.mirror.integer.kernel import Kernel, Setting, kernel, limits, multipliers, requantize
from qcam.runtime.mirror.integer.products import matrix
from qcam.runtime.mirror.integer.saturation import HIGHEST, LOWEST


@kernel("Gemm")
def gemm(setting: Setting) -> Kernel:
    """As QLinearConv; without an output scale f32(acc) · (alpha · a_scale · b_scale), float32."""
    raw = setting.constant(1)
    if raw is None or raw.ndim != 2:
        raise UnsupportedGraphError(f"the mirror's QGemm needs a constant matrix, at {setting.group.label}")
    (a, b), output = setting.inputs[:2], setting.group.output
    weight = centred(raw, b)
    if not setting.attributes.get("transB", 0):
        raw, weight = raw.T, weight.T
    zero = int(a.zero_point)
    low, high = limits(a)
    bias = bias_codes(setting, raw.shape[0])
    weight = np.ascontiguousarray(weight)
    sums = ExactSum(weight, bias, low - zero, high - zero, matrix(zero, setting.device), setting.device, cuttable=True)
    scaled_a = replace(a, scale=np.float32(setting.attributes.get("alpha", 1.0)) * a.scale)
    multiplier = setting.tensor(np.broadcast_to(multipliers(scaled_a, b, output), raw.shape[:1]))
    saturation = saturation_of(setting, raw[:, :, None, None])
    transposed = bool(setting.attributes.get("transA", 0))

    def run(codes: torch.Tensor) -> torch.Tensor:
        codes = codes.T.contiguous() if transposed else codes
        if saturation is None:
            total = sums(codes)
        else:
            exact = saturation.with_room(sums.exact(codes), sums.reach)
            saturation.add_to_product(exact, codes)
            total = sums.with_bias(exact)
        scaled = total * multiplier
        return scaled if output is None else requantize(scaled, output)

    return run


@kernel("MatMul")
def matmul(setting: Setting) -> Kernel:
    """As QLinearConv without bias; operands may both be activations, batched like numpy.matmul."""
    a, b = setting.inputs[:2]
    output = setting.group.output
    constants = [setting.constant(0), setting.constant(1)]
    raw = constants[1]
    multiplier = setting.tensor(np.asarray(multipliers(a, b, output)))  # per column, if at all
    if raw is not None and raw.ndim == 2 and constants[0] is None:
        weight = np.ascontiguousarray(centred(raw, b).T)
        zero = int(a.zero_point)
        low, high = limits(a)
        sums = ExactSum(weight, None, low - zero, high - zero, matrix(zero, setting.device), setting.device, cuttable=False)
        saturation = saturation_of(setting, np.ascontiguousarray(raw.T)[:, :, None, None])

        def run_constant(codes: torch.Tensor) -> torch.Tensor:
            if saturation is None:
                total = sums(codes)
            else:
                flat = saturation.with_room(sums.exact(codes), sums.reach).reshape(-1, weight.shape[0])
                saturation.add_to_product(flat, codes.reshape(-1, weight.shape[1]))
                total = sums.with_bias(flat).reshape(*codes.shape[:-1], weight.shape[0])
            scaled = total * multiplier
            return scaled if output is None else requantize(scaled, output)

        return run_constant
    if b.scale.size != 1:
        raise UnsupportedGraphError(
            f"the mirror's QLinearMatMul of two activations takes one scale each, at {setting.group.label}"
        )
    held = [None if value is None else setting.tensor(value.astype(np.float64)) for value in constants]

    saturates = setting.family.pairs_saturate and a.dtype == np.uint8 and b.dtype == np.int8

    def run(*codes: torch.Tensor) -> torch.Tensor:
        rest = iter(codes)
        left, right = (next(rest).double() if value is None else value for value in held)
        total = torch.matmul(left - int(a.zero_point), right - int(b.zero_point)).round_()
        if saturates:
            total += _lost_in_pairs(left, right)
        scaled = ExactSum.rounded(total) * multiplier
        return scaled if output is None else requantize(scaled, output)

    return run


def _lost_in_pairs(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return what saturation of each pair of products changes at a product of two matrices of raw codes."""
    lost: torch.Tensor = torch.zeros((), dtype=left.dtype, device=left.device)
    for k in range(0, left.shape[-1] - 1, 2):
        pair = left[..., k, None] * right[..., None, k, :] + left[..., k + 1, None] * right[..., None, k + 1, :]
        lost = lost + (pair.clamp(LOWEST, HIGHEST) - pair)
    return lost
