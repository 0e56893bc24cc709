"""The summary: counts, tests between precisions, class flips apart from drift."""

import json
from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint
from summaries import CCS, columns_of, entry, rows

from qcam.evaluate.maps.statistics import paired_test
from qcam.evaluate.results.folder import Row
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
    # Three pairs v. salient object and of accuracy; v. f32 the null row is not tested.
    assert len(told) == 3 * 3 + 3 + 3
    assert not [key for key in told if key[0] == "vs_f32" and key[1] == "f32"]
    right = told["vs_label", "f32", "int8", "accuracy"]
    assert (right["n"], right["differing"], right["p"], right["effect"]) == (5, 0, 1.0, 0.0)
    found = told[("vs_f32", "int16", "int8", "CC")]
    as_array = {name: np.array([np.nan if v is None else v for v in values]) for name, values in CCS.items()}
    expected = paired_test(as_array["int16"], as_array["int8"])
    assert (found["n"], found["effect"]) == (5, -1.0)
    assert found["p"] == pytest.approx(expected.p)
    assert found["mean_difference"] == pytest.approx(expected.mean_difference)
    assert found["low"] < found["mean_difference"] < found["high"] < 0
    assert found["p_holm"] >= found["p"]
    assert max(t["p_holm"] for t in summary["tests"]) <= 1.0


def test_p_values_are_corrected_over_the_study():
    one = summarise(columns_of(rows()).items())["tests"]
    two = summarise(columns_of([*rows(), *rows("vgg16")]).items())["tests"]
    assert len(two) == 2 * len(one)
    smallest = min(test["p"] for test in one)
    assert min(test["p_holm"] for test in one) == pytest.approx(min(1, smallest * len(one)))
    assert min(test["p_holm"] for test in two) == pytest.approx(min(1, smallest * len(two)))


def test_drift_has_median_quartiles_and_the_worst_image(summary):
    (int8,) = [of for of in summary["drift"] if of["precision"] == "int8"]
    values = 1 - np.array(CCS["int8"][:5])
    assert (int8["comparison"], int8["n"], int8["worst_image"]) == ("vs_f32", 5, "3.jpg")
    assert [int8[name] for name in ("q1", "median", "q3")] == pytest.approx([*np.percentile(values, [25, 50, 75])])
    assert int8["worst"] == pytest.approx(0.5)
    assert {of["precision"] for of in summary["drift"]} == {"int16", "int8"}  # the null row does not drift


def test_drift_is_tested_against_the_named_reference_on_the_images_that_have_it():
    made = columns_of(rows())
    units = [Row(f"{n}.jpg", "", "mobilenet_v2", "f32", "jpeg75", CC=0.75) for n in (4, 3, 2, 1, 0)]
    summary = summarise(made.items(), lambda _model: columns_of(units)["mobilenet_v2"], "jpeg75")
    held = {of["precision"]: of for of in summary["non_inferiority"]}
    assert (held["int16"]["n"], held["int16"]["below"], held["int16"]["p"]) == (5, 5, 1 / 32)
    assert held["int16"]["p_holm"] == pytest.approx(2 / 32)
    assert held["int16"]["high"] == pytest.approx(0.75 - 0.97)
    assert (held["int8"]["below"], held["int8"]["reference"]) == (3, "jpeg75")
    assert summarise(made.items(), lambda _model: columns_of(units)["mobilenet_v2"])["non_inferiority"] == []  # no JPEG 95


def test_shares_of_images_have_wilson_s_interval(summary):
    found = entry(summary, "int8", "vs_f32", "top1_agreement")
    assert (found["low"], found["high"]) == pytest.approx(proportion_confint(3, 5, 0.05, method="wilson"))


def test_flips_are_told_apart_from_drift(summary):
    by_precision = {flip["precision"]: flip for flip in summary["flips"]}
    int8 = by_precision["int8"]
    assert (int8["flipped"], int8["kept"], int8["unknown"]) == (2, 3, 1)
    assert int8["CC"]["flipped"] == {"mean": pytest.approx(0.6), "n": 2}
    assert int8["CC"]["kept"] == {"mean": pytest.approx((0.9 + 0.8 + 0.95) / 3), "n": 3}
    assert by_precision["int16"]["flipped"] == 0
    assert by_precision["int16"]["CC"]["flipped"] == {"mean": None, "n": 0}
