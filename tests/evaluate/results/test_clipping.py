"""What images come to together, and the line that says it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pyarrow as pa
import pytest

from qcam.common.errors import ResultsError
from qcam.common.files import readable_json
from qcam.evaluate.results.clipping import CLIPPING, CLIPPING_SCHEMA, ClippedRow, clipping_lines, read_clipping
from qcam.evaluate.results.folder import write_arrow
from qcam.evaluate.results.records import ClippedTensor, Clipping

ROW = ClippedRow(
    "a", "net", "int8", ["x", "y"], [-1.0, 0.0], [1.0, 6.0],
    values=[100, 10], low=[1, 0], high=[0, 2], below=[0.25, 0.0], above=[0.0, 0.5], squares=[50.0, 5.0],
)  # fmt: skip
OTHER = replace(
    ROW, image="b", values=[300, 10], low=[0, 0], high=[3, 0], below=[0.0, 0.0], above=[0.125, 0.0], squares=[0.0, 0.0]
)  # fmt: skip


def write(path, *rows):
    write_arrow(path, pa.Table.from_pylist([asdict(row) for row in rows], schema=CLIPPING_SCHEMA))
    return path


def test_shares_are_of_all_values_and_the_farthest_value_is_of_any_image(tmp_path):
    elsewhere = [replace(ROW, precision="int16"), replace(ROW, model="another"), replace(ROW, precision="vendor")]
    found = read_clipping(write(tmp_path / CLIPPING, ROW, *elsewhere, OTHER))
    assert [(told.model, told.precision, told.images) for told in found] == [
        ("net", "int16", 1), ("net", "int8", 2), ("net", "vendor", 1), ("another", "int8", 1),
    ]  # fmt: skip
    assert found[1].tensors == (
        ClippedTensor(name="x", lowest=-1, highest=1, n=400, low=1 / 400, high=3 / 400, below=0.25, above=0.125, error=1.5),
        ClippedTensor(name="y", lowest=0, highest=6, n=20, low=0, high=0.1, below=0, above=0.5, error=3.0),
    )


def test_a_value_that_is_infinite_is_told_and_ends_no_run(tmp_path):
    far = replace(OTHER, below=[float("inf"), 0.0], squares=[float("inf"), 0.0])
    (found,) = read_clipping(write(tmp_path / CLIPPING, ROW, far))
    first, second = found.tensors
    assert (first.below, first.above, first.error, first.louder) == (None, 0.125, None, True)
    assert (second.below, second.farthest) == (0.0, 0.5)
    assert json.loads(readable_json(asdict(found)))["tensors"][0]["below"] is None
    (line,) = clipping_lines([found])
    assert "the farthest value is infinitely far outside" in line


def test_rows_that_speak_of_other_tensors_are_not_added_up(tmp_path):
    path = write(tmp_path / CLIPPING, ROW, replace(ROW, tensors=["x", "z"]))
    with pytest.raises(ResultsError, match="rows of net at int8 that speak of other tensors"):
        read_clipping(path)


def test_a_folder_of_an_earlier_version_has_none(tmp_path):
    assert read_clipping(tmp_path / CLIPPING) == []


def told(*tensors, precision="int16", images=20):
    """Make tensors of (share clipped, error by that of rounding)."""
    made = [
        ClippedTensor(
            name=str(place), lowest=0, highest=1, n=9, low=share, high=0.0, below=0.2 * (share > 0), above=0, error=error
        )
        for place, (share, error) in enumerate(tensors)
    ]
    return Clipping("net", precision, images, tuple(made))


FARTHEST = "the farthest value is 0.2 of its range outside"


@pytest.mark.parametrize(
    ("clipping", "counts", "end"),
    [
        (
            told((0.0, 0.0), (0.0005, 0.5)),
            f"0 of 2 quantized tensors clip more than 0.1 % of their values (at most 0.05 %; {FARTHEST})",
            "; rounding is the larger error in every tensor (simulation, 20 images)",
        ),
        (
            told((0.002, 40.0), (0.01, 2.0), (0.0, 0.0), images=1),
            f"2 of 3 quantized tensors clip more than 0.1 % of their values (at most 1 %; {FARTHEST})",
            "; clipping is the larger error in 2 (ranges come from 8 photographs), "
            "rounding in the other 1 (simulation, 1 image)",
        ),
        (
            told((0.002, 40.0), (0.0, 0.0)),
            f"1 of 2 quantized tensors clip more than 0.1 % of their values (at most 0.2 %; {FARTHEST})",
            "; clipping is the larger error in 1 (ranges come from 8 photographs), "
            "rounding in the other 1 (simulation, 20 images)",
        ),
        (
            told((0.0, 0.0)),
            "0 of 1 quantized tensors clip more than 0.1 % of their values",
            "; rounding is the larger error in every tensor (simulation, 20 images)",
        ),
    ],
)
def test_the_line_claims_no_more_than_most_tensors_show(clipping, counts, end):
    wanted = f"net, int16: {counts}{end}"
    assert clipping_lines([clipping, told()], {"net": 8}) == [wanted]


def test_without_a_word_of_the_calibration_none_is_named():
    (line,) = clipping_lines([told((0.5, 9.0))])
    assert line.endswith("; clipping is the larger error in every tensor (simulation, 20 images)")
