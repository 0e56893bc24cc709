"""run.json and summary.json are typed at the door."""

from __future__ import annotations

import json

import pytest
from summaries import figure_of, summary_record

from qcam.common.errors import ResultsError
from qcam.evaluate.results.folder import PLACEMENT, RUN, SCHEMA_VERSION, SUMMARY, Results

BARE = {"schema_version": SCHEMA_VERSION, "plan": {}, "models": {"m": {}}}

#: Of a reference that nobody knows.
UNIT = {"model": "m", "precision": "int8", "reference": "jpeg50", "metric": "CC", "n": 3}
TEST = {"below": 1, "median": 0.1, "p": 0.1, "p_holm": 0.1, "p_above": 0.9, "p_above_holm": 0.9}
SPREAD = {
    "model": "m", "precision": "f32", "comparison": "jpeg50", "n": 3, "median": 0.1, "q1": 0.0, "q3": 0.2, "worst": 0.3,
    "worst_image": "a.jpg",
}  # fmt: skip


def results_of(folder, run=BARE, **files) -> Results:
    (folder / RUN).write_text(json.dumps(run))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Results(folder)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "the whole is a list and has to be an object"),
        ({"entries": {}}, "entries is an object and has to be a list"),
        ({"entries": [3]}, r"entries\[0\] is a whole number and has to be an object"),
        ({"entries": [figure_of("int8", 0.5) | {"mean": "0.5"}]}, r"entries\[0\].mean is text and has to be a number"),
        ({"scale": [UNIT | {"ratio": 1.0}]}, r"scale\[0\]: reference is 'jpeg50', which is none of one_level, jpeg95"),
        ({"drift": [SPREAD]}, r"drift\[0\]: comparison is 'jpeg50', which is none of"),
        ({"non_inferiority": [UNIT | TEST]}, r"non_inferiority\[0\]: reference is 'jpeg50'"),
        ({"non_inferiority": [UNIT | TEST | {"reference": "objects_area"}]}, "non_inferiority.*, which drift is not tested ag"),
        ({"entries": [figure_of("int8", 0.5, n=True)]}, r"entries\[0\].n is a truth value and has to be a whole number"),
        ({"entries": [figure_of("int8", 0.5, model=None)]}, r"entries\[0\].model is missing and has to be text"),
        ({"entries": [{"n": 1}]}, r"entries\[0\].model is missing"),
        ({"flips": [{"model": "m", "precision": "p", "flipped": 1, "kept": 2, "CC": {"kept": 1}}]}, r"flips\[0\].CC.kept is"),
        ({"statuses": {"m": {"ok": "7"}}}, "statuses.m.ok is text"),
    ],
)
def test_a_summary_of_other_types_is_refused_by_file_and_field(tmp_path, value, words):
    found = results_of(tmp_path, summary=value)
    with pytest.raises(ResultsError, match=f"^{tmp_path / SUMMARY}: {words}.*; run qcam.study again with force=True$"):
        _ = found.statistics


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"plan": []}, "plan is a list and has to be an object"),
        ({"plan": {"images": {"count": "8"}}}, "plan.images.count is text"),
        ({"plan": {"options": {"settings": 3}}}, "plan: options.settings has to be an object"),
        ({"models": {"m": {"weights": {"trained": 1}}}}, "models.m.weights.trained is a whole number and has to be true or f"),
        ({"models": {"m": {"precisions": {"int8": {"kernels": [{}]}}}}}, r"models.m.precisions.int8.kernels\[0\].operator is"),
        ({"notes": ["a", 1]}, r"notes\[1\] is a whole number and has to be text"),
        ({"workers": [{"shards": None}]}, r"workers\[0\].shards is missing and has to be a whole number"),
    ],
)
def test_a_record_of_other_types_is_refused_by_file_and_field(tmp_path, value, words):
    with pytest.raises(ResultsError, match=f"^{tmp_path / RUN}: {words}"):
        results_of(tmp_path, BARE | value)


def test_a_placement_of_other_types_is_refused_by_file_and_field(tmp_path):
    found = results_of(tmp_path, placement={"m": {"f32": {}, "int8": {"integer_coverage": {"macs": "all"}}}})
    with pytest.raises(ResultsError, match=rf"^{tmp_path / PLACEMENT}: m.int8.integer_coverage.macs is text and has to be a n"):
        _ = found.placements


def test_what_is_not_told_is_not_made_up(tmp_path):
    told = results_of(tmp_path).record
    assert (told.complete, told.provider, told.plan.images.count, told.files) == (False, "?", None, None)
    assert (told.models["m"].weights.name, told.models["m"].weights.word) == ("?", "random")  # as earlier versions meant it
    assert summary_record({}).entries == ()


def test_drift_without_its_mean_is_refused(tmp_path):
    spread = SPREAD | {"precision": "int8", "comparison": "vs_f32"}
    good = [figure_of("int8", 0.5) | {"metric": "CC", "comparison": "vs_f32", "model": "m"}]
    (tmp_path / "good").mkdir()
    assert len(results_of(tmp_path / "good", summary={"entries": good, "drift": [spread]}).statistics.drift) == 1
    with pytest.raises(ResultsError, match=rf"^{tmp_path / SUMMARY}: drift\[0\] has no mean CC v. f32 among entries; run"):
        _ = results_of(tmp_path, summary={"entries": [], "drift": [spread]}).statistics


@pytest.mark.parametrize("version", [0, 1, 3, True, 2.0, "2", None, "v" * 5_000, "\x1b[31m"])
def test_results_of_any_other_version_are_refused_in_one_line(tmp_path, version):
    words = rf"^{tmp_path / RUN} has schema version .*, this qcam reads 2; run qcam.study again"
    with pytest.raises(ResultsError, match=words) as told:
        results_of(tmp_path, BARE | {"schema_version": version})
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 400


@pytest.mark.parametrize("name", ["entries", "tests", "flips", "crossings", "clipping"])
def test_a_summary_speaks_of_no_other_models_than_the_record(tmp_path, name):
    test = {"metric": "CC", "comparison": "vs_f32", "first": "f32", "second": "int8", "mean_difference": 0.1, "effect": 0.1}
    flip = {"precision": "int8", "flipped": 1, "kept": 2, "images": 3, "mean": 1.0, "tensors": []}
    summary = {name: [figure_of("int8", 0.5, model="x") | test | flip]}
    found = results_of(tmp_path, summary=summary)
    words = rf"^{tmp_path / SUMMARY}: {name} speaks of model 'x', which run.json does not name; run"
    with pytest.raises(ResultsError, match=words):
        _ = found.statistics


@pytest.mark.parametrize(("trained", "word"), [(None, "unknown"), (False, "random"), (True, "trained")])
def test_weights_are_what_is_recorded_of_them(tmp_path, trained, word):
    told = results_of(tmp_path, BARE | {"models": {"m": {"weights": {"trained": trained}}}}).record
    assert told.models["m"].weights.word == word


@pytest.mark.parametrize(
    ("options", "name"),
    [({}, "Grad-CAM++"), ({"method": "rise"}, "RISE map"), ({"method": "of a later version"}, "CAM"), ({"method": {}}, "CAM")],
)
def test_the_cam_method_is_called_what_it_is(tmp_path, options, name):
    assert results_of(tmp_path, BARE | {"plan": {"options": options}}).record.plan.cam == name


def test_classes_that_are_not_told_are_a_refusal(tmp_path):
    with pytest.raises(ResultsError, match=r"run\.json does not name the classes of m; run qcam.study again"):
        results_of(tmp_path).classes("m")
