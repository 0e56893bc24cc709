"""What is said of bundles before they are evaluated."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from qcam.common.errors import BundleError
from qcam.evaluate.run.inputs import calibrating, load_bundles
from qcam.runtime.bundle import load_bundle
from qcam.runtime.described import Calibration

ALL = Calibration(images=3, sha256=("a", "b", "c"))
FITS = "images calibrated tiny: its ranges fit them; evaluate on others"
PRECISIONS = ("f32", "int16", "int8")


@pytest.mark.parametrize(
    ("calibration", "precisions", "hashes", "wanted"),
    [
        (ALL, PRECISIONS, "abxyb", f"3 of 5 {FITS}"),
        (ALL, ("int8-vendor",), "c", f"1 of 1 {FITS.replace('images', 'image', 1)}"),
        (replace(ALL, images=4), PRECISIONS, "xa", f"at least 1 of 2 {FITS}"),
        (ALL, PRECISIONS, "xyz", ""),
        (ALL, ("f32",), "abc", ""),
        (Calibration(images=3, names=("a", "b", "c")), PRECISIONS, "abc", ""),
        (Calibration(), PRECISIONS, "abc", ""),
    ],
    ids=["some", "another tool's", "of the first hashes", "none", "no ranges", "earlier version", "imported"],
)
def test_images_that_calibrated_a_bundle_are_counted_where_it_tells_them(tiny_bundle, calibration, precisions, hashes, wanted):
    assert calibrating(replace(tiny_bundle, calibration=calibration), precisions, hashes) == wanted


def test_a_name_that_is_no_bundle_s_is_answered_with_those_that_are(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("net", "other"):
        shutil.copytree(tiny_bundle.folder, tmp_path / "bundles" / name)
    (tmp_path / "nets").mkdir()  # no bundle
    for load in (load_bundle, lambda name: load_bundles([name])):
        with pytest.raises(BundleError, match=r"nett is no bundle: there is no such folder; did you mean bundles/net\?"):
            load("nett")
        with pytest.raises(BundleError, match=r"there is no such folder; make one with"):
            load("xyz")
    with pytest.raises(BundleError) as caught:
        load_bundles(["bundles"])
    told = "bundles is no bundle but holds 2; give those you mean: bundles/net, bundles/other"
    assert str(caught.value) == f"{told}; where none is named, qcam.study and qcam.check take all of them"
    (tmp_path / "bundles").rename(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"give those you mean: elsewhere/net, elsewhere/other$"):
        load_bundles(["elsewhere"])
