"""Every snippet of docs/api.md, run from the first to the last as one program."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import qcam

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_snippet_runs(tiny_bundle, some_photographs, tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(some_photographs, tmp_path / "photos")
    shutil.copy(tiny_bundle.path("int8"), tmp_path / "vendor.onnx")
    first = sorted((tmp_path / "photos").iterdir())[0]
    first.rename(first.with_name("dog.jpg"))

    whole = qcam.export

    def export(model: Any, /, **arguments: Any) -> qcam.Bundle:
        """Stand in for the one step that takes minutes; `tests/api/test_export.py` tests it."""
        if not isinstance(model, str):
            return whole(model, **arguments)
        shutil.copytree(tiny_bundle.folder, Path(str(arguments["output"])) / model)
        return qcam.load_bundle(Path(str(arguments["output"])) / model)

    monkeypatch.setattr(qcam, "export", export)
    names: dict[str, object] = {"__name__": "page"}
    assert len(SNIPPETS) >= 7
    for number, snippet in enumerate(SNIPPETS):
        exec(compile(snippet, f"{PAGE.name}, snippet {number + 1}", "exec"), names)
    told = capsys.readouterr().out
    assert "tiny ['f32', 'int16', 'int8']" in told
    assert "bundles/mine ('cat', 'dog') False" in told
    assert "provider" in told
    assert "CAM layer: " in told
    assert re.search(r"^tiny int8, \d mirrors?: 1 more of 1$", told, re.MULTILINE)
    for name in ("out/photos/report.html", "out/report/report.html", "out/check/check.json", "int8.png"):
        assert (tmp_path / name).is_file(), name


def test_the_page_names_every_public_name() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in ("export", "import_onnx", "load_bundle", "load_results", "study", "check", "report", "explain"):
        assert f"qcam.{name}" in text
    errors = [name for name in qcam.__all__ if name.endswith("Error")]
    for name in errors:
        assert f"`{name}`" in text
