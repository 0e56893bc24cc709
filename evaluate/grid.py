"""The picture grid: image, salient object, and the deployed CAM of every precision, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qcam.common.files import write_atomically
from qcam.evaluate.cam import normalise, upsample
from qcam.evaluate.evaluator import Sample
from qcam.evaluate.results import Row, StoredMap

#: Share of the CAM's colour in an overlay.
_OPACITY = 0.55
#: Perceptually even and readable for colour-blind people, unlike jet.
_COLOURS = "inferno"


def choose_images(rows: Sequence[Row], model: str, count: int) -> list[str]:
    """Choose the images of a grid: the worst half by CC of the lowest precision v. f32, and an even spread of the rest.

    Args:
        rows: Result rows.
        model: Model id.
        count: How many at most.

    Returns:
        Image names, worst first.
    """
    candidates = [row for row in rows if row.model == model and row.comparison == "vs_f32" and row.status == "ok"]
    if not candidates:
        candidates = [row for row in rows if row.model == model and row.top1 is not None]
    lowest = [row for row in candidates if row.precision == candidates[-1].precision]
    ordered = list(dict.fromkeys(row.image for row in sorted(lowest, key=lambda r: (1.0 if r.CC is None else r.CC, r.image))))
    if len(ordered) <= count:
        return ordered
    worst = (count + 1) // 2
    rest = ordered[worst:]
    return ordered[:worst] + [rest[index * len(rest) // (count - worst)] for index in range(count - worst)]


def write_grid(
    path: Path,
    title: str,
    samples: Sequence[Sample],
    maps: Sequence[StoredMap],
    rows: Sequence[Row],
    classes: Sequence[str],
) -> None:
    """Draw a grid and write it as PNG.

    Args:
        path: The PNG file.
        title: Above the grid.
        samples: The images, one row each.
        maps: Stored CAMs of this model.
        rows: Result rows of this model, for the figures below the pictures.
        classes: Class names.
    """
    from matplotlib import rc_context

    # A dollar sign in a file name is a dollar sign, no formula.
    with rc_context({"text.parse_math": False}):
        data = _draw(title, samples, maps, rows, classes)
    write_atomically(path, data)


def _draw(
    title: str, samples: Sequence[Sample], maps: Sequence[StoredMap], rows: Sequence[Row], classes: Sequence[str]
) -> bytes:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    deployed = {(item.image, item.precision): item for item in maps if item.kind == "deployed"}
    precisions = list(dict.fromkeys(item.precision for item in maps))
    found = {(row.image, row.precision, row.comparison): row for row in rows}
    columns = ["image", "salient object", *(f"{name} CAM" for name in precisions)]
    figure = Figure(figsize=(1.9 * len(columns), 2.15 * len(samples) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(samples), len(columns), squeeze=False)
    figure.suptitle(title, fontsize=10)
    for row_axes, sample in zip(axes, samples, strict=True):
        for axis in row_axes:
            axis.set_xticks([])
            axis.set_yticks([])
        row_axes[0].imshow(sample.crop)
        first = found.get((sample.name, precisions[0], "fake_quant_vs_deployed")) or found.get(
            (sample.name, precisions[0], "vs_f32")
        )
        target = "" if first is None or first.target_class is None else classes[first.target_class]
        row_axes[0].set_xlabel(f"{sample.name[-24:]}\n{target[:24]}", fontsize=7)
        if sample.saliency is None:
            row_axes[1].text(0.5, 0.5, "none", ha="center", va="center", transform=row_axes[1].transAxes)
        else:
            row_axes[1].imshow(sample.saliency, cmap="gray", vmin=0, vmax=1)
        for axis, precision in zip(row_axes[2:], precisions, strict=True):
            item = deployed[(sample.name, precision)]
            cam = normalise(upsample(item.array[None], sample.crop.shape[:2]))[0]
            colours = colormaps[_COLOURS](cam)[..., :3]
            axis.imshow(np.clip((1 - _OPACITY) * sample.crop / 255.0 + _OPACITY * colours, 0, 1))
            row = found.get((sample.name, precision, "vs_f32"))
            if row is not None and row.CC is not None and precision != "f32":
                axis.set_xlabel(f"CC v. f32 {row.CC:.3f}" + ("" if row.top1_agrees else "\nother top-1 class"), fontsize=7)
    for axis, heading in zip(axes[0], columns, strict=True):
        axis.set_title(heading, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": "qcam"})
    return buffer.getvalue()
