"""`qcam-report`: one line for what is wrong, nothing half-written, drift by depth from qcam-check."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qcam.commands.report import main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_report_is_made_again(ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ran, "--output", tmp_path / "out", "--colormap", "jet", "--pictures", "3") == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert "report.html (" in capsys.readouterr().out
    assert "jet" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_report_goes_to_out_report_and_an_earlier_one_is_replaced_and_said(
    ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(ran.absolute(), "--pictures", "1") == 0
    assert "replaced" not in capsys.readouterr().err
    page = tmp_path / "out" / "report" / "report.html"
    before = page.read_bytes()
    assert run(ran.absolute(), "--pictures", "1", "--colormap", "jet") == 0
    assert "out/report held an earlier report; it was replaced" in capsys.readouterr().err
    assert page.read_bytes() != before


@pytest.mark.parametrize("name", ["report.html", "table.csv", "table.tex", "figures/overview.png"])
def test_what_is_no_report_s_is_not_replaced(ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    assert run(ran, "--output", tmp_path / "out", "--pictures", "1") == 2
    assert f"{name} is there already and was not written by qcam:" in capsys.readouterr().err
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "years of work"


@pytest.mark.parametrize("kind", ["nothing", "old", "damaged"])
def test_what_is_no_result_folder_is_one_line_and_code_2(
    ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if kind != "nothing":
        text = (ran / "run.json").read_text()
        old = json.dumps(json.loads(text) | {"schema_version": 1})
        (folder / "run.json").write_text(old if kind == "old" else text[:100])
    assert run(folder, "--output", tmp_path / "out") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert {"nothing": "holds no results", "old": "schema version 1", "damaged": "cannot read"}[kind] in told[0]
    assert not (tmp_path / "out").exists()


def test_drift_by_depth_comes_from_qcam_check(
    ran: Path, tiny_bundle: object, check: Callable[..., object], some_photographs: Path, tmp_path: Path
) -> None:
    folder = tiny_bundle.folder  # type: ignore[attr-defined]
    options = ("--images", some_photographs, "--arithmetic", "fake_quant", "--every-tensor", "--precision", "int8")
    assert check(folder, *options).code == 0  # type: ignore[attr-defined]
    assert run(ran, "--output", tmp_path / "report", "--check", tmp_path / "out") == 0
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Drift by depth" in text
    assert list((tmp_path / "report" / "figures").glob("*depth*.svg"))


def test_help_teaches_by_example_and_loads_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qcam.commands.report", "--help"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "onnxruntime", "numpy", "pyarrow", "matplotlib", "jinja2"}
