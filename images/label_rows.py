"""The rows of a file of labels, and the images that they name."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcam.common.counted import counted
from qcam.common.errors import ImageSetError
from qcam.images.names import one_form
from qcam.images.sources import ImageFile

#: What may separate values → its name.
_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
#: The line by which spreadsheets are told what separates values.
_SAID = re.compile(r"\"?sep=(.*?)\"?", re.IGNORECASE)
#: Most characters of a header that are shown.
_SHOWN = 80


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

    Values stand apart by commas, semicolons or tabs, as its header has them; a line `sep=;` before it may say which. The text
    is UTF-8, or UTF-16 where a byte order mark says so.

    Raises:
        ImageSetError: If it cannot be read, lacks a column or has one twice, or a row has more or fewer values than the header.
    """
    try:
        text = _text(path.read_bytes(), path)
        said, text = _said_separator(text, path)
        separator, names = _header(text, said, path)
        image, label = names.index("image"), names.index("label")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        next(reader)
        rows = []
        for values in reader:
            line = reader.line_num + bool(said)
            if not values:
                continue
            if len(values) != len(names):
                raise ImageSetError(
                    f"{path}, line {line}: {counted(len(values), 'value')} under {len(names)} columns; a value that holds "
                    f"{_SEPARATORS[separator]} needs quotes around it, and each column a value"
                )
            rows.append(LabelRow(values[image].strip(), values[label].strip(), line))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageSetError(f"cannot read labels from {path}: {error}") from error
    return rows


def _text(data: bytes, path: Path) -> str:
    """Decode a file by its byte order mark."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise ImageSetError(f"{path} is written in UTF-32; write it in UTF-8")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if b"\0" in data:
        raise ImageSetError(f"{path} holds bytes that are 0, as UTF-16 without a byte order mark does; write it in UTF-8")
    return data.decode("utf-8-sig")


def _said_separator(text: str, path: Path) -> tuple[str, str]:
    """Return what a first line `sep=;` says, empty without one, and the text behind it."""
    first, _, rest = text.partition("\n")
    found = _SAID.fullmatch(first.rstrip("\r"))
    if found is None:
        return "", text
    said = found[1].replace("\\t", "\t")
    if said not in _SEPARATORS:
        raise ImageSetError(f"{path}: its first line says that {said!r} separates values; use a comma, a semicolon or a tab")
    return said, rest


def _header(text: str, said: str, path: Path) -> tuple[str, list[str]]:
    """Return what separates values, and the names of the columns in lower case."""
    readings = {}
    for separator in [said] if said else _SEPARATORS:
        try:
            names = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), [])
        except csv.Error:
            continue  # told below, or by who reads all of it
        names = [name.strip().casefold() for name in names]
        if {"image", "label"} <= set(names):
            readings[separator] = names
    if not readings:
        first = text.partition("\n")[0].strip()
        there = f"; its first line is {first[:_SHOWN]!r}{' …' * (len(first) > _SHOWN)}" if text.strip() else "; it is empty"
        raise ImageSetError(f"{path}: needs a header line with the columns image and label{there}")
    if len(readings) > 1:
        possible = " or ".join(_SEPARATORS[separator] for separator in readings)
        raise ImageSetError(
            f"{path}: its header can be read with {possible} between values; write a first line sep=, before it"
        )
    ((separator, names),) = readings.items()
    for name in ("image", "label"):
        if names.count(name) > 1:
            raise ImageSetError(f"{path}: its header names the column {name} {names.count(name)} times; keep one of them")
    return separator, names
