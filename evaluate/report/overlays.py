"""Pictures inside a page: each photograph, salient object and CAM is embedded once, as a class of the style sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.evaluate.maps.cam import enlarge

#: Longest side of a CAM in pixels: between its few cells there is only interpolation, which a browser does as well.
_CAM = 56
#: Colours of a CAM: steps too fine to see, half the bytes of 256.
_LEVELS = 128


def palette(colormap: str) -> NDArray[np.uint8]:
    """Return a colour map as `_LEVELS` × 3 values, lowest first."""
    from matplotlib import colormaps

    colours = np.asarray(colormaps[colormap](np.linspace(0, 1, _LEVELS)))[:, :3]
    return np.round(colours * 255).astype(np.uint8)


def cam_png(cam: NDArray[np.float64], size: tuple[int, int], colours: NDArray[np.uint8]) -> bytes:
    """Return a CAM as a small PNG in the colours of a palette, stretched min-max to its whole range.

    Args:
        cam: At the tap's resolution, height × width.
        size: Width and height of the picture it lies over, in pixels.
        colours: From `palette`.
    """
    scale = _CAM / max(size)
    height, width = (max(1, round(side * scale)) for side in (size[1], size[0]))
    clean = np.nan_to_num(cam, nan=0.0, posinf=0.0, neginf=0.0)
    levels = np.round(enlarge(clean[None], (height, width))[0] * (len(colours) - 1)).astype(np.uint8)
    image = Image.fromarray(levels, mode="P")
    image.putpalette(colours.tobytes())
    return _bytes(image, "PNG", optimize=True)


def overlay(picture: NDArray[np.uint8], cam: NDArray[np.float64], colormap: str, opacity: float) -> Image.Image:
    """Return a picture with a CAM over it, stretched min-max to its whole range.

    Args:
        picture: 8-bit RGB, height × width × 3.
        cam: At the tap's resolution, height × width.
        colormap: By matplotlib's name.
        opacity: Share of the CAM's colour, 0..1.

    Returns:
        8-bit RGB, of the picture's size.
    """
    height, width = picture.shape[:2]
    clean = np.nan_to_num(cam, nan=0.0, posinf=0.0, neginf=0.0)
    colours = palette(colormap)
    levels = np.round(enlarge(clean[None], (height, width))[0] * (len(colours) - 1)).astype(int)
    mixed = (1 - opacity) * picture + opacity * colours[levels]
    return Image.fromarray(np.clip(np.round(mixed), 0, 255).astype(np.uint8))


def _bytes(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


class Sheet:
    """The style sheet that holds the pictures of a page, each once however often it is shown."""

    def __init__(self) -> None:
        self._classes: dict[Hashable, str] = {}
        self._rules: list[str] = []

    def add(self, key: Hashable, make: Callable[[], tuple[str, bytes]]) -> str:
        """Return the class of a picture.

        Args:
            key: What the picture is of.
            make: Returns its media type and bytes; called once for each key.
        """
        if key not in self._classes:
            name = f"i{len(self._classes)}"
            kind, data = make()
            self._classes[key] = name
            self._rules.append(f".{name}{{background-image:url(data:{kind};base64,{base64.b64encode(data).decode()})}}")
        return self._classes[key]

    @property
    def text(self) -> str:
        """Return the style sheet."""
        return "\n".join(self._rules)
