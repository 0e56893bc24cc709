"""Photographs become network inputs, exactly as the weights' own metadata says.

The geometry is torchvision's reference transform: resize the shorter side, crop the centre. The pixels are the same to
the bit, so the whole picture is resized before it is cropped: asked for the crop alone, Pillow takes its edges in single
precision and may resample rows before columns where it does the opposite for the whole, which changes a fifth of the
pixels of a portrait photograph, some by ten levels. Only a picture so long that the whole would not fit takes that way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.common.arguments import real, whole
from qcam.common.errors import BundleError, QcamError
from qcam.common.records import as_record
from qcam.common.vocabulary import Interpolation, require

_FILTERS = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.LANCZOS: Image.Resampling.LANCZOS,
}
#: Largest resized picture of which the crop is cut, in pixels: at resize 256 that is 256 times as long as wide.
_MAX_WHOLE = 1 << 24


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes the network's input.

    Attributes:
        resize: Length of the shorter side after resizing, in pixels; or height and width, whatever the picture's shape; None
            squashes the whole picture to `crop`.
        crop: Height and width of the centre crop, in pixels: the network's input size.
        mean: Subtracted from each of R, G, B after scaling to 0..1; one number for a network of grey pictures.
        std: Divides each of R, G, B after that; as many numbers.
        interpolation: Resampling filter: bilinear, bicubic or lanczos; always antialiased.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    @property
    def channels(self) -> int:
        """Return the number of channels of the network's input: 3, or 1 for grey by ITU-R 601 (Pillow's L)."""
        return len(self.mean)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            QcamError: For a size below 1, a crop that does not fit, an unknown filter, or a standard deviation of 0.
        """
        require(Interpolation, self.interpolation, "interpolation")
        if min(self.crop) < 1 or max(self.crop) > 4096:
            raise QcamError(f"crop {self.crop} is not a size between 1 and 4096 pixels")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise QcamError(
                f"mean {self.mean} and std {self.std} have {len(self.mean)} and {len(self.std)} numbers; "
                "give both three, or both one for grey pictures"
            )
        if isinstance(self.resize, tuple):
            fits = all(side <= whole <= 8192 for side, whole in zip(self.crop, self.resize, strict=True))
        else:
            fits = self.resize is None or max(self.crop) <= self.resize <= 8192
        if not fits:
            raise QcamError(f"resize {self.resize} does not hold a crop of {self.crop}; resize must be at least as large")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(map(abs, self.std)) == 0:
            raise QcamError(f"mean {self.mean} and std {self.std} must be finite, std not 0")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values, as they stand in `bundle.json`; `channels` only where it is not 3."""
        value = asdict(self) | {"crop": list(self.crop), "mean": list(self.mean), "std": list(self.std)}
        if isinstance(self.resize, tuple):
            value["resize"] = list(self.resize)
        return value if self.channels == 3 else value | {"channels": self.channels}

    @classmethod
    def from_json(cls, value: Any, where: str = "bundle.json") -> Preprocessing:
        """Read the settings back from `bundle.json`.

        Args:
            value: What stands there.
            where: What messages call the manifest.

        Raises:
            QcamError: If a field is missing, of another type, or cannot work.
        """
        advice = "export the bundle again with {force}"
        told = as_record(value, _Stored, f"preprocessing in {where}", error=BundleError, advice=advice)
        for name, numbers in (("mean", told.mean), ("std", told.std)):
            if len(numbers) != told.channels:
                raise BundleError(
                    f"preprocessing in {where}: {name} has {len(numbers)} entries, another number than it has to have; {advice}"
                )
        return cls(**{name: setting for name, setting in vars(told).items() if name != "channels"})

    def crop_image(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and centre-crop a picture.

        Args:
            image: RGB or L picture of any size.

        Returns:
            Pixels, uint8, height × width × 3 for RGB (three equal channels for a network of grey pictures), height × width
            for L.
        """
        if self.channels == 1 and image.mode == "RGB":  # grey first, as a grey file of the photograph would be
            image = image.convert("L").convert("RGB")
        height, width = self.crop
        resampling = _FILTERS[Interpolation(self.interpolation)]
        if self.resize is None:
            return np.asarray(image.resize((width, height), resampling))
        scaled, (left, top) = self._place(image.size, self.resize)
        if math.prod(scaled) <= _MAX_WHOLE:
            whole = image.resize(scaled, resampling)
            return np.asarray(whole.crop((left, top, left + width, top + height)))
        return np.asarray(image.resize((width, height), resampling, box=self.crop_box(image.size)))

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Tell which part of a picture the crop keeps.

        Args:
            size: The picture's width and height in pixels.

        Returns:
            Left, top, right and bottom edge in the picture's own pixel coordinates.
        """
        width, height = size
        if self.resize is None:
            return (0.0, 0.0, float(width), float(height))
        crop_height, crop_width = self.crop
        (scaled_width, scaled_height), (left, top) = self._place(size, self.resize)
        return (
            left * width / scaled_width,
            top * height / scaled_height,
            min((left + crop_width) * width / scaled_width, float(width)),
            min((top + crop_height) * height / scaled_height, float(height)),
        )

    def _place(self, size: tuple[int, int], resize: int | tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the resized picture's width and height, and where in it the crop's left and top edges are.

        The integer rounding is torchvision's (`Resize`, `CenterCrop`).
        """
        width, height = size
        if isinstance(resize, tuple):
            scaled_height, scaled_width = resize
        else:
            short, long = sorted(size)
            scaled_long = int(resize * long / short)
            scaled_width, scaled_height = (resize, scaled_long) if width <= height else (scaled_long, resize)
        crop_height, crop_width = self.crop
        return (scaled_width, scaled_height), (
            round((scaled_width - crop_width) / 2.0),
            round((scaled_height - crop_height) / 2.0),
        )

    def normalise(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn cropped pixels into the network's input: (x / 255 - mean) / std, in float32.

        Args:
            crops: uint8, batch × height × width × 3; of grey pictures the three channels are equal.

        Returns:
            float32, batch × channels × height × width, contiguous.
        """
        mean = np.asarray(self.mean, np.float32)
        std = np.asarray(self.std, np.float32)
        # 256 possible values a channel: the arithmetic is done once for each, the images are looked up.
        levels = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
        table = (levels - mean) / std
        batch, height, width, _ = crops.shape
        result = np.empty((batch, self.channels, height, width), np.float32)
        for channel in range(self.channels):
            np.take(table[:, channel], crops[..., channel], out=result[:, channel])
        return result


def preprocessing_from(told: Mapping[str, Any], channels: int = 3) -> Preprocessing:
    """Return a preprocessing from what a program says of it.

    Args:
        told: The fields of `Preprocessing` by name. One number stands for both sides of a crop, and for all channels of a mean
            or a deviation. `resize` has to be said: a number, two, or None to squash.
        channels: How many there are, where one number stands for all.

    Raises:
        QcamError: If a field is missing, unknown, or cannot be.
    """
    if not isinstance(told, Mapping):
        raise QcamError(f"preprocessing of type {type(told).__name__}: give a Preprocessing, or a mapping of its fields")
    known = [part.name for part in fields(Preprocessing)]
    unknown = [str(name) for name in told if name not in known]
    missing = [name for name in known[:-1] if name not in told]
    if unknown or missing:
        what = f"{unknown[0]!r} is unknown" if unknown else f"{missing[0]} is missing"
        raise QcamError(f"preprocessing: {what}; it has {', '.join(known)}")
    crop, resize = (_sides(told[name], name) for name in ("crop", "resize"))
    if crop is None:
        raise QcamError("preprocessing: crop None is no size")
    mean, std = (_numbers(told[name], name, channels) for name in ("mean", "std"))
    crop = (crop, crop) if isinstance(crop, int) else crop
    return Preprocessing(resize, crop, mean, std, told.get("interpolation", "bilinear"))


def _sides(value: Any, name: str) -> int | tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return whole(value[0], f"preprocessing: {name}"), whole(value[1], f"preprocessing: {name}")
    return whole(value, f"preprocessing: {name}")


def _numbers(value: Any, name: str, channels: int) -> tuple[float, ...]:
    given = value if isinstance(value, (tuple, list)) else [value] * channels
    return tuple(real(each, f"preprocessing: {name}") for each in given)


@dataclass(frozen=True)
class _Stored:
    """The settings as they stand in `bundle.json`, which has to say them all."""

    resize: int | tuple[int, int] | None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    channels: int = 3
