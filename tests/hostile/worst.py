"""What the twelve worst files take, memory and time, beside good photographs: `make worst-files` writes the page's table."""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from hostile.attacks.b2_costs import PICTURES, TABLES, evaluated, put_picture, put_table
from hostile.compare import write_between
from hostile.ground import Ground
from hostile.harness import HERE, Scene, Tree, Verdict

_BEGIN, _END = "<!-- worst files: begin -->", "<!-- worst files: end -->"
_ROUNDS = 3


def main() -> None:
    """Measure, and write the table."""
    tree = Tree(HERE, None)
    rows = []
    with tempfile.TemporaryDirectory(prefix="worst-") as folder:
        ground = Ground(tree, Path(folder) / "ground")
        usual = _measured(Scene(tree, ground, _made(Path(folder) / "usual")), ground.photographs)
        rows.append(f"| photographs alone | | {usual[0]:,.0f} | | {usual[1]:.1f} | | |")
        makers = [(told, name, partial(put_picture, name=name, make=make)) for _, told, name, make in PICTURES]
        makers += [(told, "evil.parquet", partial(put_table, name="evil.parquet", make=make)) for told, make in TABLES]
        for place, (told, name, put) in enumerate(makers):
            scene = Scene(tree, ground, _made(Path(folder) / str(place)))
            images = put(scene)
            size = (images / name if images.is_dir() else images).stat().st_size
            peak, seconds, verdict = _measured(scene, images)
            memory, time = f"{peak:,.0f} | {peak - usual[0]:+,.0f}", f"{seconds:.1f} | {seconds - usual[1]:+.1f}"
            rows.append(f"| {told} | {size / 1e6:,.2g} | {memory} | {time} | {verdict.told} |")
            print(rows[-1], flush=True)
    tree.close()
    head = ["| file | MB | peak, MB | more | seconds | more | what becomes of it |", "|---|---:|---:|---:|---:|---:|---|"]
    write_between(_BEGIN, _END, [*head, *rows])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _measured(scene: Scene, images: Path) -> tuple[float, float, Verdict]:
    """Return the median peak and the median seconds of a few runs, and what became of the file."""
    found = [evaluated(scene, images, f"out{turn}") for turn in range(_ROUNDS)]
    outcome = found[0][0]
    verdict = outcome.refused() if outcome.code == 2 else Verdict(True, f"exit {outcome.code}: read, or left out by name")
    peaks, seconds = zip(*((each.peak, taken) for each, taken in found), strict=True)
    return statistics.median(peaks), statistics.median(seconds), verdict


if __name__ == "__main__":
    sys.exit(main())
