"""run.json and summary.json are typed at the door."""

from __future__ import annotations

import pytest
from summaries import figure_of

from qcam.common.errors import ResultsError
from qcam.evaluate.report.stored import read_run_record, read_summary


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "the whole is of type list and has to be an object"),
        ({"entries": {}}, "entries is of type dict and has to be a list"),
        ({"entries": [3]}, r"entries\[0\] is of type int and has to be an object"),
        ({"entries": [figure_of("int8", 0.5) | {"mean": "0.5"}]}, r"entries\[0\].mean is of type str and has to be a number"),
        ({"entries": [figure_of("int8", 0.5, n=True)]}, r"entries\[0\].n is of type bool and has to be a whole number"),
        ({"entries": [figure_of("int8", 0.5, model=None)]}, r"entries\[0\].model is missing and has to be a text"),
        ({"statuses": {"m": {"ok": "7"}}}, "statuses.m.ok is of type str"),
    ],
)
def test_a_summary_of_other_types_is_refused_by_file_and_field(value, words):
    with pytest.raises(ResultsError, match=f"^out/summary.json: {words}.*; run qcam.study again with force=True$"):
        read_summary(value, "out/summary.json")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"plan": []}, "plan is of type list and has to be an object"),
        ({"plan": {"images": {"count": "8"}}}, "plan.images.count is of type str"),
        ({"models": {"m": {"weights": {"trained": 1}}}}, "models.m.weights.trained is of type int and has to be true or false"),
        ({"notes": ["a", 1]}, r"notes\[1\] is of type int and has to be a text"),
    ],
)
def test_a_record_of_other_types_is_refused_by_file_and_field(value, words):
    with pytest.raises(ResultsError, match=f"^run.json: {words}"):
        read_run_record(value)


def test_what_is_not_told_is_not_made_up():
    told = read_run_record({"models": {"m": {}}})
    assert (told.complete, told.provider, told.images, told.models["m"].weights) == (False, "?", None, "?")
    assert read_summary({}).entries == ()
