"""Saliency without weights: the spectral residual.

Hou and Zhang, "Saliency Detection: A Spectral Residual Approach" (CVPR 2007): what is left of an image's log amplitude
spectrum when its local average is taken away, back in the image. Sizes and filters are those of OpenCV-contrib's
StaticSaliencySpectralResidual.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.calibration.images import ImageFile
from qcam.common.files import fingerprint
from qcam.evaluate.saliency.source import NoObjectError

#: Side of the square the image is shrunk to, in pixels.
SIZE = 64


class SpectralSaliency:
    """The spectral residual's map; 64 × 64, stretched to 0..1.

    Attributes:
        name: As given on the command line.
        fingerprint: Of the method.
        threshold: 0: it has no notion of an object, any crop is as good.
    """

    threshold = 0.0

    def __init__(self, name: str = "spectral") -> None:
        self.name = name
        self.fingerprint = fingerprint({"method": "spectral residual", "size": SIZE, "version": 1})

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> NDArray[np.float32]:
        """Return the map of the whole image (arguments as in `SaliencySource`).

        Raises:
            NoObjectError: If the image is of one colour.
        """
        grey = np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float64)
        if grey.max() == grey.min():
            raise NoObjectError("the image is of one colour")
        return spectral_residual(grey).astype(np.float32)


def spectral_residual(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the spectral residual's saliency.

    Args:
        grey: Grey levels, 64 × 64, not constant.

    Returns:
        float64, 64 × 64, 0..1.
    """
    from scipy.ndimage import gaussian_filter, uniform_filter

    spectrum = np.fft.fft2(grey)
    amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = amplitude - uniform_filter(amplitude, 3, mode="mirror")
    back = np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))
    # OpenCV: 5 × 5 Gaussian kernel of sigma 8, then squared.
    smooth = gaussian_filter(np.abs(back), 8.0, mode="mirror", radius=2)
    squared = smooth * smooth
    stretched: NDArray[np.float64] = (squared - squared.min()) / max(float(squared.max() - squared.min()), 1e-300)
    return stretched
