"""What checksums and their verification cost a study: their share of the wall time of one run of many images.

    python benchmarks/checksums.py [--model mobilenet_v2] [--images 10000] [--json FILE]

One run of qcam-eval in this process, at int8 and without pictures: the least work for each image, so the largest share. Every
function that makes or verifies a checksum, or holds a part or the results against the plan, is timed as it is called; of
nested ones the outer counts. Then the same command again, which verifies the complete results and does nothing else. Weights
are seeded: only time is measured.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from evaluation import run
from memory import augment

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import readable_json, write_atomically
from qcam.evaluate.results import folder as records
from qcam.evaluate.results import parts, place
from qcam.evaluate.study import study

#: What makes or verifies checksums, by the module or class that it is looked up in.
TIMED: tuple[tuple[Any, str], ...] = (
    (parts, "sha256_bytes"), (parts, "sha256_file"), (parts, "_contents"), (parts, "_difference"),
    (place, "sha256_bytes"), (place, "sha256_file"), (place, "unlike"), (study.Study, "_require_every_image"),
    (records, "unlike"), (records, "_digest"),
)  # fmt: skip


class Stopwatch:
    """Adds up the time inside functions, thread by thread; a function inside another counts once."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside = threading.local()

    def watch(self, owner: Any, name: str) -> None:
        """Time a function from now on."""
        real: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            if getattr(self._inside, "now", False):
                return real(*arguments, **options)
            self._inside.now = True
            begin = time.perf_counter()
            try:
                return real(*arguments, **options)
            finally:
                self.seconds[f"{getattr(owner, '__name__', owner)}.{name}"] += time.perf_counter() - begin
                self._inside.now = False

        setattr(owner, name, timed)


def evaluate(arguments: list[str]) -> float:
    """Run qcam-eval in this process; return its wall time in seconds."""
    from qcam.commands.eval import main as command

    begin = time.perf_counter()
    try:
        command(arguments)
    except SystemExit as ended:
        if ended.code:
            raise
    return time.perf_counter() - begin


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", default="mobilenet_v2", show_default=True, help="As for qcam-export; weights are seeded.")
@click.option("--images", "count", default=10_000, show_default=True, type=click.IntRange(1), help="Images.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(model: str, count: int, json_path: Path | None) -> None:
    """Measure what checksums cost."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        augment(folder / "images", count)
        run("commands.export", model, "--weights", "random:0", "--precision", "int8", "--output", str(folder / "bundles"))
        (bundle,) = (folder / "bundles").iterdir()
        arguments = [
            str(bundle), "--images", str(folder / "images"), "--saliency", "spectral", "--saliency-cache", "none",
            "--target", "own-top1", "--no-fake-quant", "--no-report", "--grid-rows", "0", "--workers", "1",
            "--output", str(folder / "out"),
        ]  # fmt: skip
        watch = Stopwatch()
        for owner, name in TIMED:
            watch.watch(owner, name)
        wall = evaluate(arguments)
        whole = Counter(watch.seconds)
        watch.seconds.clear()
        again = evaluate(arguments)
        size = sum(path.stat().st_size for path in (folder / "out").iterdir())
    spent = sum(whole.values())
    for name, seconds in whole.most_common():
        console.out.print(f"  {seconds:7.3f} s  {name.removeprefix('qcam.evaluate.')}", markup=False)
    console.out.print(
        f"{count} images, {size / 1e6:.0f} MB of results: {spent:.2f} of {wall:.1f} s, {100 * spent / wall:.2f} %; "
        f"complete results verified again: {sum(watch.seconds.values()):.2f} of {again:.1f} s",
        markup=False,
    )
    if json_path is not None:
        found = {"model": model, "images": count, "bytes": size, "seconds": spent, "wall": wall, "by_function": dict(whole)}
        told = {"machine": machine.describe(), "versions": machine.versions(), "command": sys.argv[1:]}
        write_atomically(json_path, readable_json(found | told))


if __name__ == "__main__":
    main()
