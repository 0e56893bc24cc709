"""How a file takes pictures: its one input, and the arrays that are handed to it.

All precisions of a bundle are shown the same pixels. They come here as `Preprocessing.normalise` gives them, and are put into
what the file wants: another layout, another type, values before normalisation, a fixed number of pictures at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common.errors import BundleError, QcamError
from qcam.common.records import as_record
from qcam.common.vocabulary import InputType, InputValues, Layout, require
from qcam.images.preprocessing import Preprocessing

#: Longest name of an input, and most pictures that a file may ask for at a time.
_LONGEST_NAME, _LARGEST_BATCH = 1024, 1024
_LARGEST_SIZE = 4096
#: Letters of a word that a message shows.
_SHOWN = 80


@dataclass(frozen=True)
class Input:
    """How a file takes pictures.

    The default is what manifests of schema 1 mean: the graph's one input, whatever its name and sizes.

    Attributes:
        name: Name of the graph's input; empty for the only one.
        layout: NCHW or NHWC.
        dtype: float32 or uint8.
        size: Height and width; zeros where nobody said it.
        channels: 3, or 1 for grey; 0 where nobody said it.
        batch: How many pictures the file takes, no more and no fewer; None for any number.
        values: `normalised`: what `Preprocessing.normalise` gives. `unit`: pixels on 0..1. `pixels`: pixels on 0..255.
            Where it is not `normalised`, the graph normalises by itself.
    """

    name: str = ""
    layout: str = Layout.NCHW.value
    dtype: str = InputType.FLOAT32.value
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    batch: int | None = None
    values: str = InputValues.NORMALISED.value

    def __post_init__(self) -> None:
        """Refuse what no file can mean.

        Raises:
            QcamError: If a word is unknown, a number is out of bounds, or a type cannot hold the values.
        """
        require(Layout, self.layout[:_SHOWN], "input layout")
        require(InputType, self.dtype[:_SHOWN], "input type")
        require(InputValues, self.values[:_SHOWN], "input values")
        if len(self.name) > _LONGEST_NAME or not self.name.isprintable():
            raise QcamError(f"input name {ascii(self.name)[:_SHOWN]} cannot be shown, or has more than {_LONGEST_NAME} letters")
        if min(self.size) < 0 or max(self.size) > _LARGEST_SIZE:
            raise QcamError(f"input size {self.size} is not a height and a width between 1 and {_LARGEST_SIZE} pixels")
        if self.channels not in (0, 1, 3):
            raise QcamError(f"an input of {self.channels} channels takes no photograph; it has to be 3, or 1 for grey")
        if self.batch is not None and not 1 <= self.batch <= _LARGEST_BATCH:
            raise QcamError(f"input batch {self.batch} is not a number between 1 and {_LARGEST_BATCH}, or null for any")
        if self.dtype == InputType.UINT8 and self.values != InputValues.PIXELS:
            raise QcamError(f"an input of uint8 holds pixels; its values cannot be {self.values}")

    @property
    def plain(self) -> bool:
        """Tell whether the file takes what `Preprocessing.normalise` gives, as it is."""
        return (self.layout, self.dtype, self.values) == (Layout.NCHW, InputType.FLOAT32, InputValues.NORMALISED)

    def to_json(self) -> dict[str, Any]:
        """Return what stands in a manifest."""
        return vars(self) | {"size": list(self.size)}

    @classmethod
    def from_json(cls, value: Any, where: str, advice: str) -> Input:
        """Read what stands in a manifest, which has to say all of it and no more.

        Args:
            value: What stands there.
            where: What messages call the place.
            advice: What the user can do, for messages.

        Raises:
            BundleError: If a field is missing, unknown, of another type, or cannot be.
        """
        told = as_record(value, _Stored, where, error=BundleError, advice=advice)
        if unknown := sorted(value.keys() - vars(told).keys()):
            raise BundleError(f"{where} says what this qcam does not know: {ascii(unknown[0])[:_SHOWN]}; {advice}")
        if "batch" not in value:
            raise BundleError(f"{where}: batch is missing; {advice}")
        try:
            found = cls(**vars(told))
        except QcamError as error:
            raise BundleError(f"{where}: {error.template}; {advice}") from error
        if not found.name or not min(found.size) or not found.channels:
            raise BundleError(f"{where} has to name the input and to give its size and channels; {advice}")
        return found

    def feed(self, images: NDArray[np.float32], preprocessing: Preprocessing | None) -> NDArray[Any]:
        """Return images as the file takes them, however many.

        Args:
            images: float32, batch × channels × height × width, as `Preprocessing.normalise` gives them.
            preprocessing: What normalised them; needed where the file normalises by itself.

        Returns:
            An array for the graph's input, the very pixels that were normalised.

        Raises:
            QcamError: If the pixels cannot be had back.
        """
        if self.plain:
            return images
        found: NDArray[Any] = images
        if self.values != InputValues.NORMALISED:
            if preprocessing is None:
                raise QcamError(f"input {self.name} takes {self.values} values, and nothing tells how pictures were normalised")
            found = _pixels(images, preprocessing)
            if self.values == InputValues.UNIT:
                found /= np.float32(255)
            found = found.astype(self.dtype, copy=False)
        return np.ascontiguousarray(found.transpose(0, 2, 3, 1)) if self.layout == Layout.NHWC else found

    def chunks(self, count: int) -> Iterator[slice]:
        """Cut a number of images into runs of at most as many as the file takes; one run where it takes any number."""
        step = self.batch or max(count, 1)
        for start in range(0, max(count, 1), step):
            yield slice(start, min(start + step, count))

    def filled(self, values: NDArray[Any]) -> NDArray[Any]:
        """Fill a chunk up to as many images as the file takes, with copies of its last one."""
        missing = 0 if self.batch is None else self.batch - len(values)
        return values if missing <= 0 else np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])


def refuse_lost_pixels(preprocessing: Preprocessing) -> None:
    """Refuse a preprocessing from whose result the pixels cannot be had back, all 256 levels of each channel.

    Args:
        preprocessing: How photographs are normalised.

    Raises:
        QcamError: If a level would come back as another one.
    """
    levels = np.arange(256, dtype=np.uint8)
    crops = np.repeat(levels[None, None, :, None], 3, axis=3)
    with np.errstate(all="ignore"):
        normalised = preprocessing.normalise(crops)
        same = np.array_equal(_levels(normalised, preprocessing), np.broadcast_to(levels, normalised.shape))
    if not same:
        raise QcamError(
            f"pixels cannot be had back from mean {preprocessing.mean} and std {preprocessing.std}: float32 does not hold them"
        )


def _pixels(images: NDArray[np.float32], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return the pixels that normalised images were made of, 0..255."""
    found = _levels(images, preprocessing)
    if found.size and not (found.min() >= 0 and found.max() <= 255):  # NaN included
        raise QcamError("the images are no normalised photographs: some of their pixels would lie outside 0..255")
    return found


def _levels(images: NDArray[np.float32], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return rint((x · std + mean) · 255): x comes from a table of 256 levels, each of which is found again."""
    mean, std = (np.asarray(numbers, np.float32)[:, None, None] for numbers in (preprocessing.mean, preprocessing.std))
    found: NDArray[np.float32] = images * std
    found += mean
    found *= np.float32(255)
    np.rint(found, out=found)
    found += np.float32(0)  # no negative zero
    return found


@dataclass(frozen=True)
class _Stored:
    """An input as it stands in a manifest; fields as in `Input`."""

    name: str
    layout: str
    dtype: str
    size: tuple[int, int]
    channels: int
    values: str
    batch: int | None = None
