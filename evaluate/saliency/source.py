"""What a source of salient-object maps is, and the crop that a map shares with its image."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.images.preprocessing import Preprocessing
from qcam.images.sources import ImageFile

#: Probability that some position has to reach for a network to have found an object.
BACKGROUND = 0.5


class NoMapError(Exception):
    """There is no salient-object map for one image; the message says why. The run goes on."""


class NoObjectError(NoMapError):
    """The map is all background: there is nothing salient. Counted apart, and never stretched to full range."""


class SaliencySource(Protocol):
    """Gives the salient-object map of an image.

    Attributes:
        name: As given on the command line.
        fingerprint: Changes whenever a map could change.
        threshold: Value, 0..1, that a map has to reach somewhere inside a crop for the crop to hold the object.
    """

    name: str
    fingerprint: str
    threshold: float

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> NDArray[np.float32]:
        """Return the map of the whole image, float32, 0..1, height × width of the source's own resolution.

        Args:
            image: The decoded image, RGB.
            file: Which image it is.
            sha256: Fingerprint of the file, where known: what a cache goes by.

        Raises:
            NoObjectError: If the map is all background.
            NoMapError: If there is none for this image.
        """
        ...


def crop_map(whole: NDArray[np.float32], size: tuple[int, int], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Cut from a whole image's map what the network sees of the image, at the network's input size.

    Args:
        whole: Map of the whole image, any resolution.
        size: The image's width and height.
        preprocessing: The network's preprocessing.

    Returns:
        float32, crop height × width, within the range of `whole`.
    """
    left, top, right, bottom = preprocessing.crop_box(size)
    across, down = whole.shape[1] / size[0], whole.shape[0] / size[1]
    box = (left * across, top * down, min(right * across, whole.shape[1]), min(bottom * down, whole.shape[0]))
    height, width = preprocessing.crop
    picture = Image.fromarray(np.ascontiguousarray(whole, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box), np.float32)
