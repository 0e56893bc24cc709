import json

import pytest
from judged import HIGH, checked, judged

from qcam.common.errors import QcamError, ResultsError
from qcam.evaluate.check.reproduce import differences, read_verdict, require_bundles, verdict_json

IMAGES = {"a.jpg": "1" * 64, "b.jpg": "2" * 64}


@pytest.fixture
def found():
    return checked(judged(HIGH), images=IMAGES, bundles={"m": {"folder": "m", "fingerprint": "f", "trained": True}})


@pytest.fixture
def record(found, tmp_path):
    def read(**changes):
        (tmp_path / "verdict.json").write_text(json.dumps(verdict_json(found, None, 2) | changes))
        return read_verdict(tmp_path)

    return read


def test_the_same_check_differs_in_nothing(found, record):
    assert differences(record(), found) == ([], [])
    assert record().options.arithmetic == ("integer",)


def test_what_is_other_than_then_is_named_apart_from_results_that_differ(found, record):
    then = record(family="avx2", images={"sha256": {"a.jpg": "0" * 64, "c.jpg": "3" * 64}})
    causes, results = differences(then, found)
    assert causes == [
        "kernel family: avx2 then, unknown now", "2 images are changed, or not there: a.jpg, c.jpg", "1 image is new: b.jpg",
    ]  # fmt: skip
    assert results == []


def test_single_tensors_count_as_figures_do_and_results_may_come_and_go(found, record):
    told = verdict_json(found, None, 2)["results"]
    other = record(results=[told[0] | {"digest": "0" * 64}])
    assert differences(other, found)[1] == ["m int8 integer: figures are equal, single images or tensors differ"]
    gone = record(results=[told[0] | {"precision": "int16"}])
    assert differences(gone, found)[1] == [
        "m int16 integer: there is no such result now", "m int8 integer: there was no such result then",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("figures", {"cc": 0.5}, "m int8 integer: cc 0.5 then, "),
        ("verdict", "falls short", "m int8 integer: falls short then, holds now"),
    ],
)
def test_what_was_edited_by_hand_is_found(found, record, field, value, told):
    result = verdict_json(found, None, 2)["results"][0]
    edited = result["figures"] | value if field == "figures" else value
    (line,) = differences(record(results=[result | {field: edited}]), found)[1]
    assert line.startswith(told)


def test_another_verdict_of_the_whole_is_a_difference_and_another_gpu_a_cause(found, record):
    assert differences(record(verdict="falls short", gpu="a card"), found) == (
        ["GPU: a card then, none now"], ["the verdict: falls short then, holds now"],
    )  # fmt: skip


def test_a_url_is_kept_without_what_opens_it(found):
    told = verdict_json(found, "https://host/a.tar?signature=secret", None)
    assert told["images"]["place"] == "https://host/a.tar"


def test_other_bundles_and_other_versions_are_refused(record):
    require_bundles(record(), {"m": "f"})
    with pytest.raises(QcamError, match="bundle m is another one than the verdict is of"):
        require_bundles(record(), {"m": "g"})
    with pytest.raises(QcamError, match="the verdict is of m, and no such bundle was given"):
        require_bundles(record(), {})
    with pytest.raises(ResultsError, match="is of version 7, and version 1 is read"):
        record(schema_version=7)
    for field, value in (("bundles", {}), ("results", [])):
        with pytest.raises(ResultsError, match=f"names no {field}, as no check does"):
            record(**{field: value})
