from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qcam.commands import check as check_cli
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.deployed.probe import probe_kernels


@dataclass(frozen=True)
class Checked:
    """What one run of qcam-check gave."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "check.json").read_text())

    @property
    def first(self) -> dict[str, Any]:
        (result,) = self.report["results"]
        return result


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Checked]:
    """Run the command in this process: PyTorch is imported once."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Checked:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            check_cli.main(["--output", str(tmp_path / "out"), *map(str, arguments)])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Checked(ended.value.code, captured.out, captured.err, tmp_path / "out")

    return run


@pytest.fixture(scope="session")
def some_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("some") / "photographs"
    folder.mkdir()
    for image in evaluation_photographs()[:4]:
        shutil.copy(image.path, folder / image.name)
    return folder


@pytest.fixture
def known_cpu() -> str:
    """The kernel family of this machine; where it is unknown, nothing promises equal codes."""
    probe = probe_kernels()
    if probe.family is None:
        pytest.skip(f"this CPU's kernels fit no known family: {probe.reason}")
    return probe.name
