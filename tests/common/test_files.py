"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qcam.common.errors import QcamError
from qcam.common.files import (
    canonical_json,
    exclusive,
    fingerprint,
    new_folder,
    readable_json,
    sha256_bytes,
    sha256_file,
    write_atomically,
)


def names_in(folder: Path) -> list[str]:
    """Everything below a folder, hidden leftovers too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes the bytes and then says that it is full."""

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"", b""),
        (b"\x00\xff\r\n", b"\x00\xff\r\n"),
        ("grün\n", b"gr\xc3\xbcn\n"),
        (b"x" * 3_000_000, b"x" * 3_000_000),
    ],
)
def test_written_files_hold_exactly_the_data(tmp_path: Path, data: bytes | str, content: bytes) -> None:
    write_atomically(tmp_path / "a" / "b" / "file.bin", data)
    assert (tmp_path / "a" / "b" / "file.bin").read_bytes() == content
    assert names_in(tmp_path) == ["a", "a/b", "a/b/file.bin"]


def test_written_files_replace_and_follow_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    before = os.umask(0o027)
    try:
        write_atomically(target, "new")
    finally:
        os.umask(before)
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert names_in(tmp_path) == ["file.txt"]


def test_a_write_below_a_file_is_refused_and_the_file_kept(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.write_text("a file, no folder")
    with pytest.raises(QcamError, match=r"cannot write .*parent/file\.txt: .+; free space or choose another folder"):
        write_atomically(parent / "file.txt", "x")
    assert parent.read_text() == "a file, no folder"
    assert names_in(tmp_path) == ["parent"]


def test_a_write_onto_a_folder_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(QcamError, match="cannot write"):
        write_atomically(tmp_path / "taken", "x")
    assert names_in(tmp_path) == ["taken", "taken/inside"]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_file_and_no_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(QcamError, match="No space left on device"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with new_folder(target, replace=False) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("content")
        assert folder.parent == target.parent
        assert not target.exists()
    assert (target / "inner" / "file").read_text() == "content"
    assert names_in(tmp_path) == ["deep", "deep/bundle", "deep/bundle/inner", "deep/bundle/inner/file"]


def old_folder(tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("old")
    return target


def test_an_existing_folder_is_refused_without_replace(tmp_path: Path) -> None:
    target = old_folder(tmp_path)
    with pytest.raises(QcamError, match="exists already; use force=True"), new_folder(target, replace=False):
        pytest.fail("the block ran")
    assert names_in(tmp_path) == ["bundle", "bundle/old"]


def test_an_existing_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = old_folder(tmp_path)
    with new_folder(target, replace=True) as folder:
        (folder / "new").write_text("new")
        assert (target / "old").read_text() == "old"  # until the new one is complete
    assert names_in(tmp_path) == ["bundle", "bundle/new"]


@pytest.mark.parametrize("error", [ValueError("a bug"), QcamError("bad input"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_block_leaves_everything_as_it_was(tmp_path: Path, error: BaseException, exists: bool) -> None:
    target = old_folder(tmp_path) if exists else tmp_path / "bundle"

    def fail_half_way() -> None:
        with new_folder(target, replace=True) as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(type(error)) as raised:
        fail_half_way()
    assert raised.value is error
    assert names_in(tmp_path) == (["bundle", "bundle/old"] if exists else [])


def test_folders_made_for_one_that_failed_vanish_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()

    def fail(target: Path) -> None:
        with new_folder(target, replace=False):
            raise QcamError("bad input")

    for target in (tmp_path / "made" / "deep" / "bundle", tmp_path / "mine" / "bundle"):
        with pytest.raises(QcamError):
            fail(target)
    assert names_in(tmp_path) == ["mine"]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_folder(tmp_path: Path) -> None:
    target = old_folder(tmp_path)
    with (
        pytest.raises(QcamError, match="No space left on device; free space or choose another place"),
        new_folder(target, replace=True) as folder,
    ):
        (folder / "new").write_text("new")
    assert names_in(tmp_path) == ["bundle", "bundle/old"]


def test_a_failed_rename_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = old_folder(tmp_path)
    rename = Path.rename

    def refuse(self: Path, to: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(errno.EIO, "the disk broke")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(QcamError, match="the disk broke"), new_folder(target, replace=True) as folder:
        (folder / "new").write_text("new")
    assert names_in(tmp_path) == ["bundle", "bundle/old"]
    assert (target / "old").read_text() == "old"


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QcamError, match="cannot write to"), new_folder(tmp_path / "file" / "bundle", replace=True):
        pytest.fail("the block ran")
    assert names_in(tmp_path) == ["file"]


def test_fingerprints_are_those_of_sha256(tmp_path: Path) -> None:
    # The first is FIPS 180-4's own example.
    assert sha256_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    data = bytes(range(256)) * 5_000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_fingerprints_of_values_do_not_change() -> None:
    value = {"b": [1, 2.5, None, True], "a": "ü"}
    assert canonical_json(value) == '{"a":"\\u00fc","b":[1,2.5,null,true]}'
    assert fingerprint(value) == fingerprint({"a": "ü", "b": [1, 2.5, None, True]})
    # Written down: a fingerprint made today must be found again by tomorrow's version.
    assert fingerprint(value) == "016a42b8cab958d1ab0e8d320efe7edf0046f9615095ae25f338ee8b24ef2296"
    assert fingerprint({"a": "ü", "b": [1, 2.5, None, False]}) != fingerprint(value)
    assert fingerprint({"a": "ü", "b": [2.5, 1, None, True]}) != fingerprint(value)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_know_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": number})
    with pytest.raises(ValueError, match="JSON"):
        readable_json({"x": number})


def test_readable_json_keeps_the_order_and_ends_in_a_newline() -> None:
    assert readable_json({"b": "ü", "a": []}) == '{\n  "b": "ü",\n  "a": []\n}\n'


def test_two_processes_do_not_share_a_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from qcam.common.files import exclusive\nwith exclusive(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    (tmp_path / "results").write_text("x")
    with exclusive(tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode != 0
        assert "another run is writing to" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_a_folder_that_was_locked_for_nothing_is_not_left_behind(tmp_path):
    with exclusive(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_made_meanwhile_is_not_replaced(tmp_path):
    def both_write():
        with new_folder(tmp_path / "b", replace=False) as folder:
            (folder / "mine").write_text("x")
            (tmp_path / "b").mkdir()
            (tmp_path / "b" / "theirs").write_text("y")

    with pytest.raises(QcamError, match="exists already"):
        both_write()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
