"""Graphs that never end are refused before anything runs them: bundles and salient-object networks (B6, B7)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import BundleError, QcamError
from qcam.common.files import sha256_bytes
from qcam.evaluate.saliency.network import NetworkSaliency
from qcam.evaluate.saliency.settings import PRESETS
from qcam.runtime.bounded import refuse_unbounded
from qcam.runtime.bundle import Bundle, load_bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings

FLOAT = TensorProto.FLOAT


def loop(name: str = "turns") -> onnx.NodeProto:
    """10^15 turns over a value."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Identity", ["held"], ["kept"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", FLOAT, None),
        ],
        [helper.make_tensor_value_info("goes", TensorProto.BOOL, []), helper.make_tensor_value_info("kept", FLOAT, None)],
    )
    return helper.make_node("Loop", ["many", "", "x"], ["y"], name=name, body=body)


def model_of(*nodes: onnx.NodeProto, output: str = "y") -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(output, FLOAT, None)],
        [numpy_helper.from_array(np.int64(10**15), "many"), numpy_helper.from_array(np.bool_(True), "yes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_loop_is_found_at_any_depth():
    with pytest.raises(BundleError, match=r"net\.onnx holds a Loop \(turns\), which may run for ever; export"):
        refuse_unbounded(model_of(loop()), "net.onnx")
    inner = helper.make_graph([loop("deep")], "then", [], [helper.make_tensor_value_info("y", FLOAT, None)])
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)
    with pytest.raises(BundleError, match=r"Loop \(deep\)"):
        refuse_unbounded(model_of(choice), "net.onnx")
    function = helper.make_function("own", "f", ["x"], ["y"], [loop("inside")], [helper.make_opsetid("", 17)])
    held = model_of(helper.make_node("f", ["x"], ["y"], domain="own"))
    held.functions.append(function)
    with pytest.raises(BundleError, match=r"Loop \(inside\)"):
        refuse_unbounded(held, "net.onnx")


def test_a_circle_is_named_and_any_order_is_none():
    turned = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(BundleError, match=r"net\.onnx holds a circle: [ab] depends on itself"):
        refuse_unbounded(model_of(*turned, helper.make_node("Relu", ["x"], ["y"])), "net.onnx")
    with pytest.raises(BundleError, match="circle: y"):
        refuse_unbounded(model_of(helper.make_node("Relu", ["y"], ["y"])), "net.onnx")
    backwards = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Relu", ["x"], ["a"])]
    refuse_unbounded(model_of(*backwards), "net.onnx")
    refuse_unbounded(model_of(helper.make_node("Loop", ["x"], ["y"], domain="somebody.else")), "net.onnx")


@pytest.mark.parametrize("kind", ["loop", "circle"])
def test_a_salient_object_network_that_never_ends_is_refused(tmp_path: Path, kind: str) -> None:
    end = helper.make_node("Sigmoid", ["y"], ["map"])
    nodes = [loop()] if kind == "loop" else [helper.make_node("Add", ["x", "z"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    onnx.save(model_of(*nodes, end, output="map"), tmp_path / "net.onnx")
    with pytest.raises(QcamError, match=r"net\.onnx holds a (Loop|circle)"):
        NetworkSaliency("onnx:net.onnx", tmp_path / "net.onnx", next(iter(PRESETS.values())))


def test_a_bundle_that_never_ends_is_refused_before_its_session_opens(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "tiny"))
    entry = tiny_bundle.precision("f32")
    model = onnx.load(folder / entry.file)
    turns = replace_input(model)
    data = turns.SerializeToString()
    (folder / entry.file).write_bytes(data)
    told = json.loads((folder / "bundle.json").read_text())
    for each in told["precisions"]:
        if each["name"] == "f32":
            each["sha256"] = sha256_bytes(data)
    (folder / "bundle.json").write_text(json.dumps(told))
    bundle = load_bundle(folder)
    opened: list[int] = []
    monkeypatch.setattr(DeployedModel, "_open_first", lambda self: opened.append(1))
    with pytest.raises(BundleError, match=r"f32\.onnx holds a Loop \(turns\)"):
        DeployedModel(replace(bundle), "f32", SessionSettings(threads=1))
    assert not opened


def replace_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let everything that reads the input read it behind 10^15 turns."""
    name = model.graph.input[0].name
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = "y"
    turns = loop()
    turns.input[2] = name
    model.graph.node.insert(0, turns)
    model.graph.initializer.append(numpy_helper.from_array(np.int64(10**15), "many"))
    return model
