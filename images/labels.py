"""The true classes of images: from a CSV file, from archives, or from the folders that images are in."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from qcam.common import telling
from qcam.common.errors import ImageSetError
from qcam.images.sources import Cell, ImageFile, Span


def with_labels(images: Sequence[ImageFile], classes: Sequence[str], labels: Path | None) -> list[ImageFile]:
    """Give images their true class, from a CSV file or from the folders they are in.

    Class folders are recognised by class index (`207`), by class name (`golden_retriever`), or, if none is and there
    are exactly as many folders as classes, by sorted order (ImageNet's `n01440764` …). An archive is no class folder, and
    a label that it gives counts before the folder, after the CSV.

    Args:
        images: The image set.
        classes: Class names in the order of the model's outputs.
        labels: CSV file with a header `image,label` (label: class index or name), or None to look at the folders.

    Returns:
        The same images with labels where one is known.

    Raises:
        ImageSetError: If the CSV cannot be read, lacks the columns, or names a class the model does not have.
    """
    names = {_plain(name): index for index, name in reversed(list(enumerate(classes)))}

    def index_of(text: str) -> int | None:
        if text.isdecimal():
            return int(text) if int(text) < len(classes) else None
        return names.get(_plain(text))

    table: dict[str, int | None] = {}
    if labels is not None:
        for name, text in _read_labels(labels):
            table[name] = index_of(text)
            if table[name] is None:
                raise ImageSetError(f"{labels}: class {text!r} of {name} is none of the model's {len(classes)} classes")
    else:
        folders = sorted({_class_folder(image) for image in images} - {""})
        by_order = len(folders) == len(classes) and not any(index_of(folder) is not None for folder in folders)
        position = {folder: index for index, folder in enumerate(folders)}
        for image in images:
            folder = _class_folder(image)
            if folder and not (image.label is not None and isinstance(image.path, (Span, Cell))):
                table[image.name] = position[folder] if by_order else index_of(folder)
    found = [replace(image, label=table.get(image.name, table.get(Path(image.name).name, image.label))) for image in images]
    return _known_classes(found, len(classes))


def _class_folder(image: ImageFile) -> str:
    """Return the outermost folder that an image is in, empty if there is none; an archive is no folder."""
    parts = image.name.split("/")
    if isinstance(image.path, (Span, Cell)) and image.path.location.name in parts:
        parts.remove(image.path.location.name)
    return parts[0] if len(parts) > 1 else ""


def _known_classes(images: list[ImageFile], count: int) -> list[ImageFile]:
    """Take labels away that are none of the model's classes: an archive may have been made for others."""
    unknown = sum(image.label is not None and not 0 <= image.label < count for image in images)
    if not unknown:
        return images
    telling.warn(f"{unknown} images have labels that are none of the model's {count} classes; they count as not labelled")
    return [
        replace(image, label=None) if image.label is not None and not 0 <= image.label < count else image for image in images
    ]


def _read_labels(path: Path) -> Iterable[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if reader.fieldnames is None or not {"image", "label"} <= set(reader.fieldnames):
                raise ImageSetError(f"{path}: needs a header line with the columns image and label")
            return [((row["image"] or "").strip(), (row["label"] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageSetError(f"cannot read labels from {path}: {error}") from error


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
