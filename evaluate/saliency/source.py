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
        """Return the map of the whole image, float32, 0..1, height × width of the source's own resolution; NaN is void.

        Args:
            image: The decoded image, RGB.
            file: Which image it is.
            sha256: Fingerprint of the file, where known: what a cache goes by.

        Raises:
            NoObjectError: If the map is all background.
            NoMapError: If there is none for this image.
        """
        ...

    def remark(self, file: ImageFile) -> str:
        """Say what was decided when the map of an image was last read; empty if nothing was."""
        ...


class Silent:
    """A source that decides nothing image by image."""

    def remark(self, file: ImageFile) -> str:
        """Return nothing."""
        return ""


def crop_map(whole: NDArray[np.float32], size: tuple[int, int], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Cut from a whole image's map what the network sees of the image, at the network's input size.

    Args:
        whole: Map of the whole image, any resolution.
        size: The image's width and height.
        preprocessing: The network's preprocessing.

    Returns:
        float32, crop height × width, within the range of `whole`, NaN where it is void.
    """
    left, top, right, bottom = preprocessing.crop_box(size)
    across, down = whole.shape[1] / size[0], whole.shape[0] / size[1]
    box = (left * across, top * down, min(right * across, whole.shape[1]), min(bottom * down, whole.shape[0]))
    return resized_map(whole, preprocessing.crop, box)


def resized_map(
    whole: NDArray[np.floating], size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> NDArray[np.float32]:
    """Resize a map bilinearly; what is void (NaN) lends nothing to its neighbours, and stays void where it is more than half.

    Args:
        whole: A map.
        size: Height and width of the result.
        box: The part of `whole` that is taken: left, top, right, bottom; None: all of it.

    Returns:
        float32, height × width, within the range of `whole`, NaN where it is void.
    """
    void = np.isnan(whole)

    def resized(values: NDArray[np.floating]) -> NDArray[np.float32]:
        picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box), np.float32)

    if not void.any():
        return resized(whole)
    share = resized((~void).astype(np.float32))
    values = resized(np.where(void, np.float32(0), whole)) / np.maximum(share, np.float32(1e-6))
    top = np.float32(np.nanmax(whole)) if not void.all() else np.float32(0)
    return np.where(share >= np.float32(0.5), np.minimum(values, top), np.float32(np.nan)).astype(np.float32)
