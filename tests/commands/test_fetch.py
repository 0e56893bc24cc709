"""`qcam-fetch`: what is there is kept, what is not is fetched, and what goes wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcam.commands import fetch
from qcam.common.assets import ASSETS, Asset
from qcam.common.files import sha256_bytes

DATA = b"bytes"


@pytest.fixture(autouse=True)
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Asset]:
    """Two assets of a package that nothing installs, and a cache folder of the test's own."""
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    found = {
        name: Asset(name, name.title(), "of-a-test", "1.0", {f"of_a_test/{name}": sha256_bytes(DATA)}, "or do without")
        for name in ("one", "two")
    }
    monkeypatch.setattr(fetch, "ASSETS", found)
    return found


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was fetched."""
    names: list[str] = []

    def keep(asset: Asset) -> Path:
        asset.folder.mkdir(parents=True, exist_ok=True)
        (asset.folder / asset.name).write_bytes(DATA)
        names.append(asset.name)
        return asset.folder

    monkeypatch.setattr(fetch, "fetch_asset", keep)
    return names


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        fetch.main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_what_is_missing_is_fetched_and_what_is_there_is_kept(
    fetched: list[str], things: dict[str, Asset], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("two") == 0
    assert fetched == ["two"]
    assert f"two: fetched, in {things['two'].folder}" in capsys.readouterr().out
    assert run() == 0
    assert fetched == ["two", "one"]
    assert f"two: in {things['two'].folder}" in capsys.readouterr().out
    assert run() == 0
    assert fetched == ["two", "one"]


def test_what_is_damaged_is_named_and_fetched_anew(
    fetched: list[str], things: dict[str, Asset], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("one") == 0
    (things["one"].folder / "one").write_bytes(b"other")
    assert run("one", "one") == 0
    assert fetched == ["one", "one"]
    assert "one is not the file that it shall be (its SHA-256 differs); fetching it" in capsys.readouterr().err


def test_a_list_fetches_nothing(fetched: list[str], things: dict[str, Asset], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("one") == 0
    capsys.readouterr()
    assert run("--list") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"one: One, of of-a-test 1.0: in {things['one'].folder}",
        "two: Two, of of-a-test 1.0: not here",
    ]
    assert fetched == ["one"]


def test_an_unknown_name_is_one_line_and_nothing_is_fetched(fetched: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("three") == 2
    assert capsys.readouterr().err == "error: there is nothing called 'three' to fetch; choose one or two\n"
    assert fetched == []


def test_a_failing_pip_is_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    assert run("one") == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note == "one: not here; fetching it out of of-a-test 1.0"
    assert error.startswith("error: cannot download of-a-test 1.0: Could not find a version")
    assert not (tmp_path / "cache").exists()


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert "qcam-fetch u2netp" in said
    assert "Exit code: 0 all is there" in said
    assert all(name in said for name in ASSETS)
