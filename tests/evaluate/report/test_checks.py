import json

import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.report.checks import check_table, read_check

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
