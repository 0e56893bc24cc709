"""Small pictures of what the networks see, kept for every image so that a report needs neither photographs nor decoding."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.common.errors import ResultsError
from qcam.evaluate.results.folder import STORED_PIXELS, Picture
from qcam.images.decoding import PictureError, decode_picture
from qcam.images.preprocessing import Preprocessing

#: Longest side of a picture, and of a salient-object map, in pixels.
_PHOTO, _SALIENCY = 224, 112
_QUALITY = 82


def geometry(preprocessing: Preprocessing) -> str:
    """Say in words what of an image a network sees: `resize 256, crop 224×224` or `squash 224×224`; width first; `grey`."""
    height, width = preprocessing.crop
    size, resize = f"{width}×{height}", preprocessing.resize
    grey = "" if preprocessing.channels == 3 else ", grey"
    if resize is None:
        return f"squash {size}{grey}"
    return f"resize {f'{resize[1]}×{resize[0]}' if isinstance(resize, tuple) else resize}, crop {size}{grey}"


def take_picture(image: str, name: str, crop: NDArray[np.uint8], saliency: NDArray[np.float32] | None) -> Picture:
    """Make the picture of one image.

    Args:
        image: The image's name.
        name: The geometry's name.
        crop: uint8, height × width × 3: what the network sees.
        saliency: float32, height × width, 0..1, or None; what is void (NaN) is shown black.
    """
    height, width = crop.shape[:2]
    photo = Image.fromarray(crop)
    photo.thumbnail((_PHOTO, _PHOTO), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", quality=_QUALITY)
    grey = None
    if saliency is not None:
        levels = Image.fromarray(np.round(np.clip(np.nan_to_num(saliency), 0, 1) * 255).astype(np.uint8))
        levels.thumbnail((_SALIENCY, _SALIENCY), Image.Resampling.BOX)
        held = io.BytesIO()
        levels.save(held, format="PNG")
        grey = held.getvalue()
    return Picture(image, name, width, height, buffer.getvalue(), grey)


def photo_of(picture: Picture) -> NDArray[np.uint8]:
    """Return a stored photograph, height × width × 3.

    Raises:
        ResultsError: If it is damaged.
    """
    return _pixels(picture, picture.photo, "RGB", "JPEG")


def saliency_of(picture: Picture) -> NDArray[np.uint8] | None:
    """Return a stored salient-object map, height × width, 0..255; None if there is none (errors as in `photo_of`)."""
    return None if picture.saliency is None else _pixels(picture, picture.saliency, "L", "PNG")


def _pixels(picture: Picture, data: bytes, mode: str, form: str) -> NDArray[np.uint8]:
    try:
        return np.asarray(decode_picture(data, mode, formats=(form,), max_pixels=STORED_PIXELS))
    except PictureError as error:
        raise ResultsError(
            f"the stored {form} of image {picture.image}: {error}; run {{qcam-eval}} again with {{force}}"
        ) from error
