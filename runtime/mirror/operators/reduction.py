"""Reductions over axes, given as an attribute (older opsets) or as an input."""

from __future__ import annotations

import torch

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
    """Arithmetic mean over axes."""
    chosen = _axes(x, axes_input, axes, noop_with_empty_axes)
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
    """Maximum over axes."""
    chosen = _axes(x, axes_input, axes, noop_with_empty_axes)
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
    """Minimum over axes."""
    chosen = _axes(x, axes_input, axes, noop_with_empty_axes)
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
    """Square root of the sum of squares over axes."""
    chosen = _axes(x, axes_input, axes, noop_with_empty_axes)
    return (x * x).sum(dim=chosen, keepdim=bool(keepdims), dtype=x.dtype).sqrt() if chosen else x.abs()


def _axes(x: torch.Tensor, given: torch.Tensor | None, attribute: list[int] | None, noop: int) -> list[int]:
    """Return the axes to reduce: all of them if none are named, unless the node says that means none."""
    named = given.tolist() if given is not None else list(attribute or [])
    return [int(axis) for axis in named] if named or noop else list(range(x.dim()))
