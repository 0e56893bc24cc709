"""The charts of a report: means at a glance, distributions, agreement over depth; for the page and for files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcam.evaluate.report.numbers import figure as written
from qcam.evaluate.report.published import comparable
from qcam.evaluate.report.runs import Column, published_of
from qcam.evaluate.report.table import row_title
from qcam.runtime.bundle import PRECISIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

#: Colours by role (svg.THEMED names the page's own); precisions after Okabe and Ito, told apart by colour-blind people.
INK, MUTED, LINE, PAPER, PAGE = "#1b1f24", "#68707a", "#e2e5e9", "#8a4f9e", "#fdfdfc"
COLOURS = {"f32": "#6f7780", "int16": "#0072b2", "int8": "#d55e00"}
#: Width of a chart in inches: a column of a paper, and of the page.
_WIDTH = 3.5
#: Lines of a rug at most; more images show as their quantiles.
_RUG = 120
#: What the measures are called on an axis, and which side is the good one.
AXES = {
    "SIM": "SIM  (1: the same map)",
    "CC": "CC  (1: the same map)",
    "KLD": "KLD in nats  (0: the same map)",
    "rank_correlation": "rank correlation  (1: the same order)",
    "overlap": "overlap of the top 20 %  (1: the same places)",
    "energy_in_object": "share of energy inside the object",
    "drop": "drop of the class's probability",
}
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 7.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "text.parse_math": False,
    "path.simplify": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Chart:
    """A chart and what it is called.

    Attributes:
        name: Of its files.
        title: What it shows.
        description: What can be read from it, in words.
        figure: The drawing.
    """

    name: str
    title: str
    description: str
    figure: Figure


def overview(columns: Sequence[Column]) -> Chart | None:
    """Draw mean CC v. f32 of every model with its interval, the null row, and what the paper published; None without any."""
    groups = []
    for column in columns:
        found = []
        for precision in PRECISIONS:
            entry = column.run.entries.get(("vs_f32", precision, "CC", column.model))
            if entry is not None and entry["mean"] is not None:
                found.append((precision, entry))
        if found:
            groups.append((column, found))
    if not groups:
        return None
    told = []
    with _canvas(_WIDTH * 1.15, 0.62 + sum(0.2 + 0.17 * len(found) for _, found in groups)) as (figure, axes):
        y = 0.0
        for column, found in groups:
            _heading(axes, y, column)
            for precision, entry in found:
                y += 1
                colour = COLOURS[precision]
                _strip_label(axes, y, "f32 again" if precision == "f32" else precision, colour)
                if entry["low"] is not None:
                    axes.plot(
                        [entry["low"], entry["high"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.55
                    )
                axes.plot([entry["mean"]], [y], "o", color=colour, markersize=4.2, clip_on=False, zorder=4)
                told.append(f"{column.title} {precision} {written(entry['mean'])}")
                known = published_of(entry) if column.trained else None
                if known is not None:
                    axes.plot([known[0]], [y], "D", markersize=3.8, mfc="none", mec=PAPER, mew=1, clip_on=False, zorder=3)
            y += 1.3
        _finish(axes, y - 0.3, "mean CC v. f32  (1: quantization moved nothing)")
        lowest = axes.get_xlim()[0]
        axes.set_xlim(lowest, 1.0)
        _legend(figure, published=any(c.trained and published_of(e) for c, found in groups for _, e in found))
    return Chart("overview", "Mean CC v. f32 of every model and precision", "; ".join(told), figure)


def distribution(columns: Sequence[Column], comparison: str, metric: str) -> Chart | None:
    """Draw the distribution of one metric over the images for every model and precision; None without a value.

    Each strip: the density, one line for each image (quantiles where there are many), the middle half as a bar, the median.
    """
    groups = []
    for column in columns:
        found = [(precision, column.values(precision, comparison, metric)) for precision in PRECISIONS]
        found = [(precision, values) for precision, values in found if len(values)]
        if found:
            groups.append((column, found))
    if not groups:
        return None
    everything = np.concatenate([values for _, found in groups for _, values in found])
    low, high = float(everything.min()), float(everything.max())
    room = (high - low) or 0.1
    told = []
    with _canvas(_WIDTH, 0.62 + sum(0.22 + 0.27 * len(found) for _, found in groups)) as (figure, axes):
        y = 0.0
        for column, found in groups:
            _heading(axes, y, column, size=7)
            for precision, values in found:
                y += 1
                _strip(axes, y, values, COLOURS[precision], room)
                name = "f32 again" if (comparison, precision) == ("vs_f32", "f32") else precision
                _strip_label(axes, y, name, COLOURS[precision])
                quartiles = np.percentile(values, [25, 50, 75])
                told.append(f"{column.title} {name}: median {written(quartiles[1])}, {len(values)} images")
            y += 0.9
        axes.set_xlim(low - 0.03 * room, high + 0.03 * room)
        _finish(axes, y + 0.1, AXES.get(metric, metric))
    title = f"{metric} {heading(comparison)}"
    return Chart(f"distribution-{comparison}-{metric}", title, "; ".join(told), figure)


def depth(title: str, name: str, lines: Mapping[str, Sequence[tuple[float, float | None]]]) -> Chart:
    """Draw the share of equal codes over depth, simulated against deployed.

    Args:
        title: The model.
        name: Of the files.
        lines: What is drawn (`int8, integer`) → for each quantized tensor in graph order the share of equal codes from the
            image on, and with its operator fed with the deployed codes (None if that was not tried).
    """
    from matplotlib.ticker import MaxNLocator

    told = []
    with _canvas(_WIDTH, 2.1) as (figure, axes):
        for label, shares in lines.items():
            colour = COLOURS.get(label.split(",")[0], INK)
            dashes = "-" if "integer" in label else (0, (4, 1.5))
            places = range(1, len(shares) + 1)
            axes.plot(places, [share for share, _ in shares], color=colour, linestyle=dashes, linewidth=1.2, label=label)
            fed = [(place, share) for place, (_, share) in zip(places, shares, strict=True) if share is not None]
            if fed:
                axes.plot(*zip(*fed, strict=True), ".", color=colour, markersize=3, label=f"{label}: operator alone")
            told.append(f"{label}: {written(shares[0][0])} at the first tensor, {written(shares[-1][0])} at the last")
        lowest = min(min(share, 1.0 if fed is None else fed) for shares in lines.values() for share, fed in shares)
        margin = 0.06 * (1 - lowest) or 0.005
        axes.set_ylim((0.9 if lowest == 1 else lowest) - margin, 1 + 2 * margin)
        axes.ticklabel_format(axis="y", useOffset=False, style="plain")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.set_xlabel("quantized tensor, in graph order")
        axes.set_ylabel("share of equal codes")
        axes.set_title(title, fontsize=8, fontweight="bold", loc="left")
        axes.legend(frameon=False, fontsize=6.5, loc="lower left")
    return Chart(name, f"{title}: simulated against deployed codes over depth", "; ".join(told), figure)


def heading(comparison: str) -> str:
    """Return what a comparison is called behind a metric."""
    return {
        "vs_f32": "v. f32",
        "vs_saliency": "v. salient object",
        "fake_quant_vs_deployed": "fake-quant v. deployed",
        "on_model": "on the deployed model",
    }[comparison]


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


@contextmanager
def _canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()


def _heading(axes: Axes, y: float, column: Column, size: float = 7.5) -> None:
    warning = "" if column.trained else "  (random weights)"
    axes.text(0, y + 0.12, column.title + warning, transform=_beside(axes), fontsize=size, fontweight="bold", va="center")


def _strip_label(axes: Axes, y: float, text: str, colour: str) -> None:
    axes.text(-0.012, y, text, transform=_beside(axes), fontsize=6.5, color=colour, va="center", ha="right")


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
    if published:
        handles.append(Line2D([], [], color=PAPER, marker="D", markersize=3.8, mfc="none", linestyle="none", label="published"))
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=7, handlelength=1.6)


def row_name(comparison: str, precision: str) -> str:
    """Return what a row is called: `int8 v. f32`."""
    return row_title(comparison, precision) if comparison != "on_model" else f"{precision} {heading(comparison)}"


def held_against(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the published figure that an entry may be held against, None where there is none or it would mean nothing."""
    return published_of(entry) if comparable(str(entry["comparison"]), str(entry["metric"])) else None
