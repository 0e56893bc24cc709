"""The photographs that installed packages ship."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qcam.common.errors import MissingExtraError
from qcam.common.files import sha256_file
from qcam.images import embedded as photographs
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs


def test_the_evaluation_set_is_20_labelled_photographs() -> None:
    found = evaluation_photographs()
    assert len(found) == 20
    assert [image.name for image in found] == sorted(image.name for image in found)
    # foolbox writes number and class index into the name: imagenet_16_251.jpg is a dalmatian.
    assert {image.name: image.label for image in found}["imagenet_16_251.jpg"] == 251
    assert all(image.label is not None and 0 <= image.label < 1000 for image in found)


def test_the_calibration_set_is_at_least_8_photographs_without_labels() -> None:
    found = calibration_photographs()
    assert len(found) >= 8
    assert len({image.name for image in found}) == len(found)
    assert {image.label for image in found} == {None}


@pytest.mark.parametrize("get", [evaluation_photographs, calibration_photographs])
def test_every_photograph_is_decoded_in_colour_without_a_remark(get: Callable[[], list[photographs.ImageFile]]) -> None:
    for image in get():
        decoded = decode(image.path)
        assert decoded.image is not None
        assert (decoded.refusal, decoded.remark) == ("", "")
        assert min(decoded.image.size) >= 256
        red, _, blue = decoded.image.split()
        assert red.tobytes() != blue.tobytes()


def test_no_photograph_is_in_both_sets_or_twice_in_one() -> None:
    files = [image.path for image in evaluation_photographs() + calibration_photographs()]
    assert len({sha256_file(path) for path in files}) == len(files)
    # The same picture in another encoding would have another hash: its pixels count too.
    pictures = [decode(path).image for path in files]
    assert len({picture.resize((8, 8)).tobytes() for picture in pictures if picture is not None}) == len(files)


def test_absent_photographs_are_named_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(
        MissingExtraError, match=r"photographs: neither in .* nor .*; fetch with qcam-fetch demo-photographs, or"
    ):
        evaluation_photographs()
    with pytest.raises(
        MissingExtraError, match=r"package \w+ is not installed; .* come with it: pip install .*, or give photographs"
    ):
        calibration_photographs()
