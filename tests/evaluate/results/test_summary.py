"""The summary: counts, tests between precisions, class flips apart from drift."""

import json
from dataclasses import replace

import numpy as np
import pytest
from summaries import CCS, columns_of, entry, rows

from qcam.evaluate.maps.statistics import paired_test
from qcam.evaluate.results.summary import compared_pairs, summarise


@pytest.fixture
def summary():
    return summarise(columns_of(rows()).items())


def test_a_precision_of_another_tool_comes_behind_those_of_qcam():
    vendor = [replace(row, precision="int8-vendor") for row in rows() if row.precision == "int8"]
    told = summarise(columns_of([*vendor, *rows()]).items())
    named = [e["precision"] for e in told["entries"] if (e["comparison"], e["metric"]) == ("vs_f32", "CC")]
    assert named == ["f32", "int16", "int8", "int8-vendor"]
    assert [flips["precision"] for flips in told["flips"]] == ["int16", "int8", "int8-vendor"]


def test_f32_is_tested_against_every_precision_and_each_of_these_against_the_next():
    three = [("f32", "int16"), ("f32", "int8"), ("int16", "int8")]
    assert compared_pairs(["int8", "int16", "f32", "int8"]) == three
    assert compared_pairs(["b", "f32", "int8", "a"]) == [("f32", "int8"), ("f32", "a"), ("f32", "b"), ("int8", "a"), ("a", "b")]
    assert compared_pairs(["b", "a"]) == [("a", "b")]
    assert compared_pairs(["f32"]) == compared_pairs(["vendor"]) == []


def test_a_tap_without_codes_has_no_share_of_equal_ones():
    made = [replace(row, comparison="fake_quant_vs_deployed") for row in rows() if row.comparison == "vs_f32"]
    made = [replace(row, codes_equal=1.0 if row.precision == "int8" else None) for row in made]
    entries = summarise(columns_of(made).items())["entries"]
    assert [e["precision"] for e in entries if e["metric"] == "codes_equal"] == ["int8"]


def test_cams_whose_denominator_is_not_positive_are_counted_by_precision():
    counts = {"f32": 0, "int8": 12}
    made = [replace(row, crossings=counts.get(row.precision)) for row in rows()]
    found = summarise(columns_of(made).items())["crossings"]
    n = len({row.image for row in made})
    assert found == [{"model": made[0].model, "precision": "int8", "images": n, "n": n, "mean": 12.0}]
    assert summarise(columns_of(rows()).items())["crossings"] == []


def test_entries_have_mean_deviation_interval_and_counts(summary):
    found = entry(summary, "int8", "vs_f32", "CC")
    values = np.array(CCS["int8"][:5])
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())
    assert (found["n"], found["undefined"]) == (5, 1)
    assert values.min() < found["low"] < values.mean() < found["high"] < values.max()
    assert entry(summary, "int8", "vs_label", "accuracy")["mean"] == pytest.approx(2 / 5)
    assert entry(summary, "int8", "vs_saliency", "energy_in_object")["mean"] == pytest.approx(values.mean() / 4)
    assert not [e for e in summary["entries"] if e["metric"] in ("overlap", "drop")]  # measured for no image
    assert "NaN" not in json.dumps(summary)


def test_every_image_is_counted_by_what_became_of_it(summary):
    assert summary["statuses"] == {"mobilenet_v2": {"ok": 4, "no_object": 1, "refused": 1}}


def test_precisions_are_tested_image_by_image(summary):
    told = {(t["comparison"], t["first"], t["second"], t["metric"]): t for t in summary["tests"]}
    assert len(told) == 2 * 3 * 3
    found = told[("vs_f32", "int16", "int8", "CC")]
    as_array = {name: np.array([np.nan if v is None else v for v in values]) for name, values in CCS.items()}
    expected = paired_test(as_array["int16"], as_array["int8"])
    assert (found["n"], found["effect"]) == (5, -1.0)
    assert found["p"] == pytest.approx(expected.p)
    assert found["mean_difference"] == pytest.approx(expected.mean_difference)
    assert found["low"] < found["mean_difference"] < found["high"] < 0
    assert found["p_holm"] >= found["p"]
    assert max(t["p_holm"] for t in summary["tests"]) <= 1.0


def test_flips_are_told_apart_from_drift(summary):
    by_precision = {flip["precision"]: flip for flip in summary["flips"]}
    int8 = by_precision["int8"]
    assert (int8["flipped"], int8["kept"], int8["unknown"]) == (2, 3, 1)
    assert int8["CC"]["flipped"] == {"mean": pytest.approx(0.6), "n": 2}
    assert int8["CC"]["kept"] == {"mean": pytest.approx((0.9 + 0.8 + 0.95) / 3), "n": 3}
    assert by_precision["int16"]["flipped"] == 0
    assert by_precision["int16"]["CC"]["flipped"] == {"mean": None, "n": 0}
