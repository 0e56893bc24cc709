"""The spectral residual against OpenCV-contrib's, recorded.

data/spectral_residual.npz was made by opencv-contrib-python-headless 5.0.0, which cannot be installed beside
opencv-python-headless: for three of foolbox's photographs, with saliency = cv2.saliency.StaticSaliencySpectralResidual_create()
and the picture as BGR,
    grey64 = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (64, 64))
    map64 = saliency.computeSaliency(grey64)[1]
    map = saliency.computeSaliency(picture)[1][::32, ::32]
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

from qcam.evaluate.saliency import NoObjectError, open_saliency
from qcam.evaluate.saliency.spectral import _AVERAGE, _GAUSSIAN, SpectralSaliency, _smoothed, shrink, spectral_residual
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.images.sources import ImageFile

RECORDED = Path(__file__).parents[1] / "data" / "spectral_residual.npz"
FILE = ImageFile("a.jpg", Path("a.jpg"))
NAMES = ["imagenet_00_243", "imagenet_07_609", "imagenet_10_541"]


def photograph(name: str) -> Image.Image:
    image = decode(next(each.path for each in evaluation_photographs() if each.name == f"{name}.jpg")).image
    assert image is not None
    return image


@pytest.mark.parametrize("name", NAMES)
def test_the_residual_is_opencv_contrib_s(name: str) -> None:
    """OpenCV's phase comes from an arc tangent by a polynomial: over 20 photographs, 0.0027 at most, 0.0005 as a rule."""
    with np.load(RECORDED) as held:
        grey, theirs = held[f"{name}_grey64"], held[f"{name}_map64"]
    ours = spectral_residual(grey.astype(np.float64))
    assert (ours.shape, ours.max(), theirs.max()) == ((64, 64), 1.0, 1.0)
    assert np.abs(ours - theirs).max() < 0.003
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99999


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_photograph_s_map_is_opencv_contrib_s(name: str) -> None:
    """Grey, shrink and residual together; 10_541 is 1024 × 683, where OpenCV interpolates in fixed point."""
    image = photograph(name)
    with np.load(RECORDED) as held:
        grey, theirs = held[f"{name}_grey64"], held[f"{name}_map"]
    assert np.abs(shrink(np.asarray(image.convert("L"))) - grey).max() <= (1 if name == "imagenet_10_541" else 0)
    found = SpectralSaliency().whole_map(image, FILE)
    ours = cv2.resize(found, image.size, interpolation=cv2.INTER_LINEAR)[::32, ::32]
    assert np.abs(ours - theirs).max() < 0.005


@pytest.mark.parametrize("shape", [(64, 64), (512, 128), (100, 333), (20, 30), (1, 7)])
def test_shrinking_is_opencv_s_bilinear_interpolation(shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.abs(shrink(grey) - cv2.resize(grey, (64, 64), interpolation=cv2.INTER_LINEAR)).max() <= 1


def test_smoothing_is_scipy_s() -> None:
    values = np.random.default_rng(0).random((64, 64))
    np.testing.assert_allclose(_smoothed(values, _AVERAGE), uniform_filter(values, 3, mode="mirror"), rtol=1e-12)
    np.testing.assert_allclose(_smoothed(values, _GAUSSIAN), gaussian_filter(values, 8.0, mode="mirror", radius=2), rtol=1e-12)


def test_spectral_needs_no_weights_and_sees_a_spot() -> None:
    source = open_saliency("spectral")
    assert isinstance(source, SpectralSaliency)
    pixels = np.full((128, 128, 3), 100, np.uint8)
    pixels[80:90, 30:40] = 250
    found = source.whole_map(Image.fromarray(pixels), FILE)
    assert (found.shape, found.dtype, found.max()) == ((64, 64), np.float32, 1)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert (abs(int(row) - 42), abs(int(column) - 17)) <= (5, 5)
    with pytest.raises(NoObjectError, match="of one colour"):
        source.whole_map(Image.new("RGB", (30, 30), (9, 9, 9)), FILE)
