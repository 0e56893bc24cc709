"""Whole commands: how much of qcam-eval's wall time is spent inside ONNX Runtime, and how long commands take to start.

    python benchmarks/evaluation.py [--model resnet50] [--images 400] [--json FILE]

qcam-eval runs at three precisions as users run it: decoding JPEG files, salient-object maps from the cache (a first run fills
it), the null row, metrics, tables and pictures; once without and once with the fake-quant simulation, which is PyTorch's time
and not ONNX Runtime's. Wall time is the whole process's, interpreter and imports included. Weights are seeded: they change no
time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from memory import augment

from qcam.common import machine
from qcam.common.files import readable_json, write_atomically

COMMANDS = {
    "qcam-eval": "commands.eval",
    "qcam-export": "commands.export",
    "qcam-check": "commands.check",
    "qcam-report": "commands.report",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", default="resnet50", show_default=True, help="As for qcam-export.")
@click.option("--images", default=400, show_default=True, type=click.IntRange(1), help="Photographs, made of the real ones.")
@click.option("--simulated-images", default=400, show_default=True, type=click.IntRange(1), help="Likewise, with simulation.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(model: str, images: int, simulated_images: int, json_path: Path | None) -> None:
    """Measure whole commands."""
    found: dict[str, Any] = {"model": model, "start": start_up()}
    for name, seconds in found["start"].items():
        click.echo(f"{name} --help: {seconds:.3f} s")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        augment(folder / "images", images)
        run("commands.export", model, "--weights", "random:0", "--output", str(folder / "bundles"))
        (bundle,) = (folder / "bundles").iterdir()
        shared = [str(bundle), "--images", str(folder / "images"), "--saliency-cache", str(folder / "cache"), "--profile"]
        fill = ["--limit", str(images), "--no-fake-quant", "--precision", "int8", "--target", "own-top1"]
        run("commands.eval", *shared, *fill, "--output", str(folder / "fill"))
        runs = {
            "without simulation": ["--no-fake-quant"],
            "without simulation, no report": ["--no-fake-quant", "--no-report", "--grid-rows", "0"],
            "with simulation": ["--limit", str(simulated_images)],
        }
        for number, (name, options) in enumerate(runs.items()):
            output = folder / str(number)
            start = time.perf_counter()
            text = run("commands.eval", *shared, *options, "--output", str(output))
            wall = time.perf_counter() - start
            found[name] = profile(output / "profile.json", wall) | {
                "images": simulated_images if name == "with simulation" else images,
                "profile": text[text.index("stage ") :].splitlines(),
            }
            click.echo(f"{name}: {found[name]['inside']:.1f} of {wall:.1f} s inside ONNX Runtime, {found[name]['share']:.1%}")
    if json_path is not None:
        write_atomically(json_path, readable_json(found | {"machine": machine.describe(), "versions": machine.versions()}))


def start_up() -> dict[str, float]:
    """Return the median wall time of each command's --help, in seconds."""
    found = {}
    for name, module in COMMANDS.items():
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            run(module, "--help")
            seconds.append(time.perf_counter() - start)
        found[name] = statistics.median(seconds)
    return found


def profile(path: Path, wall: float) -> dict[str, float]:
    """Return how much of a process's wall time its profile says was spent in deployed runs, in seconds and as a share."""
    from qcam.evaluate.run.stages import DEPLOYED, StageSpan, covered

    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    spans = [
        StageSpan(event["name"], event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6, "")
        for event in events
        if event["ph"] == "X" and event["name"].startswith(DEPLOYED)
    ]
    inside = covered(spans)
    loop = max(span.end for span in spans) - min(span.start for span in spans)
    return {"wall": wall, "inside": inside, "share": inside / wall, "loop": loop, "share_of_loop": inside / loop}


def run(module: str, *arguments: str) -> str:
    """Run one of qcam's commands in a process of its own; return what it printed."""
    command = [sys.executable, "-m", f"qcam.{module}", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
