"""Masks that lie among photographs: told apart by their names, and by what their files are.

Sets of masks come with the photographs in one folder (`a.jpg`, `a.png`), under the photograph's name with something behind it
(`a_mask.png`, `a.jpg.png`), in a folder of their own inside (`masks/a.png`), or as members of one sample in a tar file
(`a.mask.png`). Run as photographs they would be explained, and nobody would notice.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from qcam.images.decoding import PictureError, open_picture
from qcam.images.sources import ImageFile, Span, location_of, read_source

#: What mask sets put behind the image's name, before the ending.
MASK_SUFFIXES = (
    "mask", "masks", "gt", "ground_truth", "groundtruth", "seg", "segmentation", "label", "labels", "annotation", "instance",
    "alpha", "matte", "saliency", "sal",
)  # fmt: skip
#: Names of folders that hold masks, in lower case and without what separates words.
_FOLDERS = frozenset(
    {
        "mask", "masks", "gt", "groundtruth", "groundtruths", "seg", "segmentation", "segmentations", "segmentationclass",
        "segmentationobject", "annotation", "annotations", "labels", "labelimages", "alpha", "alphas", "matte", "mattes",
        "saliency", "saliencymaps", "trimaps",
    }
)  # fmt: skip
#: Endings of pictures that lose levels: nobody writes masks so that are to be exact, beside a file of another kind.
_LOSSY = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".jp2", ".heic", ".heif"})
#: Modes in which a file is a mask rather than the same photograph once more.
_MASK_MODES = frozenset({"1", "L", "LA", "P", "PA", "I", "F"})


def stem_of(name: str) -> str:
    """Return a name without its ending, in one Unicode form."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))


def mask_names(image: str) -> Iterator[tuple[str, str]]:
    """Yield the names without ending that an image's mask may have, each with what stands behind the image's own name.

    Args:
        image: The image's name.
    """
    stem = stem_of(image)
    yield stem, ""
    yield unicodedata.normalize("NFC", image), PurePosixPath(image).suffix
    for suffix in MASK_SUFFIXES:
        for joint in "_-.":
            yield f"{stem}{joint}{suffix}", f"{joint}{suffix}"


def without_masks(files: Sequence[ImageFile]) -> tuple[list[ImageFile], list[ImageFile]]:
    """Part photographs from the masks that lie among them.

    Args:
        files: Pictures of one place, in any order.

    Returns:
        The photographs, and the masks, each in the order given. A file counts as a mask only if its photograph is there.
    """
    by_stem: dict[str, list[ImageFile]] = defaultdict(list)
    for file in files:
        by_stem[stem_of(file.name)].append(file)
    masks: set[str] = set()
    for file in files:
        for name, behind in mask_names(file.name):
            if behind:
                masks.update(other.name for other in by_stem.get(name, ()) if other is not file)
    for twins in by_stem.values():
        if len(twins) > 1:
            masks.update(_twins(twins))
    masks |= _in_folders(files, masks)
    kept = [file for file in files if file.name not in masks]
    if not kept:  # masks of masks: names alone say nothing here
        return list(files), []
    return kept, [file for file in files if file.name in masks]


def _twins(twins: Sequence[ImageFile]) -> Iterator[str]:
    """Yield those of several files of one name that are masks of the others: of a mask's kind, beside a lossy one."""
    endings = {file.name: PurePosixPath(file.name).suffix.lower() for file in twins}
    if any(ending in _LOSSY for ending in endings.values()):
        yield from (file.name for file in twins if endings[file.name] not in _LOSSY and _is_mask(file))


def _is_mask(file: ImageFile) -> bool:
    """Tell from a picture's header, and where that leaves it open from its colours, whether it can be a mask."""
    try:
        with open_picture(read_source(file.path)) as picture:
            if picture.mode in _MASK_MODES or picture.mode.startswith("I;16") or picture.has_transparency_data:
                return True
            # In colours: a mask that was saved so has few of them, or is grey throughout.
            return picture.convert("RGB").getcolors(256) is not None
    except (PictureError, OSError, ValueError):
        return False
    except Exception:  # on damaged files Pillow raises KeyError, TypeError, struct.error … as well as its own
        return False


def _in_folders(files: Sequence[ImageFile], known: Iterable[str]) -> set[str]:
    """Return the files in folders of masks: so called, and most of what they hold belongs to a photograph outside."""
    masks = set(known)
    inside: dict[str, list[ImageFile]] = defaultdict(list)
    outside: set[str] = set()
    for file in files:
        folder = _mask_folder(file)
        if folder is None:
            if file.name not in masks:
                outside.update(name.rpartition("/")[2] for name, _ in mask_names(file.name))
        else:
            inside[folder].append(file)
    found: set[str] = set()
    for held in inside.values():
        fitting = sum(stem_of(file.name).rpartition("/")[2] in outside for file in held)
        if 2 * fitting > len(held):
            found.update(file.name for file in held)
    return found


def _mask_folder(file: ImageFile) -> str | None:
    """Return the outermost folder on a file's way that has a mask folder's name; an archive is no folder."""
    parts = PurePosixPath(file.name).parts[:-1]
    skipped = len(PurePosixPath(location_of(file.path).name).parts) if isinstance(file.path, Span) else 0
    for index, part in enumerate(parts):
        if index >= skipped and "".join(filter(str.isalnum, part.lower())) in _FOLDERS:
            return "/".join(parts[: index + 1])
    return None
