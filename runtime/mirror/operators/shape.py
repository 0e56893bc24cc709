"""Operators that rearrange, select or describe values without computing new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.operators.padding import axis_of
from qcam.runtime.mirror.registry import operator


@operator("Identity", versions=(1, 13, 14, 16, 19, 21, 23, 24, 25))
def identity(x: torch.Tensor) -> torch.Tensor:
    """Return x itself."""
    return x


@operator("Dropout", versions=(7, 10, 12, 13, 22))
def dropout(
    x: torch.Tensor, ratio_input: Any = None, training: torch.Tensor | None = None, *, ratio: float = 0.5, seed: int = 0
) -> torch.Tensor:
    """Return x itself: inference drops nothing."""
    if training is not None and bool(training):
        raise UnsupportedGraphError("Dropout in training mode is not supported; export the model in evaluation mode")
    return x


@operator("Constant", versions=(1, 9, 11, 12, 13, 19, 21, 23, 24, 25))
def constant(*, value: onnx.TensorProto | None = None, value_int: int | None = None, value_float: float | None = None,
             value_ints: list[int] | None = None, value_floats: list[float] | None = None) -> torch.Tensor:  # fmt: skip
    """The value that the node holds."""
    if value is not None:
        try:
            return torch.from_numpy(np.array(onnx.numpy_helper.to_array(value)))
        except TypeError as error:
            kind = onnx.TensorProto.DataType.Name(value.data_type)
            raise UnsupportedGraphError(f"the mirror cannot hold a Constant of type {kind}") from error
    for integers in (value_int, value_ints):
        if integers is not None:
            return torch.tensor(integers, dtype=torch.int64)
    return torch.tensor(value_float if value_float is not None else value_floats, dtype=torch.float32)


@operator("Reshape", versions=(5, 13, 14, 19, 21, 23, 24, 25))
def reshape(x: torch.Tensor, shape: torch.Tensor, *, allowzero: int = 0) -> torch.Tensor:
    """Return x in another shape; 0 keeps the dimension at its place unless `allowzero`."""
    wanted = shape.tolist()
    if not allowzero:
        wanted = [x.shape[index] if size == 0 else size for index, size in enumerate(wanted)]
    return x.reshape(wanted)


@operator("Flatten", versions=(1, 9, 11, 13, 21, 23, 24, 25))
def flatten(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    """Return x as a matrix: dimensions before `axis` by the others."""
    rows = int(np.prod(x.shape[:axis])) if axis else 1
    return x.reshape(rows, -1)


@operator("Squeeze", versions=(1, 11, 13, 21, 23, 24, 25))
def squeeze(x: torch.Tensor, axes_input: torch.Tensor | None = None, *, axes: list[int] | None = None) -> torch.Tensor:
    """Return x without dimensions of size 1."""
    chosen = axes_input.tolist() if axes_input is not None else axes
    return x.squeeze() if chosen is None else x.squeeze(tuple(int(axis) for axis in chosen))


@operator("Unsqueeze", versions=(1, 11, 13, 21, 23, 24, 25))
def unsqueeze(x: torch.Tensor, axes_input: torch.Tensor | None = None, *, axes: list[int] | None = None) -> torch.Tensor:
    """Return x with dimensions of size 1 inserted at the given places of the result."""
    chosen = axes_input.tolist() if axes_input is not None else axes or []
    rank = x.dim() + len(chosen)
    for axis in sorted(axis_of(int(axis), rank, "Unsqueeze") for axis in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose", versions=(1, 13, 21, 23, 24, 25))
def transpose(x: torch.Tensor, *, perm: list[int] | None = None) -> torch.Tensor:
    """Return x with its dimensions in another order, reversed by default."""
    return x.permute(perm if perm is not None else list(range(x.dim()))[::-1])


@operator("Concat", versions=(4, 11, 13))
def concat(*values: torch.Tensor, axis: int) -> torch.Tensor:
    """Tensors joined along one axis."""
    return torch.cat(values, dim=axis)


@operator("Split", versions=(2, 11, 13, 18))
def split(
    x: torch.Tensor,
    sizes: torch.Tensor | None = None,
    *,
    axis: int = 0,
    split: list[int] | None = None,
    num_outputs: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """Return x cut along one axis, into given sizes or equal parts (the last ones smaller or empty)."""
    lengths = [int(size) for size in sizes.tolist()] if sizes is not None else split
    if lengths is None:
        if num_outputs is None:
            raise UnsupportedGraphError("Split without sizes and without num_outputs is not supported")
        length = x.shape[axis]
        part = -(-length // num_outputs)
        lengths = [max(min(part, length - index * part), 0) for index in range(num_outputs)]
    return torch.split(x, lengths, dim=axis)


@operator("Slice", versions=(10, 11, 13))
def slice_(
    x: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    axes: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return a range of each given axis, counted as in Python."""
    chosen = axes.tolist() if axes is not None else list(range(len(starts)))
    pace = steps.tolist() if steps is not None else [1] * len(starts)
    for axis, start, end, step in zip(chosen, starts.tolist(), ends.tolist(), pace, strict=True):
        indices = torch.arange(x.shape[axis], device=x.device)[slice(start, end)] if step > 0 else None
        if indices is None:
            backwards = list(range(*slice(start, end, step).indices(x.shape[axis])))
            indices = torch.tensor(backwards, dtype=torch.int64, device=x.device)
        elif step > 1:
            indices = indices[::step]
        x = x.index_select(axis, indices)
    return x


@operator("Gather", versions=(1, 11, 13))
def gather(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    """Entries of one axis by index; negative ones count from the end."""
    wanted = torch.where(indices < 0, indices + x.shape[axis], indices).to(x.device)
    taken = x.index_select(axis, wanted.reshape(-1))
    axis %= x.dim()
    return taken.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("Shape", versions=(1, 13, 15, 19, 21, 23, 24, 25))
def shape(x: torch.Tensor, *, start: int = 0, end: int | None = None) -> torch.Tensor:
    """The dimensions of x, as int64."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@operator("Cast", versions=(6, 9, 13, 19, 21, 23, 24, 25))
def cast(x: torch.Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> torch.Tensor:
    """Return x in another type."""
    try:
        target = torch.from_numpy(np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(to))).dtype
    except TypeError as error:
        raise UnsupportedGraphError(f"Cast to ONNX type {onnx.TensorProto.DataType.Name(to)} is not supported") from error
    return x.to(target)


@operator("Expand", versions=(8, 13))
def expand(x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """Return x broadcast to a shape."""
    return x.expand(np.broadcast_shapes(x.shape, tuple(int(size) for size in shape.tolist())))


@operator("Pad", versions=(11, 13, 18, 19, 21, 23, 24, 25))
def pad(
    x: torch.Tensor,
    pads: torch.Tensor,
    value: torch.Tensor | None = None,
    axes: torch.Tensor | None = None,
    *,
    mode: str = "constant",
) -> torch.Tensor:
    """Return x with values around it; negative pads cut values off first. Of axes named twice the last counts.

    Raises:
        UnsupportedGraphError: If the mode is unknown, an axis or a pad too few or too many, or nothing is left to repeat.
    """
    if mode != "constant" and mode not in _PLACES:
        raise UnsupportedGraphError(f"Pad with mode {mode} is not supported")
    amounts = [int(amount) for amount in pads.tolist()]
    chosen = [axis_of(int(axis), x.dim(), "Pad") for axis in axes.tolist()] if axes is not None else list(range(x.dim()))
    if len(amounts) != 2 * len(chosen):
        raise UnsupportedGraphError(f"Pad with {len(amounts)} pads along {len(chosen)} axes is not possible")
    around = dict(zip(chosen, zip(amounts[: len(chosen)], amounts[len(chosen) :], strict=True), strict=True))
    if mode in _PLACES:
        for axis, (before, after) in around.items():
            first, last = max(-before, 0), x.shape[axis] - max(-after, 0)  # what negative pads leave
            if (before or after) and last <= first:
                raise UnsupportedGraphError(f"Pad with mode {mode} and pads {before} and {after} of {x.shape[axis]} values")
            if before or after:
                places = _PLACES[mode](torch.arange(-max(before, 0), last - first + max(after, 0)), last - first)
                x = x.index_select(axis, (first + places).to(x.device))
        return x
    flat = [0] * (2 * x.dim())
    for axis, (before, after) in around.items():
        flat[2 * (x.dim() - 1 - axis) : 2 * (x.dim() - axis)] = [before, after]
    return F.pad(x, flat, value=0.0 if value is None or value.numel() == 0 else value.item())


def _reflected(places: torch.Tensor, length: int) -> torch.Tensor:
    """Return the places that are seen in mirrors at the first and the last value, which are not doubled."""
    if length == 1:
        return torch.zeros_like(places)
    period = 2 * (length - 1)
    places = places.remainder(period)
    return torch.where(places < length, places, period - places)


#: Mode of Pad → the values' places from places that may lie outside.
_PLACES: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "reflect": _reflected,
    "edge": lambda places, length: places.clamp(0, length - 1),
    "wrap": lambda places, length: places.remainder(length),
}


@operator("Tile", versions=(6, 13))
def tile(x: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    """Return x repeated along each axis."""
    return x.repeat([int(count) for count in repeats.tolist()])


@operator("ScatterND", versions=(11, 13, 16, 18))
def scatter_nd(x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, reduction: str = "none") -> torch.Tensor:
    """Return x with other values at some places; the last axis of the indices counts along the first axes of x.

    Raises:
        UnsupportedGraphError: If updates are to be combined, if shapes do not fit, or if an index is outside or there twice.
    """
    if reduction != "none":
        raise UnsupportedGraphError(f"ScatterND with reduction {reduction} is not supported")
    depth = indices.shape[-1]
    if depth > x.dim() or list(updates.shape) != [*indices.shape[:-1], *x.shape[depth:]]:
        raise UnsupportedGraphError(
            f"ScatterND into shape {list(x.shape)} with indices of {list(indices.shape)} and updates of {list(updates.shape)}"
        )
    sizes = torch.tensor(x.shape[:depth], dtype=indices.dtype, device=indices.device)
    places = torch.where(indices < 0, indices + sizes, indices)
    if bool(((places < 0) | (places >= sizes)).any()):
        raise UnsupportedGraphError(f"ScatterND into shape {list(x.shape)} has an index outside")
    rows = places.reshape(-1, depth)
    if len(rows) > 1 and len(torch.unique(rows, dim=0)) < len(rows):
        raise UnsupportedGraphError("ScatterND with an index that is there twice is not supported: which value stays is open")
    return x.index_put(tuple(places.to(x.device).unbind(-1)), updates)


@operator("GatherND", versions=(11, 12, 13))
def gather_nd(x: torch.Tensor, indices: torch.Tensor, *, batch_dims: int = 0) -> torch.Tensor:
    """Return what stands at some places; the last axis of the indices counts along the first axes of x, behind those in common.

    Raises:
        UnsupportedGraphError: If shapes do not fit, or an index is outside.
    """
    depth = batch_dims + indices.shape[-1]
    if depth > x.dim() or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise UnsupportedGraphError(f"GatherND out of shape {list(x.shape)} with indices of {list(indices.shape)}")
    sizes = torch.tensor(x.shape[batch_dims:depth], dtype=indices.dtype, device=indices.device)
    places = torch.where(indices < 0, indices + sizes, indices)
    if bool(((places < 0) | (places >= sizes)).any()):
        raise UnsupportedGraphError(f"GatherND out of shape {list(x.shape)} has an index outside")
    rank = places.dim() - 1
    common = [
        torch.arange(size, device=x.device).reshape(*[1] * axis, size, *[1] * (rank - axis - 1))
        for axis, size in enumerate(x.shape[:batch_dims])
    ]
    return x[(*common, *places.to(x.device).unbind(-1))]
