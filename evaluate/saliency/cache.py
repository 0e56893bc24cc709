"""Salient-object maps on disk: computed once for an image's content and a network, whatever model or run asks.

A map is kept as 16-bit PNG. Values are rounded to its 65,536 steps before their first use, so that a map from the cache is
the very map that was computed. A map that is all background is kept as the sentence that says so.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.calibration.images import ImageFile
from qcam.common.errors import QcamError
from qcam.common.files import write_atomically
from qcam.evaluate.saliency.source import NoObjectError, SaliencySource

_TOP = 65535
_KEY, _EMPTY = "qcam", "empty"


def default_cache() -> Path:
    """Return where maps are kept: below QCAM_CACHE, else below the user's cache folder."""
    base = os.environ.get("QCAM_CACHE")
    if base:
        return Path(base) / "saliency"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qcam" / "saliency"


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
        path = None if self._folder is None or not sha256 else self._folder / sha256[:2] / f"{sha256}.png"
        held = None if path is None else _read(path)
        if held is None:
            held = self._compute(image, file, sha256)
            if path is not None:
                _write(path, held)
        if isinstance(held, str):
            raise NoObjectError(held)
        return held.astype(np.float32) / np.float32(_TOP)

    def _compute(self, image: Image.Image, file: ImageFile, sha256: str) -> NDArray[np.uint16] | str:
        try:
            found = self._source.whole_map(image, file, sha256)
        except NoObjectError as error:
            return str(error)
        levels: NDArray[np.uint16] = np.rint(np.clip(found, 0.0, 1.0).astype(np.float64) * _TOP).astype(np.uint16)
        return levels


def _read(path: Path) -> NDArray[np.uint16] | str | None:
    """Return what is kept, None if nothing is or it is damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.info.get(_KEY) == _EMPTY:
                return str(picture.info.get("why", "all background"))
            if not picture.mode.startswith("I;16"):
                return None
            levels: NDArray[np.uint16] = np.asarray(picture).astype(np.uint16)
            return levels
    except Exception:  # absent, or damaged in one of the many ways that Pillow has words for: it is computed again
        return None


def _write(path: Path, held: NDArray[np.uint16] | str) -> None:
    from PIL.PngImagePlugin import PngInfo

    buffer, info = io.BytesIO(), PngInfo()
    if isinstance(held, str):
        info.add_text(_KEY, _EMPTY)
        info.add_text("why", held)
        Image.new("L", (1, 1)).save(buffer, format="PNG", pnginfo=info)
    else:
        Image.fromarray(held).save(buffer, format="PNG", compress_level=3)
    try:
        write_atomically(path, buffer.getvalue())
    except QcamError as error:
        raise QcamError(f"{error}; or use --saliency-cache DIR, or none") from error
