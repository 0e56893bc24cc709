"""The look of every chart: colours by role, fonts, an empty canvas, and files that are the same whenever they are drawn."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from qcam.common.printable import printable
from qcam.runtime.manifest import ordered_precisions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours by role (the report's page has its own for each); precisions after Okabe and Ito, told apart by colour-blind people.
INK, MUTED, LINE, PAPER, PAGE = "#1b1f24", "#68707a", "#e2e5e9", "#8a4f9e", "#fdfdfc"
_COLOURS = {"f32": "#6f7780", "int16": "#0072b2", "int8": "#d55e00"}
#: Those of precisions of other names, in the order of every table: after Paul Tol's muted scheme, told apart by colour-blind
#: people, and dark enough for text.
OTHERS = ("#117733", "#882255", "#332288", "#7f7f2a", "#aa4499")
#: Width of a chart in inches: a column of a paper, and of the page.
WIDTH = 3.5
#: Letters of a name in a chart.
_NAME = 40
#: Dots per inch of a PNG for print.
DPI = 300
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


def colours_of(precisions: Iterable[str]) -> dict[str, str]:
    """Return the colour of every precision; those of other tools take turns, in the order of every table.

    Args:
        precisions: All that a report or a check tells of: then a name has one colour in all of its charts.
    """
    every = ordered_precisions(precisions)
    others = dict(zip((name for name in every if name not in _COLOURS), cycle(OTHERS), strict=False))
    return {name: _COLOURS.get(name) or others[name] for name in every}


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield an empty figure of so many inches, and its axes, in the style of every chart."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()


def short(text: str) -> str:
    """Return a name for a chart: escaped, and its middle left out where it would leave the drawing no room."""
    text = printable(text)
    return text if len(text) <= _NAME else f"{text[: _NAME // 2]}…{text[-_NAME // 2 :]}"


@contextmanager
def quiet_letters() -> Iterator[None]:
    """Let matplotlib say nothing of letters that its font has not: they are boxes in the drawing, for all to see."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        yield


def figure_bytes(figure: Figure, form: str, dpi: int = DPI) -> bytes:
    """Return a figure as a file that is the same whenever it is drawn.

    Args:
        figure: The figure.
        form: `png` or `svg`.
        dpi: Dots per inch of a PNG.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for item in figure.findobj(Text):
        item.set_text("\n".join(map(printable, item.get_text().split("\n"))))  # XML knows no control characters
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Software": "qcam"} if form == "png" else dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with quiet_letters(), rc_context({"text.parse_math": False, "svg.hashsalt": "qcam"}):
        figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata)
    return buffer.getvalue()
