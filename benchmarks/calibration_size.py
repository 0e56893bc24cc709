"""How much drift depends on the number of calibration photographs: a table for docs/measurements.md.

    python benchmarks/calibration_size.py NETWORK[=WEIGHTS]... [--sizes 2,8,18] [--held-out 10] [--photographs FOLDER]
        [--output FILE]

Of the photographs of a folder, or without one of the 8 that installed packages ship and behind them of the demo's 20, the last
are held out and evaluated; the first so many of the others calibrate (min-max). Drift is 1 - CC of the deployed CAM against
f32's, of f32's top-1 class. "Clipping is larger": tensors at which clipping is a larger error than rounding, in the simulation.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np

import qcam
from qcam.commands import console
from qcam.common import machine
from qcam.common.files import write_atomically
from qcam.evaluate.results.records import ClippedTensor
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.images.listing import find_images
from qcam.images.sources import ImageFile

_HEAD = """| network | calibrated on | precision | median | quartiles | worst | clipping is larger | values clipped |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |
"""


def photographs_of(folder: Path | None) -> list[ImageFile]:
    """Return the photographs in their order; those of a folder, or without one those that packages ship."""
    return find_images(folder) if folder is not None else [*calibration_photographs(), *evaluation_photographs()]


def lines(network: str, images: Sequence[ImageFile], sizes: Sequence[int], held_out: int, folder: Path) -> Iterator[str]:
    """Yield the rows of one network, size by size.

    Args:
        network: Name, and behind an equals sign where its weights are.
        images: All photographs.
        sizes: How many calibrate.
        held_out: How many of the last are evaluated.
        folder: For bundles and results.
    """
    name, _, weights = network.partition("=")
    evaluated = _copied(images[-held_out:], folder / "evaluated")
    for size in sizes:
        calibration = _copied(images[: len(images) - held_out][:size], folder / f"calibration-{size}")
        bundle = qcam.export(name, weights=weights or None, calibration=calibration, output=folder / f"{name}-{size}")
        found = qcam.study(bundle, images=evaluated, saliency="none", output=folder / f"out-{name}-{size}", report=False)
        results = found.stored
        columns = results.columns(name)
        for told in results.statistics.clipping:
            drift = 1 - columns[(told.precision, "vs_f32")]["CC"]
            drift = drift[np.isfinite(drift)]
            low, middle, high = np.quantile(drift, (0.25, 0.5, 0.75))
            louder = sum(tensor.louder for tensor in told.tensors)
            yield (
                f"| {name} | {size} | {told.precision} | {middle:.2g} | {low:.2g} to {high:.2g} | {drift.max():.2g} | "
                f"{louder} of {len(told.tensors)} | {100 * _clipped(told.tensors):.2g} % |"
            )


def _clipped(tensors: Sequence[ClippedTensor]) -> float:
    """Return the share of clipped values of all tensors together."""
    return sum((tensor.low + tensor.high) * tensor.n for tensor in tensors) / sum(tensor.n for tensor in tensors)


def _copied(images: Sequence[ImageFile], folder: Path) -> Path:
    """Copy photographs into a folder of their own, in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, image in enumerate(images):
        shutil.copyfile(str(image.path), folder / f"{place:03d}-{Path(image.name).name}")
    return folder


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("networks", nargs=-1, required=True)
@click.option("--sizes", default="2,8,18", help="Numbers of calibration photographs, with commas between them.")
@click.option("--held-out", type=click.IntRange(min=2), default=10, help="Photographs that are evaluated.")
@click.option("--photographs", type=click.Path(path_type=Path, exists=True), help="Folder of photographs.")
@click.option("--output", type=click.Path(path_type=Path), help="File for the table.")
def main(networks: tuple[str, ...], sizes: str, held_out: int, photographs: Path | None, output: Path | None) -> None:
    """Measure drift over the number of calibration photographs."""
    images = photographs_of(photographs)
    wanted = [int(size) for size in sizes.split(",")]
    had = len(images) - held_out
    if max(wanted) > had or min(wanted) < 1:
        raise click.UsageError(f"{len(images)} photographs, {held_out} of them held out: sizes are 1 to {had}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for network in networks:
            for row in lines(network, images, wanted, held_out, Path(folder)):
                console.out.print(row, markup=False, highlight=False)
                rows.append(row)
    runtime, architecture = machine.versions()["onnxruntime"], machine.describe()["architecture"]
    told = f"Evaluated on {held_out} others; ONNX Runtime {runtime}, {architecture}.\n"
    if output is not None:
        write_atomically(output, _HEAD + "\n".join(rows) + f"\n\n{told}")


if __name__ == "__main__":
    main()
