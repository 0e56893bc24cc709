"""How qcam-eval's time and memory grow: with the numbers of images, networks and workers, the batch size and the threads.

    python benchmarks/growth.py [--model mobilenet_v2] [--count 100 --count 1000 --count 10000] [--json FILE]

Every figure is a process of its own at int8 (deployed run, CAM, salient-object maps by spectral residual, metrics, results
written; no pictures): its wall time and its peak resident memory, as the operating system tells it; of several workers, the
largest process's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from evaluation import run
from memory import augment, measure

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import readable_json, write_atomically

#: Images at which everything but their own number is compared.
FIXED = 640
#: What joins the first network, in this order.
OTHERS = ("squeezenet1_1", "efficientnet_b0", "resnet50")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", default="mobilenet_v2", show_default=True, help="As for qcam-export; weights are seeded.")
@click.option("--count", "counts", multiple=True, type=click.IntRange(1), default=(100, 1000, 10_000), help="Images.")
@click.option("--batch-size", "sizes", multiple=True, type=click.IntRange(1), default=(1, 2, 4, 8, 16, 32), help="Batch sizes.")
@click.option("--threads", "threads", multiple=True, type=click.IntRange(1), default=(1, 2), help="Numbers of threads.")
@click.option("--workers", multiple=True, type=click.IntRange(1), default=(1, 2), help="Numbers of workers, one thread each.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(
    model: str,
    counts: tuple[int, ...],
    sizes: tuple[int, ...],
    threads: tuple[int, ...],
    workers: tuple[int, ...],
    json_path: Path | None,
) -> None:
    """Measure growth."""
    models = [model, *(other for other in OTHERS if other != model)]
    found: dict[str, Any] = {"model": model, "images": [], "networks": [], "batch_size": [], "threads": [], "workers": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        augment(folder / "images", max(*counts, FIXED))
        run("commands.export", *models, "--weights", "random:0", "--precision", "int8", "--output", str(folder / "bundles"))
        bundles = [str(folder / "bundles" / name) for name in models]
        fixed = [
            "--images", str(folder / "images"), "--saliency", "spectral", "--saliency-cache", "none",
            "--target", "own-top1", "--no-fake-quant", "--no-report", "--grid-rows", "0",
        ]  # fmt: skip

        def add(kind: str, value: int, count: int, *options: str, networks: int = 1, workers: int = 1) -> None:
            output = folder / f"{kind}-{value}"
            given = [*bundles[:networks], *fixed, "--workers", str(workers), "--limit", str(count), "--output", str(output)]
            figures = measure([*given, *options])
            names = {"names": models[:networks]} if kind == "networks" else {}
            found[kind].append({kind: value, "count": count} | names | figures)
            console.out.print(f"{kind} {value}: {figures['seconds']:.1f} s, peak {figures['peak_mib']:.0f} MiB", markup=False)

        for count in counts:
            add("images", count, count)
        for number in range(1, len(models) + 1):
            add("networks", number, FIXED, networks=number)
        for size in sizes:
            add("batch_size", size, FIXED, "--batch-size", str(size))
        for number in threads:
            add("threads", number, FIXED, "--threads", str(number))
        for number in workers:
            add("workers", number, FIXED, "--threads", "1", workers=number)
    if json_path is not None:
        write_atomically(json_path, readable_json(found | {"machine": machine.describe(), "versions": machine.versions()}))


if __name__ == "__main__":
    main()
