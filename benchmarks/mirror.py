"""What exact arithmetic costs: the integer mirror's full forward beside the fake-quant mirror's and the deployed run.

    python benchmarks/mirror.py [--model resnet50]... [--weights random:0] [--batch-size 8] [--threads 2] [--json FILE]

All of them run in one process on the same photographs, in turn, several times; medians, spread and ratios to the fake-quant
mirror are printed. Saturation costs more on trained weights than on seeded ones. Shared machines are noisy: read the ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from qcam.common import machine
from qcam.common.files import readable_json, write_atomically
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.models.sources import load_model
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror import Mirror

BASE = "fake_quant"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "models", multiple=True, default=("resnet50",), show_default=True, help="As for qcam-export.")
@click.option("--weights", default="random:0", show_default=True, help="As for qcam-export; default: the model's own.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1, 20), help="Images at a time.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of ONNX Runtime and PyTorch.")
@click.option("--repeat", default=7, show_default=True, type=click.IntRange(3), help="Rounds.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(models: tuple[str, ...], weights: str, batch_size: int, threads: int, repeat: int, json_path: Path | None) -> None:
    """Measure full forwards of an int8 graph, in ms an image."""
    torch.set_num_threads(threads)
    record: dict[str, Any] = {"weights": weights, "batch_size": batch_size, "threads": threads, "repeat": repeat}
    record |= {"machine": machine.describe(), "versions": machine.versions(), "models": {}}
    for model in models:
        record["models"][model] = figures = _measure(model, weights, batch_size, threads, repeat)
        click.echo(f"{model} ({weights}) int8, batch {batch_size}, {threads} threads, {repeat} rounds; ms an image")
        click.echo(f"{'forward':28} {'median':>9} {'min':>9} {'max':>9} {'/ ' + BASE:>13}")
        for name, f in figures.items():
            columns = f"{f['median_ms']:9.2f} {f['min_ms']:9.2f} {f['max_ms']:9.2f} {f['ratio']:13.3f}"
            click.echo(f"{name:28} {columns}")
    if json_path is not None:
        write_atomically(json_path, readable_json(record))


def _measure(model: str, weights: str, batch_size: int, threads: int, repeat: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(model, None if weights == "default" else weights)
        options = ExportOptions(precisions=("int8",))
        bundle = export_bundle(loaded, calibration_photographs()[:4], options, Path(folder) / "bundle")
        session = DeployedModel(bundle, "int8", SessionSettings(threads=threads))
        graph = load_onnx(bundle, "int8")
    photographs = evaluation_photographs()[:batch_size]
    crops = [bundle.preprocessing.crop_image(decode(photograph.path).image) for photograph in photographs]
    images = bundle.preprocessing.normalise(np.stack(crops))
    mirrors = {BASE: Mirror(graph, session.entry)}
    for family in KERNELS.values():
        mirrors[f"integer ({family})"] = Mirror(graph, session.entry, arithmetic="integer", family=family)
    runs: dict[str, Callable[[], Any]] = {
        name: (lambda mirror=mirror: mirror.forward(images)) for name, mirror in mirrors.items()
    }
    runs["deployed int8"] = lambda: session.run(images)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(repeat + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / batch_size)
    base = statistics.median(seconds[BASE])
    return {
        name: {
            "median_ms": statistics.median(values) * 1e3,
            "min_ms": min(values) * 1e3,
            "max_ms": max(values) * 1e3,
            "ratio": statistics.median(values) / base,
        }
        for name, values in seconds.items()
    }


if __name__ == "__main__":
    main()
