"""Results that an earlier version wrote (commit 7ea68d2, two photographs): they open, and a report is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qcam.evaluate.report.write import report_on
from qcam.evaluate.results.folder import Results

EARLY = Path(__file__).parent / "early"


def test_results_of_an_earlier_version_are_read_whole() -> None:
    found = Results(EARLY)
    assert (found.models, found.precisions("tiny"), found.images) == (["tiny"], ["f32", "int8"], ["000.jpg", "001.jpg"])
    assert not found.verified
    assert {entry.precision for entry in found.statistics.entries} == {"f32", "int8"}
    assert set(found.placements["tiny"]) == {"f32", "int8"}
    drift = found.columns("tiny")["int8", "vs_f32"]
    assert (0 < drift["CC"]).all()
    assert np.isnan(drift["native_CC"]).all()  # came later
    assert found.references("tiny") == {}
    assert {(row.image, row.status) for row in found.rows(model="tiny", images=["000.jpg"])} == {("000.jpg", "ok")}
    assert {cam.array.shape for cam in found.maps()} == {(8, 8)}
    assert len(found.pictures(found.images)) == 2


def test_a_report_of_them_says_that_they_are_not_verified(tmp_path: Path) -> None:
    written = report_on([Results(EARLY)], tmp_path)
    assert "NOT VERIFIED: without checksums" in written[0].read_text(encoding="utf-8")
