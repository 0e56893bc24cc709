"""The charts of a report: means at a glance, and distributions; for the page and for files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcam.evaluate.report.layout import AXES, against, precision_title
from qcam.evaluate.report.runs import Column, precisions_of, published_of
from qcam.evaluate.results.records import Entry
from qcam.evaluate.showing.canvas import INK, LINE, PAGE, PAPER, WIDTH, Chart, canvas, colours_of, short
from qcam.evaluate.showing.numbers import figure as written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

#: Letters of a heading that a chart is laid out for.
_HEADING = 48
#: Lines of a rug at most; more images show as their quantiles.
_RUG = 120


def overview(columns: Sequence[Column]) -> Chart | None:
    """Draw mean CC v. f32 of every model with its interval, the null row, and what the paper published; None without any."""
    groups = [(column, found) for column in columns if (found := _means(column))]
    if not groups:
        return None
    told = []
    colours = colours_of(precisions_of(columns))
    with canvas(WIDTH * 1.15, 0.62 + sum(0.2 + 0.17 * len(found) for _, found in groups)) as (figure, axes):
        y = 0.0
        for column, found in groups:
            _heading(axes, y, column)
            for mean, entry in found:
                y += 1
                values = column.values(entry.precision, "vs_f32", "CC")
                worst = float(values.min()) if len(values) else mean
                _mean(axes, y, (mean, worst), entry, published_of(entry) if column.trained else None, colours[entry.precision])
                told.append(f"{column.title} {entry.precision} {written(mean)}, worst image {written(worst)}")
            y += 1.3
        lowest = axes.get_xlim()[0]
        axes.set_xlim(lowest, 1.0)
        _finish(axes, y - 0.3, f"CC v. f32  (1: nothing moved; zoomed, from {lowest:.3g} on)")
        _legend(figure, published=any(c.trained and published_of(e) for c, found in groups for _, e in found))
    return Chart("overview", "Mean CC v. f32 of every model and precision", "; ".join(told), figure)


def _means(column: Column) -> list[tuple[float, Entry]]:
    entries = [column.entries.get(("vs_f32", precision, "CC")) for precision in precisions_of([column])]
    return [(entry.mean, entry) for entry in entries if entry is not None and entry.mean is not None]


def _mean(
    axes: Axes, y: float, found: tuple[float, float], entry: Entry, known: tuple[float, float] | None, colour: str
) -> None:
    """Draw one mean on its own line, with its interval, the worst image and what was published."""
    mean, worst = found
    axes.plot([worst], [y], "x", color=colour, markersize=4, mew=1, clip_on=False, zorder=4)
    _strip_label(axes, y, precision_title("vs_f32", entry.precision), colour)
    if entry.low is not None and entry.high is not None:
        axes.plot([entry.low, entry.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.55)
    axes.plot([mean], [y], "o", color=colour, markersize=4.2, clip_on=False, zorder=4)
    if known is not None:
        axes.plot([known[0]], [y], "D", markersize=3.8, mfc="none", mec=PAPER, mew=1, clip_on=False, zorder=3)


def distribution(columns: Sequence[Column], comparison: str, metric: str) -> Chart | None:
    """Draw the distribution of one metric over the images for every model and precision; None without a value.

    Each strip: the density, one line for each image (quantiles where there are many), the middle half as a bar, the median.
    """
    groups = [(column, found) for column in columns if (found := _values(column, comparison, metric))]
    if not groups:
        return None
    everything = np.concatenate([values for _, found in groups for _, values in found])
    low, high = float(everything.min()), float(everything.max())
    room = (high - low) or 0.1
    told = []
    colours = colours_of(precisions_of(columns))
    with canvas(WIDTH, 0.62 + sum(0.22 + 0.27 * len(found) for _, found in groups)) as (figure, axes):
        y = 0.0
        for column, found in groups:
            _heading(axes, y, column, size=7)
            for precision, values in found:
                y += 1
                _strip(axes, y, values, colours[precision], room)
                name = precision_title(comparison, precision)
                _strip_label(axes, y, name, colours[precision])
                told.append(f"{column.title} {name}: median {written(float(np.percentile(values, 50)))}, {len(values)} images")
            y += 0.9
        axes.set_xlim(low - 0.03 * room, high + 0.03 * room)
        _finish(axes, y + 0.1, AXES.get(metric, metric))
    title = f"{metric} {against(comparison)}"
    return Chart(f"distribution-{comparison}-{metric}", title, "; ".join(told), figure)


def _values(column: Column, comparison: str, metric: str) -> list[tuple[str, Array]]:
    found = [(precision, column.values(precision, comparison, metric)) for precision in precisions_of([column])]
    return [(precision, values) for precision, values in found if len(values)]


def _strip(axes: Axes, y: float, values: Array, colour: str, room: float) -> None:
    """Draw one distribution on its own line."""
    low, lower, median, upper, high = np.percentile(values, [0, 25, 50, 75, 100])
    if high > low:
        places, heights = _density(values, room)
        axes.fill_between(places, y - 0.02, y - 0.02 - 0.62 * heights, color=colour, alpha=0.28, linewidth=0)
    rug = values if len(values) <= _RUG else np.percentile(values, np.linspace(0, 100, _RUG))
    gap = np.full(len(rug), np.nan)
    x = np.column_stack([rug, rug, gap]).ravel()
    height = np.column_stack([np.full(len(rug), y + 0.05), np.full(len(rug), y + 0.2), gap]).ravel()
    axes.plot(x, height, color=colour, linewidth=0.5, alpha=0.75)
    axes.plot([lower, upper], [y + 0.02, y + 0.02], color=colour, linewidth=2.4, solid_capstyle="butt")
    axes.plot([median], [y + 0.02], "o", color=PAGE, mec=colour, markersize=3.2, mew=1, zorder=5, clip_on=False)


def _density(values: Array, room: float) -> tuple[Array, Array]:
    """Return a Gaussian kernel estimate between the ends of the data, its peak at 1 (bandwidth after Silverman)."""
    # Quantiles stand for many images: the estimate is the same to the eye and costs nothing.
    points = values if len(values) <= 500 else np.percentile(values, np.linspace(0, 100, 500))
    spread = min(float(np.std(points)), float(np.subtract(*np.percentile(points, [75, 25]))) / 1.34 or np.inf)
    width = max(0.9 * spread * len(points) ** -0.2, 0.008 * room)
    places = np.linspace(values.min(), values.max(), 96)
    heights = np.exp(-0.5 * ((places[:, None] - points[None, :]) / width) ** 2).sum(axis=1)
    return places, heights / heights.max()


def _heading(axes: Axes, y: float, column: Column, size: float = 7.5) -> None:
    warning = {True: "", False: "  (random weights)", None: "  (not known whether trained)"}[column.trained]
    title = short(column.title) + warning
    told = axes.text(0, y + 0.12, title, transform=_beside(axes), fontsize=size, fontweight="bold", va="center")
    told.set_in_layout(len(title) <= _HEADING)  # the layout would leave the chart no room beside a longer one


def _strip_label(axes: Axes, y: float, text: str, colour: str) -> None:
    axes.text(-0.012, y, short(text), transform=_beside(axes), fontsize=6.5, color=colour, va="center", ha="right")


def _beside(axes: Axes) -> Any:
    """Return coordinates with x as a share of the axes' width, y in data."""
    return axes.get_yaxis_transform()


def _finish(axes: Axes, bottom: float, label: str) -> None:
    axes.set_ylim(bottom, -0.5)
    axes.set_yticks([])
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(label)


def _legend(figure: Figure, *, published: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=INK, marker="o", markersize=4, linewidth=2, label="mean, 95 % interval")]
    handles.append(Line2D([], [], color=INK, marker="x", markersize=4, linestyle="none", label="worst image"))
    if published:
        handles.append(Line2D([], [], color=PAPER, marker="D", markersize=3.8, mfc="none", linestyle="none", label="published"))
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=7, handlelength=1.6)
