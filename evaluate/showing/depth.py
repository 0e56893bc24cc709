"""The chart of agreement over depth: how many codes of each quantized tensor a simulation shares with the deployed run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcam.evaluate.showing.canvas import INK, LINE, WIDTH, Chart, canvas, colours_of, short
from qcam.evaluate.showing.numbers import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 2.1
#: Characters of an operator's name below the chart, from its beginning and its end: what fits the width.
_HEAD, _TAIL = 12, 25


@dataclass(frozen=True)
class DepthLine:
    """One precision in one arithmetic.

    Attributes:
        label: What it is called: `int8, integer (vnni)`.
        precision: Gives the colour.
        exact: Whether the arithmetic is the kernels' own; a float simulation is drawn with dashes.
        shares: Share of equal codes of each quantized tensor in graph order, from the image on.
        fed: The same with the tensor's operator fed with the deployed codes; None where that was not tried.
    """

    label: str
    precision: str
    exact: bool
    shares: Sequence[float]
    fed: Sequence[float | None]


def depth_chart(
    title: str,
    name: str,
    lines: Sequence[DepthLine],
    first: tuple[int, str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Chart:
    """Draw the share of equal codes over depth, simulated against deployed.

    Args:
        title: The model.
        name: Of the files.
        lines: What is drawn, at least one.
        first: Place among the tensors (from 0) and operator of the first that differs, to be named; None names none.
        colours: Colour of each precision; None for those of the lines alone (`colours_of`).
    """
    chosen = colours or colours_of(line.precision for line in lines)
    with canvas(WIDTH, _HEIGHT) as (drawn, axes):
        for line in lines:
            _draw(axes, line, chosen[line.precision])
        label = "quantized tensor, in graph order"
        if first is not None:
            label += f"\n○ first to differ: {_short(first[1])}"
            _ring(axes, lines[0], first[0])
        _finish(axes, lines)
        axes.set_xlabel(label)
        axes.set_title(short(title), fontsize=8, fontweight="bold", loc="left")
    return Chart(name, f"{title}: simulated against deployed codes over depth", "; ".join(map(_told, lines)), drawn)


def _draw(axes: Axes, line: DepthLine, colour: str) -> None:
    places = range(1, len(line.shares) + 1)
    dashes = "-" if line.exact else (0, (4, 1.5))
    axes.plot(places, line.shares, color=colour, linestyle=dashes, linewidth=1.2, label=line.label)
    fed = [(place, share) for place, share in zip(places, line.fed, strict=True) if share is not None]
    if fed:
        axes.plot(*zip(*fed, strict=True), ".", color=colour, markersize=3, label=f"{line.label}: operator alone")


def _ring(axes: Axes, line: DepthLine, place: int) -> None:
    fed = line.fed[place]
    share = line.shares[place] if fed is None else fed
    axes.plot([place + 1], [share], "o", color=INK, markersize=6, mfc="none", mew=0.8, clip_on=False)


def _finish(axes: Axes, lines: Sequence[DepthLine]) -> None:
    from matplotlib.ticker import MaxNLocator

    lowest = min(share for line in lines for share in (*line.shares, *line.fed) if share is not None)
    margin = 0.06 * (1 - lowest) or 0.005
    axes.set_ylim((0.9 if lowest == 1 else lowest) - margin, 1 + 2 * margin)
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_ylabel("share of equal codes")
    axes.legend(frameon=False, fontsize=6.5, loc="lower left")


def _told(line: DepthLine) -> str:
    return f"{line.label}: {figure(line.shares[0])} at the first tensor, {figure(line.shares[-1])} at the last"


def _short(name: str) -> str:
    return name if len(name) <= _HEAD + 1 + _TAIL else f"{name[:_HEAD]}…{name[-_TAIL:]}"
