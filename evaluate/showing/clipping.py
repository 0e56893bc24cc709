"""The chart of clipping over depth: which share of each quantized tensor's values lies outside its quantizer's range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING

from qcam.evaluate.showing.canvas import INK, LINE, WIDTH, Chart, canvas, short
from qcam.evaluate.showing.numbers import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Shares that the scale begins and ends with; smaller ones are drawn at its foot.
_FOOT, _TOP = 1e-6, 1.0
#: Height of the strip of a precision, and of what stands above and below, in inches.
_STRIP, _REST = 0.62, 0.7


@dataclass(frozen=True)
class ClippedLine:
    """One precision.

    Attributes:
        precision: Its name.
        shares: Share of clipped values of each quantized tensor, 0..1, in graph order.
        louder: Of each, whether clipping is a larger error there than rounding.
    """

    precision: str
    shares: Sequence[float]
    louder: Sequence[bool]


def clipping_chart(title: str, name: str, lines: Sequence[ClippedLine], colours: Mapping[str, str]) -> Chart:
    """Draw a strip over depth for each precision, one stem for each tensor that clips anything.

    Args:
        title: The model.
        name: Of the files.
        lines: What is drawn, at least one.
        colours: Colour of each precision.
    """
    with canvas(WIDTH, _REST + _STRIP * len(lines)) as (drawn, axes):
        for row, line in enumerate(lines):
            _strip(axes, row, line, colours[line.precision])
        _finish(axes, lines)
        axes.set_title(short(title), fontsize=8, fontweight="bold", loc="left")
    return Chart(name, f"{title}: clipped values over depth", "; ".join(map(_told, lines)), drawn)


def _strip(axes: Axes, row: int, line: ClippedLine, colour: str) -> None:
    """Draw a precision's strip: from its foot at -row upwards, on a scale of powers of ten."""
    axes.axhline(-row, color=LINE, linewidth=0.6, zorder=1)
    for place, (clipped, louder) in enumerate(zip(line.shares, line.louder, strict=True), start=1):
        if clipped > 0:
            top = -row + 0.8 * _height(clipped)
            axes.plot([place, place], [-row, top], color=colour, linewidth=1.4 if louder else 0.7, solid_capstyle="butt")
            if louder:
                axes.plot([place], [top], ".", color=colour, markersize=3.2)


def _height(clipped: float) -> float:
    """Return where a share stands on the scale, 0..1."""
    return max(log10(clipped / _FOOT), 0.05) / log10(_TOP / _FOOT)


def _finish(axes: Axes, lines: Sequence[ClippedLine]) -> None:
    from matplotlib.ticker import MaxNLocator

    longest = max(len(line.shares) for line in lines)
    axes.set_xlim(0, longest + 1)
    axes.set_ylim(0.9 - len(lines), 0.95)
    ticks = [(-row + 0.8 * _height(of), f"{100 * of:g} %") for row in range(len(lines)) for of in (1e-5, 1e-3, 1e-1)]
    axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=5.5)
    for row, line in enumerate(lines):
        axes.annotate(line.precision, (1, -row + 0.5), xycoords=("axes fraction", "data"), ha="right", color=INK, fontsize=7)
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("quantized tensor, in graph order\n● clipping is a larger error than rounding")
    axes.set_ylabel("clipped values")


def _told(line: ClippedLine) -> str:
    some = sum(clipped > 0 for clipped in line.shares)
    most = max(line.shares, default=0.0)
    told = f"{line.precision}: {some} of {len(line.shares)} tensors clip, at most {share(most)} of their values"
    return f"{told}; in {sum(line.louder)} clipping is a larger error than rounding"
