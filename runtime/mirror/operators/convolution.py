"""Convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.operators.padding import effective_dilation, resolve_pads, split_pads
from qcam.runtime.mirror.registry import operator


@operator("Conv", versions=(1, 11, 22))
def conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> torch.Tensor:
    """Convolution over images, or over sequences; asymmetric pads are added in front of it.

    Raises:
        UnsupportedGraphError: If the weight has other spatial dimensions, or an attribute does not fit it.
    """
    if kernel_shape is not None and list(kernel_shape) != list(weight.shape[2:]):
        raise UnsupportedGraphError(f"Conv with kernel_shape {kernel_shape} and a weight of shape {list(weight.shape)}")
    if weight.dim() == 3:  # a sequence is an image of one row
        if pads is not None and len(pads) != 2:
            raise UnsupportedGraphError(f"Conv over sequences with pads {pads} is not possible")
        start, end = pads or [0, 0]
        row = {"auto_pad": auto_pad, "pads": [0, start, 0, end], "group": group}
        flat: torch.Tensor = conv(
            x.unsqueeze(2), weight.unsqueeze(2), bias, dilations=[1, *(dilations or [1])], strides=[1, *(strides or [1])], **row
        )
        return flat.squeeze(2)
    if weight.dim() != 4:
        raise UnsupportedGraphError(
            f"Conv over {weight.dim() - 2} spatial dimensions is not supported; only images and sequences are"
        )
    stride, dilation = strides or [1, 1], effective_dilation(dilations or [1, 1], weight.shape[2:])
    size = [(kernel - 1) * step + 1 for kernel, step in zip(weight.shape[2:], dilation, strict=True)]
    explicit, padding = split_pads(resolve_pads(auto_pad, pads, list(x.shape[2:]), size, stride))
    if explicit:
        x = F.pad(x, explicit)
    return F.conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=group)


@operator("ConvTranspose", versions=(1, 11, 22))
def conv_transpose(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> torch.Tensor:
    """Transposed convolution over images; what pads take away is cut off behind it.

    Raises:
        UnsupportedGraphError: If the result's size is not told by pads, or it is over anything but images.
    """
    if weight.dim() != 4:
        raise UnsupportedGraphError(
            f"ConvTranspose over {weight.dim() - 2} spatial dimensions is not supported; only over images it is"
        )
    if kernel_shape is not None and list(kernel_shape) != list(weight.shape[2:]):
        raise UnsupportedGraphError(f"ConvTranspose with kernel_shape {kernel_shape}, weights of shape {list(weight.shape)}")
    if auto_pad != "NOTSET" or output_shape:
        told = "output_shape" if output_shape else f"auto_pad {auto_pad}"
        raise UnsupportedGraphError(f"ConvTranspose with {told} is not supported; only pads are")
    top, left, bottom, right = pads or [0, 0, 0, 0]
    whole = F.conv_transpose2d(
        x, weight, bias, stride=strides or [1, 1], groups=group, output_padding=output_padding or [0, 0],
        dilation=effective_dilation(dilations or [1, 1], weight.shape[2:]),
    )  # fmt: skip
    return F.pad(whole, [-left, -right, -top, -bottom])
