"""Peak memory of qcam-eval against the number of images: flat, or not.

    python benchmarks/memory.py BUNDLE... [--count 200 --count 2000] [--option=--no-fake-quant] [--json FILE]

Real photographs (those that foolbox ships) are repeated with augmentation, each a file of its own content: shifted crop,
mirrored, brighter or darker. Every count is a process of its own, started anew; its peak resident memory comes from the
operating system.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from PIL import Image, ImageEnhance, ImageOps

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import readable_json, write_atomically
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--count", "counts", multiple=True, type=click.IntRange(1), default=(200, 2000), help="Numbers of images.")
@click.option("--option", "options", multiple=True, help="Handed to qcam-eval, as in --option=--no-fake-quant.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(bundles: tuple[Path, ...], counts: tuple[int, ...], options: tuple[str, ...], json_path: Path | None) -> None:
    """Run qcam-eval on each number of images and print its peak resident memory."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        augment(images, max(counts))
        for count in sorted(counts):
            output = Path(folder) / str(count)
            fixed = ["--images", str(images), "--limit", str(count), "--output", str(output), "--saliency-cache", "none"]
            fixed += ["--workers", "1"]
            found.append({"images": count} | measure([*map(str, bundles), *fixed, *options]))
            console.out.print(
                f"{count} images: peak {found[-1]['peak_mib']:.0f} MiB, {found[-1]['seconds']:.0f} s", markup=False
            )
    ratio = found[-1]["peak_mib"] / found[0]["peak_mib"]
    console.out.print(f"peak at {found[-1]['images']} / {found[0]['images']} images: {ratio:.3f}", markup=False)
    if json_path:
        value = {"bundles": [path.name for path in bundles], "options": list(options), "runs": found, "ratio": ratio}
        write_atomically(json_path, readable_json(value | {"machine": machine.describe(), "versions": machine.versions()}))


def augment(folder: Path, count: int) -> None:
    """Write `count` JPEG files made of real photographs, no two alike."""
    folder.mkdir()
    chance = random.Random(0)
    photographs = [picture for picture in (decode(each.path).image for each in evaluation_photographs()) if picture is not None]
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        width, height = photograph.size
        share = chance.uniform(0.8, 1.0)
        left, top = chance.uniform(0, 1 - share) * width, chance.uniform(0, 1 - share) * height
        made: Image.Image = photograph.crop((int(left), int(top), int(left + share * width), int(top + share * height)))
        if chance.random() < 0.5:
            made = ImageOps.mirror(made)
        ImageEnhance.Brightness(made).enhance(chance.uniform(0.8, 1.2)).save(folder / f"{index:06d}.jpg", quality=90)


def measure(arguments: list[str]) -> dict[str, float]:
    """Run qcam-eval in a process of its own; return its peak resident memory in MiB and its wall time in seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "qcam.commands.eval", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit("qcam-eval failed")
    return {"peak_mib": usage.ru_maxrss / 1024, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()
