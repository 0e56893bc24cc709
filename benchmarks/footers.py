"""Measure what it costs that the footers of Parquet files are looked at in a child process first (`images/footers.py`).

python benchmarks/footers.py [--files 1000] [--rows 20] [--kilobytes 100]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qcam.images.footers import refuse_deadly
from qcam.images.listing import find_images
from qcam.images.sources import fingerprint_sources


def timed(task: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    begun = time.perf_counter()
    task()
    return time.perf_counter() - begun


def main() -> None:
    """Write the files, read them three times, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=20, help="images of a file")
    parser.add_argument("--kilobytes", type=int, default=100, help="of an image")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qcam-footers-") as name:
        folder = Path(name)
        images = pa.array([os.urandom(given.kilobytes * 1000) for _ in range(given.rows)], pa.binary())
        table = pa.table({"image": images, "label": list(range(given.rows))})
        for number in range(given.files):
            pq.write_table(table, folder / f"{number:05d}.parquet", row_group_size=100)
        paths = sorted(folder.iterdir())
        looked, read = [], []
        for _ in range(3):
            looked.append(timed(lambda: refuse_deadly(paths)))
            read.append(timed(lambda: list(fingerprint_sources([image.path for image in find_images(folder)]))))
    child, whole = sorted(looked)[1], sorted(read)[1]
    print(f"{given.files} files of {given.rows} images of {given.kilobytes} kB: listed and read once in {whole:.2f} s")
    share = child / (whole - child)
    print(f"child: {child:.2f} s, {1000 * child / given.files:.2f} ms a file, {share:.1%} more than without it")


if __name__ == "__main__":
    main()
