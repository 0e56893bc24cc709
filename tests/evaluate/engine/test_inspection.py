"""Parts as workers hand them in: another shard, other files, other labels, figures that cannot be, damaged bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.engine.inspection import inspector
from qcam.evaluate.engine.messages import Shard
from qcam.evaluate.results.folder import Row
from qcam.evaluate.results.parts import ImageOutcome, PartStore, PlannedPart, write_part
from qcam.evaluate.run.facts import WorkerFacts
from qcam.evaluate.run.options import UNREADABLE
from qcam.images.sources import ImageFile

KEY = "ab" * 32
PLANNED = PlannedPart(4, KEY, ("a.jpg", "b.jpg"))
SHARD = Shard(4, KEY, (ImageFile("a.jpg", None, 3), ImageFile("b.jpg", None)), {"a.jpg": "1" * 64, "b.jpg": "2" * 64})


@pytest.fixture
def facts(monkeypatch):
    monkeypatch.setattr(WorkerFacts, "rows", 1)
    monkeypatch.setattr(WorkerFacts, "references", 0)
    return WorkerFacts((), None, False, "CPU", "here", [], {})


def outcomes():
    return [
        ImageOutcome(image.name, [Row(image.name, SHARD.hashes[image.name], "net", "f32", "null", CC=1.0, label=image.label)])
        for image in SHARD.images
    ]


@pytest.fixture
def handed_in(tmp_path, facts):
    """Write a part, and have it looked at; return what is wrong with it, and whether it is still there."""

    def look(made, part=PLANNED, shard=SHARD, change=lambda path: path):
        store = PartStore(tmp_path / "parts")
        path = change(write_part(store, part, made))
        return inspector(store)(shard, path.name, facts), path.exists()

    return look


def test_a_good_part_is_let_pass_and_stays(handed_in):
    assert handed_in(outcomes()) == ("", True)


def with_row(**changed):
    first, second = outcomes()
    return [first, replace(second, rows=[replace(second.rows[0], **changed)])]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (with_row(CC=7.0), "holds CC 7 in rows, which is -1 to 1"),
        (with_row(image_sha256="9" * 64), "holds rows of another file than the planned b.jpg"),
        (with_row(image_sha256=""), "holds rows of another file than the planned b.jpg"),
        (with_row(label=5), "holds another label of b.jpg than the planned one"),
        (outcomes()[::-1], "holds 2 images that are not the 2 of its shard"),
        (outcomes()[:1], "holds 1 images that are not the 2 of its shard"),
        ([outcomes()[0], ImageOutcome("b.jpg")], "holds 0 to 1 rows of an image, not 1"),
    ],
)
def test_a_part_that_is_not_what_was_planned_is_named_and_deleted(handed_in, made, told):
    assert handed_in(made) == (told, False)


def test_only_a_file_that_was_refused_has_no_fingerprint(handed_in):
    assert handed_in(with_row(image_sha256="", CC=None, status="refused: file larger than 256 MiB")) == ("", True)
    unread = replace(SHARD, hashes=SHARD.hashes | {"b.jpg": UNREADABLE})
    told = "holds rows of another file than the planned b.jpg"
    assert handed_in(with_row(image_sha256="7" * 64), shard=unread) == (told, False)


def test_damaged_bytes_are_named_and_deleted(handed_in):
    def damage(path):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        return path

    assert handed_in(outcomes(), change=damage) == ("is damaged: its SHA-256 is not the one in its name", False)
    assert handed_in(outcomes(), change=lambda path: path.unlink() or path)[0].startswith("cannot be read: ")


def test_the_part_of_another_shard_or_run_is_not_taken_nor_deleted(handed_in):
    for part in (PlannedPart(5, KEY, ("a.jpg", "b.jpg")), PlannedPart(4, "cd" * 32, ("a.jpg", "b.jpg"))):
        assert handed_in(outcomes(), part) == ("is said to be another file", True)


def test_a_name_that_leads_elsewhere_is_not_followed(tmp_path, facts):
    store, elsewhere = PartStore(tmp_path / "parts"), PartStore(tmp_path / "elsewhere")
    path = write_part(elsewhere, PlannedPart(4, KEY, ("a.jpg", "b.jpg")), outcomes())
    for name in (f"../elsewhere/{path.name}", str(path), ""):
        assert inspector(store)(SHARD, name, facts) == "is said to be another file"
    assert path.exists()


def test_a_wrong_part_that_cannot_be_deleted_ends_the_run(handed_in, monkeypatch):
    monkeypatch.setattr(PartStore, "delete", lambda self, path: None)
    with pytest.raises(QcamError, match=r"holds CC 7 in rows, .* and it cannot be deleted; delete it, and run the same"):
        handed_in(with_row(CC=7.0))
