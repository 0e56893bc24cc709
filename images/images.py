"""Image sets: which photographs there are, what they are called, and how each is decoded safely.

Every unusual file ends in one of two ways: decoded, with a remark where something was chosen for the user (first frame
of an animation, rotation from EXIF), or refused by name with the reason. None of them raises through a run.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from qcam.common import machine, telling
from qcam.common.errors import QcamError
from qcam.common.files import sha256_bytes
from qcam.common.storage import Location, open_location, reason, shown
from qcam.images.archives import ARCHIVES
from qcam.images.archives import SUFFIXES as SUFFIXES
from qcam.images.decoding import MAX_PIXELS as MAX_PIXELS
from qcam.images.decoding import PictureError, damaged, open_picture
from qcam.images.listing import list_images
from qcam.images.sources import MAX_BYTES as MAX_BYTES
from qcam.images.sources import REMOTE_READS, Cell, Source, Span, TooLargeError, in_order, location_of, read_source
from qcam.images.sources import ImageFile as ImageFile

#: How the refusal of a file begins that could not be read at all.
CANNOT_BE_READ = "cannot be read"


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


def find_images(location: str | Location, *, limit: int | None = None) -> list[ImageFile]:
    """List the photographs of a folder, sorted by name, or those in archives (docs/storage.md).

    Args:
        location: A folder, a tar file or a Parquet file, local or behind a URL. A folder is searched at any depth, for
            photographs or for archives; hidden files and folders are passed over, and links that lead out of it.
        limit: Take only the first that many, if given.

    Returns:
        The images, without labels unless archives give them.

    Raises:
        QcamError: If there is no such place, it cannot be listed, holds no file with a known ending, or several kinds.
    """
    place = open_location(location)
    found = list_images(place)
    if not found:
        raise QcamError(
            f"no image in {shown(place)}; looked for files ending in {' '.join(sorted(SUFFIXES))}, or {' or '.join(ARCHIVES)}"
        )
    return found[:limit]


def with_labels(images: Sequence[ImageFile], classes: Sequence[str], labels: Path | None) -> list[ImageFile]:
    """Give images their true class, from a CSV file or from the folders they are in.

    Class folders are recognised by class index (`207`), by class name (`golden_retriever`), or, if none is and there
    are exactly as many folders as classes, by sorted order (ImageNet's `n01440764` …). An archive is no class folder, and
    a label that it gives counts before the folder, after the CSV.

    Args:
        images: The image set.
        classes: Class names in the order of the model's outputs.
        labels: CSV file with a header `image,label` (label: class index or name), or None to look at the folders.

    Returns:
        The same images with labels where one is known.

    Raises:
        QcamError: If the CSV cannot be read, lacks the columns, or names a class the model does not have.
    """
    names = {_plain(name): index for index, name in reversed(list(enumerate(classes)))}

    def index_of(text: str) -> int | None:
        if text.isdecimal():
            return int(text) if int(text) < len(classes) else None
        return names.get(_plain(text))

    table: dict[str, int | None] = {}
    if labels is not None:
        for name, text in _read_labels(labels):
            table[name] = index_of(text)
            if table[name] is None:
                raise QcamError(f"{labels}: class {text!r} of {name} is none of the model's {len(classes)} classes")
    else:
        folders = sorted({_class_folder(image) for image in images} - {""})
        by_order = len(folders) == len(classes) and not any(index_of(folder) is not None for folder in folders)
        position = {folder: index for index, folder in enumerate(folders)}
        for image in images:
            folder = _class_folder(image)
            if folder and not (image.label is not None and isinstance(image.path, (Span, Cell))):
                table[image.name] = position[folder] if by_order else index_of(folder)
    found = [replace(image, label=table.get(image.name, table.get(Path(image.name).name, image.label))) for image in images]
    return _known_classes(found, len(classes))


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


def _class_folder(image: ImageFile) -> str:
    """Return the outermost folder that an image is in, empty if there is none; an archive is no folder."""
    parts = image.name.split("/")
    if isinstance(image.path, (Span, Cell)) and image.path.location.name in parts:
        parts.remove(image.path.location.name)
    return parts[0] if len(parts) > 1 else ""


def _known_classes(images: list[ImageFile], count: int) -> list[ImageFile]:
    """Take labels away that are none of the model's classes: an archive may have been made for others."""
    unknown = sum(image.label is not None and not 0 <= image.label < count for image in images)
    if not unknown:
        return images
    telling.warn(f"{unknown} images have labels that are none of the model's {count} classes; they count as not labelled")
    return [
        replace(image, label=None) if image.label is not None and not 0 <= image.label < count else image for image in images
    ]


def _read_labels(path: Path) -> Iterable[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if reader.fieldnames is None or not {"image", "label"} <= set(reader.fieldnames):
                raise QcamError(f"{path}: needs a header line with the columns image and label")
            return [((row["image"] or "").strip(), (row["label"] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise QcamError(f"cannot read labels from {path}: {error}") from error


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
