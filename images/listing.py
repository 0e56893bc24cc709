"""What an image set's location holds: photographs, or archives of them; on this machine or behind a URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qcam.common import telling
from qcam.common.errors import ImageSetError
from qcam.common.storage import Location, files_below, open_location, reason, shown
from qcam.images.archives import ARCHIVES, COMPRESSED, SUFFIXES, archive_images, compressed, visible
from qcam.images.sources import ImageFile

if TYPE_CHECKING:
    from upath import UPath


def find_images(location: str | Location, *, limit: int | None = None) -> list[ImageFile]:
    """List the photographs of a folder, sorted by name, or those in archives (docs/storage.md).

    Args:
        location: A folder, a tar file or a Parquet file, local or behind a URL. A folder is searched at any depth, for
            photographs or for archives; hidden files and folders are passed over, and links that lead out of it.
        limit: Take only the first that many, if given.

    Returns:
        The images, without labels unless archives give them.

    Raises:
        ImageSetError: If there is no such place, it cannot be listed, holds no file with a known ending, or several kinds.
    """
    place = open_location(location)
    found = _listed(place)
    if not found:
        raise ImageSetError(
            f"no image in {shown(place)}; looked for files ending in {' '.join(sorted(SUFFIXES))}, or {' or '.join(ARCHIVES)}"
        )
    return found[:limit]


def _listed(place: Location) -> list[ImageFile]:
    """List the images of a folder or of an archive, perhaps none.

    Returns:
        Photographs sorted by name, or the images of archives sorted by name, each in its own order; empty if there are none.

    Raises:
        ImageSetError: If there is no such place, it cannot be listed, or holds several kinds.
    """
    if place.name.lower().endswith((*ARCHIVES, *COMPRESSED)) and _is_file(place):
        if place.name.lower().endswith(COMPRESSED):
            raise compressed(place)
        return archive_images([(place.name, place)])
    files = _local_files(place) if isinstance(place, Path) else _remote_files(place)
    kinds = {ending: [(name, path) for name, path in files if name.lower().endswith(ending)] for ending in ARCHIVES}
    loose = [ImageFile(name, path) for name, path in files if Path(name).suffix.lower() in SUFFIXES]
    held = [f"{len(loose)} images"] * bool(loose) + [f"{len(files)} {ending}" for ending, files in kinds.items() if files]
    if len(held) > 1:
        raise ImageSetError(
            f"{shown(place)} holds {' and '.join(held)}; give a folder that holds one kind, or one of the archives"
        )
    if loose:
        return loose
    for name, path in files:
        if name.lower().endswith(COMPRESSED):
            raise compressed(path)
    return archive_images(files) if files else []


def _is_file(place: Location) -> bool:
    """Tell whether a file is there; why one behind a URL cannot be reached is told when it is listed."""
    return place.is_file() if isinstance(place, Path) else bool(place.fs.isfile(place.path))


def _local_files(folder: Path) -> Sequence[tuple[str, Location]]:
    """Return names and paths of images and archives, sorted by name, links that lead out of the folder left out."""
    if not folder.is_dir():
        raise ImageSetError(f"no image folder at {folder}; give a folder that holds photographs")
    root = folder.resolve()
    found = []
    outside = 0
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        relative = path.relative_to(folder).as_posix()
        if not _wanted(relative) or not path.is_file():
            continue
        if path.resolve().is_relative_to(root):
            # A name that is no UTF-8 could be written to no result.
            found.append((relative.encode("utf-8", "backslashreplace").decode(), path))
        else:
            outside += 1
    if outside:
        telling.warn(f"{outside} links in {folder} lead out of it and are left out; give the folder that holds the photographs")
    return found


def _remote_files(folder: UPath) -> Sequence[tuple[str, Location]]:
    """Return names and places of images and archives behind a URL, sorted by name."""
    try:
        names = files_below(folder)
    except OSError as error:
        raise ImageSetError(
            f"cannot list {shown(folder)}: {reason(error)}; check the URL, and the credentials in the environment"
        ) from error
    if not names:
        raise ImageSetError(f"no image folder at {shown(folder)}; give a folder that holds photographs")
    return [(name, folder / name) for name in names if _wanted(name)]


def _wanted(name: str) -> bool:
    known = Path(name).suffix.lower() in SUFFIXES or name.lower().endswith((*ARCHIVES, *COMPRESSED))
    return known and visible(name)
