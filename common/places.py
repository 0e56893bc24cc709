"""Where files may go: names from files become file names, and nothing is written outside the folder that was given for it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from qcam.common.errors import QcamError
from qcam.common.files import sha256_bytes, write_atomically
from qcam.common.storage import Location, open_location, shown

#: Characters of a file name that comes from a name; a longer one ends in a hash of the whole.
_LONGEST = 80
_HASH = 12
#: Names that mean devices on Windows, whatever ending they have.
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(1, 10))})


def file_name(text: str) -> str:
    """Turn any name (of a model, an image, a run) into the name of a file or folder.

    Letters, digits and `._-` stay, everything else becomes `-`: `timm:resnet26d` → `timm-resnet26d`. What comes out is never
    empty, hidden, a path, or longer than 80 characters, nor what Windows takes for a device.

    Args:
        text: The name, from wherever.
    """
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)
    name = kept.strip(".") or "unnamed"
    if len(name.encode("utf-8", "replace")) > _LONGEST:
        short = name.encode("utf-8", "replace")[: _LONGEST - _HASH - 1].decode("utf-8", "ignore")
        name = f"{short}-{sha256_bytes(text.encode('utf-8', 'replace'))[:_HASH]}"
    return f"{name}-" if name.partition(".")[0].lower() in _DEVICES else name


def file_names(texts: Sequence[str]) -> list[str]:
    """Turn names into file names that differ from each other, also where upper and lower case are one.

    Args:
        texts: The names; equal ones are different things.

    Returns:
        One for each, in their order; where two would be the same, later ones get a number: `a:b`, `a/b` → `a-b`, `a-b-2`.
    """
    taken: set[str] = set()
    names = []
    for text in texts:
        name, number = file_name(text), 1
        while name.lower() in taken:
            number += 1
            name = f"{file_name(text)}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def refuse_unprintable(names: Iterable[object], where: Path | str) -> None:
    """Refuse names of models, precisions or folders that no page, file or terminal can show.

    Args:
        names: Names from a file.
        where: The file, for the message.

    Raises:
        QcamError: If one is no text, or holds control characters or half of a surrogate pair.
    """
    for name in names:
        if not isinstance(name, str) or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise QcamError(f"{where} holds the name {ascii(name)[:80]}, which cannot be shown: it was not made by qcam")


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder, at any depth, after links are followed.

    Args:
        folder: The folder.
        name: The file, below it.

    Raises:
        QcamError: If it would lie outside.
    """
    path = folder / name
    try:
        root, place = folder.resolve(), path.parent.resolve() / path.name
        outside = place == root or path.name == ".." or not place.is_relative_to(root)
    except (OSError, ValueError, RuntimeError):  # a NUL, a loop of links
        outside = True
    if outside:
        raise QcamError(f"{path} would lie outside {folder}; remove the link there, or give another {{output}}")
    return path


def write_inside(folder: Path, name: str, data: bytes | str) -> Path:
    """Write a file below a folder, whole or not at all; return its path.

    Raises:
        QcamError: If it would lie outside the folder, or the disk refuses.
    """
    path = inside(folder, name)
    write_atomically(path, data)
    return path


def refuse_overlap(output: str | Location, inputs: Sequence[tuple[str, str | Location]], option: str = "{output}") -> None:
    """Refuse a place to write to that is, holds, or lies in one that is only read.

    Args:
        output: Where results shall go: a path or a URL.
        inputs: What is read: what it is in words ("the image folder"), and its path or URL.
        option: What the output is called in the message.

    Raises:
        QcamError: Names both places.
    """
    target = open_location(output)
    for what, place in inputs:
        source = open_location(place)
        if isinstance(target, Path) != isinstance(source, Path):
            continue
        ours, theirs = _parts(target), _parts(source)
        if ours == theirs:
            how = "is"
        elif ours[: len(theirs)] == theirs:
            how = "lies in"
        elif theirs[: len(ours)] == ours:
            how = "holds"
        else:
            continue
        raise QcamError(
            f"{option} {shown(target)} {how} {what} ({shown(source)}): results would be mixed with what is read; "
            "give a folder of its own"
        )


def _parts(place: Location) -> tuple[str, ...]:
    """Return the steps to a place, links followed."""
    if isinstance(place, Path):
        try:
            return place.resolve().parts
        except (OSError, RuntimeError):  # a loop of links
            return place.absolute().parts
    return tuple(part for part in shown(place).split("/") if part not in ("", "."))
