"""Figures that cannot be: a part that holds any is none."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from qcam.evaluate.results.clipping import ClippedRow
from qcam.evaluate.results.folder import Picture, Row, StoredMap
from qcam.evaluate.results.parts import DamagedPartError, ImageOutcome, PartStore, PlannedPart, read_part, write_part

KEY = "ab" * 32
FIGURES = {
    "SIM": 1.0, "CC": -1.0, "KLD": 0.0, "rank_correlation": 1.0, "overlap": 0.0, "energy_in_object": 1.0, "native_SIM": 0.5,
    "native_CC": -0.5, "drop": 0.3, "target_class": 0, "top1": 7, "label": 0, "logit_error": 1e9, "codes_equal": 0.0,
    "crossings": 0,
}  # fmt: skip


def outcome(name: str) -> ImageOutcome:
    rows = [Row(name, "00", "net", precision, "vs_f32", **FIGURES) for precision in ("f32", "int8")]  # type: ignore[arg-type]
    cam = StoredMap(name, "net", "int8", "deployed", 2, 3, [0.0, 1.0, -2.0, 3.0, 4.0, 5.0])
    counted = ClippedRow(name, "net", "int8", ["a"], [0.0], [6.0], [9], [4], [5], [math.inf], [0.0], [math.inf])
    picture = Picture(name, "squash 3×2", 3, 2, b"jpeg", None)
    return ImageOutcome(name, rows, [cam], [picture], [replace(rows[0], comparison="noise")], [counted])


@pytest.fixture
def wrong(tmp_path):
    """Write a part of two images, the second as it is given; return what is wrong with it when it is read."""

    def read(second: ImageOutcome) -> str:
        part = PlannedPart(0, KEY, ("a", "b"))
        path = write_part(PartStore(tmp_path / "parts"), part, [outcome("a"), second])
        try:
            read_part(path, part)
        except DamagedPartError as error:
            return error.why
        return ""

    return read


def changed(**figures):
    made = outcome("b")
    return replace(made, rows=[made.rows[0], replace(made.rows[1], **figures)])


def test_figures_at_their_bounds_are_read(wrong):
    assert wrong(outcome("b")) == ""
    assert wrong(changed(SIM=1 + 1e-9, CC=-1 - 1e-9, KLD=-1e-9)) == ""  # as rounding leaves them
    assert wrong(changed(**dict.fromkeys(FIGURES))) == ""  # undefined


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIM", 1.01), ("SIM", -0.1), ("CC", 1.5), ("CC", -2.0), ("KLD", -0.1), ("rank_correlation", -1.1), ("overlap", 3.0),
        ("energy_in_object", -1.0), ("native_SIM", 2.0), ("native_CC", 9.0), ("drop", 1.2), ("target_class", -1),
        ("top1", -1), ("label", -1), ("logit_error", -0.5), ("codes_equal", 1.1), ("crossings", -3),
    ],
)  # fmt: skip
def test_a_figure_beyond_its_bounds_is_named(wrong, name, value):
    assert wrong(changed(**{name: value})).startswith(f"holds {name} {value:g} in rows, which is ")
    made = outcome("b")
    of_references = replace(made, references=[replace(made.references[0], **{name: value})])
    assert wrong(of_references).startswith(f"holds {name} {value:g} in references, which is ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name, value in FIGURES.items() if isinstance(value, float)])
def test_a_figure_that_is_no_number_is_named(wrong, name, value):
    assert wrong(changed(**{name: value})) == f"holds NaN or infinity as {name} in rows"


def test_rows_are_the_same_for_every_image_and_none_is_there_twice(wrong):
    made = outcome("b")
    assert wrong(replace(made, rows=[made.rows[0], made.rows[0]])) == "holds a row twice"
    other = replace(made.rows[1], precision="int4")
    assert wrong(replace(made, rows=[made.rows[0], other])) == "holds other rows of one image than of another"


def test_maps_have_the_size_that_they_state(wrong):
    made = outcome("b")
    for size in ({"height": 3}, {"width": 0}, {"height": -2, "width": -3}, {"values": [1.0] * 5}):
        found = wrong(replace(made, maps=[replace(made.maps[0], **size)]))
        assert found == "holds a map with another number of values than its height and width say"


def test_a_map_holds_nan_only_where_the_network_returned_no_numbers(wrong):
    made = outcome("b")
    strange = replace(made, maps=[replace(made.maps[0], values=[math.nan] * 6)])
    assert wrong(strange) == "holds NaN in a map whose network returned finite values"
    said = [replace(row, status="not_finite: the network returned NaN or infinity") for row in strange.rows]
    assert wrong(replace(strange, rows=[strange.rows[0], said[1]])) == ""
    assert wrong(replace(strange, rows=[said[0], strange.rows[1]])) != ""  # that of another precision


def test_empty_pictures_are_named(wrong):
    made = outcome("b")
    for change in ({"width": 0}, {"height": -1}, {"photo": b""}):
        assert wrong(replace(made, pictures=[replace(made.pictures[0], **change)])) == "holds an empty picture"


def test_counts_of_clipped_values_agree_with_each_other(wrong):
    made = outcome("b")
    for change, told in (
        ({"low": [5]}, "holds more clipped values than values"),
        ({"values": [-1]}, "holds a negative count of clipped values"),
        ({"below": [-0.5]}, "holds a negative count of clipped values"),
        ({"high": []}, "holds counts of other quantizers than it names"),
    ):
        assert wrong(replace(made, clipping=[replace(made.clipping[0], **change)])) == told
