"""What an export costs: qcam-export's stages beside the bare float inference of its calibration photographs, and its memory.

    python benchmarks/export.py [--model resnet50]... [--images 128] [--threads 2] [--json FILE]

Each model is exported at three precisions in a process of its own, with seeded weights (they change neither time nor memory).
Calibration photographs are the real ones repeated with augmentation. Memory is the growth of the process's peak over what it
had after importing PyTorch, ONNX Runtime and its quantizer, told beside the size of the weights and the growth that a bare
float inference of one batch causes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from qcam.common import machine
from qcam.common.files import readable_json, write_atomically

MODELS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "squeezenet1_1", "vgg16")
#: Stages that are the exporter's and the quantizer's own work; the rest is to cost twice the bare inference at most.
OWN = ("exporting to ONNX", "quantizing to int16", "quantizing to int8", "checking that it runs")
BATCH = 8


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True, help="As for qcam-export.")
@click.option("--images", default=128, show_default=True, type=click.IntRange(BATCH), help="Calibration photographs.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of the bare inference.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
@click.option("--one", hidden=True, help="Export one model in this process and print its figures as JSON.")
@click.option("--folder", hidden=True, type=click.Path(path_type=Path))
def main(
    models: tuple[str, ...], images: int, threads: int, json_path: Path | None, one: str | None, folder: Path | None
) -> None:
    """Measure the exports of some models."""
    if one is not None and folder is not None:
        click.echo(json.dumps(measure(one, folder, threads)))
        return
    from memory import augment

    found: dict[str, Any] = {}
    click.echo(f"{'model':18} {'calibration / bare f32':>24} {'own work, s':>12} {'weights, MiB':>13} {'growth / weights':>17}")
    with tempfile.TemporaryDirectory() as temporary:
        photographs = Path(temporary) / "images"
        augment(photographs, images)
        for model in models:
            command = [sys.executable, __file__, "--one", model, "--folder", str(photographs), "--threads", str(threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures = found[model] = json.loads(done.stdout.splitlines()[-1])
            click.echo(
                f"{model:18} {figures['ratio']:24.2f} {figures['own_seconds']:12.1f} {figures['weights_mib']:13.1f} "
                f"{figures['growth_mib'] / figures['weights_mib']:17.2f}"
            )
    if json_path is not None:
        record = {"images": images, "threads": threads, "batch_size": BATCH, "models": found}
        write_atomically(json_path, readable_json(record | {"machine": machine.describe(), "versions": machine.versions()}))


def measure(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """Export one model; return its stages in seconds and its memory in MiB."""
    import onnxruntime
    import onnxruntime.quantization
    import torch

    from qcam.calibration.ranges import load_calibration_set
    from qcam.exporters.export import ExportOptions, export_bundle
    from qcam.images.listing import find_images
    from qcam.models.sources import load_model

    torch.set_num_threads(threads)
    images = find_images(folder)
    before = _peak()
    loaded = load_model(name, "random:0")
    stages: dict[str, float] = {}
    peaks: dict[str, float] = {}
    last = ["", time.perf_counter()]

    def on_stage(stage: str) -> None:
        now = time.perf_counter()
        key = str(last[0]).split(":")[0].split(" on ")[0]
        if key:
            stages[key] = stages.get(key, 0.0) + now - float(last[1])
            peaks[key] = _peak() - before
        last[:] = [stage, now]

    with tempfile.TemporaryDirectory() as temporary:
        bundle = export_bundle(loaded, images, ExportOptions(), Path(temporary) / "bundle", on_stage=on_stage)
        on_stage("")
        growth = _peak() - before
        weights = sum(value.numel() * value.element_size() for value in loaded.module.state_dict().values()) / 2**20
        crops = load_calibration_set(images, loaded.preprocessing).normalised_batches(loaded.preprocessing, BATCH)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(bundle.path("f32")), options, providers=["CPUExecutionProvider"])
        batches = list(crops)
        feed = session.get_inputs()[0].name
        session.run(["logits"], {feed: batches[0]})
        start = time.perf_counter()
        for batch in batches:
            session.run(["logits"], {feed: batch})
        bare = time.perf_counter() - start
    own = sum(seconds for stage, seconds in stages.items() if stage in OWN)
    rest = sum(seconds for stage, seconds in stages.items() if stage not in OWN)
    return {
        "stages": stages, "growth_mib_after": peaks, "bare_f32_seconds": bare, "ratio": rest / bare, "own_seconds": own,
        "weights_mib": weights, "growth_mib": growth,
    }  # fmt: skip


def _peak() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
