"""Photographs with known objects: cut-outs with alpha, as Debian's tuxpaint-stamps-default has them, put onto photographs.

    python benchmarks/cut_outs.py STAMPS OUTPUT [--count 160]

STAMPS is the package's folder `stamps`. Of its photographs of animals, food, plants, things and vehicles so many are taken,
each kind in turn; each lies at a seeded place, a third to two thirds as wide as the picture, on a seeded part of a photograph
that installed packages ship. OUTPUT/images gets the pictures, OUTPUT/masks the objects: real photographs, and no real scenes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import click
import numpy as np
from PIL import Image

from qcam.images.embedded import calibration_photographs

#: Kinds of which most stamps are photographs.
_KINDS = ("animals", "food", "plants", "household", "vehicles", "clothes", "hobbies", "sports", "naturalforces", "people")
#: Height and width of a picture; a stamp of fewer colours than so many is drawn, not photographed.
_SIDE, _COLOURS = 320, 4000


def cut_outs(stamps: Path) -> Iterator[Path]:
    """Yield cut-outs of photographs, each kind in turn."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(stamps.rglob("*.png")):
        if path.relative_to(stamps).parts[0] in _KINDS:
            kinds["/".join(path.relative_to(stamps).parts[:2])].append(path)
    for row in zip_longest(*kinds.values()):
        yield from (path for path in row if path is not None and _is_photograph(path))


def _is_photograph(path: Path) -> bool:
    with Image.open(path) as image:
        if image.mode != "RGBA" or min(image.size) < 64:
            return False
        pixels = np.asarray(image.convert("RGBA"))
    return len(np.unique(pixels[pixels[..., 3] > 250], axis=0)) >= _COLOURS


def compose(stamp: Image.Image, background: Image.Image, random: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Return a cut-out on a part of a photograph, and where it is (0 or 255)."""
    part = min(background.size) * 2 // 3
    left, top = (int(random.integers(0, side - part + 1)) for side in background.size)
    cut = background.convert("RGB").crop((left, top, left + part, top + part))
    picture = cut.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    factor = _SIDE * random.uniform(1 / 3, 2 / 3) / max(stamp.size)
    size = [max(1, round(side * factor)) for side in stamp.size]
    small = stamp.convert("RGBA").resize((size[0], size[1]), Image.Resampling.BICUBIC)
    place = tuple(int(random.integers(0, _SIDE - side + 1)) for side in small.size)
    picture.paste(small, place, small)
    mask = Image.new("L", (_SIDE, _SIDE))
    mask.paste(small.getchannel("A").point(lambda value: 255 if value > 127 else 0), place)
    return picture, mask


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("stamps", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(min=1), default=160, show_default=True, help="How many pictures.")
def main(stamps: Path, output: Path, count: int) -> None:
    """Compose pictures of cut-outs."""
    random = np.random.default_rng(0)
    backgrounds = []
    for image in calibration_photographs():
        with Image.open(str(image.path)) as opened:
            backgrounds.append(opened.convert("RGB"))
    for folder in ("images", "masks"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    made = 0
    for place, path in zip(range(count), cut_outs(stamps), strict=False):
        with Image.open(path) as stamp:
            picture, mask = compose(stamp, backgrounds[place % len(backgrounds)], random)
        name = f"{place:03d}-{path.stem}.png"
        picture.save(output / "images" / name)
        mask.save(output / "masks" / name)
        made += 1
    click.echo(f"{made} pictures below {output}")


if __name__ == "__main__":
    main()
