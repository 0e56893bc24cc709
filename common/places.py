"""Where files may go: names from files become file names, and nothing is written outside the folder that was given for it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from qcam.common.errors import QcamError
from qcam.common.files import sha256_bytes, write_atomically
from qcam.common.storage import Location, open_location, shown
from qcam.common.vocabulary import near

#: Bytes at the beginning of a file in which it shows whose it is.
_BEGINNING = 8192
#: Characters of a file name that comes from a name; a longer one ends in a hash of the whole.
_LONGEST = 80
_HASH = 12
#: Names that mean devices on Windows, whatever ending they have.
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(1, 10))})


def near_folders(path: Path, *further: Path, holding: str = "") -> str:
    """Ask whether a folder beside a path was meant: `; did you mean out/demo?`; empty if none has a name like it.

    Args:
        path: A path where nothing is.
        further: Folders in which such a folder may lie too.
        holding: A file that it has to hold; empty for any folder.
    """
    found: dict[str, Path] = {}
    for parent in (path.parent, *further):
        with suppress(OSError):
            for folder in sorted(parent.iterdir()):
                if folder.is_dir() and not folder.name.startswith(".") and (folder / holding).exists():
                    found.setdefault(folder.name, folder)
    close = [path.name] if path.name in found else near(path.name, found)
    return f"; did you mean {' or '.join(str(found[name]) for name in close)}?" if close else ""


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


def require_own(folder: Path, marks: Mapping[str, bytes], others: Iterable[str], command: str) -> bool:
    """Tell whether a folder holds earlier output of a command, and refuse to replace a file that is none.

    Args:
        folder: Where the command writes; need not be there.
        marks: Files that show whose they are: name → what stands within their first bytes.
        others: Files without a mark: they are the command's where one with a mark is there.
        command: Its name, for the message.

    Returns:
        Whether an earlier output is there.

    Raises:
        QcamError: If a file of one of these names was not written by the command, or cannot be read.
    """
    found = [name for name in marks if os.path.lexists(folder / name)]
    foreign = [name for name in found if marks[name] not in _beginning(folder / name)]
    foreign += [name for name in others if not found and os.path.lexists(folder / name)]
    if foreign:
        raise QcamError(
            f"{folder / foreign[0]} is there already and was not written by {command}: move it away, or give another {{output}}"
        )
    return bool(found)


def _beginning(path: Path) -> bytes:
    """Return the first bytes of a file; none of what is no file.

    Raises:
        QcamError: If it cannot be read.
    """
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as stream:
            return stream.read(_BEGINNING)
    except OSError as error:
        raise QcamError(f"cannot read {path}: {error.strerror or error}; move it away, or give another {{output}}") from error


def require_text(place: str | Path, what: str) -> None:
    """Refuse a place whose path is no UTF-8, as a file system allows: ONNX Runtime and pyarrow open no file there.

    Args:
        place: A path, or a URL.
        what: What it is in the message.

    Raises:
        QcamError: Names it.
    """
    location = open_location(str(place))
    try:
        str(location.absolute() if isinstance(location, Path) else location).encode()
    except UnicodeEncodeError as error:
        raise QcamError(f"{what} {place}: its path is no UTF-8, and not every library opens files there; rename it") from error


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
