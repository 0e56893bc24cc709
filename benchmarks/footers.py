"""Measure what it costs that the footers of Parquet files are looked at in a child process first (`images/footers.py`).

python benchmarks/footers.py [--files 1000]

Each file holds the demo's photographs. Processor time is measured, the child's and this process's: other programs do not count.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.images.footers import refuse_deadly
from qcam.images.listing import find_images
from qcam.images.sources import fingerprint_sources

#: Images that are decoded to learn how long that takes.
_DECODED = 400


def spent(task: Callable[[], object]) -> float:
    """Return the seconds of processor time that something takes, its child processes included."""

    def seconds() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    begun = seconds()
    task()
    return seconds() - begun


def main() -> None:
    """Write the files, look at them and read them three times, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    given = parser.parse_args()
    photographs = [image.path.read_bytes() for image in evaluation_photographs()]
    table = pa.table({"image": pa.array(photographs, pa.binary()), "label": list(range(len(photographs)))})
    with tempfile.TemporaryDirectory(prefix="qcam-footers-") as name:
        folder = Path(name)
        for number in range(given.files):
            pq.write_table(table, folder / f"{number:05d}.parquet", row_group_size=100)
        paths = sorted(folder.iterdir())
        images = find_images(folder)
        child = sorted(spent(lambda: refuse_deadly(paths)) for _ in range(3))[1]
        listed = sorted(spent(lambda: find_images(folder)) for _ in range(3))[1] - child
        read = sorted(spent(lambda: list(fingerprint_sources([image.path for image in images]))) for _ in range(3))[1]
        some = images[:_DECODED]
        decoded = spent(lambda: [decode(image.path) for image in some]) / len(some) * len(images)
    size = sum(map(len, photographs)) * given.files
    print(f"{given.files} files, {len(images):,} images, {size / 1e9:.1f} GB; seconds of processor time")
    print(f"child {child:.2f}, listing {listed:.2f}, reading once {read:.2f}, decoding once {decoded:.0f}")
    reading = listed + read
    print(f"the child takes {child / reading:.1%} of listing and reading, {child / (reading + decoded):.2%} with decoding")


if __name__ == "__main__":
    main()
