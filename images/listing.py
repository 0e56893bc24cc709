"""What an image set's location holds: photographs, or archives of them; on this machine or behind a URL."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qcam.common import telling
from qcam.common.counted import counted
from qcam.common.errors import ImageSetError
from qcam.common.places import near_folders
from qcam.common.storage import Location, is_file, open_location, places_below, read_pieces, reason, shown
from qcam.images.account import Account, examples
from qcam.images.archives import ARCHIVES, COMPRESSED, Listing, archive_images, compressed, visible
from qcam.images.beside import without_masks
from qcam.images.kinds import (
    HEAD,
    HEIF_ADVICE,
    HEIF_SUFFIXES,
    SUFFIXES,
    ending,
    is_photograph,
    is_readable,
    kind_of,
    may_be,
    reads_heif,
)
from qcam.images.sources import REMOTE_READS, ImageFile, in_order

if TYPE_CHECKING:
    from upath import UPath

#: Most links to folders that are followed.
_MOST_LINKS = 10_000
#: Endings that are named of files that were not taken.
_ENDINGS = 6


def find_masks(location: str | Location) -> Listing:
    """List the pictures of a place of masks, those that lie among photographs apart.

    Args:
        location: As for `find_images`.

    Raises:
        ImageSetError: As from `find_images`.
    """
    return _found(open_location(location), "mask")


def find_images(
    location: str | Location, *, limit: int | None = None, account: Account | None = None, run: int | None = None
) -> list[ImageFile]:
    """List the photographs of a folder, sorted by name, or those in archives (docs/inputs.md).

    Args:
        location: A folder, a tar file or a Parquet file, local or behind a URL. A folder is searched at any depth, for
            photographs or for archives; links to folders are followed; hidden files and folders are passed over, and files that
            are links out of it.
        limit: Take only the first that many, if given.
        account: Takes the number of images, and what was not taken. Without one, what was not taken is told.
        run: Of how many images, the first ones, the run will be, which is told; `limit` unless given.

    Returns:
        The images, without labels unless archives give them.

    Raises:
        ImageSetError: If there is no such place, it cannot be listed, holds no picture that can be read, or several kinds.
    """
    require_place(location)
    place = open_location(location)
    found = _found(place)
    # Of masks, which `find_masks` lists, several links may lead to one: it is the mask of several images.
    again = _again([image.name for image in found.images], found.real)
    found.images = [image for image in found.images if image.name not in again]
    if again:
        found.by_content -= sum(not is_photograph(name) for name in again)
        several = counted(len(again), "image is", "images are")
        found.remarks.append(f"{several} also reached through links ({examples(sorted(again))}): each is taken once")
    not_taken = _not_taken(found)
    by_content = [f"{counted(found.by_content, 'of them was', 'of them were')} found by content"] if found.by_content else []
    if account is not None:
        taken = found.images[: limit if run is None else run]
        first = f" of {len(found.images):,}" if len(taken) < len(found.images) else ""
        counts = {"taken": len(taken), "found": len(found.images), "not_taken": found.others.total()}
        if found.masks:
            counts["masks"] = len(found.masks)
        told = [f"{len(taken):,}{first} taken", *by_content, *(not_taken or ["0 files not taken"])]
        account.add("images", "; ".join(told), **counts)
    elif not_taken:
        telling.note(f"{shown(place)}: {'; '.join(not_taken)}")
    return found.images[:limit]


def require_place(location: str | Location) -> None:
    """Refuse an empty text for a place: it would be the current folder.

    Raises:
        ImageSetError: If it is one.
    """
    if location == "":
        raise ImageSetError("the images' place is empty; give a folder (. is the current one), an archive or a photograph")


def _again(names: Sequence[str], real: Mapping[str, str]) -> set[str]:
    """Return those of some files that are reached through a link while the same file is there by its own name, or by another.

    Args:
        names: The files' names, sorted.
        real: From `Listing`.
    """
    seen = {name for name in names if name not in real}
    again = set()
    for name in names:
        if name in real and real[name] in seen:
            again.add(name)
        elif name in real:
            seen.add(real[name])
    return again


def _found(place: Location, wanted: str = "image") -> Listing:
    """List a place where something is wanted, masks that lie among photographs apart (errors as from `find_images`)."""
    found = _listed(place)
    if not found.images:
        not_taken = _not_taken(found)
        looked = f"looked for files ending in {' '.join(sorted(SUFFIXES))}, or {' or '.join(ARCHIVES)}, and into others"
        there = f"; there: {'; '.join(not_taken)}" if not_taken else ""
        raise ImageSetError(f"no {wanted} in {shown(place)}; {looked}{there}")
    found.images, found.masks = without_masks(found.images)
    return found


def _not_taken(found: Listing) -> list[str]:
    """Say what a place holds that is not taken for an image."""
    others = Counter(found.others)
    told = []
    if found.masks:
        told.append(f"{counted(len(found.masks), 'mask')} beside photographs kept out: {examples(m.name for m in found.masks)}")
    if others:
        named = [f"{count:,} {end or 'without an ending'}" for end, count in others.most_common(_ENDINGS)]
        more = ", …" if len(others) > _ENDINGS else ""
        told.append(f"{counted(others.total(), 'file')} not taken: {', '.join(named)}{more}")
    if any(end in HEIF_SUFFIXES for end in others) and not reads_heif():
        told.append(HEIF_ADVICE)
    return told + found.remarks


def one_photograph(path: Path) -> ImageFile | None:
    """Return a file as an image set of its own, if it is a picture by its ending or its content; None if it is another thing.

    Args:
        path: A path on this machine.

    Raises:
        ImageSetError: If it is a picture that cannot be read here.
    """
    if not path.is_file() or path.name.lower().endswith((*ARCHIVES, *COMPRESSED)):
        return None
    kind = _kind(path) if not is_photograph(path.name) else ""
    if is_photograph(path.name) or (is_readable(kind) and may_be(path.name)):
        return ImageFile(path.name, path)
    if kind == "HEIF" or ending(path.name) in HEIF_SUFFIXES:
        raise ImageSetError(f"{path} is a HEIF picture, which is not read here; {HEIF_ADVICE}")
    raise ImageSetError(f"{path} is no picture of a kind that is read (docs/inputs.md); give a photograph, or a folder")


def _listed(place: Location) -> Listing:
    """List the images of a folder or of an archive, perhaps none.

    Returns:
        Photographs sorted by name, or the images of archives sorted by name, each in its own order; empty if there are none.

    Raises:
        ImageSetError: If there is no such place, it cannot be listed, or holds several kinds.
    """
    if place.name.lower().endswith((*ARCHIVES, *COMPRESSED)) and is_file(place):
        if place.name.lower().endswith(COMPRESSED):
            raise compressed(place)
        return archive_images([(place.name, place)])
    files, found = _local_files(place) if isinstance(place, Path) else _remote_files(place)
    kinds = {end: [(name, path) for name, path in files if name.lower().endswith(end)] for end in ARCHIVES}
    squeezed = [(name, path) for name, path in files if name.lower().endswith(COMPRESSED)]
    rest = [file for file in files if not file[0].lower().endswith((*ARCHIVES, *COMPRESSED))]
    loose = _photographs(rest, found, place)
    sizes = {"images": len(loose)} | {end: len(found_there) for end, found_there in kinds.items()}
    held = [f"{size} {end}" for end, size in sizes.items() if size]
    if len(held) > 1:
        raise ImageSetError(
            f"{shown(place)} holds {' and '.join(held)}; give a folder that holds one kind, or one of the archives"
        )
    if loose:
        found.images = loose
        found.others.update(ending(name) for name, _ in squeezed)
        return found
    if squeezed:
        raise compressed(squeezed[0][1])
    archives = [file for some in kinds.values() for file in some]
    if archives:
        again = _again([name for name, _ in archives], found.real)
        if again:
            several = counted(len(again), "archive is", "archives are")
            found.remarks.append(f"{several} also reached through links ({examples(sorted(again))}): each is taken once")
        inside = archive_images([file for file in archives if file[0] not in again])
        found.images, found.by_content = inside.images, inside.by_content
        found.others += inside.others
        found.remarks += inside.remarks
    return found


def _photographs(files: Sequence[tuple[str, Location]], found: Listing, place: Location) -> list[ImageFile]:
    """Return those files that are pictures, by their ending or else by their first bytes; count the others."""
    unsure = [(name, path) for name, path in files if not is_photograph(name) and may_be(name)]
    heads = in_order(_kind, [path for _, path in unsure], 1 if isinstance(place, Path) else REMOTE_READS)
    kinds = {name: kind for (name, _), kind in zip(unsure, heads, strict=True)}
    images = []
    for name, path in files:
        by_content = is_readable(kinds.get(name, ""))
        if is_photograph(name) or by_content:
            images.append(ImageFile(name, path))
            found.by_content += by_content
        else:
            found.others[".heic" if kinds.get(name) == "HEIF" else ending(name)] += 1
    return images


def _kind(path: Location) -> str:
    """Return the kind of picture that a file holds by its first bytes; empty if it holds none, or cannot be read."""
    try:
        if isinstance(path, Path):
            with path.open("rb") as stream:
                return kind_of(stream.read(HEAD))
        return kind_of(next(read_pieces(path, 0, HEAD), b""))  # a shorter file gives what it has
    except OSError:
        return ""


@dataclass
class _Walk:
    """A folder that is searched, links to folders followed.

    Attributes:
        root: The folder.
        files: Name below it → file.
        real: Name of a file that is reached through a link → as `Listing` has it.
        hidden: Hidden files and folders that were passed over.
        outside: Files that are links out of the folder.
        dangling: Links that lead nowhere.
        loops: Links to a folder that holds them.
        closed: Folders that cannot be read.
        links: Links that were followed.
    """

    root: Path
    files: dict[str, Path] = field(default_factory=dict)
    real: dict[str, str] = field(default_factory=dict)
    hidden: int = 0
    outside: int = 0
    dangling: int = 0
    loops: int = 0
    closed: int = 0
    links: int = 0

    def run(self) -> None:
        """Search the folder."""
        root = self.root.resolve()
        # Folder; its name below the root, with a slash; the real folder that its files must not lead out of; the real folders
        # that it lies in, and itself; whether a link led there.
        pending: list[tuple[Path, str, Path, tuple[Path, ...], bool]] = [(self.root, "", root, (root,), False)]
        while pending:
            folder, prefix, home, above, linked = pending.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                self.closed += 1
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    self.hidden += 1
                    continue
                path, name = folder / entry.name, prefix + entry.name
                try:
                    if entry.is_dir():
                        real = path.resolve()
                        if not entry.is_symlink():
                            pending.append((path, name + "/", home, (*above, real), linked))
                        elif any(real == inner or real in inner.parents for inner in above):
                            self.loops += 1
                        else:
                            self._follow()
                            pending.append((path, name + "/", real, (*above, real), True))
                    elif entry.is_file():
                        self._file(name, path, (root, home), entry.is_symlink(), linked)
                    else:
                        self.dangling += entry.is_symlink()
                except (OSError, RuntimeError):  # a loop of links
                    self.dangling += 1

    def _follow(self) -> None:
        self.links += 1
        if self.links > _MOST_LINKS:
            raise ImageSetError(f"more than {_MOST_LINKS:,} links to folders in {self.root}; give a folder with fewer")

    def _file(self, name: str, path: Path, homes: tuple[Path, Path], link: bool, linked: bool) -> None:
        root, home = homes
        if link and not (path.resolve().is_relative_to(home) or path.resolve().is_relative_to(root)):
            self.outside += 1
            return
        self.files[name] = path
        if link or linked:
            real = path.resolve()
            self.real[name] = real.relative_to(root).as_posix() if real.is_relative_to(root) else str(real)

    def remarks(self) -> list[str]:
        """Say what was left out."""
        told = (
            (self.outside, "file is a link out of the folder", "files are links out of the folder"),
            (self.dangling, "link leads nowhere", "links lead nowhere"),
            (self.loops, "link leads to a folder that holds it", "links lead to folders that hold them"),
            (self.closed, "folder cannot be read", "folders cannot be read"),
        )
        return [f"{counted(count, one, many)}: left out" for count, one, many in told if count]


def _local_files(folder: Path) -> tuple[list[tuple[str, Location]], Listing]:
    """Return names and paths of all files, sorted by name, and what was left out."""
    if not folder.is_dir():
        advice = near_folders(folder) or "; give a folder that holds photographs"
        raise ImageSetError(f"no image folder at {folder}{advice}")
    walk = _Walk(folder)
    walk.run()
    files = [(_writable(name), path) for name, path in sorted(walk.files.items())]
    real = {_writable(name): _writable(to) for name, to in walk.real.items()}
    return files, Listing(others=Counter({"hidden": walk.hidden} if walk.hidden else {}), remarks=walk.remarks(), real=real)


def _writable(name: str) -> str:
    """Return a name that can be written: one that is no UTF-8 could be to no result."""
    return name.encode("utf-8", "backslashreplace").decode()


def _remote_files(folder: UPath) -> tuple[list[tuple[str, Location]], Listing]:
    """Return names and places of all files behind a URL, sorted by name, and what was left out."""
    try:
        places = places_below(folder)
    except OSError as error:
        raise ImageSetError(
            f"cannot list {shown(folder)}: {reason(error)}; check the URL, and the credentials in the environment"
        ) from error
    if not places:
        raise ImageSetError(f"no image folder at {shown(folder)}; give a folder that holds photographs")
    seen = [(name, place) for name, place in places.items() if visible(name)]
    others = Counter({"hidden": len(places) - len(seen)} if len(seen) < len(places) else {})
    return list(seen), Listing(others=others)
