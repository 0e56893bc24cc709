"""Means, sums and norms over axes, added in the order of ONNX Runtime's kernels.

Axes that are reduced and lie side by side are one. Means and sums over one such axis have kernels of their own
(`summation.py`); those over several, and all norms, are added value by value, as they follow each other in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from qcam.runtime.kernels import KernelFamily
from qcam.runtime.loaded.means import ordered_axes
from qcam.runtime.mirror.integer.degree import Deployment
from qcam.runtime.mirror.integer.kernel import straight_through
from qcam.runtime.mirror.integer.summation import column_sums, map_sums, row_sums, squares_in_turn, sums_in_turn
from qcam.runtime.mirror.operators.reduction import reduce_l2 as simulated_reduce_l2
from qcam.runtime.mirror.operators.reduction import reduce_sum as simulated_reduce_sum
from qcam.runtime.mirror.registry import exact_operator


@exact_operator("ReduceMean", versions=(1, 11, 13, 18))
def reduce_mean(
    x: torch.Tensor,
    axes_input: torch.Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
    layout: Sequence[int] = (),
    deployment: Deployment | None = None,
    family: KernelFamily,
) -> torch.Tensor:
    """Arithmetic mean over axes: in the kernel's own order, or in float64 where the first and the last are both among them.

    `layout` is how the kernel has x, if otherwise: its axis i is the axis layout[i] of x. `deployment` is how the deployed
    session runs; None: x is all that it runs at a time.
    """
    reduction = _reduction(x, axes_input, axes, noop_with_empty_axes, layout)
    if reduction is None:
        return x

    def exact() -> torch.Tensor:
        sums = _sums(reduction, family, deployment)
        return sums / sums.new_tensor(float(reduction.length))  # by a number, PyTorch multiplies by its reciprocal on a GPU

    return reduction.result(lambda: x.double().mean(dim=reduction.axes, keepdim=bool(keepdims)).float(), exact, keepdims)


@exact_operator("ReduceSum", versions=(1, 11, 13))
def reduce_sum(
    x: torch.Tensor,
    axes_input: torch.Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
    layout: Sequence[int] = (),
    deployment: Deployment | None = None,
    family: KernelFamily,
) -> torch.Tensor:
    """Sum over axes, in the order of `reduce_mean`."""
    reduction = _reduction(x, axes_input, axes, noop_with_empty_axes, layout)
    if reduction is None:
        return x
    return reduction.result(
        lambda: simulated_reduce_sum(x, axes=reduction.axes, keepdims=keepdims),
        lambda: _sums(reduction, family, deployment),
        keepdims,
    )


@exact_operator("ReduceL2", versions=(1, 11, 13, 18))
def reduce_l2(
    x: torch.Tensor,
    axes_input: torch.Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
    layout: Sequence[int] = (),
    deployment: Deployment | None = None,
    family: KernelFamily,
) -> torch.Tensor:
    """Square root of the sum of squares over axes, value by value; on ARM64 each square is added in one rounding."""
    reduction = _reduction(x, axes_input, axes, noop_with_empty_axes, layout)
    if reduction is None:
        return x.abs()
    return reduction.result(
        lambda: simulated_reduce_l2(x, axes=reduction.axes, keepdims=keepdims),
        lambda: squares_in_turn(reduction.rows(), fused=family.fused_batch_norm).double().sqrt().float(),
        keepdims,
    )


@dataclass(frozen=True)
class _Reduction:
    """What is reduced, as the kernel has it.

    Attributes:
        x: As the graph has it.
        axes: The axes of x that are reduced, sorted.
        order: Axis i of the kernel's operand is the axis order[i] of x.
        places: The axes of the kernel's operand that are reduced, sorted.
        ordered: Whether the order is known: of float32, and not over the first and the last axis both.
    """

    x: torch.Tensor
    axes: list[int]
    order: tuple[int, ...]
    places: list[int]
    ordered: bool

    @property
    def held(self) -> torch.Tensor:
        """Return the kernel's operand."""
        return self.x.detach().permute(self.order)

    @property
    def length(self) -> int:
        """Return how many values become one."""
        return math.prod(self.x.shape[axis] for axis in self.axes)

    def rows(self) -> torch.Tensor:
        """Return what becomes one value, row by row."""
        kept = [place for place in range(self.x.dim()) if place not in self.places]
        return self.held.permute(*kept, *self.places).reshape(-1, self.length)

    def result(self, true: Callable[[], torch.Tensor], exact: Callable[[], torch.Tensor], keepdims: int) -> torch.Tensor:
        """Return what is exact where the order is known, with the gradient of what is true.

        Args:
            true: Computes the result in the graph's shape.
            exact: Computes it as the kernel writes it, one value after the other.
            keepdims: Whether reduced axes stay.
        """
        if not self.ordered:
            return true()
        with torch.no_grad():
            shape = [1 if place in self.places else size for place, size in enumerate(self.held.shape)]
            found = exact().reshape(shape).permute([self.order.index(axis) for axis in range(self.x.dim())])
            if not keepdims:
                found = found.reshape([size for axis, size in enumerate(self.x.shape) if axis not in self.axes])
        return straight_through(true(), found) if self.x.requires_grad else found


def _reduction(
    x: torch.Tensor, given: torch.Tensor | None, attribute: list[int] | None, noop: int, layout: Sequence[int]
) -> _Reduction | None:
    """Return what is reduced; None if nothing is."""
    named = given.tolist() if given is not None else list(attribute or [])
    if not named and noop:
        return None
    axes = sorted({int(axis) % x.dim() for axis in named}) if named else list(range(x.dim()))
    order = tuple(layout) or tuple(range(x.dim()))
    places = sorted(map(order.index, axes))
    ordered = x.dtype == torch.float32 and x.numel() > 0 and ordered_axes(places, x.dim())
    return _Reduction(x, axes, order, places, ordered)


def _sums(reduction: _Reduction, family: KernelFamily, deployment: Deployment | None) -> torch.Tensor:
    """Return the sums, one after the other as the kernel writes them."""
    x, places = reduction.held, reduction.places
    first, count = places[0], len(places)
    if places != list(range(first, first + count)):
        return sums_in_turn(reduction.rows())
    front, length = math.prod(x.shape[:first]), reduction.length
    images = reduction.x.shape[0]
    if first + count < x.dim():
        in_fours = family.adds_in_fours and (deployment or Deployment(0, images)).in_fours(front, images)
        return column_sums(x.reshape(front, length, math.prod(x.shape[first + count :])), in_fours=in_fours)
    if x.dim() == 4 and (first, count) == (2, 2):
        return map_sums(x, neighbours=family.adds_neighbours)
    return row_sums(x.reshape(front, length), neighbours=family.adds_neighbours)
