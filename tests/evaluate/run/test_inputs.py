"""What is said of bundles before they are evaluated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qcam.evaluate.run.inputs import calibrating
from qcam.runtime.described import Calibration

ALL = Calibration(images=3, sha256=("a", "b", "c"))
FITS = "images calibrated tiny: its ranges fit them; evaluate on others"
PRECISIONS = ("f32", "int16", "int8")


@pytest.mark.parametrize(
    ("calibration", "precisions", "hashes", "wanted"),
    [
        (ALL, PRECISIONS, "abxyb", f"3 of 5 {FITS}"),
        (ALL, ("int8-vendor",), "c", f"1 of 1 {FITS}"),
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
