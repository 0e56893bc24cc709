"""table.csv."""

from __future__ import annotations

import csv
import io

import pytest
from summaries import columns_of, rows, summary_record

from qcam.common.printable import printable
from qcam.evaluate.report.csv_file import RunFigures, as_csv, several_as_csv
from qcam.evaluate.results.summary import summarise


def summary_of(found):
    return summary_record(summarise(columns_of(found).items()))


@pytest.fixture
def summary():
    return summary_of(rows())


TRAINED = {"mobilenet_v2": "trained"}


@pytest.mark.parametrize(("weights", "word"), [({"mobilenet_v2": "random"}, "random"), ({}, "unknown")])
def test_weights_that_are_not_known_to_be_trained_have_nothing_published(summary, weights, word):
    lines = list(csv.DictReader(io.StringIO(as_csv(summary.entries, weights))))
    assert len(lines) == len(summary.entries)
    assert {(line["published_mean"], line["published_std"], line["difference"]) for line in lines} == {("", "", "")}
    assert {line["weights"] for line in lines} == {word}


def test_csv_has_every_figure_and_no_formula():
    summary = summary_of(rows("=cmd|'x'"))
    lines = list(csv.DictReader(io.StringIO(as_csv(summary.entries, {}))))
    assert len(lines) == len(summary.entries)
    assert {line["model"] for line in lines} == {"'=cmd|'x'"}
    known = list(csv.DictReader(io.StringIO(as_csv(summary_of(rows()).entries, TRAINED))))
    (cc,) = [x for x in known if (x["precision"], x["comparison"], x["metric"]) == ("int8", "vs_f32", "CC")]
    assert float(cc["published_mean"]) == 0.76
    assert float(cc["difference"]) == pytest.approx(0.77 - 0.76)
    (sim,) = [x for x in known if (x["precision"], x["comparison"], x["metric"]) == ("int8", "vs_saliency", "SIM")]
    assert (sim["published_mean"], sim["difference"]) == ("0.64", "")


def test_several_runs_have_a_column_of_their_own(summary):
    told = several_as_csv({"one": RunFigures(summary.entries, TRAINED), "=two": RunFigures(summary.entries, {})})
    lines = list(csv.DictReader(io.StringIO(told)))
    assert [line["run"] for line in lines] == ["one"] * len(summary.entries) + ["'=two"] * len(summary.entries)
    assert {(line["published_mean"], line["weights"]) for line in lines if line["run"] == "'=two"} == {("", "unknown")}


@pytest.mark.parametrize("name", ["=1+1", " =1+1", "\t=1+1", "\r=1", "\tx", "\n-1", "\uff1d1", "@x", "+1", "-1"])
def test_i4_no_name_is_a_formula_or_leaves_its_line(name: str) -> None:
    summary = summary_of(rows(name))
    text = as_csv(summary.entries, {})
    assert {line[0] for line in csv.reader(io.StringIO(text))} == {"model", printable("'" + name)}
    assert "\r" not in text
    assert "\t" not in text
