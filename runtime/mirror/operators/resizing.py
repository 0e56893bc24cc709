"""Images made larger or smaller: Resize, to the nearest value or linearly between two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.operators.padding import axis_of
from qcam.runtime.mirror.registry import operator

_HALF = np.float32(0.5)


@operator("Resize", versions=(11, 13, 18, 19))
def resize(
    x: torch.Tensor,
    roi: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    sizes: torch.Tensor | None = None,
    *,
    antialias: int = 0,
    axes: list[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    interpolate: Callable[[torch.Tensor, dict[int, NDArray[np.float32]]], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return x at other sizes of some axes; places between two values are worked out in float32, as ONNX Runtime does.

    Where no size changes, x is returned as it is, whatever the scales. `interpolate` takes x, and for each axis where the new
    values lie, and is asked for linear Resize of float32 in the place of `linear`.

    Raises:
        UnsupportedGraphError: If an attribute is not supported, or sizes, scales and axes do not fit.
    """
    if antialias or mode not in ("nearest", "linear"):
        raise UnsupportedGraphError(f"Resize with mode {mode}{' and antialias' if antialias else ''} is not supported")
    if keep_aspect_ratio_policy != "stretch":
        raise UnsupportedGraphError(f"Resize with keep_aspect_ratio_policy {keep_aspect_ratio_policy} is not supported")
    chosen = [axis_of(axis, x.dim(), "Resize") for axis in (range(x.dim()) if axes is None else axes)]
    if len(set(chosen)) < len(chosen):
        raise UnsupportedGraphError(f"Resize along axes {axes} names one twice")
    before = [x.shape[axis] for axis in chosen]
    given = scales is not None and scales.numel() > 0
    if given == (sizes is not None and sizes.numel() > 0):
        raise UnsupportedGraphError("Resize takes either scales or sizes")
    told = scales if given else sizes
    if told is not None and told.numel() != len(chosen):
        raise UnsupportedGraphError(f"Resize of {len(chosen)} axes with {told.numel()} sizes or scales is not possible")
    if given and scales is not None:
        factors = [np.float32(scale) for scale in scales.tolist()]
        if not all(factor > 0 for factor in factors):
            raise UnsupportedGraphError(f"Resize with scales {[float(factor) for factor in factors]} is not possible")
        after = [int(np.floor(np.float32(size) * scale)) for size, scale in zip(before, factors, strict=True)]
    else:
        after = [int(size) for size in ([] if sizes is None else sizes.tolist())]
        factors = [np.float32(new) / np.float32(old) for new, old in zip(after, before, strict=True)]
    if after == before:
        return x
    places = {
        axis: _places(coordinate_transformation_mode, old, new, factor)
        for axis, old, new, factor in zip(chosen, before, after, factors, strict=True)
        if factor != 1 or old != new
    }
    if mode == "nearest":
        for axis, found in places.items():
            numbers = np.clip(_nearest(nearest_mode, found), 0, x.shape[axis] - 1)
            x = x.index_select(axis, torch.from_numpy(numbers).to(x.device))
        return x
    return linear(x, places) if interpolate is None or x.dtype != torch.float32 else interpolate(x, places)


def _places(mode: str, before: int, after: int, scale: np.float32) -> NDArray[np.float32]:
    """Return where along an axis of the input each new value lies, float32."""
    numbers = np.arange(after, dtype=np.float32)
    if mode == "asymmetric":
        return numbers / scale
    if mode == "align_corners":
        last = np.float32(before - 1)
        return numbers * last / np.float32(after - 1) if after > 1 else np.zeros(after, np.float32)
    if mode == "pytorch_half_pixel" and after == 1:
        return np.zeros(after, np.float32)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (numbers + _HALF) / scale - _HALF
    raise UnsupportedGraphError(f"Resize with coordinate_transformation_mode {mode} is not supported")


def _nearest(mode: str, places: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the number of the value that each place takes."""
    lower = np.floor(places)
    if mode == "floor":
        found = lower
    elif mode == "ceil":
        found = np.ceil(places)
    elif mode == "round_prefer_floor":
        found = np.where(places - lower > _HALF, lower + 1, lower)
    elif mode == "round_prefer_ceil":
        found = np.where(places - lower >= _HALF, lower + 1, lower)
    else:
        raise UnsupportedGraphError(f"Resize with nearest_mode {mode} is not supported")
    return found.astype(np.int64)


def linear(x: torch.Tensor, places: dict[int, NDArray[np.float32]]) -> torch.Tensor:
    """Return values between two neighbours along one axis, or between four along two; those of float16 are rounded once.

    Raises:
        UnsupportedGraphError: If there are more axes, or x is of whole numbers: there one digit of a float decides.
    """
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        raise UnsupportedGraphError(f"Resize with mode linear of {kind} is not supported; only floats are")
    if x.dtype == torch.float16:
        return linear(x.float(), places).half()
    if len(places) > 2:
        raise UnsupportedGraphError(f"Resize with mode linear along {len(places)} axes is not supported; only images are")
    result: torch.Tensor | None = None
    for weight, value in corners_of(x, places):
        product = weight.to(x.dtype) * value
        result = product if result is None else result + product
    return x if result is None else result


def corners_of(x: torch.Tensor, places: dict[int, NDArray[np.float32]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the parts that each new value takes, and of what: two neighbours along an axis, four along two, in order.

    Args:
        x: The values.
        places: Axis → where along it the new values lie, in the order of the axes.
    """
    corners: list[tuple[torch.Tensor, list[tuple[int, torch.Tensor]]]] = [(torch.ones((), device=x.device), [])]
    for axis, found in reversed(places.items()):  # the last axis runs fastest: left, right, then below
        shape = [1] * x.dim()
        shape[axis] = -1
        pairs = [
            (torch.from_numpy(part).to(x.device).reshape(shape), torch.from_numpy(numbers).to(x.device))
            for part, numbers in _neighbours(found, x.shape[axis])
        ]
        corners = [(weight * part, [*taken, (axis, numbers)]) for part, numbers in pairs for weight, taken in corners]
    results = []
    for weight, taken in corners:
        value = x
        for axis, numbers in taken:
            value = value.index_select(axis, numbers)
        results.append((weight, value))
    return results


def _neighbours(places: NDArray[np.float32], size: int) -> Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Return the part that each place takes of the value before it, and the values' numbers; and likewise behind it."""
    inside = np.clip(places, np.float32(0), np.float32(size - 1))
    before = np.minimum(inside.astype(np.int64), size - 1)
    behind = np.minimum(before + 1, size - 1)
    alone = before == behind  # at the last value, which is taken in two halves
    of_behind = np.where(alone, _HALF, np.abs(inside - before.astype(np.float32)))
    of_before = np.where(alone, _HALF, np.abs(inside - behind.astype(np.float32)))
    return (of_before.astype(np.float32), before), (of_behind.astype(np.float32), behind)
