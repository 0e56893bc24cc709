"""Agreement over depth, as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from qcam.common.vocabulary import Arithmetic
from qcam.evaluate.check.result import CheckResult
from qcam.evaluate.showing.canvas import figure_bytes
from qcam.evaluate.showing.depth import DepthLine, depth_chart


def depth_picture(result: CheckResult, colours: Mapping[str, str] | None = None) -> bytes:
    """Draw the share of equal codes over depth, both ways; returns PNG.

    Args:
        result: With at least one tensor of codes.
        colours: Colour of each precision; None for that of this one alone.
    """
    tensors = result.coded
    arithmetic = f"{result.arithmetic} ({result.kernel})" if result.kernel else result.arithmetic
    line = DepthLine(
        label=f"{result.precision}, {arithmetic}",
        precision=result.precision,
        exact=result.arithmetic == Arithmetic.INTEGER,
        shares=[tensor.share for tensor in tensors],
        fed=[tensor.forced_share for tensor in tensors],
    )
    first = result.first_difference()
    named = (tensors.index(first), first.operator) if first is not None and first in tensors else None
    chart = depth_chart(f"{result.model}, deployed on {result.provider}", "depth", [line], named, colours)
    chart.figure.set_facecolor("white")  # opened on its own, not in a page of some colour
    return figure_bytes(chart.figure, "png")
