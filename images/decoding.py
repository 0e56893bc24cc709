"""One decoding policy: every picture, wherever it comes from, is opened here, from bytes, by one list of decoders.

Photographs, masks, pictures in archives and in results: nothing else opens a picture (a test looks for it). Decoders that start
programs (EPS starts Ghostscript) or parse far more than pictures (PDF) are never asked, and no memory is taken for more pixels
than the limit.

Every odd file of an image set ends in one of two ways: decoded, with a remark where something was chosen for the user (first
frame of an animation, rotation from EXIF), or refused by name with the reason. None of them raises through a run.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from qcam.common import machine
from qcam.common.errors import first_line
from qcam.common.files import sha256_bytes
from qcam.common.storage import reason
from qcam.images.sources import MAX_BYTES, REMOTE_READS, Source, TooLargeError, in_order, location_of, read_source

#: Decoders that may run. MPO is opened by JPEG's: Pillow registers no opener of its own for it and raises KeyError if asked.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
#: Largest picture that is decoded, in pixels (width × height). More is refused before memory is taken for it.
MAX_PIXELS = 100_000_000
#: How the refusal of a file begins that could not be read at all.
CANNOT_BE_READ = "cannot be read"


class PictureError(Exception):
    """Bytes that are no picture, or none that may be decoded; the message says why."""


@dataclass(frozen=True)
class Decoded:
    """What became of one file.

    Attributes:
        image: The picture as 8-bit RGB, upright; None if it was refused.
        sha256: Fingerprint of the file's bytes; empty if it was not read.
        remark: What was chosen for the user ("first of 3 frames"), or empty.
        refusal: Why there is no picture, or empty; begins with CANNOT_BE_READ if its bytes could not be had.
    """

    image: Image.Image | None
    sha256: str
    remark: str = ""
    refusal: str = ""


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


def decode(path: Source) -> Decoded:
    """Read one image and decode it to upright 8-bit RGB, or say why not.

    Alpha is dropped, as torchvision's and timm's loaders do; 16-bit grayscale keeps its upper eight bits; of an animation
    the first frame is taken; EXIF orientation is applied.

    Args:
        path: Where its bytes are.

    Returns:
        The picture or the refusal; nothing is raised for a bad file.
    """
    return _decode_read(_read(path))


def decode_all(paths: Sequence[Source]) -> Iterator[Decoded]:
    """Decode images on all cores; yields in their order, as many decoded pictures in memory as there are cores."""
    cores = machine.available_cores()
    if all(isinstance(location_of(path), Path) for path in paths):
        return in_order(decode, paths, cores)
    # Reading waits for a network, decoding for a core: more are read at a time than decoded.
    return in_order(_decode_read, in_order(_read, paths, REMOTE_READS), cores)


def _read(path: Source) -> bytes | Decoded:
    """Return an image's bytes, or the refusal."""
    try:
        return read_source(path)
    except TooLargeError:
        return Decoded(None, "", refusal=f"file larger than {MAX_BYTES >> 20} MiB")
    except OSError as error:
        return Decoded(None, "", refusal=f"{CANNOT_BE_READ}: {reason(error)}")


def _decode_read(data: bytes | Decoded) -> Decoded:
    if isinstance(data, Decoded):
        return data
    sha256 = sha256_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own remarks on odd files; ours are in the result
            return _decode_bytes(data, sha256)
    except PictureError as error:
        return Decoded(None, sha256, refusal=str(error))
    except Exception as error:  # on damaged files Pillow raises KeyError, TypeError, struct.error … as well as its own
        return Decoded(None, sha256, refusal=damaged(error))


def _decode_bytes(data: bytes, sha256: str) -> Decoded:
    remarks = []
    with open_picture(data) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format != "MPO":  # an MPO is one photograph with a preview or a stereo twin
            remarks.append(f"first of {frames} frames")
        # Asked before loading: Pillow turns a TIFF as it loads it.
        if picture.getexif().get(0x0112, 1) in range(2, 9):
            remarks.append("rotated as its EXIF orientation says")
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        if upright.mode not in ("RGB", "L", "P", "RGBA", "1"):
            remarks.append(f"converted from {upright.mode}")
        return Decoded(_to_rgb(upright), sha256, remark="; ".join(remarks))


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Convert any mode to RGB; 16-bit and float modes are scaled rather than clipped, as Pillow would."""
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        values = np.asarray(picture).astype(np.float64)
        top = 65535.0 if picture.mode != "F" else max(float(values.max(initial=0.0)), 1.0)
        # 16-bit levels keep their upper byte; float pictures are scaled by their own maximum.
        eight = np.clip(values // 256, 0, 255) if top == 65535.0 else np.clip(values * (255.0 / top), 0, 255)
        return Image.fromarray(eight.astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _millions(pixels: int) -> str:
    return f"{pixels // 10**6} million" if pixels >= 10**6 else f"{pixels:,}"
