"""Saliency without weights: the spectral residual.

Hou and Zhang, "Saliency Detection: A Spectral Residual Approach" (CVPR 2007): what is left of an image's log amplitude
spectrum when its local average is taken away, back in the image. Sizes, filters and scaling are those of OpenCV-contrib's
StaticSaliencySpectralResidual: grey, 64 × 64 by bilinear interpolation of the four nearest pixels, average over 3 × 3, Gaussian
5 × 5 of sigma 8, squared, divided by the maximum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.common.files import fingerprint
from qcam.evaluate.saliency.source import NoObjectError, Silent
from qcam.images.sources import ImageFile

#: Side of the square the image is shrunk to, in pixels.
SIZE = 64
#: Keeps the logarithm finite where a frequency is absent.
_TINY = 1e-9
_AVERAGE = np.full(3, 1 / 3)
_GAUSSIAN = np.exp(-(np.arange(-2.0, 3.0) ** 2) / (2 * 8.0**2))
_GAUSSIAN /= _GAUSSIAN.sum()


class SpectralSaliency(Silent):
    """The spectral residual's map, 64 × 64, largest value 1.

    Attributes:
        name: As given on the command line.
        fingerprint: Of the method.
        threshold: 0: it has no notion of an object, any crop is as good.
    """

    threshold = 0.0

    def __init__(self, name: str = "spectral") -> None:
        """Name the source."""
        self.name = name
        self.fingerprint = fingerprint({"method": "spectral residual", "size": SIZE, "version": 2})

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> NDArray[np.float32]:
        """Return the map of the whole image (arguments as in `SaliencySource`).

        Raises:
            NoObjectError: If the image is of one colour.
        """
        grey = shrink(np.asarray(image.convert("L")))
        if grey.max() == grey.min():
            raise NoObjectError("the image is of one colour")
        return spectral_residual(grey).astype(np.float32)


def shrink(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Resize grey levels to 64 × 64 as OpenCV's INTER_LINEAR does: between the four nearest pixels, no antialiasing.

    Args:
        grey: Grey levels, height × width.

    Returns:
        float64, 64 × 64, whole numbers.
    """
    rows, down = _places(grey.shape[0])
    columns, across = _places(grey.shape[1])
    values = grey.astype(np.float64)
    upper, lower = values[rows[0]], values[rows[1]]
    mixed = upper + (lower - upper) * down[:, None]
    left, right = mixed[:, columns[0]], mixed[:, columns[1]]
    result: NDArray[np.float64] = np.floor(left + (right - left) * across[None, :] + 0.5)  # ties up, as there
    return result


def _places(length: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the two pixels on either side of each of 64 sample points, 2 × 64, and the second one's share."""
    place = np.clip((np.arange(SIZE) + 0.5) * length / SIZE - 0.5, 0, length - 1)
    first = np.floor(place).astype(np.int64)
    return np.stack([first, np.minimum(first + 1, length - 1)]), place - first


def spectral_residual(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the spectral residual's saliency.

    Args:
        grey: Grey levels, 64 × 64, not constant.

    Returns:
        float64, 64 × 64, 0..1, the largest 1.
    """
    spectrum = np.fft.fft2(grey)
    amplitude = np.log(np.abs(spectrum) + _TINY)
    residual = amplitude - _smoothed(amplitude, _AVERAGE)
    back = np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))
    squared = np.square(_smoothed(np.abs(back), _GAUSSIAN))
    result: NDArray[np.float64] = squared / squared.max()
    return result


def _smoothed(values: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filter rows and columns with an odd kernel of sum 1; beyond the edge, values mirrored without the edge's own."""
    result = values
    for axis in (0, 1):
        margin = [(len(kernel) // 2, len(kernel) // 2) if each == axis else (0, 0) for each in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(result, margin, mode="reflect"), len(kernel), axis=axis)
        result = windows @ kernel
    return result
