"""JPEGs that a decoder takes for good although a part of them is gone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.images.jpeg import is_cut_short, wrong_data

FORMS = [
    {},
    {"optimize": True},
    {"optimize": True, "quality": 30},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 3, "optimize": True},
    {"subsampling": 0, "quality": 95},
    {"mode": "L"},
    {"progressive": True},
]
SEQUENTIAL = [form for form in FORMS if "progressive" not in form]


def stored(form, picture=None):
    if picture is None:
        with Image.open(evaluation_photographs()[0].path) as photograph:
            picture = photograph.convert("RGB")
    buffer = io.BytesIO()
    picture.convert(form.get("mode", "RGB")).save(buffer, "JPEG", **{key: of for key, of in form.items() if key != "mode"})
    return buffer.getvalue()


def data_of(jpeg):
    place = jpeg.index(b"\xff\xda")
    return place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big"), len(jpeg) - 2


def cut(jpeg, share):
    begin, end = data_of(jpeg)
    return jpeg[: begin + int((end - begin) * share)] + b"\xff\xd9"


def refusal(tmp_path, data):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    return decode(path).refusal


@pytest.mark.parametrize("form", FORMS)
def test_what_is_whole_is_taken_and_what_was_cut_and_ended_is_refused(tmp_path, form):
    whole = stored(form)
    assert refusal(tmp_path, whole) == ""
    told = "its last scans are missing" if "progressive" in form else "its data end before its pixels do"
    for share in (0.3, 0.6):
        assert refusal(tmp_path, cut(whole, share)) == f"damaged or truncated: {told}"


@pytest.mark.parametrize("form", SEQUENTIAL)
def test_a_part_that_was_zeroed_is_refused(tmp_path, form):
    whole = stored(form)
    begin, end = data_of(whole)
    place = (begin + end) // 2
    told = refusal(tmp_path, whole[:place] + bytes(512) + whole[place + 512 :])
    # Zeros may themselves come to an end of the picture.
    assert told.startswith("damaged or truncated: a part of its data is zero, from byte ")
    assert abs(int(told.rpartition("byte ")[2].removesuffix(" on").replace(",", "")) - place) < 64


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_pictures_of_one_level_and_pictures_that_end_in_grey_are_whole(tmp_path, form, level):
    """Of these every cheap sign of damage may be there: grey at the end, and zeros."""
    flat = Image.new("RGB", (333, 257), (level,) * 3)
    assert refusal(tmp_path, stored(form, flat)) == ""
    half = np.asarray(flat).copy()
    half[:100] = np.random.default_rng(0).integers(0, 256, (100, 333, 3), np.uint8)
    assert refusal(tmp_path, stored(form, Image.fromarray(half))) == ""


def test_real_photographs_are_whole():
    for image in evaluation_photographs():
        data = image.path.read_bytes()
        assert wrong_data(data) == ""


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xda\0\3\1", b"\xff\xd8\xff\xc4\0\x30\x10\1", b"GIF89a"])
def test_what_is_no_jpeg_is_nobody_s_business_here(data):
    assert wrong_data(data) == ""


def test_a_second_decoding_is_made_only_where_the_last_pixel_is_grey():
    data = stored({})
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        assert not is_cut_short(data, picture, lambda _: pytest.fail("decoded again"))
