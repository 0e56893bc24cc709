import json

import pytest
from summaries import figure_of, run_of

from qcam.common.errors import QcamError
from qcam.evaluate.report.checks import check_table, find_checks, read_check

RESULT = {"model": "m", "precision": "int8", "arithmetic": "integer", "kernel": "vnni", "figures": {"cc": 0.5}, "holds": True}


def written(folder, **value):
    (folder / "check.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("version", "verdicts", "shown"),
    [
        (1, ["holds", "falls short", "undefined", "for information"], ["holds", "falls short", "undecided", "for information"]),
        (2, ["holds", "falls short", "undecided", None], ["holds", "falls short", "undecided", "for information"]),
    ],
)
def test_checks_of_both_versions_are_shown_in_the_same_words(tmp_path, version, verdicts, shown):
    results = [RESULT | {"verdict": verdict} for verdict in verdicts]
    found = read_check(written(tmp_path, schema_version=version, results=results))
    assert [row["verdict"] for row in check_table([found])] == shown
    assert {row["arithmetic"] for row in check_table([found])} == {"integer (vnni)"}


@pytest.mark.parametrize("version", [0, 3, None, "2"])
def test_another_version_is_refused(tmp_path, version):
    with pytest.raises(QcamError, match=r"schema version .*, this qcam reads 1 and 2; run qcam\.check again"):
        read_check(written(tmp_path, schema_version=version, results=[]))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "results is missing"),
        ({"results": {}}, "results is an object and has to be a list"),
        ({"results": [RESULT | {"model": 3}]}, r"results\[0\].model is a whole number and has to be text"),
        ({"results": [RESULT | {"figures": {"cc": "1"}}]}, r"results\[0\].figures.cc is text and has to be a number"),
        ({"results": [RESULT | {"first_difference": {"tensor": "t"}}]}, r"results\[0\].first_difference.operator is missing"),
        ({"results": [], "bundles": {"m": None}}, "bundles.m is missing and has to be an object"),
    ],
)
def test_a_check_of_other_types_is_refused_by_file_and_field(tmp_path, value, words):
    with pytest.raises(QcamError, match=rf"^{tmp_path / 'check.json'}: {words}; run qcam.check again$"):
        read_check(written(tmp_path, schema_version=2, **value))


def test_a_check_that_does_not_say_of_which_bundle_it_is_is_nobodys(tmp_path):
    written(tmp_path, schema_version=2, results=[RESULT], bundles={"m": {}})
    run = run_of([figure_of("int8", 0.5, model="m")])
    run.results.folder = tmp_path
    assert find_checks([run], []) == []
    run = run_of([figure_of("int8", 0.5, model="m")], run={"plan": {"bundles": {"m": "0" * 64}}})
    run.results.folder = tmp_path
    assert find_checks([run], []) == []
    written(tmp_path, schema_version=2, results=[RESULT], bundles={"m": {"fingerprint": "0" * 64}})
    assert [item.model for check in find_checks([run], []) for item in check.results] == ["m"]
