"""Pooling: maximum and average, over windows and over the whole map."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.operators.padding import resolve_pads
from qcam.runtime.mirror.registry import operator


@operator("MaxPool", versions=(1, 8, 10, 11, 12, 22))
def max_pool(
    x: torch.Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
) -> torch.Tensor:
    """Maximum over windows of images, or of sequences; padding never wins."""
    if len(kernel_shape) == 1:  # a sequence is an image of one row
        row = as_rows(dict(kernel_shape=kernel_shape, dilations=dilations, pads=pads, strides=strides))
        of_row: torch.Tensor = max_pool(x.unsqueeze(2), **row, auto_pad=auto_pad, ceil_mode=ceil_mode)
        return of_row.squeeze(2)
    dilation, stride = dilations or [1, 1], strides or [1, 1]
    window = _window(kernel_shape, dilation)
    padding = with_ceil(x, resolve_pads(auto_pad, pads, list(x.shape[2:]), window, stride), window, stride, ceil_mode)
    if any(padding):
        x = F.pad(x, padding, value=-math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min)
    if x.is_floating_point():
        return F.max_pool2d(x, kernel_shape, stride=stride, dilation=dilation)
    for axis in (0, 1):  # PyTorch's own counts places of bytes in bytes
        count = (x.shape[2 + axis] - window[axis]) // stride[axis] + 1
        reach = (count - 1) * stride[axis] + 1
        places = [slice(offset * dilation[axis], offset * dilation[axis] + reach, stride[axis])
                  for offset in range(kernel_shape[axis])]  # fmt: skip
        parts = [x[:, :, place] if axis == 0 else x[:, :, :, place] for place in places]
        x = reduce(torch.maximum, parts)
    return x


@operator("AveragePool", versions=(1, 7, 10, 11, 19, 22))
def average_pool(
    x: torch.Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> torch.Tensor:
    """Mean over windows of images, or of sequences; padding counts only with `count_include_pad`, `ceil_mode`'s never."""
    if len(kernel_shape) == 1:
        row = as_rows(dict(kernel_shape=kernel_shape, dilations=dilations, pads=pads, strides=strides))
        further: dict[str, Any] = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
        of_row: torch.Tensor = average_pool(x.unsqueeze(2), **row, **further)
        return of_row.squeeze(2)
    if dilations and set(dilations) != {1}:
        raise UnsupportedGraphError("AveragePool with dilations is not supported")
    window, stride = _window(kernel_shape, [1, 1]), strides or [1, 1]
    explicit = resolve_pads(auto_pad, pads, list(x.shape[2:]), window, stride)
    padding = with_ceil(x, explicit, window, stride, ceil_mode)
    if not any(padding):
        return F.avg_pool2d(x, kernel_shape, stride=stride)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if count_include_pad:
        top, left, bottom, right = explicit
        inside = F.pad(inside, [left, right, top, bottom], value=1.0)
        padding_of_inside = [padding[0] - left, padding[1] - right, padding[2] - top, padding[3] - bottom]
    else:
        padding_of_inside = padding
    total = F.avg_pool2d(F.pad(x, padding), kernel_shape, stride=stride, divisor_override=1)
    count = F.avg_pool2d(F.pad(inside, padding_of_inside), kernel_shape, stride=stride, divisor_override=1)
    return total / count


@operator("GlobalAveragePool", versions=(1, 22))
def global_average_pool(x: torch.Tensor) -> torch.Tensor:
    """Mean over all positions of each channel."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool", versions=(1, 22))
def global_max_pool(x: torch.Tensor) -> torch.Tensor:
    """Maximum over all positions of each channel."""
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


def as_rows(attributes: dict[str, list[int] | None]) -> dict[str, Any]:
    """Return the attributes of a pooling over sequences as those over images of one row; what is not given stays so."""
    made: dict[str, Any] = {}
    for name, given in attributes.items():
        if given is not None:
            made[name] = [0, given[0], 0, given[1]] if name == "pads" else [1, *given]
    return made


def _window(kernel_shape: list[int], dilation: list[int]) -> list[int]:
    if len(kernel_shape) != 2:
        raise UnsupportedGraphError(f"pooling over {len(kernel_shape)} dimensions is not supported; over one and two it is")
    return [(kernel - 1) * step + 1 for kernel, step in zip(kernel_shape, dilation, strict=True)]


def with_ceil(x: torch.Tensor, pads: list[int], window: list[int], stride: list[int], ceil_mode: int) -> list[int]:
    """Return `F.pad`'s list, with what `ceil_mode` needs behind the end so that the last, partial window fits.

    A window that would begin in the padding behind the end is dropped, as in PyTorch and in ONNX Runtime.
    """
    top, left, bottom, right = pads
    extra = [0, 0]
    if ceil_mode:
        for axis, (before, after) in enumerate(((top, bottom), (left, right))):
            length = x.shape[2 + axis]
            windows = -(-(length + before + after - window[axis]) // stride[axis]) + 1
            if (windows - 1) * stride[axis] >= length + before:
                windows -= 1
            extra[axis] = max((windows - 1) * stride[axis] + window[axis] - (length + before + after), 0)
    return [left, right + extra[1], top, bottom + extra[0]]
