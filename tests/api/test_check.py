"""`qcam.check`: a verdict that can be asked, printed and kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

import qcam


@pytest.fixture(scope="module")
def verdict(tiny_bundle, some_photographs):
    return qcam.check(tiny_bundle, images=some_photographs, precisions=("f32", "int8"), other_cpus=False)


def test_a_verdict_says_what_it_rests_on(verdict, known_cpu) -> None:
    assert verdict.verdict == "holds"
    assert verdict.verdict is qcam.Verdict.HOLDS
    assert verdict.holds
    assert verdict.reason == ""
    assert list(verdict.figures) == [("tiny", "f32", "float"), ("tiny", "int8", "integer")]
    assert verdict.figures["tiny", "int8", "integer"]["codes"] == 1.0
    assert verdict.tensors["tiny", "int8", "integer"][-1].name


def test_it_is_the_check_json_of_the_command(verdict, check, tiny_bundle, some_photographs, tmp_path) -> None:
    done = check(tiny_bundle.folder, "--images", some_photographs, "--precision", "f32,int8", "--no-other-cpus")
    ours = json.loads(json.dumps(verdict.to_json()))
    assert ours["results"] == done.report["results"]
    assert ours["verdict"] == done.report["verdict"]
    assert "check.json" in verdict.write(tmp_path / "kept")
    assert json.loads((tmp_path / "kept" / "check.json").read_text())["results"] == done.report["results"]


def test_falling_short_raises_nothing(tiny_bundle, some_photographs) -> None:
    found = qcam.check(
        tiny_bundle,
        images=some_photographs,
        precisions=["int16"],
        gates={"codes": 1.0},
        other_cpus=False,
    )
    assert found.verdict == "falls short"
    assert not found.holds
    assert "codes" in found.reason
    assert "falls short" in found._repr_html_()
    assert "codes" in repr(found)


def test_undecided_is_a_verdict_of_its_own(export_tiny, some_photographs, tmp_path) -> None:
    dead = export_tiny(tmp_path / "dead", dead=True)
    found = qcam.check(dead, images=some_photographs, precisions=["int8"], gates={"cc": 0.9}, other_cpus=False)
    assert found.verdict is qcam.Verdict.UNDECIDED
    assert not found.holds


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"arithmetic": "typo"}, "arithmetic 'typo' is unknown"),
        ({"kernel": "typo"}, "typo"),
        ({"gates": {"typo": 1.0}}, "typo"),
        ({"gates": {"cc": "0.9"}}, "gate cc '0.9': give a number"),
        ({"limit": -1}, "limit -1: give a whole number, 1 or more"),
        ({"limit": 0}, "limit 0: give a whole number, 1 or more"),
        ({"threads": -1}, "threads -1: give a whole number, 1 or more"),
        ({"threads": 0}, "threads 0: give a whole number, 1 or more"),
        ({"batch_size": "4"}, "batch_size '4': give a whole number, 1 or more"),
        ({"batch_size": True}, "batch_size True: give a whole number"),
        ({"precisions": [8]}, "precisions 8: give a name as text"),
    ],
)
def test_what_means_nothing_is_refused(tiny_bundle, some_photographs, wrong, message) -> None:
    with pytest.raises(qcam.QcamError, match=message):
        qcam.check(tiny_bundle, images=some_photographs, **wrong)


def test_one_precision_may_be_a_text_and_numbers_may_be_of_numpy(tiny_bundle, some_photographs) -> None:
    gates, limit = {"cc": np.float32(0.5)}, np.int64(1)
    found = qcam.check(tiny_bundle, images=some_photographs, precisions="int8", gates=gates, limit=limit, other_cpus=False)
    assert list(found.figures) == [("tiny", "int8", "integer")]
    assert json.loads(json.dumps(found.to_json()))["results"][0]["precision"] == "int8"


def test_a_notebook_never_shows_what_is_nearly_one_as_one(verdict, monkeypatch) -> None:
    result = verdict.checked.judged[1].result
    monkeypatch.setattr(type(result), "figures", dict.fromkeys(result.figures, 0.99996))
    assert "1.0000" not in verdict._repr_html_()
    assert "&gt; 0.9999" in verdict._repr_html_()
