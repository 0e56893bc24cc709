"""One decoding policy: every picture, wherever it comes from, is opened here, from bytes, by one list of decoders.

Photographs, masks, pictures in archives and in results: nothing else opens a picture (a test looks for it). Decoders that start
programs (EPS starts Ghostscript) or parse far more than pictures (PDF) are never asked, and no memory is taken for more pixels
than the limit.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError

from qcam.common.errors import first_line

#: Decoders that may run. MPO is opened by JPEG's: Pillow registers no opener of its own for it and raises KeyError if asked.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
#: Largest picture that is decoded, in pixels (width × height). More is refused before memory is taken for it.
MAX_PIXELS = 100_000_000


class PictureError(Exception):
    """Bytes that are no picture, or none that may be decoded; the message says why."""


def open_picture(data: bytes, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture and read its header; its pixels are decoded when they are asked for.

    Args:
        data: The file's bytes.
        formats: Which decoders may run: all of `FORMATS`, or some of them.
        max_pixels: Most pixels (width × height), no more than `MAX_PIXELS`.

    Raises:
        PictureError: If it is no picture of these formats, has more pixels, or its header is damaged.
    """
    if not set(formats) <= set(FORMATS):
        raise ValueError(f"{formats} are not all among {FORMATS}")
    limit = min(max_pixels, MAX_PIXELS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own remarks on odd files; what matters of them is refused here
            picture = Image.open(io.BytesIO(data), formats=tuple(formats))
    except UnidentifiedImageError as error:
        raise PictureError("not an image that can be identified") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, above ours: it tells from the header
        raise PictureError(f"more than {_millions(limit)} pixels are refused") from error
    except Exception as error:  # on damaged files Pillow raises KeyError, TypeError, struct.error … as well as its own
        raise PictureError(damaged(error)) from error
    width, height = picture.size
    if width * height > limit:
        picture.close()
        raise PictureError(f"{width}×{height} pixels, more than {_millions(limit)} are refused")
    return picture


def decode_picture(data: bytes, mode: str, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture and decode it whole.

    Args:
        data: The file's bytes.
        mode: Pillow's name of the mode that it is converted to: `RGB`, `L`.
        formats: As in `open_picture`.
        max_pixels: As in `open_picture`.

    Raises:
        PictureError: As from `open_picture`, or if its pixels are damaged.
    """
    with open_picture(data, formats=formats, max_pixels=max_pixels) as picture:
        try:
            return picture.convert(mode)
        except Exception as error:  # as above
            raise PictureError(damaged(error)) from error


def damaged(error: Exception) -> str:
    """Say what a decoder found wrong with a picture."""
    return f"damaged or truncated: {first_line(error) if str(error) else 'no data'}"


def _millions(pixels: int) -> str:
    return f"{pixels // 10**6} million" if pixels >= 10**6 else f"{pixels:,}"
