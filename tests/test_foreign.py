"""`make foreign`: the committed files of other tools are what they are said to be, and what a tool does to itself is a row."""

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign import make
from foreign.inputs import tiny
from foreign.make import Worker, describe, tools
from foreign.page import page

FILES = Path(__file__).parent / "data" / "foreign"
MANIFEST: dict[str, Any] = json.loads((FILES / "manifest.json").read_text(encoding="utf-8"))
#: A script of a tool that misbehaves in one way a variant.
SCRIPT = """
import os, sys
NAME, REQUIREMENTS = "Broken", ["broken==1"]

def wrong(job):
    print("a word before")
    raise ValueError("no such layer")

def exits(job):
    sys.exit("licence expired")

def dies(job):
    os.kill(os.getpid(), 9)

def nothing(job):
    pass

def writes(job):
    job.output.write_bytes(job.model.read_bytes())
"""
VARIANTS = ("wrong", "exits", "dies", "nothing", "writes")


def test_the_committed_files_are_those_of_the_manifest_and_no_others() -> None:
    entries = [MANIFEST["float"], *MANIFEST["files"]]
    assert {entry["file"] for entry in entries} == {path.name for path in FILES.glob("*.onnx")}
    for entry in entries:
        data = (FILES / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"], entry["file"]
        assert len(data) <= 100_000, entry["file"]
        assert not any(folder in data for folder in (b"/tmp/", b"/home/", b"/root/")), entry["file"]


def test_the_float_file_is_the_tiny_network_and_every_other_quantizes_it() -> None:
    assert (FILES / "tiny.onnx").read_bytes() == tiny().SerializeToString()
    for entry in MANIFEST["files"]:
        graph = onnx.load(str(FILES / entry["file"])).graph
        assert [value.name for value in (*graph.input, *graph.output)] == ["images", "logits"], entry["file"]
        assert any(node.op_type.startswith("QuantizeLinear") for node in graph.node), entry["file"]


@pytest.mark.parametrize("tool", tools())
def test_a_tools_script_says_what_it_needs_without_the_tool_and_its_committed_files_are_of_that_version(tool: str) -> None:
    facts = describe(tool)
    assert all("==" in facts["requirements"][0] for _ in facts["variants"])
    assert set(facts["tiny_only"]) <= set(facts["variants"])
    committed = [entry for entry in MANIFEST["files"] if entry["file"].startswith(f"{tool}-")]
    assert committed
    for entry in committed:
        assert facts["variants"][entry["variant"]] == entry["how"]
        assert facts["requirements"][0].partition("==")[2] == entry["version"]


def test_a_tool_that_fails_or_dies_is_told_in_its_own_words_and_takes_no_other_file_with_it(tmp_path: Path) -> None:
    variants = ", ".join(f'"{name}": ("{name}()", {name})' for name in VARIANTS)
    (tmp_path / "broken.py").write_text(f"{SCRIPT}\nVARIANTS = {{{variants}}}\n", encoding="utf-8")
    (tmp_path / "tiny.npy").write_bytes(_pictures())
    (tmp_path / "tiny.onnx").write_bytes(b"not opened here")
    (tmp_path / "scratch").mkdir()
    worker = Worker(Path(sys.prefix), str(tmp_path / "broken"))
    said = {name: worker.write(name, "tiny", tmp_path, tmp_path / "scratch" / f"{name}.onnx") for name in VARIANTS}
    worker.close()
    assert said == {
        "wrong": "ValueError: no such layer",
        "exits": "licence expired",
        "dies": "exit code -9",
        "nothing": "the tool ended without an error and wrote no file",
        "writes": "",
    }
    assert [path.name for path in (tmp_path / "scratch").glob("*.onnx")] == ["writes.onnx"]


def test_a_row_is_kept_until_script_or_network_change_and_a_failure_until_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "TOOLS", tmp_path)
    script = tmp_path / "some.py"
    script.write_text('"""Words."""\nfrom job import Job\n', encoding="utf-8")
    for network in ("tiny", "large"):
        for suffix in (".onnx", ".npy"):
            (tmp_path / f"{network}{suffix}").write_bytes(b"first")
    facts = {"name": "Some", "requirements": ["some==1"], "variants": {"a": "as a", "b": "as b"}, "tiny_only": ["b"]}

    def left(again: bool = False) -> list[tuple[str, str]]:
        wanted = list(make.unfinished("some", facts, ["tiny", "large"], tmp_path, tmp_path, again))
        for variant, network, row in wanted:
            message = "does not install" if variant == "b" else ""
            (tmp_path / f"some-{variant}-{network}.json").write_text(json.dumps(row | {"message": message}), encoding="utf-8")
        return [(variant, network) for variant, network, _ in wanted]

    everything = [("a", "tiny"), ("b", "tiny"), ("a", "large")]
    assert left() == everything
    assert left() == []
    assert left(again=True) == [("b", "tiny")]
    script.write_text('"""Other words."""\n\nfrom job import Job  # a remark\n', encoding="utf-8")
    assert left() == []
    script.write_text('"""Other words."""\nfrom job import Job\nREQUIREMENTS = ["some==2"]\n', encoding="utf-8")
    assert left() == everything
    (tmp_path / "large.onnx").write_bytes(b"second")
    assert left() == [("a", "large")]


def _pictures() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((1, 3, 32, 32), np.float32))
    return stream.getvalue()


def _row(variant: str, message: str = "", **verdict: Any) -> dict[str, Any]:
    return {
        "tool": "t", "name": "Tool", "variant": variant, "how": f"as {variant}", "network": "tiny", "message": message,
        "requirements": ["tool==1.5"], "versions": {"tool": "1.5"}, "verdict": verdict,
    }  # fmt: skip


def _arithmetic(tap: float, logits: float) -> dict[str, Any]:
    figures = {"tap": tap, "codes": tap, "logits": logits, "logits_close": 1.0, "cc": 1.0, "cc_min": 0.99999}
    return {"message": "", "figures": figures, "forced": 9, "forced_equal": 8, "logits_largest": 2e-6}


def test_the_page_has_a_row_for_what_is_equal_what_is_refused_and_what_no_tool_wrote() -> None:
    imported = {"message": "", "seconds": 1.25, "precision": "int8", "proof": "bitwise", "tap": {"dtype": "uint8"}}
    check = {"seconds": 7, "arithmetics": {"fake_quant": _arithmetic(0.999999, 0), "integer": _arithmetic(1.0, 0.5)}}
    alone = {"seconds": 7, "arithmetics": {"fake_quant": _arithmetic(1.0, 1), "integer": {"message": "no kernel|here"}}}
    rows = [
        _row("good", **{"import": imported, "check": check}),
        _row("half", **{"import": imported, "check": alone}),
        _row("float16", **{"import": {"message": "makes float16", "seconds": 0.1}}),
        _row("gone", "does not install: no such version"),
    ]
    lines = page(rows, {"tiny": {"trained": False}}, 20, "vnni").splitlines()
    assert "Weights of `tiny` are random: they prove that codes are equal, and nothing else." in lines
    assert "| Tool | 1.5 | 4 | 3 | 2 | 2 | 1 | 0 | 1 | 1.0000 |" in lines
    assert (
        "| Tool | good | tiny | int8, bitwise | uint8 | 99.99 % | 100.00 % | 100.00 % (8 of 9) | 50%, 2e-06 | 1.0000, 1.0000 "
        "| 1.2 | 7 |"
    ) in lines
    assert "| Tool | half | tiny | integer | no kernel\\|here |" in lines
    assert "| Tool | float16 | tiny | import | makes float16 |" in lines
    assert "| Tool | gone | tiny | does not install: no such version |" in lines
