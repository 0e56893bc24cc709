"""Pictures inside a page."""

from __future__ import annotations

import io

import numpy as np
from matplotlib import colormaps
from PIL import Image

from qcam.evaluate.maps.cam import normalise, upsample
from qcam.evaluate.report.overlays import Sheet, cam_png, palette


def test_a_map_in_a_page_has_the_colours_of_its_values() -> None:
    cam = np.array([[0.0, 1.0], [3.0, 4.0]])
    with Image.open(io.BytesIO(cam_png(cam, (200, 100), palette("viridis")))) as image:
        assert image.size == (56, 28)
        pixels = np.asarray(image.convert("RGB")).astype(int)
    wanted = np.asarray(colormaps["viridis"](normalise(upsample(cam[None], (28, 56)))[0]))[..., :3] * 255
    assert np.abs(pixels - wanted).max() <= 4  # 128 levels
    assert pixels[0, 0].tolist() == [68, 1, 84]  # viridis' ends
    assert pixels[-1, -1].tolist() == [253, 231, 37]


def test_a_map_that_is_constant_or_no_number_is_drawn_as_the_lowest_colour() -> None:
    for cam in (np.full((2, 2), 3.0), np.array([[np.nan, np.inf], [0.0, 0.0]])):
        with Image.open(io.BytesIO(cam_png(cam, (10, 10), palette("inferno")))) as image:
            assert np.unique(np.asarray(image)).tolist() == [0]


def test_a_picture_is_embedded_once() -> None:
    sheet = Sheet()
    made = []

    def make() -> tuple[str, bytes]:
        made.append(1)
        return "image/png", b"abc"

    assert sheet.add("one", make) == sheet.add("one", make) != sheet.add("two", make)
    assert len(made) == 2
    assert sheet.text.count("data:image/png;base64,YWJj") == 2
