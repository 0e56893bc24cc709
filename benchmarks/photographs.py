"""Some two hundred photographs of objects and animals, out of a package of Debian's: for measuring, never committed.

    apt-get download gcompris-qt-data && dpkg-deb -x gcompris-qt-data_*.deb unpacked
    python benchmarks/photographs.py unpacked photographs

GCompris teaches children; its resources hold photographs (of free licences, named in the package) as WebP files, as they are,
one behind the other. Each file is named by the hash of its content, so that the order by name mixes subjects and is the same
everywhere; what is there twice is taken once. Files are cut out by the length that they name; no picture is opened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import click

#: Resources whose larger pictures are photographs; of others, many are drawings and paintings.
_ROOMS = ("categorization", "erase", "explore_farm_animals", "explore_monuments", "explore_world_animals")
_WEBP = re.compile(rb"RIFF(....)WEBPVP8[ LX]", re.DOTALL)
#: Bytes below which a picture is a button or a drawing.
_SMALLEST = 8_000


def cut_out(resource: bytes) -> Iterator[bytes]:
    """Yield the WebP files of a resource that are large enough for photographs, in their order."""
    for found in _WEBP.finditer(resource):
        length = int.from_bytes(found.group(1), "little") + 8
        if length >= _SMALLEST and found.start() + length <= len(resource):
            yield resource[found.start() : found.start() + length]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("unpacked", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path))
def main(unpacked: Path, output: Path) -> None:
    """Write the photographs of an unpacked gcompris-qt-data into a folder."""
    resources = {path.stem: path for path in unpacked.rglob("*.rcc")}
    missing = [name for name in _ROOMS if name not in resources]
    if missing:
        raise click.UsageError(f"{unpacked} lacks {missing[0]}.rcc: it is no unpacked gcompris-qt-data")
    output.mkdir(parents=True)
    written = set()
    for name in _ROOMS:
        for picture in cut_out(resources[name].read_bytes()):
            place = f"{hashlib.sha256(picture).hexdigest()[:16]}.webp"
            (output / place).write_bytes(picture)
            written.add(place)
    click.echo(f"{len(written)} photographs in {output}")


if __name__ == "__main__":
    main()
