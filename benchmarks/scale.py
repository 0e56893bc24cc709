"""docs/scale.md: what the engines measured, and a plan of a large study made from it.

    python benchmarks/scale.py measure --json build/speed/scale.json [--images 48]
    python benchmarks/scale.py write build/speed/cluster.json build/speed/scale.json build/speed/workers.json
    python benchmarks/scale.py memory build/speed/workers.json

`measure` evaluates six networks at three precisions in one process of one thread, with and without simulation: images a second
and core, bytes read and written, memory. Then it joins the parts many times over, to see what a driver does with a large study.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
from cluster import TimedStudy
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from memory import augment

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import readable_json, write_atomically
from qcam.evaluate.results.folder import RUN, Results, read_run, write_run
from qcam.evaluate.results.parts import PartStore, join_parts
from qcam.evaluate.results.summary import summarise
from qcam.evaluate.run.memory import ROOM
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.saliency import open_saliency
from qcam.evaluate.study.executor import ThisProcess
from qcam.images.listing import find_images
from qcam.runtime.bundle import load_bundle
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.devices import torch_device

MODELS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "squeezenet1_1", "vgg16")
#: What the plan is for.
IMAGES, MACHINES, CORES = 50_000, (1, 8, 64), (2, 16)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure, or write the page."""


@main.command()
@click.option("--images", default=48, show_default=True, type=click.IntRange(32), help="Photographs.")
@click.option("--json", "json_path", required=True, type=click.Path(path_type=Path), help="Where the figures go.")
@click.option("--one", type=click.Choice(["with", "without"]), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def measure(images: int, json_path: Path, one: str | None, folder: Path | None) -> None:
    """Measure what a study of six networks costs."""
    if one is not None and folder is not None:
        print(json.dumps(run_one(folder, fake_quant=one == "with")))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        augment(folder / "images", images)
        export = ["-m", "qcam.commands.export", *MODELS, "--weights", "random:0", "--output", str(folder / "bundles")]
        subprocess.run([sys.executable, *export], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = {"models": list(MODELS), "images": images}
        found["bundles_mib"] = sum(path.stat().st_size for path in (folder / "bundles").rglob("*.onnx")) / 2**20
        for name in ("without", "with"):
            arguments = ["measure", "--json", "-", "--one", name, "--folder", str(folder)]
            done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            console.out.print(f"{name} simulation: {found[name]}", markup=False)
    write_atomically(json_path, readable_json(found | {"machine": machine.describe(), "versions": machine.versions()}))


@main.command()
@click.argument("cluster", type=FILE)
@click.argument("scale", type=FILE)
@click.argument("workers", type=FILE)
@click.option("--output", default=Path("docs/scale.md"), show_default=True, type=click.Path(path_type=Path))
def write(cluster: Path, scale: Path, workers: Path, output: Path) -> None:
    """Write the page."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True)
    engines = json.loads(cluster.read_text(encoding="utf-8"))
    medians = {
        name: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        | {"slowest": min(each["rate"] for each in rounds), "fastest": max(each["rate"] for each in rounds)}
        for name, rounds in engines["runs"].items()
    }
    measured = json.loads(scale.read_text(encoding="utf-8"))
    share = medians["Ray actors, 2 workers, 1 thread each"]["rate"] / medians["local, 1 process, 1 thread"]["rate"] / 2
    text = environment.get_template("scale.md.jinja").render(
        engines=engines,
        medians=medians,
        scale=measured,
        workers=json.loads(workers.read_text(encoding="utf-8")),
        share=share,
        count=IMAGES,
        plan=[
            {"cores": cores, "machines": number} | plan(measured, share, cores, number)
            for cores in CORES
            for number in MACHINES
        ],
    )
    write_atomically(output, text)


@main.command()
@click.argument("workers", type=FILE)
@click.option("--output", default=Path("docs/scale.md"), show_default=True, type=click.Path(path_type=Path))
def memory(workers: Path, output: Path) -> None:
    """Write what workers take into the page; the rest of it stays as it was measured."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True)
    told = json.loads(workers.read_text(encoding="utf-8"))
    before, mark, rest = output.read_text(encoding="utf-8").partition("(`benchmarks/workers.py`):\n\n")
    _, heading, behind = rest.partition("## Why actors")
    if not mark or not heading:
        raise click.UsageError(f"{output} has no part on workers")
    made = environment.get_template("workers.md.jinja").render(workers=told)
    write_atomically(output, before + mark + made.rstrip() + "\n\n" + heading + behind)


def plan(measured: dict[str, Any], share: float, cores: int, machines: int) -> dict[str, float]:
    """Return hours and memory of the study on so many machines of so many cores, a worker of one thread on each core."""
    result = {}
    for name in ("with", "without"):
        each = measured[name]
        computing = IMAGES / (each["rate"] * share * cores * machines)
        result[name] = (computing + each["driver_seconds_an_image"] * IMAGES + each["start"]) / 3600
    return result | {"memory": cores * measured["with"]["peak_mib"] / 1024}


def run_one(folder: Path, *, fake_quant: bool) -> dict[str, float]:
    """Evaluate in this process, one thread; return what it costs."""
    bundles = [load_bundle(place) for place in sorted((folder / "bundles").iterdir())]
    options = StudyOptions((), SessionSettings(threads=1), saliency="spectral", fake_quant=fake_quant)
    images = find_images(folder / "images")
    parts: list[Path] = []
    with tempfile.TemporaryDirectory() as results:
        start = time.perf_counter()
        executor = partial(ThisProcess, room=ROOM)
        study = TimedStudy(bundles, images, open_saliency("spectral"), options, Path(results) / "out", executor=executor)
        torch_device("cpu", 1)
        planned = study.prepare("cpu", force=False)
        planned.build()
        ready = time.perf_counter()
        kept = Path(results) / "kept"
        kept.mkdir()
        clear = study.place.parts.clear

        def keep() -> None:
            for path in sorted((study.place.folder / "parts").glob("*.parquet")):
                parts.append(path.rename(kept / path.name))
            clear()

        study.place.parts.__class__.clear = lambda _: keep()  # type: ignore[method-assign]
        planned.run()
        last = study.times[-1][0]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        written = sum(path.stat().st_size for path in parts) / len(images)
        # The driver's part of a large study: the same parts many times over.
        times = max(1, 2000 // len(images))
        begin = time.perf_counter()
        held = join_parts(PartStore(kept), planned.plan.parts(None, None) * times, study.place.folder)
        joined = time.perf_counter()
        record = study.place.folder / RUN
        write_run(record, read_run(record) | {"files": held.files})
        large = Results(study.place.folder)
        summarise((model, large.columns(model)) for model in large.models)
        done = time.perf_counter()
    return {
        "rate": sum(count for _, count in study.times) / (last - ready),
        "start": ready - start,
        "peak_mib": peak,
        "bytes_written_an_image": written,
        "bytes_read_an_image": sum(path.stat().st_size for path in (folder / "images").iterdir()) / len(images),
        "join_seconds_an_image": (joined - begin) / (times * len(images)),
        "driver_seconds_an_image": (done - begin) / (times * len(images)),
    }


if __name__ == "__main__":
    main()
