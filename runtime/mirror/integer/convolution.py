"""QLinearConv: exact int32 sums, then one multiplication in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.codes import Codes
from qcam.runtime.mirror.integer.accumulate import ExactSum
from qcam.runtime.mirror.integer.kernel import (
    Kernel,
    Setting,
    kernel,
    limits,
    multipliers,
    requantize_sums,
    stored_type,
)
from qcam.runtime.mirror.integer.products import Window, convolution
from qcam.runtime.mirror.integer.saturation import Saturation, saturable_pairs
from qcam.runtime.mirror.operators.padding import effective_dilation, resolve_pads
from qcam.runtime.mirror.parallel import across, parts_of


@kernel("Conv")
def conv(setting: Setting) -> Kernel:
    """rne(clamp(f32(acc) · mult, lo - zp, hi - zp)) + zp, acc = sum (x - x_zp)(w - w_zp) + bias.

    Mult = (f32(x_scale) · w_scale) / y_scale, per output channel.
    """
    attributes, (x, w), output = setting.attributes, setting.inputs[:2], setting.output
    raw = setting.constant(1)
    if raw is None or raw.ndim not in (3, 4):
        raise UnsupportedGraphError(
            f"the mirror's QLinearConv needs a constant weight of 3 or 4 dimensions, at {setting.group.label}"
        )
    flat = raw.ndim == 3
    if flat:  # of one row
        raw, attributes = raw[:, :, None], _of_one_row(attributes)
    groups = int(attributes.get("group", 1))
    stride = list(attributes.get("strides") or [1, 1])
    dilation = effective_dilation(list(attributes.get("dilations") or [1, 1]), raw.shape[2:])
    extent = [(size - 1) * step + 1 for size, step in zip(raw.shape[2:], dilation, strict=True)]
    zero = int(x.zero_point)

    def pads(size: list[int]) -> list[int]:
        return resolve_pads(attributes.get("auto_pad", "NOTSET"), attributes.get("pads"), size, extent, stride)

    low, high = limits(x)
    weight = centred(raw, w)
    outputs = raw.shape[0]
    bias = bias_codes(setting, outputs)
    make = convolution(Window(stride, dilation, groups, pads), zero, setting.device)
    sums = ExactSum(weight, bias, low - zero, high - zero, make, setting.device, cuttable=groups == 1)
    multiplier = setting.tensor(np.broadcast_to(multipliers(x, w, output), raw.shape[:1]))
    saturation = saturation_of(setting, raw, groups) if not _is_depthwise(raw, groups) else None

    def sums_of(codes: torch.Tensor) -> torch.Tensor:
        if saturation is None:
            return sums(codes)
        exact = saturation.with_room(sums.exact(codes), sums.reach)
        top, left, bottom, right = pads(list(codes.shape[2:]))
        saturation.add_to_convolution(exact, F.pad(codes, [left, right, top, bottom], value=float(zero)), stride, dilation)
        return sums.with_bias(exact)

    def run(codes: torch.Tensor) -> torch.Tensor:
        return convolved(codes[:, :, None])[:, :, 0] if flat else convolved(codes)

    def convolved(codes: torch.Tensor) -> torch.Tensor:
        size = list(codes.shape[2:])
        top, left, bottom, right = pads(size)
        whole = (size[0] + top + bottom, size[1] + left + right)
        height, width = ((length - reach) // step + 1 for length, reach, step in zip(whole, extent, stride, strict=True))
        result = torch.empty(
            (len(codes), outputs, height, width),
            dtype=stored_type(output),
            device=codes.device,
            memory_format=torch.channels_last,
        )

        def work(part: slice) -> None:
            requantize_sums(sums_of(codes[part]), multiplier, output, result[part])

        across(parts_of(len(codes), outputs * height * width, codes.device), work)
        return result

    return run


def _of_one_row(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a convolution along one axis as those of one over two, the first of length 1."""
    lifted = dict(attributes)
    for name, neutral in (("strides", 1), ("dilations", 1), ("kernel_shape", 1)):
        if lifted.get(name):
            lifted[name] = [neutral, *lifted[name]]
    if lifted.get("pads"):
        begin, end = lifted["pads"]
        lifted["pads"] = [0, begin, 0, end]
    return lifted


def centred(raw: NDArray[Any], codes: Codes) -> NDArray[np.int16]:
    """Return 8-bit codes less their zero point."""
    zero = codes.zero_point.astype(np.int16)
    if zero.size > 1:
        shape = [1] * raw.ndim
        shape[codes.axis] = -1
        zero = zero.reshape(shape)
    centred: NDArray[np.int16] = raw.astype(np.int16) - zero
    return centred


def bias_codes(setting: Setting, outputs: int) -> NDArray[np.int64] | None:
    """Return the int32 bias codes; a float bias is quantized as ONNX Runtime does, in steps of x_scale · w_scale."""
    group = setting.group
    if len(group.inputs) < 3:
        return None
    bias = group.inputs[2]
    if bias is not None:
        codes = setting.constants.get(bias.tensor)
        if codes is None:
            raise UnsupportedGraphError(f"the mirror needs a constant bias, at {group.label}")
        return _for_outputs(codes.astype(np.int64), group.label, outputs)
    values = setting.constants[group.node.input[2]]
    x, w = setting.inputs[:2]
    steps = np.rint(values / (x.scale * w.scale))
    return _for_outputs(np.clip(steps, -(2**31), 2**31 - 1).astype(np.int64), group.label, outputs)


def _for_outputs(bias: NDArray[np.int64], label: str, outputs: int) -> NDArray[np.int64]:
    """Return one bias for each output."""
    if bias.size != 1 and bias.shape not in ((outputs,), (1, outputs)):
        raise UnsupportedGraphError(f"the mirror takes one bias for each output, not one of shape {bias.shape}, at {label}")
    return np.broadcast_to(bias.reshape(-1), (outputs,))


def saturation_of(setting: Setting, raw: NDArray[Any], groups: int = 1) -> Saturation | None:
    """Return what saturation changes at a weight (outputs × inputs × rows × columns), or None if it cannot change anything."""
    x, w = setting.inputs[:2]
    # Signed activations and unsigned weights go through kernels that widen to 16 bits first.
    if not setting.family.pairs_saturate or x.dtype != np.uint8 or w.dtype != np.int8:
        return None
    pairs = saturable_pairs(raw.astype(np.int16), groups)
    return Saturation(pairs, setting.device) if len(pairs) else None


def _is_depthwise(raw: NDArray[Any], groups: int) -> bool:
    """Tell whether each channel has its own single filter: that kernel does not add in pairs."""
    return groups > 1 and raw.shape[1] == 1 and raw.shape[0] == groups
