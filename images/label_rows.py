"""The rows of a file of labels, and the images that they name."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcam.common.errors import ImageSetError
from qcam.images.names import one_form
from qcam.images.sources import ImageFile


@dataclass(frozen=True)
class LabelRow:
    """A row of a CSV file: names of the image and of the class, and the line it ends in."""

    image: str
    label: str
    line: int


class ImagePlaces:
    """Finds the image that a row names: by its whole name, else by the end of it, from a folder on."""

    def __init__(self, images: Sequence[ImageFile]) -> None:
        """Take the image set; places are its indices."""
        self._images = images
        self._exact = {image.name: place for place, image in enumerate(images)}
        self._ends: dict[str, list[int]] = {}
        for place, image in enumerate(images):
            parts = one_form(image.name).split("/")
            for start in range(len(parts)):
                self._ends.setdefault("/".join(parts[start:]), []).append(place)
        self._whole: dict[str, list[int]] = {}
        for place, image in enumerate(images):
            self._whole.setdefault(one_form(image.name), []).append(place)

    def of(self, row: LabelRow, path: Path) -> int | None:
        """Return the place of the image; None if there is none.

        Raises:
            ImageSetError: If there are several.
        """
        if row.image in self._exact:
            return self._exact[row.image]
        name = one_form(row.image)
        found = self._find(name) or self._find(name.replace("\\", "/").removeprefix("./"))
        if len(found) > 1:
            candidates = " or ".join(self._images[place].name for place in found[:3]) + (" …" if len(found) > 3 else "")
            raise ImageSetError(
                f"{path}, line {row.line}: {row.image} may be {candidates}; write the name as it is below the image folder"
            )
        return found[0] if found else None

    def _find(self, name: str) -> list[int]:
        return (self._whole.get(name) or self._ends.get(name) or []) if name else []


def read_rows(path: Path) -> list[LabelRow]:
    """Read a CSV file with the columns `image` and `label`; others do not matter.

    Raises:
        ImageSetError: If it cannot be read, or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if reader.fieldnames is None or not {"image", "label"} <= set(reader.fieldnames):
                raise ImageSetError(f"{path}: needs a header line with the columns image and label")
            return [LabelRow((row["image"] or "").strip(), (row["label"] or "").strip(), reader.line_num) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageSetError(f"cannot read labels from {path}: {error}") from error
