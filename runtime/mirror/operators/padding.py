"""How ONNX writes padding, and how PyTorch takes it."""

from __future__ import annotations

from collections.abc import Sequence

from qcam.common.errors import UnsupportedGraphError


def resolve_pads(auto_pad: str, pads: list[int] | None, size: list[int], window: list[int], stride: list[int]) -> list[int]:
    """Return explicit pads of a 2-D window operator.

    Args:
        auto_pad: ONNX's attribute: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        pads: Explicit pads [top, left, bottom, right], used with NOTSET.
        size: Height and width of the input.
        window: Height and width of the window, dilation included.
        stride: Vertical and horizontal step.

    Raises:
        UnsupportedGraphError: If `auto_pad` is something else, or explicit pads are not four that add something.
    """
    if auto_pad == "NOTSET":
        if pads and (len(pads) != 4 or min(pads) < 0):
            raise UnsupportedGraphError(f"pads {pads} around a window over images are not possible")
        return list(pads or [0, 0, 0, 0])
    if auto_pad == "VALID":
        return [0, 0, 0, 0]
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise UnsupportedGraphError(f"auto_pad {auto_pad} is not supported")
    total = [
        max((-(-length // step) - 1) * step + extent - length, 0)
        for length, extent, step in zip(size, window, stride, strict=True)
    ]
    small = [value // 2 for value in total]
    large = [value - half for value, half in zip(total, small, strict=True)]
    return [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]


def axis_of(axis: int, rank: int, operator: str) -> int:
    """Return an axis counted from the front.

    Args:
        axis: As the node names it, from the end if negative.
        rank: How many there are.
        operator: The node's operator, for the error.

    Raises:
        UnsupportedGraphError: If there is no such axis.
    """
    if not -rank <= axis < rank:
        raise UnsupportedGraphError(f"{operator} along axis {axis} of a tensor of {rank} dimensions is not possible")
    return axis % rank


def effective_dilation(dilation: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Return the dilation of a window, 1 along axes where it is one value long: there it means nothing, and can crash PyTorch.

    Args:
        dilation: Vertical and horizontal.
        kernel: Height and width of the window.
    """
    return [1 if size == 1 else step for step, size in zip(dilation, kernel, strict=True)]


def split_pads(pads: list[int]) -> tuple[list[int], list[int]]:
    """Split pads into those to add by `F.pad` and those that a PyTorch operator takes itself.

    Returns:
        `F.pad`'s list [left, right, top, bottom], empty if the pads are symmetric; and the operator's [vertical,
        horizontal] padding, 0 if they are not.
    """
    top, left, bottom, right = pads
    if top == bottom and left == right:
        return [], [top, left]
    return [left, right, top, bottom], [0, 0]
