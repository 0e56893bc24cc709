"""The picture grid: image, salient object, and the CAM of every precision, side by side, in the manner of the paper's Fig. 2.

Everything is drawn from stored pictures and maps: no image is decoded again, no model run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcam.common.places import file_names, write_inside
from qcam.common.printable import printable
from qcam.common.vocabulary import ColourMap
from qcam.evaluate.maps.cam import enlarge
from qcam.evaluate.report.choice import choose
from qcam.evaluate.results.folder import Picture, Results, Row, StoredMap
from qcam.evaluate.results.pictures import photo_of, saliency_of
from qcam.evaluate.results.records import UNKNOWN_WEIGHTS
from qcam.evaluate.showing.canvas import figure_bytes, quiet_letters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Share of the CAM's colour in an overlay.
OPACITY = 0.55
#: Width of a picture, and what stands around it, in inches.
_CELL, _GAP, _CAPTION, _HEAD, _TITLE = 1.32, 0.06, 0.34, 0.22, 0.3
#: Behind the title, by whether weights are trained.
_REMARKS = {True: "", False: "   (RANDOM WEIGHTS: no figure means anything)", None: f"   ({UNKNOWN_WEIGHTS})"}
#: Characters of a name below a picture.
_NAME = 26


def write_grids(results: Results, count: int, colormap: str = ColourMap.INFERNO) -> list[Path]:
    """Write one grid for each model into the result folder: `grid-BUNDLE.png`.

    Args:
        results: A run.
        count: Images in each grid at most.
        colormap: Colours of the CAMs, by matplotlib's name.

    Returns:
        The files; none of a model without a single image that was evaluated.
    """
    paths = []
    names = file_names([f"grid-{results.record.models[model].bundle}" for model in results.models])
    for model, name in zip(results.models, names, strict=True):
        images = [chosen.image for chosen in choose(results.columns(model), count)]
        figure = draw_grid(results, model, images, colormap)
        if figure is None:
            continue
        paths.append(write_inside(results.folder, f"{name}.png", figure_bytes(figure, "png", dpi=130)))
    return paths


def draw_grid(results: Results, model: str, images: Sequence[str], colormap: str = ColourMap.INFERNO) -> Figure | None:
    """Draw one model's grid, one row for each image.

    Args:
        results: A run.
        model: Model id.
        images: Images in the order of the rows; those without a stored picture are left out.
        colormap: Colours of the CAMs, by matplotlib's name.

    Returns:
        The figure; None if nothing is left to draw.
    """
    if not images:
        return None
    facts = results.record.models[model]
    pictures = {item.image: item for item in results.pictures(images) if item.geometry == facts.geometry}
    shown = [image for image in images if image in pictures]
    if not shown:
        return None
    maps = {(item.image, item.precision): item for item in results.maps(model=model, images=shown) if item.kind == "deployed"}
    every = results.rows(model=model, images=shown)
    compared = "vs_f32" if any(row.comparison == "vs_f32" for row in every) else "vs_saliency"
    figures = {(row.image, row.precision): _figure_line(row) for row in every if row.comparison == compared}
    targets = {(row.image, row.precision): row.target_class for row in every if row.target_class is not None}
    from matplotlib import rc_context

    # A dollar sign in a file name is a dollar sign, no formula.
    with rc_context({"text.parse_math": False, "font.size": 7, "axes.linewidth": 0.4, "axes.edgecolor": "#888888"}):
        drawing = _Grid(1 + len(shown), results.precisions(model), colormap)
        remark = _REMARKS[facts.weights.trained]
        drawing.title(f"{model}: {results.record.plan.cam} by precision{remark}")
        for place, image in enumerate(shown):
            chosen = {name: _class_name(results, model, targets.get((image, name))) for name in results.precisions(model)}
            drawing.row(place, pictures[image], maps, figures, chosen)
    return drawing.figure


class _Grid:
    """A figure with one column for each kind of picture, filled row by row."""

    def __init__(self, rows: int, precisions: Sequence[str], colormap: str) -> None:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._precisions = precisions
        self._colours = colormaps[colormap]
        headings = ["image", "salient object", *precisions]
        self._width = _GAP + len(headings) * (_CELL + _GAP)
        self._height = _TITLE + _HEAD + (rows - 1) * (_CELL + _CAPTION)
        self.figure = Figure(figsize=(self._width, self._height))
        FigureCanvasAgg(self.figure)
        for column, heading in enumerate(headings):
            x = (_GAP + column * (_CELL + _GAP) + _CELL / 2) / self._width
            self.figure.text(x, 1 - (_TITLE + 0.14) / self._height, heading, ha="center", va="center", fontsize=8)

    def title(self, text: str) -> None:
        """Write the title above the headings, smaller where it would leave the picture."""
        y, room = 1 - 0.16 / self._height, (self._width - 2 * _GAP) * self.figure.dpi
        drawn = self.figure.text(_GAP / self._width, y, text, ha="left", va="center", fontsize=9, fontweight="bold")
        with quiet_letters():
            width = drawn.get_window_extent().width
        if width > room:
            drawn.set_fontsize(9 * room / width)

    def row(
        self,
        place: int,
        picture: Picture,
        maps: dict[tuple[str, str], StoredMap],
        figures: dict[tuple[str, str], str],
        explained: dict[str, str],
    ) -> None:
        """Draw one image and its maps; where precisions explain different classes, each says which."""
        seen = photo_of(picture)
        classes = list(dict.fromkeys(filter(None, explained.values())))
        shared = _short(classes[0]) if len(classes) == 1 else ""
        axis = self._axis(place, 0, f"{_short(picture.image)}\n{shared}")
        axis.imshow(seen, interpolation="none")
        grey = saliency_of(picture)
        if grey is None:
            axis = self._axis(place, 1, "")
            axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes)
        else:
            self._axis(place, 1, "").imshow(grey, cmap="gray", vmin=0, vmax=255)
        for column, precision in enumerate(self._precisions, 2):
            item, caption = maps.get((picture.image, precision)), figures.get((picture.image, precision), "")
            if len(classes) > 1:
                caption = "\n".join(filter(None, [_short(explained.get(precision, "")), caption]))
            axis = self._axis(place, column, caption)
            if item is None:
                axis.text(0.5, 0.5, "no map", ha="center", va="center", transform=axis.transAxes)
                continue
            cam = enlarge(item.array[None], (seen.shape[0], seen.shape[1]))[0]
            colours = np.asarray(self._colours(cam))[..., :3]
            axis.imshow(np.clip((1 - OPACITY) * seen / 255.0 + OPACITY * colours, 0, 1), interpolation="none")

    def _axis(self, place: int, column: int, caption: str) -> Any:
        left = (_GAP + column * (_CELL + _GAP)) / self._width
        bottom = 1 - (_TITLE + _HEAD + place * (_CELL + _CAPTION) + _CELL) / self._height
        axis = self.figure.add_axes((left, bottom, _CELL / self._width, _CELL / self._height))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(caption, fontsize=6, labelpad=2)
        return axis


def _figure_line(row: Row) -> str:
    """Return what is said below a map: how it stands to f32's, or where no f32 was run to the salient object."""
    if row.comparison == "vs_saliency":
        return "" if row.CC is None else f"CC {row.CC:.3f} v. object"
    if row.precision == "f32":
        return ""
    flip = "\nother top-1 class" if row.top1_agrees is False else ""
    return ("undefined" if row.CC is None else f"CC {row.CC:.3f}") + flip


def _class_name(results: Results, model: str, place: int | None) -> str:
    if place is None:
        return ""
    classes = results.classes(model)
    return classes[place] if 0 <= place < len(classes) else str(place)


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _NAME else "…" + text[1 - _NAME :]
