"""Salient objects from files: ground-truth masks, or maps that were computed elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.common.files import fingerprint
from qcam.evaluate.saliency.source import NoMapError, NoObjectError
from qcam.images.decoding import decode
from qcam.images.listing import find_images
from qcam.images.sources import ImageFile, fingerprint_source


class MaskSaliency:
    """Ground-truth masks or precomputed maps from a folder, found by the image's name with any picture ending.

    Attributes:
        name: As given on the command line.
        fingerprint: Of all files in the folder.
        threshold: The least level above black: precomputed maps may be faint.
    """

    threshold = 1 / 255

    def __init__(self, name: str, folder: Path) -> None:
        """List the folder.

        Raises:
            QcamError: If it does not exist or holds no picture.
        """
        self.name = name
        files = find_images(folder)
        self._masks = {str(Path(file.name).with_suffix("")): file for file in files}
        self.fingerprint = fingerprint({file.name: fingerprint_source(file.path) for file in files})

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> NDArray[np.float32]:
        """Return the mask of the whole image at its own size, float32, 0..1.

        Raises:
            NoObjectError: If it is black all over.
            NoMapError: If there is none, it cannot be read, or its size is not the image's.
        """
        stem = str(Path(file.name).with_suffix(""))
        mask = self._masks.get(stem)
        if mask is None:
            raise NoMapError(f"no mask named {stem}.* in the mask folder")
        name = Path(mask.name).name
        decoded = decode(mask.path)
        if decoded.image is None:
            raise NoMapError(f"mask {name}: {decoded.refusal}")
        if decoded.image.size != image.size:
            found, wanted = decoded.image.size, image.size
            raise NoMapError(f"mask {name} is {found[0]}×{found[1]}, the image {wanted[0]}×{wanted[1]}")
        levels = np.asarray(decoded.image.convert("L"), np.float32) / np.float32(255)
        if not levels.any():
            raise NoObjectError(f"mask {name} is black all over")
        return levels
