"""QLinearAveragePool and QLinearGlobalAveragePool."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.integer.kernel import EXACT_BELOW, Kernel, Setting, kernel, limits, requantize, stored_type
from qcam.runtime.mirror.operators.padding import resolve_pads
from qcam.runtime.mirror.operators.pooling import as_rows, with_ceil


@kernel("AveragePool")
def average_pool(setting: Setting) -> Kernel:
    """clamp(rne(f32 mean / y_scale + y_zp)): the values are dequantized and added row by row in float32.

    A window that covers the whole image is a global pool, to ONNX Runtime too.
    """
    (x,), output, attributes = setting.inputs, setting.output, dict(setting.attributes)
    sequences = len(attributes["kernel_shape"]) == 1
    if sequences:  # images of one row
        names = ("kernel_shape", "dilations", "pads", "strides")
        attributes |= as_rows({name: attributes.get(name) for name in names})
    window = list(attributes["kernel_shape"])
    if len(window) != 2 or set(attributes.get("dilations") or [1]) != {1}:
        raise UnsupportedGraphError(
            f"the mirror's QLinearAveragePool takes plain windows of images only, at {setting.group.label}"
        )
    stride = list(attributes.get("strides") or [1, 1])
    include = bool(attributes.get("count_include_pad", 0))
    zero, scale = int(x.zero_point), float(x.scale)
    step, offset = float(output.scale), int(output.zero_point)
    low, high = limits(output)
    # What 32 bits do not hold becomes the lowest code, as an x86 converts it (CVTSS2SI).
    wraps = not setting.family.fixed_point_add and 256 * scale / step > 2.0**30
    whole = global_average_pool(setting)

    def run(codes: torch.Tensor) -> torch.Tensor:
        return of_images(codes.unsqueeze(2)).squeeze(2) if sequences else of_images(codes)

    def of_images(codes: torch.Tensor) -> torch.Tensor:
        size = list(codes.shape[2:])
        explicit = resolve_pads(attributes.get("auto_pad", "NOTSET"), attributes.get("pads"), size, window, stride)
        if size == window and not any(explicit):
            return whole(codes)
        padding = with_ceil(codes, explicit, window, stride, int(attributes.get("ceil_mode", 0)))
        values = codes.to(torch.float32).sub_(zero).mul_(scale)
        inside = torch.ones((1, 1, *size), dtype=values.dtype, device=values.device)
        values, inside = F.pad(values, padding), F.pad(inside, padding)
        height = (values.shape[2] - window[0]) // stride[0] + 1
        width = (values.shape[3] - window[1]) // stride[1] + 1
        total = torch.zeros((*values.shape[:2], height, width), dtype=values.dtype, device=values.device)
        count = torch.zeros((1, 1, height, width), dtype=values.dtype, device=values.device)
        for row in range(window[0]):
            for column in range(window[1]):
                rows = slice(row, row + (height - 1) * stride[0] + 1, stride[0])
                columns = slice(column, column + (width - 1) * stride[1] + 1, stride[1])
                total += values[:, :, rows, columns]
                count += inside[:, :, rows, columns]
        if include:  # the whole window, even where it reaches behind the padding because of ceil_mode
            count = torch.full_like(count, window[0] * window[1])
        total = total.div_(count).div_(step).add_(offset).round_()
        if wraps:
            total[~(total < 2.0**31)] = low
        return total.clamp_(low, high).to(stored_type(output))

    return run


@kernel("GlobalAveragePool")
def global_average_pool(setting: Setting) -> Kernel:
    """rne(clamp(f32(acc) · mult)) + zp, acc = sum (x - x_zp), mult = x_scale / (y_scale · positions) in float32."""
    (x,), output = setting.inputs, setting.output
    zero = int(x.zero_point)

    def run(codes: torch.Tensor) -> torch.Tensor:
        axes = tuple(range(2, codes.dim()))
        positions = math.prod(codes.shape[2:])
        multiplier = x.scale / (output.scale * np.float32(positions))
        kind = torch.float64 if positions * 255 >= EXACT_BELOW else torch.float32
        total = codes.sum(dim=axes, keepdim=True, dtype=kind).sub_(zero * positions)
        return requantize(total.float().mul_(float(multiplier)), output)

    return run
