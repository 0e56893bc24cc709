"""One decoding policy: every picture, wherever it comes from, is opened here, from bytes, by one list of decoders.

Photographs, masks, pictures in archives and in results: nothing else opens a picture (a test looks for it). Decoders that start
programs (EPS starts Ghostscript) or parse far more than pictures (PDF) are never asked, and no memory is taken for more pixels
than the limit. What a picture costs beyond its pixels is counted before its decoder runs (`budgets.py`).

Every odd file of an image set ends in one of two ways: decoded, with a remark where something was chosen for the user (first
frame of an animation, rotation from EXIF), or refused by name with the reason. None of them raises through a run.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError, features

from qcam.common import machine
from qcam.common.errors import first_line
from qcam.common.files import sha256_bytes
from qcam.common.storage import reason
from qcam.images import levels
from qcam.images.budgets import over_budget
from qcam.images.jpeg import is_cut_short, wrong_data
from qcam.images.kinds import HEAD, HEIF_ADVICE, kind_of, reads_heif
from qcam.images.sources import MAX_BYTES, REMOTE_READS, Source, TooLargeError, in_order, location_of, read_source

#: Decoders that may run. MPO is opened by JPEG's: Pillow registers no opener of its own for it and raises KeyError if asked.
#: HEIF is opened by the package of the extra `heic`, where it is installed.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF")
#: What Pillow may have been built without, by the name that it has for it.
_BUILT_IN = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
#: Version of the rules by which pictures and labels are read: results that were read by others are never joined.
READING = 4
#: Largest picture that is decoded, in pixels (width × height). More is refused before memory is taken for it.
MAX_PIXELS = 100_000_000
#: Formats whose decoders hold several copies of a picture → most pixels.
MAX_COPIED = {"JPEG2000": 40_000_000, "WEBP": 40_000_000}
#: Longest side of a picture, in pixels: each row takes memory of its own.
MAX_SIDE = 1_000_000
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
        key: Fingerprint of the bytes and of how they were read, for what is kept of a picture: `sha256` where all versions of
            qcam read it in one way.
        uniform: Why the picture counts as nearly uniform, or empty.
    """

    image: Image.Image | None
    sha256: str
    remark: str = ""
    refusal: str = ""
    key: str = ""
    uniform: str = ""


def open_picture(data: bytes, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture and read its header; its pixels are decoded when they are asked for.

    Args:
        data: The file's bytes.
        formats: Which decoders may run: all of `FORMATS`, or some of them.
        max_pixels: Most pixels (width × height), no more than `MAX_PIXELS`.

    Raises:
        PictureError: If it is no picture of these formats, has more pixels, would take too long to decode (`budgets.py`), or
            its header is damaged.
    """
    if not set(formats) <= set(FORMATS):
        raise ValueError(f"{formats} are not all among {FORMATS}")
    limit, kind = min(max_pixels, MAX_PIXELS), kind_of(data[:HEAD])
    formats = _available(formats, kind)
    if too_much := over_budget(data, kind):
        raise PictureError(f"takes too much to decode: {too_much}")
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
    limit = min(limit, MAX_COPIED.get(kind, limit))
    if max(width, height) > MAX_SIDE:
        picture.close()
        raise PictureError(f"{width}×{height} pixels, a side of more than {_millions(MAX_SIDE)} is refused")
    if width * height > limit:
        picture.close()
        raise PictureError(f"{width}×{height} pixels, more than {_millions(limit)} are refused")
    return picture


def _available(formats: Sequence[str], kind: str) -> list[str]:
    """Return the formats that can be asked here; HEIF's opener is registered when it is first needed.

    Raises:
        PictureError: If a picture is of one that cannot.
    """
    if kind in formats and kind in _BUILT_IN and not features.check(_BUILT_IN[kind]):
        raise PictureError(f"{kind}, which the installed Pillow cannot read")
    if kind != "HEIF" or "HEIF" not in formats:
        return [name for name in formats if name != "HEIF"]
    if not reads_heif():
        raise PictureError(f"a HEIF picture; {HEIF_ADVICE}")
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)
    return list(formats)


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

    Alpha is dropped, as torchvision's and timm's loaders do; more than 8 bits are scaled as `levels` says; of an animation the
    first frame is taken; EXIF orientation is applied.

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
    except (PictureError, levels.LevelsError) as error:
        return Decoded(None, sha256, refusal=str(error))
    except Exception as error:  # on damaged files Pillow raises KeyError, TypeError, struct.error … as well as its own
        return Decoded(None, sha256, refusal=damaged(error))


def _decode_bytes(data: bytes, sha256: str) -> Decoded:
    remarks = []
    with open_picture(data) as picture:
        jpeg = kind_of(data[:HEAD]) == "JPEG"
        if jpeg and (wrong := wrong_data(data)):
            raise PictureError(f"damaged or truncated: {wrong}")
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format != "MPO":  # an MPO is one photograph with a preview or a stereo twin
            remarks.append(f"first of {frames} frames")
        # Asked before loading: Pillow turns a TIFF as it loads it.
        if picture.getexif().get(0x0112, 1) in range(2, 9):
            remarks.append("rotated as its EXIF orientation says")
        deep = levels.is_deep(picture, data)
        if deep:
            levels.refuse_layout(picture)
        declared = levels.declared_depth(picture, data) if deep else 0
        if deep:
            levels.refuse_size(picture)
        picture.load()
        if jpeg and is_cut_short(data, picture, _decoded_again):
            raise PictureError("damaged or truncated: its data end before its pixels do")
        upright = levels.unsigned(picture, picture) if deep else picture
        ImageOps.exif_transpose(upright, in_place=True)  # a copy of a large picture takes some hundred megabytes
        key = sha256
        if deep:
            name = upright.mode if upright.mode[0] in "IF" else f"{upright.mode};16"
            found = levels.scaled(upright, _low_bytes(data, upright.mode), declared, name)
            remarks.append(found.remark)
            result, key = found.image.convert("RGB"), sha256_bytes(f"{sha256} read by rules {READING}".encode())
        else:
            if upright.mode not in ("RGB", "L", "P", "RGBA", "1"):
                remarks.append(f"converted from {upright.mode}")
            result = upright if upright.mode == "RGB" else upright.convert("RGB")
        return Decoded(result, sha256, remark="; ".join(remarks), key=key, uniform=_uniform(result))


def _decoded_again(data: bytes) -> Image.Image:
    """Decode a JPEG as it is: not upright, in its own mode."""
    with open_picture(data, formats=("JPEG",)) as picture:
        return picture.copy()


def _uniform(picture: Image.Image) -> str:
    """Say that a picture is nearly uniform; empty if it is not."""
    if not levels.is_nearly_uniform(picture):
        return ""
    return f"all but {2 * levels.LOW} % of its pixels lie within {levels.UNIFORM_LEVELS} of 256 levels"


def _low_bytes(data: bytes, mode: str) -> Image.Image | None:
    """Return the low bytes of a picture of 16-bit colour, upright; None if there are none, or they cannot be had."""
    if mode not in ("RGB", "RGBA", "RGBX"):
        return None
    with open_picture(data) as picture:
        return levels.low_bytes(picture)


def _millions(pixels: int) -> str:
    return f"{pixels // 10**6} million" if pixels >= 10**6 else f"{pixels:,}"
