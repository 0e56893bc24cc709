"""Adaptive poolings whose windows would be of unequal size: no ONNX operator has those, so they are refused with what works."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qcam.common.errors import QcamError, first_line

#: How far sizes that work are looked for, in pixels, and how many are named.
_REACH, _NAMED = 288, 4


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the adaptive poolings that do not divide."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uneven: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "adaptive_avg_pool2d" in name or "adaptive_max_pool2d" in name:
            given, wanted = tuple(args[0].shape[-2:]), tuple(args[1])
            if any(side % out for side, out in zip(given, wanted, strict=True)):
                kind = "AdaptiveMaxPool2d" if "max" in name else "AdaptiveAvgPool2d"
                self.uneven.append((kind, given, wanted))
        return func(*args, **(kwargs or {}))


def refuse_uneven_pooling(module: torch.nn.Module, size: tuple[int, int], channels: int = 3) -> None:
    """Refuse an input size at which the network does not run, or an adaptive pooling has windows of unequal size.

    Args:
        module: Network in evaluation mode; it is not touched.
        size: Height and width of its input.
        channels: Channels of its input.

    Raises:
        QcamError: If it is such a size; names the reason, and the nearest sizes that work.
    """
    shapes = _without_values(module)
    found = _uneven(shapes, size, channels)
    if found is None:
        _refuse_failing(module, shapes, size, channels)
    if not found:  # also where shapes alone do not run: the export itself will tell
        return
    kind, given, wanted = found[0]
    paths = [path for path, part in module.named_modules() if type(part).__name__ == kind and _output(part) == wanted]
    sides = sorted({*_working(shapes, max(size), channels)})
    raise QcamError(
        f"the network cannot be exported for pictures of {size[0]}×{size[1]} pixels: {paths[0] if paths else 'a layer'} "
        f"({kind}) makes {wanted[0]}×{wanted[1]} of {given[0]}×{given[1]}, which do not divide, and no ONNX operator pools so; "
        + (f"give {{crop}} {' or '.join(map(str, sides))}" if sides else "leave {crop} out")
    )


def _refuse_failing(module: torch.nn.Module, shapes: torch.nn.Module, size: tuple[int, int], channels: int) -> None:
    """Refuse a size at which the network itself fails, before the exporter does with pages of its own."""
    try:
        with torch.no_grad():
            module(torch.zeros(1, channels, *size))
    except Exception as error:  # whatever a network says of a picture that is too small
        sides = sorted({*_working(shapes, max(size), channels)})
        raise QcamError(
            f"the network does not run with pictures of {size[0]}×{size[1]} pixels ({first_line(error)}); "
            + (f"give {{crop}} {' or '.join(map(str, sides))}" if sides else "leave {crop} out")
        ) from error


def _output(part: torch.nn.Module) -> tuple[int, ...]:
    size: Any = part.output_size
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)


def _without_values(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy that computes shapes only."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(module, memo)


def _uneven(shapes: torch.nn.Module, size: tuple[int, int], channels: int) -> list[Any] | None:
    """Return the poolings that do not divide at a size, None if the network does not run there."""
    try:
        with torch.no_grad(), _Watch() as watch:
            shapes(torch.empty(1, channels, *size, device="meta"))
    except Exception:  # a picture too small for the network, or an operator that wants values
        return None
    found: list[Any] = watch.uneven
    return found


def _working(shapes: torch.nn.Module, side: int, channels: int) -> list[int]:
    """Return the sides of square pictures nearest to one at which every pooling divides."""
    found: list[int] = []
    for distance in range(1, _REACH):
        for other in (side - distance, side + distance):
            if other > 0 and len(found) < _NAMED and _uneven(shapes, (other, other), channels) == []:
                found.append(other)
        if len(found) >= _NAMED:
            break
    return found
