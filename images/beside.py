"""Masks that lie among photographs: told apart by their names and by what their files are, never by one of the two alone.

Sets of masks come with the photographs in one folder (`a.jpg`, `a.png`), under the photograph's name with something before or
behind it (`a_mask.png`, `mask_a.png`, `a.jpg.png`), in a folder of their own (`masks/a.png`, `DUTS-TE-Mask/a.png`), or as
members of one sample in a tar file (`a.mask.png`). Run as photographs they would be explained, and nobody would notice.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from qcam.images.decoding import PictureError, open_picture
from qcam.images.kinds import SUFFIXES
from qcam.images.sources import ImageFile, Span, location_of, read_source

_WORDS = (
    "masks?|gt|ground[ _-]?truth|seg|segmentations?|labels?|label[ _-]?ids|instance[ _-]?ids|annotations?|instances?|alpha|"
    "matte|saliency|sal|trimaps?|superpixels|parts|gtfine|gtcoarse|panoptic"
)
#: What mask sets put behind an image's name, before the ending; several of it, and a number.
_BEHIND = re.compile(rf"(?P<name>.+?)(?P<way>(?:[ _.-](?:{_WORDS}))+(?:[ _-]?[0-9]{{1,3}})?)", re.IGNORECASE)
#: What mask sets put before an image's name.
_BEFORE = re.compile(rf"(?P<way>(?:{_WORDS})[ _.-])(?P<name>.+)", re.IGNORECASE)
#: Words in the names of folders that hold masks.
_FOLDER_WORDS = frozenset(
    {
        "mask", "masks", "gt", "gtfine", "gtcoarse", "groundtruth", "groundtruths", "seg", "segmentation", "segmentations",
        "segmentationclass", "segmentationobject", "annotation", "annotations", "label", "labels", "alpha", "alphas", "matte",
        "mattes", "saliency", "trimap", "trimaps", "panoptic", "stuffthingmaps", "superpixels",
    }
)  # fmt: skip
#: Words in the names of folders that hold the photographs beside them.
_PHOTO_WORDS = frozenset(
    {"image", "images", "img", "imgs", "jpegimages", "jpegs", "photo", "photos", "photographs", "leftimg8bit"}
)
#: Endings of pictures that lose levels, whose pixels are not looked at where another file of the name can tell.
_LOSSY = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".jp2", ".heic", ".heif"})
#: Modes of a picture without colours.
_GREY_MODES = frozenset({"1", "L", "LA", "I", "F"})
#: Files of a folder that are looked into, at most.
_LOOKED_INTO = 5
#: Most colours of a mask in colours, and most levels of one that needs no photograph to be told.
_COLOURS, _LEVELS = 256, 16
#: Two pictures are one photograph if their small versions differ by less than this on average, of 255.
_ALIKE = 16.0


def stem_of(name: str) -> str:
    """Return a name without its ending, in one Unicode form."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))


def images_of(mask: str) -> Iterator[tuple[str, str]]:
    """Yield the images that a mask's name may speak of, without ending, and how: what stands before or behind the image's name.

    Args:
        mask: The mask's name. Its own name comes first, with nothing beside it.
    """
    stem = stem_of(mask)
    yield stem, ""
    folder, slash, base = stem.rpartition("/")
    if PurePosixPath(base).suffix.lower() in SUFFIXES:
        yield stem_of(stem), PurePosixPath(base).suffix
    for pattern in (_BEHIND, _BEFORE):
        found = pattern.fullmatch(base)
        if found is not None:
            yield f"{folder}{slash}{found['name']}", found["way"]


def apart_from_folders(name: str) -> set[str]:
    """Return a name apart from what folders say of what is in them, in both ways in which sets are laid out.

    `images/x/a` and `masks/x/a` are both `x/a`; `train/a` and `train_masks/a` are both `train/a`.
    """
    *folders, base = name.split("/")
    kept = [folder for folder in folders if not _says(folder, _FOLDER_WORDS | _PHOTO_WORDS)]
    bare = filter(None, (_without_words(folder) for folder in folders))
    return {"/".join([*kept, base]), "/".join([*bare, base])}


def _without_words(folder: str) -> str:
    """Return a folder's name without the words that say what is in it; as it is if there are none."""
    words = _FOLDER_WORDS | _PHOTO_WORDS
    if not _says(folder, words):
        return folder
    parts = _parts(folder)
    joined = {part for pair in itertools.pairwise(parts) if "".join(pair) in words for part in pair}
    return "-".join(part for part in parts if part not in words and part not in joined)


def without_masks(files: Sequence[ImageFile]) -> tuple[list[ImageFile], list[ImageFile]]:
    """Part photographs from the masks that lie among them.

    Args:
        files: Pictures of one place, in any order.

    Returns:
        The photographs, and the masks, each in the order given.
    """
    by_stem: dict[str, list[ImageFile]] = defaultdict(list)
    for file in files:
        by_stem[stem_of(file.name)].append(file)
    masks = _by_name(files, by_stem)
    for twins in by_stem.values():
        if len(twins) > 1:
            masks.update(_twins([file for file in twins if file.name not in masks]))
    masks |= _in_folders(files, masks)
    if len(masks) == len(files):  # nothing but masks: they are the images that were meant
        return list(files), []
    return [file for file in files if file.name not in masks], [file for file in files if file.name in masks]


def is_mask(file: ImageFile) -> bool:
    """Tell from a picture's header, and where that leaves it open from its colours, whether it can be a mask at all."""
    return _can_be_mask(_opened(file))


def _by_name(files: Sequence[ImageFile], by_stem: dict[str, list[ImageFile]]) -> set[str]:
    """Return files that are called after another one, and can be its mask."""
    masks = set()
    for file in files:
        for stem, way in images_of(file.name):
            others = [other for other in by_stem.get(stem, ()) if other is not file] if way else []
            if others and is_mask(file) and not _alike(file, others[0]):
                masks.add(file.name)
        if isinstance(file.path, Span) and "." in PurePosixPath(stem_of(file.name)).name:
            # A tar's sample is what has one name up to the first dot: of its pictures the plainest is the photograph.
            folder, slash, base = file.name.rpartition("/")
            if any(other is not file for other in by_stem.get(f"{folder}{slash}{base.partition('.')[0]}", ())):
                masks.add(file.name)
    return masks


def _twins(twins: Sequence[ImageFile]) -> Iterator[str]:
    """Yield those of several files of one name that are masks of the others: without colours, or few, beside one with many."""
    lossy = [file for file in twins if PurePosixPath(file.name).suffix.lower() in _LOSSY]
    exact = [file for file in twins if file not in lossy]
    found = [file for file in exact if is_mask(file)]
    if not found and lossy and exact:
        found = [file for file in lossy if (picture := _opened(file)) is not None and _colourless(picture)]
    rest = [file for file in twins if file not in found]
    yield from (file.name for file in found if rest and not _alike(file, rest[0]))


def _opened(file: ImageFile) -> Image.Image | None:
    try:
        return open_picture(read_source(file.path))
    except (PictureError, OSError):
        return None


def _can_be_mask(picture: Image.Image | None) -> bool:
    return picture is not None and (_colourless(picture) or _few_colours(picture, _COLOURS))


def _few_colours(picture: Image.Image, most: int) -> bool:
    """Tell whether a picture has no more colours than that; one that cannot be decoded has not."""
    try:
        return picture.convert("RGB").getcolors(most) is not None
    except Exception:  # on damaged files Pillow raises KeyError, TypeError, struct.error … as well as its own
        return False


def _colourless(picture: Image.Image) -> bool:
    """Tell from a picture's header whether it holds levels or indices rather than colours, or is cut out by its alpha."""
    return picture.mode in _GREY_MODES or picture.mode.startswith(("I;16", "P")) or picture.has_transparency_data


def _alike(one: ImageFile, other: ImageFile) -> bool:
    """Tell whether two files are the same photograph, in grey or in another format."""
    small = []
    for file in (one, other):
        picture = _opened(file)
        try:
            if picture is None or picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
                return False
            picture.draft("RGB", (64, 64))
            small.append(np.asarray(picture.convert("RGB").convert("L").resize((32, 32)), np.float64))
        except Exception:  # on damaged files Pillow raises KeyError, TypeError, struct.error … as well as its own
            return False
    return bool(np.abs(small[0] - small[1]).mean() < _ALIKE)


def _in_folders(files: Sequence[ImageFile], known: set[str]) -> set[str]:
    """Return the files in folders of masks: called so, and of what they hold that is looked into, most can be masks.

    Where names fit photographs outside, any kind of mask will do; where they do not, only one that no photograph looks like.
    """
    inside: dict[str, list[ImageFile]] = defaultdict(list)
    outside: set[str] = set()
    for file in files:
        folder = _mask_folder(file)
        if folder is not None:
            inside[folder].append(file)
        elif file.name not in known:
            outside.add(stem_of(file.name).rpartition("/")[2])
    found: set[str] = set()
    for held in inside.values() if outside else ():
        fitting = sum(any(stem.rpartition("/")[2] in outside for stem, _ in images_of(file.name)) for file in held)
        step = max(1, len(held) // _LOOKED_INTO)
        looked = [_opened(file) for file in held[::step][:_LOOKED_INTO]]
        # So few levels that it is no photograph, whatever the names say.
        sure = sum(picture is not None and (picture.mode == "1" or _few_colours(picture, _LEVELS)) for picture in looked)
        if 2 * sure > len(looked) or (2 * fitting > len(held) and 2 * sum(map(_can_be_mask, looked)) > len(looked)):
            found.update(file.name for file in held)
    return found


def _mask_folder(file: ImageFile) -> str | None:
    """Return the outermost folder on a file's way that has a mask folder's name; an archive is no folder."""
    parts = PurePosixPath(file.name).parts[:-1]
    skipped = len(PurePosixPath(location_of(file.path).name).parts) if isinstance(file.path, Span) else 0
    for index, part in enumerate(parts):
        if index >= skipped and _says(part, _FOLDER_WORDS):
            return "/".join(parts[: index + 1])
    return None


def _says(folder: str, words: frozenset[str]) -> bool:
    """Tell whether one of the words in a folder's name, or two next to each other, are among some."""
    parts = _parts(folder)
    return not words.isdisjoint([*parts, *map("".join, itertools.pairwise(parts)), "".join(parts)])


def _parts(folder: str) -> list[str]:
    """Return the words and numbers of a name, in lower case: `pixelwiseGT-new` is three."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", folder)]
