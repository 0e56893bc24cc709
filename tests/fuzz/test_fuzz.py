"""Every door of qcam, given what fuzzers found, and for some seconds what they make anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the targets are scripts as well: `python -m fuzz.run`

from fuzz.harness import CORPUS, NAMES, Broken, judged, known_targets, minimised
from fuzz.reader import Reader, with_decisions
from fuzz.run import collect, keep_ended
from fuzz.worker import changed
from qcam.common.errors import QcamError

TESTS = Path(__file__).resolve().parents[1]
#: CPU seconds of new inputs for each target.
SECONDS = 20
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_input_does_anything_but_work_or_be_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """All that was found before, every good input, and new ones; in a process of its own, which an input may end."""
    command = [
        sys.executable, "-m", "fuzz.run", name, "--seconds", SECONDS, "--seed", 1, "--state", tmp_path / "state", "--corpus",
        tmp_path / "found",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True, timeout=20 * SECONDS, check=False
    )
    told = sorted((tmp_path / "state" / name / "findings").glob("*.txt"))
    assert done.returncode == 0, done.stderr + "\n".join(path.read_text() for path in told[:3])
    record = json.loads((tmp_path / "state" / name / "record.json").read_text())
    assert record["inputs"] > len(list((CORPUS / name).glob("*"))) + 20
    assert record["accepted"] > 0


def test_every_target_is_run_and_every_folder_of_the_corpus_has_one() -> None:
    assert sorted(NAMES) == sorted(known_targets())
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(NAMES)
    assert all(path.stat().st_size <= 1 << 16 for path in CORPUS.rglob("*") if path.is_file())


def test_what_is_wrong_with_an_input_is_told_apart() -> None:
    def one(data: bytes) -> None:
        if data == b"refused":
            raise QcamError("no such thing")
        if data == b"silent":
            raise QcamError("")
        if data == b"broken":
            raise Broken("equal codes are promised", "of this one")
        if data == b"fell":
            raise KeyError("x")

    assert judged(one, b"taken") == (None, "")
    assert judged(one, b"refused") == (None, "no such thing")
    found = [judged(one, data)[0] for data in (b"silent", b"broken", b"fell")]
    kinds = [each.kind for each in found if each is not None]
    assert kinds[1] == "equal codes are promised"
    assert kinds[0].startswith("a refusal of no characters at ")
    assert kinds[2].startswith("KeyError at ")
    assert len({each.key for each in found if each is not None}) == 3


def test_a_finding_is_made_small_and_stays_the_same_finding() -> None:
    def one(data: bytes) -> None:
        if b"ab" in data:
            raise ValueError
        if b"c" in data:
            raise KeyError

    data = bytes(range(90)) + b"ab" + b"c" * 90
    found, _ = judged(one, data)
    assert found is not None
    assert minimised(one, data, found.kind) == b"ab"


def test_an_input_that_ends_its_process_is_kept_with_how(tmp_path: Path) -> None:
    (tmp_path / "findings").mkdir()
    (tmp_path / "current").write_bytes(b"deadly")
    (tmp_path / "log").write_text("the last words")
    keep_ended(tmp_path, -signal.SIGSEGV)
    record: dict[str, Any] = {"findings": {}}
    (sentence,) = collect("tar", tmp_path, tmp_path / "corpus", record, set())
    (kept,) = (tmp_path / "corpus" / "tar").iterdir()
    assert kept.read_bytes() == b"deadly"
    assert sentence == f"an input that ended the process: SIGSEGV ({kept})"
    assert list(record["findings"].values()) == ["an input that ended the process: SIGSEGV"]


def test_decisions_come_from_the_end_and_leave_the_file() -> None:
    reader = Reader(with_decisions(b"file", 2, 0, 7))
    assert [reader.pick("a", "b", "c"), reader.yes(), reader.integer(5, 300)] == [
        "c",
        False,
        5 + int.from_bytes(b"e\7", "little") % 296,
    ]
    assert reader.rest() == b"fil"
    assert [reader.integer(3, 9), reader.rest()] == [3, b""]


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ((0, 1, b"XY"), b"aXYd"),
        ((1, 4, b"X"), b"abcdX"),
        ((2, 1, b"12"), b"ad"),
        ((3, 2, b""), b"abcdcd"),
        ((4, 0, b"X"), b"abcX"),
    ],
)
def test_hypothesis_changes_inputs_at_any_place(change: tuple[int, int, bytes], result: bytes) -> None:
    assert changed(b"abcd", [change]) == result


def test_without_atheris_hypothesis_drives_the_same_targets(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzz.worker", "labels", "--folder", tmp_path, "--seconds", 0.5, "--driver", "hypothesis"]
    subprocess.run(list(map(str, command)), env=ENVIRONMENT, check=True, timeout=120)
    assert json.loads((tmp_path / "told.json").read_text())["inputs"] > 50
    assert list((tmp_path / "findings").iterdir()) == []
