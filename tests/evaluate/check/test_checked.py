import json

import pytest
from judged import HIGH, LOW, NONE, checked, judged

from qcam._verdict import CheckVerdict
from qcam.common.files import readable_json
from qcam.common.verdict import Verdict
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.verdicts import Gate


@pytest.mark.parametrize(
    ("items", "verdict"),
    [
        ([judged(HIGH), judged()], "holds"),
        ([judged(HIGH), judged(NONE)], "undecided"),
        ([judged(NONE), judged(LOW)], "falls short"),
        ([judged()], "undecided"),
    ],
)
def test_the_whole_has_one_of_three_words_and_so_has_every_result(items, verdict):
    found = checked(*items)
    assert (found.verdict, found.holds) == (verdict, verdict == "holds")
    value = found.to_json()
    assert (value["schema_version"], value["verdict"], value["holds"]) == (2, verdict, verdict == "holds")
    assert {result["verdict"] for result in value["results"]} <= {None, *map(str, Verdict)}


def test_json_holds_no_nan_whatever_was_measured():
    found = checked(judged(HIGH, error=float("nan")), bundles={"m": {"more": (float("inf"), 1.5)}})
    value = json.loads(readable_json(found.to_json()), parse_constant=pytest.fail)
    assert value["bundles"]["m"]["more"] == [None, 1.5]
    assert value["results"][0]["images"][0]["logit_error"] is None
    assert value["results"][0]["first_difference"] == {"tensor": "t", "operator": "Conv a"}


def test_the_reason_names_what_decided():
    assert checked(judged(HIGH)).reason == ""
    missed, operator = checked(judged(NONE), judged(HIGH, LOW)).reason.split("\n")
    assert missed == "m int8, integer (vnni): codes = 0.5, at least 0.9 wanted (share of equal codes over all tensors)"
    assert operator.startswith("m int8, integer (vnni): Conv a → t")
    assert checked(judged(NONE, HIGH)).reason.startswith("sim cannot be judged, the CAMs of all images are constant")
    assert "hands out no codes: m int8" in checked(judged(Gate("tap", 1.0, None))).reason
    assert checked(judged()).reason.startswith("no gate that was asked for applies")


def test_check_json_speaks_of_options_whoever_ran_it():
    found = checked(judged(HIGH), warnings=("Cures: {qcam-export} {reduce_range}",))
    assert found.to_json()["warnings"] == ["Cures: qcam-export --reduce-range"]
    assert CheckVerdict(found).warnings == ("Cures: qcam.export reduce_range=True",)


def test_files_are_written_and_pictures_and_verdict_of_an_earlier_run_go(tmp_path):
    checked(judged(HIGH)).write(tmp_path, {"verdict.json": "{}"})
    assert (tmp_path / "verdict.json").is_file()
    (tmp_path / "tensors-old.png").write_bytes(b"old")
    (tmp_path / "thesis.png").write_bytes(b"years of work")
    drawn = checked(judged(HIGH), options=CheckOptions(every_tensor=True))
    names = drawn.write(tmp_path)
    assert names == ["tensors-m-int8-integer.png", "placement.json", "junit.xml", "verdict.md", "check.json"]
    assert {path.name for path in tmp_path.iterdir()} == {*names, "thesis.png"}
    assert json.loads((tmp_path / "check.json").read_text())["verdict"] == "holds"
