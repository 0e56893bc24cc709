"""QuantizeLinear and DequantizeLinear, 8 and 16 bit, per tensor and per channel, with straight-through gradients.

Codes travel as float32 tensors of whole numbers, so that gradients can flow through them: float32 holds every code of up
to 24 bits exactly.
"""

from __future__ import annotations

from typing import Any

import torch

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror import compiled
from qcam.runtime.mirror.parallel import across, laid_out_as, memory, parts_of
from qcam.runtime.mirror.registry import MICROSOFT, operator

#: Types of codes of 8 bits, which travel in their own type where no gradient flows.
BYTES = (torch.uint8, torch.int8)
_CODE_TYPES = (*BYTES, torch.uint16, torch.int16)


class _Quantize(torch.autograd.Function):
    """rne(clamp(x / scale, lo - zp, hi - zp)) + zp; the gradient passes where the clamp is not active, or everywhere."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int, clamped: bool
    ) -> torch.Tensor:
        # Divided, never multiplied by the reciprocal: ties would round differently.
        steps = x / scale
        lowest, highest = low - zero_point, high - zero_point
        if x.requires_grad:
            inside = (steps >= lowest) & (steps <= highest) if clamped else torch.ones_like(steps, dtype=torch.bool)
            ctx.save_for_backward(inside, scale)
        return steps.clamp_(lowest, highest).round_().add_(zero_point)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        inside, scale = ctx.saved_tensors
        return gradients[0] * inside / scale, None, None, None, None, None


@operator("QuantizeLinear", versions=(10, 13, 19, 21, 23, 24, 25))
@operator("QuantizeLinear", versions=(1,), domain=MICROSOFT)
def quantize_linear(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    *,
    axis: int = 1,
    saturate: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    clamped_gradient: bool = True,
) -> torch.Tensor:
    """Return the integer codes of x, as float32; `clamped_gradient` is no attribute: whether none passes where x is clamped."""
    if block_size or precision or (zero_point is None and output_dtype not in (0, 2)):
        raise UnsupportedGraphError("QuantizeLinear with blocks, another precision or an implicit type is not supported")
    _refuse_narrow(scale)
    if zero_point is None:
        zero_point = torch.zeros((), dtype=torch.uint8, device=x.device)
    if zero_point.dtype not in _CODE_TYPES:
        raise UnsupportedGraphError(f"QuantizeLinear to {zero_point.dtype} is not supported; only 8 and 16 bit integers are")
    limits = torch.iinfo(zero_point.dtype)
    step, zero = along(scale, x, axis), along(zero_point.to(torch.float32), x, axis)
    codes: torch.Tensor = _Quantize.apply(x, step, zero, limits.min, limits.max, clamped_gradient)
    return codes


@operator("DequantizeLinear", versions=(10, 13, 19, 21, 23, 24, 25))
@operator("DequantizeLinear", versions=(1,), domain=MICROSOFT)
def dequantize_linear(
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> torch.Tensor:
    """Return (codes - zero_point) · scale in float32; stored codes are subtracted as integers first."""
    if block_size or output_dtype not in (0, 1):
        raise UnsupportedGraphError("DequantizeLinear with blocks or to another type than float32 is not supported")
    _refuse_narrow(scale)
    looked_up = _looked_up(codes, scale, zero_point)
    if looked_up is not None:
        return looked_up
    if codes.is_floating_point():  # codes of a QuantizeLinear in this graph, exact in float32
        steps = codes if zero_point is None else codes - along(zero_point.to(torch.float32), codes, axis)
    elif codes.dtype in BYTES:
        steps = codes.to(torch.float32)
        if zero_point is not None:
            steps.sub_(along(zero_point.to(torch.float32), codes, axis))
    else:  # constants of the file; a 32-bit bias would not fit float32 before the subtraction
        steps = codes.to(torch.int32)
        if zero_point is not None:
            steps = steps - along(zero_point.to(torch.int32), codes, axis)
        steps = steps.to(torch.float32)
    return steps * along(scale, codes, axis)


def _looked_up(codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor | None:
    """Return (codes - zero_point) · scale by a compiled table; None unless they are bytes without gaps, of one scale."""
    loops = compiled.loops_for(codes) if scale.numel() == 1 and not scale.requires_grad else None
    flat = memory(codes) if loops is not None else None
    if loops is None or flat is None:
        return None
    every = torch.arange(256, dtype=torch.uint8).view(codes.dtype).to(torch.float32)  # by byte
    values = (every if zero_point is None else every - zero_point.reshape(()).to(torch.float32)) * scale.reshape(())
    result, written = laid_out_as(codes, torch.float32)

    def work(part: slice) -> None:
        loops.look_up(values.numpy(), compiled.in_bytes(flat[part]), written[part].numpy())

    across(parts_of(len(written), 1, written.device), work)
    return result


def _refuse_narrow(scale: torch.Tensor) -> None:
    """Refuse a scale of another type than float32: what it dequantizes has its type, and rounds to it."""
    if scale.dtype != torch.float32:
        kind = str(scale.dtype).removeprefix("torch.")
        raise UnsupportedGraphError(f"a scale of type {kind} is not supported; only float32 is")


def along(parameter: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """Shape a per-channel parameter so that it broadcasts over `x` along `axis`; a per-tensor one becomes a scalar."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.reshape(shape)
