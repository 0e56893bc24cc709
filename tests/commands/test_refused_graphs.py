"""What the mirror does not know is refused in one line that names the file, whichever command follows the graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click import Command
from foreign_graphs import float_graph, operator, quantized
from onnx import ModelProto, numpy_helper

from qcam.commands import check, eval, export, importing
from qcam.common.files import sha256_bytes
from qcam.runtime.bundle import Bundle

#: What the mirror refuses → when it finds that out.
REFUSED = {"Hardmax": "where the mirror is built", "Resize": "where the mirror computes"}
#: How the pictures of the small classifier are normalised.
OUTSIDE = ("--mean", "0.5", "--std", "0.25")


def refused_in(kind: str, model: ModelProto, tensor: str) -> ModelProto:
    """Let the readers of a tensor read it through an operator, or a setting of one, that the mirror does not know."""
    resize = kind == "Resize"
    held = ["", "as_it_is"] if resize else []
    if resize:
        model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "as_it_is"))
    place = next((index for index, node in enumerate(model.graph.node) if tensor in node.output), -1) + 1
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == tensor:
                node.input[at] = "between"
    settings = {"mode": "cubic"} if resize else {"axis": 1}
    model.graph.node.insert(place, operator(kind, [tensor, *held], "between", **settings))
    return model


def altered(bundle: Bundle, kind: str, folder: Path) -> Path:
    """Write a bundle of the int8 file alone, with something that the mirror does not know."""
    told = json.loads((bundle.folder / "bundle.json").read_text())
    told["precisions"] = [entry for entry in told["precisions"] if entry["name"] == "int8"]
    folder.mkdir()
    for entry in told["precisions"]:
        model = onnx.load(bundle.folder / entry["file"])
        refused_in(kind, model, model.graph.input[0].name)
        model.opset_import[0].version = max(model.opset_import[0].version, 19)
        data = model.SerializeToString()
        (folder / entry["file"]).write_bytes(data)
        entry["sha256"] = sha256_bytes(data)
    (folder / "bundle.json").write_text(json.dumps(told))
    return folder


def line(command: Command, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that refuses; return the one line that begins with `error`."""
    with pytest.raises(SystemExit) as ended:
        command.main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert ended.value.code == 2, told.err
    (found,) = [text for text in told.err.splitlines() if text.startswith("error")]
    assert told.err.strip().splitlines()[-1] == found
    return found


@pytest.mark.parametrize("kind", REFUSED)
def test_an_import_names_the_file_that_was_given(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vendor.onnx"
    path.write_bytes(refused_in(kind, quantized(opset=19), "stem_relu_DequantizeLinear_Output").SerializeToString())
    said = line(importing.main, capsys, path, *OUTSIDE, "--output", tmp_path / "out")
    assert said.startswith(f"error: {path}: ")
    assert kind in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", REFUSED)
def test_an_export_names_the_network_and_the_file_that_it_comes_from(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(refused_in(kind, float_graph(opset=19), "stem_relu").SerializeToString())
    said = line(export.main, capsys, path, *OUTSIDE, "--output", tmp_path / "out", "--precision", "f32")
    assert said.startswith("error: net (the float file net.onnx): f32: ")
    assert kind in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["Hardmax"])  # where floats are between quantizers, ONNX Runtime itself computes a Resize
def test_a_check_names_the_file_of_the_precision(
    kind: str, tiny_bundle: Bundle, some_photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = altered(tiny_bundle, kind, tmp_path / "bundle")
    said = line(check.main, capsys, place, "--images", some_photographs, "--output", tmp_path / "out")
    assert said.startswith(f"error: {place / 'int8.onnx'}: ")
    assert kind in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", REFUSED)
def test_an_evaluation_names_the_file_of_the_precision(
    kind: str, tiny_bundle: Bundle, some_photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = altered(tiny_bundle, kind, tmp_path / "bundle")
    given = ("--images", some_photographs, "--saliency", "none", "--target", "own-top1", "--output", tmp_path / "out")
    said = line(eval.main, capsys, place, *given)
    assert f"{place / 'int8.onnx'}: " in said
    assert said.count("int8.onnx") == 1
    assert kind in said
