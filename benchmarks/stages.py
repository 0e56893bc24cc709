"""Time in stages: what a deployed CAM costs beside the deployed run itself.

    python benchmarks/stages.py [--model resnet50] [--weights random:0] [--batch-size 8] [--threads 2] [--json FILE]

All stages run in one process on the same photographs, in turn, several times; medians and their spread are printed, and
ratios to the deployed int8 run. Weights are seeded by default: they change no time. Shared machines are noisy: read the
ratios.
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

from qcam.calibration.images import decode
from qcam.calibration.photographs import calibration_photographs, evaluation_photographs
from qcam.common import machine
from qcam.common.files import readable_json, write_atomically
from qcam.evaluate.cam import cam, normalise, upsample
from qcam.evaluate.metrics import all_metrics
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.models.sources import load_model
from qcam.runtime.bundle import load_model as load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", default="resnet50", show_default=True, help="Any model that qcam-export takes.")
@click.option("--weights", default="random:0", show_default=True, help="As for qcam-export.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1, 20), help="Images at a time.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of ONNX Runtime and PyTorch.")
@click.option("--repeat", default=9, show_default=True, type=click.IntRange(3), help="Rounds over all stages.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(model: str, weights: str, batch_size: int, threads: int, repeat: int, json_path: Path | None) -> None:
    """Measure decode, crop, deployed runs, tail gradient, CAM, metrics and the mirror's forward, in ms an image."""
    import torch

    from qcam.runtime.mirror import Mirror

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(model, None if weights == "default" else weights)
        bundle = export_bundle(loaded, calibration_photographs()[:4], ExportOptions(), Path(folder) / "bundle")
        photographs = evaluation_photographs()[:batch_size]
        sessions = {name: DeployedModel(bundle, name, SessionSettings(threads=threads)) for name in ("f32", "int16", "int8")}
        mirror = Mirror(load_onnx(bundle, "int8"), sessions["int8"].entry)
    preprocessing = bundle.preprocessing
    decoded = [decode(photograph.path).image for photograph in photographs]
    crops = np.stack([preprocessing.crop_image(image) for image in decoded])
    images = preprocessing.normalise(crops)
    outputs = sessions["int8"].run(images)
    activation = mirror.dequantize(sessions["int8"].entry.tap, outputs.tap)
    targets = sessions["f32"].run(images).logits.argmax(axis=1)
    gradient = mirror.gradient(activation, targets)
    a, g = activation.numpy(), gradient.numpy()
    maps = normalise(upsample(cam(a, g), preprocessing.crop))

    stages: dict[str, Callable[[], Any]] = {
        "decode": lambda: [decode(photograph.path) for photograph in photographs],
        "crop and normalise": lambda: preprocessing.normalise(np.stack([preprocessing.crop_image(i) for i in decoded])),
        **{f"deployed {name}": (lambda session=session: session.run(images)) for name, session in sessions.items()},
        "tail gradient": lambda: mirror.gradient(activation, targets),
        "CAM": lambda: cam(a, g),
        "enlarge and metrics": lambda: all_metrics(normalise(upsample(cam(a, g), preprocessing.crop)), maps),
        "mirror forward (for comparison only)": lambda: mirror.forward(images),
    }
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for round_ in range(repeat + 1):
        for name, run in stages.items():
            start = time.perf_counter()
            run()
            if round_:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / batch_size)
    base = statistics.median(seconds["deployed int8"])
    figures = {
        name: {
            "median_ms": statistics.median(values) * 1e3,
            "min_ms": min(values) * 1e3,
            "max_ms": max(values) * 1e3,
            "to_deployed_int8": statistics.median(values) / base,
        }
        for name, values in seconds.items()
    }
    click.echo(f"{model} ({weights}), batch {batch_size}, {threads} threads, {repeat} rounds; ms an image")
    click.echo(f"{'stage':38} {'median':>8} {'min':>8} {'max':>8} {'/ int8':>8}")
    for name, f in figures.items():
        columns = f"{f['median_ms']:8.2f} {f['min_ms']:8.2f} {f['max_ms']:8.2f} {f['to_deployed_int8']:8.3f}"
        click.echo(f"{name:38} {columns}")
    if json_path is not None:
        record = {"model": model, "weights": weights, "batch_size": batch_size, "threads": threads, "repeat": repeat}
        write_atomically(
            json_path,
            readable_json(record | {"machine": machine.describe(), "versions": machine.versions(), "stages": figures}),
        )


if __name__ == "__main__":
    main()
