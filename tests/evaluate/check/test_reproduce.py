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
        "kernel family: avx2 then, unknown now", "2 images are others, or not there: a.jpg, c.jpg", "1 images are new: b.jpg",
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


def test_other_bundles_and_other_versions_are_refused(record):
    require_bundles(record(), {"m": "f"})
    with pytest.raises(QcamError, match="bundle m is another one than the verdict is of"):
        require_bundles(record(), {"m": "g"})
    with pytest.raises(QcamError, match="the verdict is of m, and no such bundle was given"):
        require_bundles(record(), {})
    with pytest.raises(ResultsError, match="is of version 7, and version 1 is read"):
        record(schema_version=7)
