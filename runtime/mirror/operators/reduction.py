"""Reductions over axes, given as an attribute (older opsets) or as an input."""

from __future__ import annotations

import torch

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.registry import operator


@operator("ReduceMean", versions=(1, 11, 13, 18))
def reduce_mean(
    x: torch.Tensor,
    axes_input: torch.Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> torch.Tensor:
    """Arithmetic mean over axes; of no values 0, as ONNX Runtime has it."""
    chosen = _axes(x, axes_input, axes, noop_with_empty_axes)
    if _of_nothing(x, chosen):
        return x.sum(dim=chosen, keepdim=bool(keepdims), dtype=x.dtype)
    return x.mean(dim=chosen, keepdim=bool(keepdims)) if chosen else x


@operator("ReduceSum", versions=(1, 11, 13))
def reduce_sum(
    x: torch.Tensor,
    axes_input: torch.Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> torch.Tensor:
    """Sum over axes."""
    chosen = _axes(x, axes_input, axes, noop_with_empty_axes)
    return x.sum(dim=chosen, keepdim=bool(keepdims), dtype=x.dtype) if chosen else x


@operator("ReduceMax", versions=(1, 11, 12, 13, 18, 20))
def reduce_max(
    x: torch.Tensor,
    axes_input: torch.Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> torch.Tensor:
    """Maximum over axes; of no values the lowest that there is."""
    chosen = _axes(x, axes_input, axes, noop_with_empty_axes)
    if _of_nothing(x, chosen) and x.dtype != torch.bool:
        lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        return torch.full_like(x.sum(dim=chosen, keepdim=bool(keepdims), dtype=x.dtype), lowest)
    return x.amax(dim=chosen, keepdim=bool(keepdims)) if chosen else x


@operator("ReduceMin", versions=(1, 11, 12, 13, 18, 20))
def reduce_min(
    x: torch.Tensor,
    axes_input: torch.Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> torch.Tensor:
    """Minimum over axes; of no values the highest that there is."""
    chosen = _axes(x, axes_input, axes, noop_with_empty_axes)
    if _of_nothing(x, chosen) and x.dtype != torch.bool:
        highest = torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).max
        return torch.full_like(x.sum(dim=chosen, keepdim=bool(keepdims), dtype=x.dtype), highest)
    return x.amin(dim=chosen, keepdim=bool(keepdims)) if chosen else x


@operator("ReduceL2", versions=(1, 11, 13, 18))
def reduce_l2(
    x: torch.Tensor,
    axes_input: torch.Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> torch.Tensor:
    """Square root of the sum of squares over axes, rounded once; its gradient at vectors of zeros is 0, as PyTorch's norm's.

    Raises:
        UnsupportedGraphError: If x is of whole numbers.
    """
    if not x.is_floating_point():
        raise UnsupportedGraphError(f"ReduceL2 of {str(x.dtype).removeprefix('torch.')} is not supported; only floats are")
    chosen = _axes(x, axes_input, axes, noop_with_empty_axes)
    if not chosen:
        return x.abs()
    wide = x.float() if x.dtype == torch.float16 else x  # ONNX Runtime's way with float16
    squares = (wide * wide).sum(dim=chosen, keepdim=bool(keepdims), dtype=wide.dtype)
    zero = squares == 0  # there the square root's own gradient is infinite
    return squares.masked_fill(zero, 1).double().sqrt().to(x.dtype).masked_fill(zero, 0)


def _of_nothing(x: torch.Tensor, chosen: list[int]) -> bool:
    """Tell whether each result is one of no values."""
    return any(x.shape[axis] == 0 for axis in chosen)


def _axes(x: torch.Tensor, given: torch.Tensor | None, attribute: list[int] | None, noop: int) -> list[int]:
    """Return the axes to reduce: all of them if none are named, unless the node says that means none."""
    named = given.tolist() if given is not None else list(attribute or [])
    return [int(axis) for axis in named] if named or noop else list(range(x.dim()))
