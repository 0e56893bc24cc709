"""Salient-object maps on disk: computed once for an image's content and a network, whatever model, precision or run asks.

A map is kept in 16-bit floating point, scaled so that 11 significant bits reach from 1 down to 2e-9 (float16 of 32768 times the
value, whose subnormals reach 2e-12), and is rounded so before its first use: a map from the cache is the very map that was
computed. 65,536 equal steps would be half the size but not do: KLD weighs the logarithm of a map where it is almost 0, and
rounding U²-NetP's small probabilities to 0 moved its mean over 20 photographs by 1.2; with this rounding, by less than 1e-4 for
any of them. The bytes are split into two planes and compressed with zlib. A map that is all background is kept as the sentence
that says so. Each entry begins with the SHA-256 of the rest: a damaged one is computed again.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.common import telling
from qcam.common.errors import QcamError, ResultsError
from qcam.common.files import canonical_json, write_atomically
from qcam.common.records import read_record
from qcam.common.storage import cache_folder
from qcam.evaluate.saliency.source import NoObjectError, SaliencySource
from qcam.images.sources import ImageFile

_SCALE = np.float32(32768)
_VERSION = 1
_DIGEST = 32  # bytes of a SHA-256
#: Most values of a map that is read.
_MOST = 1 << 28


def default_cache() -> Path:
    """Return where maps are kept: $QCAM_CACHE/saliency, else qcam/saliency in the user's cache folder."""
    return cache_folder("saliency")


class CachedSaliency:
    """A source whose maps are kept on disk.

    Attributes:
        name: The source's.
        fingerprint: The source's.
        threshold: The source's.
    """

    def __init__(self, source: SaliencySource, folder: Path | None) -> None:
        """Wrap a source.

        Args:
            source: Gives the maps that are not there yet.
            folder: Where they are kept; None only rounds, as the cache would.
        """
        self._source = source
        self._folder = None if folder is None else folder / source.fingerprint[:32]
        self.name = source.name
        self.fingerprint = source.fingerprint
        self.threshold = source.threshold

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> NDArray[np.float32]:
        """Return the map of the whole image (arguments and errors as in `SaliencySource`)."""
        path = None if self._folder is None or not sha256 else self._folder / sha256[:2] / f"{sha256}.map"
        held = None if path is None else _read(path, sha256)
        if held is None:
            held = self._compute(image, file, sha256)
            if path is not None:
                self._keep(path, _entry(sha256, held))
        if isinstance(held, str):
            raise NoObjectError(held)
        result: NDArray[np.float32] = held.astype(np.float32) / _SCALE
        return result

    def remark(self, file: ImageFile) -> str:
        """Return the source's remark."""
        return self._source.remark(file)

    def _compute(self, image: Image.Image, file: ImageFile, sha256: str) -> NDArray[np.float16] | str:
        try:
            found = self._source.whole_map(image, file, sha256)
        except NoObjectError as error:
            return str(error)
        return (np.clip(found, 0.0, 1.0).astype(np.float32) * _SCALE).astype(np.float16)

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            write_atomically(path, data)
        except QcamError as error:  # the run does not need it: the same maps are computed again next time
            telling.warn(f"salient-object maps are not kept: {error.template}, or {{saliency_cache}} none")
            self._folder = None


@dataclass(frozen=True)
class _About:
    """The line of JSON of an entry: a map's shape, or why there is none."""

    version: int
    image: str
    shape: tuple[int, int] | None = None
    no_object: str | None = None


def _entry(sha256: str, held: NDArray[np.float16] | str) -> bytes:
    """Return what is written for an image: digest, one line of JSON, compressed planes of bytes."""
    about: dict[str, object] = {"version": _VERSION, "image": sha256}
    planes = b""
    if isinstance(held, str):
        about["no_object"] = held
    else:
        about["shape"] = list(held.shape)
        # Level 1: level 6 saves 4 % and takes three times as long.
        planes = zlib.compress(np.ascontiguousarray(_bytes(held).T).tobytes(), 1)
    content = canonical_json(about).encode() + b"\n" + planes
    return hashlib.sha256(content).digest() + content


def _read(path: Path, sha256: str) -> NDArray[np.float16] | str | None:
    """Return what is kept for an image; None if nothing is, or it is damaged."""
    try:
        data = path.read_bytes()
        content = data[_DIGEST:]
        if hashlib.sha256(content).digest() != data[:_DIGEST]:
            return None
        line, _, planes = content.partition(b"\n")
        about = read_record(line, _About)
        if about.version != _VERSION or about.image != sha256:
            return None
        if about.no_object is not None:
            return about.no_object
        if about.shape is None:
            return None
        height, width = about.shape
        count = height * width
        if min(height, width) < 1 or count > _MOST:
            return None
        # One byte too many shows that there are more, and takes no memory for them.
        data = zlib.decompressobj().decompress(planes, 2 * count + 1)
        found = np.frombuffer(data, np.uint8).reshape(2, count)
        held: NDArray[np.float16] = np.ascontiguousarray(found.T).view("<f2").reshape(height, width).astype(np.float16)
        return held
    except (OSError, ValueError, ResultsError, zlib.error):
        return None


def _bytes(held: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Return a map's values as bytes, low one first, values × 2."""
    return np.ascontiguousarray(held, "<f2").view(np.uint8).reshape(held.size, 2)
