"""Image sets: which photographs there are, what they are called, and how each is decoded safely.

Every unusual file ends in one of two ways: decoded, with a remark where something was chosen for the user (first frame
of an animation, rotation from EXIF), or refused by name with the reason. None of them raises through a run.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from qcam.common import console, machine
from qcam.common.errors import QcamError
from qcam.common.files import sha256_bytes

#: File name endings that are taken for photographs, in lower case.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})
#: Decoders that may run; others that Pillow knows (PDF, EPS, …) call programs or parse far more than pictures. MPO is
#: opened by JPEG's: Pillow registers no opener of its own for it and raises KeyError if asked.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
#: Largest picture that is decoded, in pixels (width × height). More is refused before memory is taken for it.
MAX_PIXELS = 100_000_000
#: Largest file that is read at all, in bytes.
MAX_BYTES = 1 << 28
#: How the refusal of a file begins that could not be read at all.
CANNOT_BE_READ = "cannot be read"


@dataclass(frozen=True)
class ImageFile:
    """One photograph of an image set.

    Attributes:
        name: Path below the set's folder with forward slashes: unique in the set, used in every result.
        path: Where the file is.
        label: True class index where known, else None.
    """

    name: str
    path: Path
    label: int | None = None


@dataclass(frozen=True)
class Decoded:
    """What became of one file.

    Attributes:
        image: The picture as 8-bit RGB, upright; None if it was refused.
        sha256: Fingerprint of the file's bytes; empty if it could not be read.
        remark: What was chosen for the user ("first of 3 frames"), or empty.
        refusal: Why there is no picture, or empty.
    """

    image: Image.Image | None
    sha256: str
    remark: str = ""
    refusal: str = ""


def find_images(folder: Path, *, limit: int | None = None) -> list[ImageFile]:
    """List the photographs below a folder, sorted by name, links that lead out of the folder left out.

    Args:
        folder: Where to look, at any depth. Hidden files and folders are passed over.
        limit: Take only the first that many, if given.

    Returns:
        The images, without labels.

    Raises:
        QcamError: If the folder does not exist or holds no file with a known ending.
    """
    if not folder.is_dir():
        raise QcamError(f"no image folder at {folder}; give a folder that holds photographs")
    root = folder.resolve()
    found = []
    outside = 0
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in relative.parts):
            continue
        if not path.is_file():
            continue
        if path.resolve().is_relative_to(root):
            # A name that is no UTF-8 could be written to no result.
            found.append(ImageFile(relative.as_posix().encode("utf-8", "backslashreplace").decode(), path))
        else:
            outside += 1
    if outside:
        console.warn(f"{outside} links in {folder} lead out of it and are left out; give the folder that holds the photographs")
    if not found:
        raise QcamError(f"no image in {folder}; looked for files ending in {' '.join(sorted(SUFFIXES))}")
    return found[:limit]


def with_labels(images: Sequence[ImageFile], classes: Sequence[str], labels: Path | None) -> list[ImageFile]:
    """Give images their true class, from a CSV file or from the folders they are in.

    Class folders are recognised by class index (`207`), by class name (`golden_retriever`), or, if none is and there
    are exactly as many folders as classes, by sorted order (ImageNet's `n01440764` …).

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
        folders = sorted({image.name.split("/")[0] for image in images if "/" in image.name})
        by_order = len(folders) == len(classes) and not any(index_of(folder) is not None for folder in folders)
        for image in images:
            folder = image.name.split("/")[0] if "/" in image.name else ""
            if folder:
                table[image.name] = folders.index(folder) if by_order else index_of(folder)
    return [
        ImageFile(image.name, image.path, table.get(image.name, table.get(Path(image.name).name, image.label)))
        for image in images
    ]


def decode(path: Path) -> Decoded:
    """Read one file and decode it to upright 8-bit RGB, or say why not.

    Alpha is dropped, as torchvision's and timm's loaders do; 16-bit grayscale keeps its upper eight bits; of an animation
    the first frame is taken; EXIF orientation is applied.

    Args:
        path: The file.

    Returns:
        The picture or the refusal; nothing is raised for a bad file.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            return Decoded(None, "", refusal=f"file larger than {MAX_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        return Decoded(None, "", refusal=f"{CANNOT_BE_READ}: {error.strerror or error}")
    sha256 = sha256_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own remarks on odd files; ours are in the result
            return _decode_bytes(data, sha256)
    except UnidentifiedImageError:
        return Decoded(None, sha256, refusal="not an image that can be identified")
    except Image.DecompressionBombError:  # Pillow's own limit, above ours: it tells from the header
        return Decoded(None, sha256, refusal=f"more than {MAX_PIXELS // 10**6} million pixels are refused")
    except Exception as error:  # on damaged files Pillow raises KeyError, TypeError, struct.error … as well as its own
        return Decoded(None, sha256, refusal=f"damaged or truncated: {str(error).splitlines()[0] if str(error) else 'no data'}")


def decode_all(paths: Sequence[Path]) -> Iterator[Decoded]:
    """Decode files on all cores; yields in their order, as many decoded pictures in memory as there are cores."""
    ahead = machine.available_cores()
    with ThreadPoolExecutor(ahead, "decode") as pool:
        for start in range(0, len(paths), ahead):
            yield from pool.map(decode, paths[start : start + ahead])


def _decode_bytes(data: bytes, sha256: str) -> Decoded:
    remarks = []
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            return Decoded(
                None, sha256, refusal=f"{width}×{height} pixels, more than {MAX_PIXELS // 10**6} million are refused"
            )
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
