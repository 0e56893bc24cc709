"""Salient objects from files: ground-truth masks, or maps that were computed elsewhere."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.common.counted import counted
from qcam.common.errors import ImageSetError, first_line
from qcam.common.files import fingerprint
from qcam.common.storage import reason
from qcam.evaluate.saliency.mask_levels import OWN_FORM, MaskError, MaskRules, read_mask
from qcam.evaluate.saliency.source import NoMapError, NoObjectError
from qcam.images.archives import ARCHIVES
from qcam.images.beside import apart_from_folders, images_of, is_mask, stem_of
from qcam.images.listing import find_masks
from qcam.images.sources import MAX_BYTES, ImageFile, TooLargeError, fingerprint_source, read_source

#: Part of the fingerprint: raised when masks are read by other rules.
READING = 2


class MaskSaliency:
    """Ground-truth masks or precomputed maps from a folder, found by the image's name (docs/inputs.md).

    Attributes:
        name: As given on the command line.
        fingerprint: Of all files in the folder, and of how they are read.
        threshold: The least level above black: precomputed maps may be faint.
    """

    threshold = 1 / 255

    def __init__(self, name: str, folder: Path, rules: MaskRules = OWN_FORM) -> None:
        """List the folder.

        Args:
            name: As given on the command line.
            folder: The folder.
            rules: What is asked for in place of what a mask's own form says.

        Raises:
            QcamError: If it does not exist or holds no picture.
        """
        self.name = name
        self._folder = folder
        self._rules = rules
        if not folder.is_dir() and not (folder.is_file() and folder.name.lower().endswith(ARCHIVES)):
            raise ImageSetError(f"no mask folder at {folder}; give a folder that holds a mask for each image")
        try:
            listing = find_masks(folder)
        except ImageSetError as error:
            raise ImageSetError(f"the mask folder: {first_line(error)}") from error
        files = [*listing.images, *listing.masks]
        masks = listing.masks or files
        self._first = masks[0].name
        self._count = len(masks)
        self._not_taken = listing.others.total()
        self._among = {file.name for file in listing.masks}
        #: Image, without ending → its masks, and what stands before or behind its name there; likewise apart from folders that
        #: only say what is in them.
        self._exact: dict[str, list[tuple[ImageFile, str]]] = {}
        self._apart: dict[str, list[tuple[ImageFile, str]]] = {}
        for file in files:
            for stem, way in images_of(file.name):
                self._exact.setdefault(stem, []).append((file, way))
                for bare in apart_from_folders(stem):
                    self._apart.setdefault(bare, []).append((file, way))
        self._remarks: dict[str, str] = {}
        hashes = {file.name: fingerprint_source(file.path) for file in files}
        self.fingerprint = fingerprint({"files": hashes, "rules": repr(rules), "reading": READING})

    def account(self, images: Sequence[ImageFile]) -> tuple[str, dict[str, int]]:
        """Say how masks and images go together: one line, and the numbers in it.

        Args:
            images: The images of a run.

        Raises:
            ImageSetError: If no image has a mask, or one has several.
        """
        ways: Counter[str] = Counter()
        used = set()
        for image in images:
            found = self._find(image)
            if found is not None:
                mask, way = found
                used.add(mask.name)
                ways[way] += 1
        if not used:
            raise ImageSetError(
                f"none of the {self._count} masks in {self._folder} (first: {self._first}) belongs to any of the {len(images)} "
                f"images (first: {images[0].name}); a mask has the image's name, below the same sub-folders"
            )
        line = f"{ways.total()} of {counted(len(images), 'image has', 'images have')} a mask"
        beside = {way: count for way, count in ways.items() if way}
        if beside:
            line += "; matched by what stands beside the name: " + ", ".join(f"{way} ({n})" for way, n in beside.items())
        unused = max(0, self._count - len(used))
        if unused:
            line += f"; {counted(unused, 'mask belongs', 'masks belong')} to none of them"
        if self._not_taken:
            line += f"; {counted(self._not_taken, 'file')} there not taken"
        counts = {"with": ways.total(), "images": len(images), "unused": unused, "not_taken": self._not_taken}
        return line, counts

    def _find(self, image: ImageFile) -> tuple[ImageFile, str] | None:
        """Return an image's mask, and what stands beside the name where that is not the image's own.

        Raises:
            ImageSetError: If there are several.
        """
        stem = stem_of(image.name)
        for table, keys in ((self._exact, {stem}), (self._apart, apart_from_folders(stem))):
            every = {mask.name: (mask, way) for key in sorted(keys) for mask, way in table.get(key, ())}
            found = [each for each in every.values() if not _is_same(each[0], image)]
            if len(found) > 1:  # a photograph beside its mask is none
                sure = [each for each in found if each[0].name in self._among]
                found = [*sure, *(each for each in found if each not in sure and is_mask(each[0]))] if sure else found
            if len(found) > 1:
                names = " and ".join(mask.name for mask, _ in found[:3])
                raise ImageSetError(f"{image.name} has several masks in {self._folder}: {names}; leave one of them")
            if found:
                return found[0]
        return None

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> NDArray[np.float32]:
        """Return the mask of the whole image at its own size, float32, 0..1, NaN where it is void.

        Raises:
            NoObjectError: If it is black all over.
            NoMapError: If there is none, it cannot be read, its size is not the image's, or it is object all over.
        """
        self._remarks.pop(file.name, None)
        try:
            found = self._find(file)
        except ImageSetError as error:
            raise NoMapError(error.template) from error
        if found is None:
            raise NoMapError(f"no mask named {stem_of(file.name)}.* in the mask folder")
        name = PurePosixPath(found[0].name).name
        try:
            mask = read_mask(read_source(found[0].path), self._rules)
        except MaskError as error:
            raise NoMapError(f"mask {name}: {error}") from error
        except TooLargeError as error:
            raise NoMapError(f"mask {name}: file larger than {MAX_BYTES >> 20} MiB") from error
        except OSError as error:
            raise NoMapError(f"mask {name}: cannot be read: {reason(error)}") from error
        height, width = mask.values.shape
        if (width, height) != image.size:
            raise NoMapError(f"mask {name} is {width}×{height}, the image {image.size[0]}×{image.size[1]}")
        known = mask.values[~np.isnan(mask.values)]
        but = " where it is not void" if mask.void else ""
        if not known.size:
            raise NoMapError(f"mask {name} is void all over")
        if not known.any():
            none = f"holds none of the classes {mask.classes}" if mask.classes else "is black all over"
            raise NoObjectError(f"mask {name} {none}{but}")
        if known.min() == known.max():
            raise NoMapError(f"mask {name} is object all over{but} ({mask.form}), so nothing can be compared with it")
        void = f", {mask.void:.1%} void" if mask.void else ""
        self._remarks[file.name] = f"mask: {mask.form}{void}"
        return mask.values

    def remark(self, file: ImageFile) -> str:
        """Say what the mask that was last read for an image was taken for."""
        return self._remarks.get(file.name, "")


def _is_same(mask: ImageFile, image: ImageFile) -> bool:
    """Tell whether a mask's file is the image's own."""
    if isinstance(mask.path, Path) and isinstance(image.path, Path):
        return os.path.realpath(mask.path) == os.path.realpath(image.path)
    return mask.path == image.path
