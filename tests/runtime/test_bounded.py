"""Graphs that never end are refused before anything runs them: bundles and salient-object networks (B6, B7)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import BundleError, QcamError, UnsupportedGraphError
from qcam.common.files import sha256_bytes
from qcam.evaluate.run.evaluator import BundleEvaluator
from qcam.evaluate.saliency.network import NetworkSaliency
from qcam.evaluate.saliency.settings import PRESETS
from qcam.runtime.bounded import refuse_unbounded
from qcam.runtime.bundle import Bundle, load_bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.mirror.known import refuse_unknown_operators

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
    choice = helper.make_node("If", ["yes"], ["y"], name="which", then_branch=inner, else_branch=inner)
    with pytest.raises(BundleError, match=r"net\.onnx holds an If \(which\), which computes one thing or another; export"):
        refuse_unbounded(model_of(choice), "net.onnx")
    choice.domain = "somebody.else"
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
    bundle = changed_bundle(tiny_bundle, tmp_path, replace_input)
    opened: list[int] = []
    monkeypatch.setattr(DeployedModel, "_open_first", lambda self: opened.append(1))
    with pytest.raises(BundleError, match=r"f32\.onnx holds a Loop \(turns\)"):
        DeployedModel(bundle, "f32", SessionSettings(threads=1))
    assert not opened


def changed_bundle(bundle: Bundle, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Bundle:
    """Copy a bundle, change its f32 file, and make the manifest right again."""
    copied = Path(shutil.copytree(bundle.folder, folder / "tiny"))
    file = copied / bundle.precision("f32").file
    model = onnx.load(file)
    change(model)
    file.write_bytes(model.SerializeToString())
    told = json.loads((copied / "bundle.json").read_text())
    for each in told["precisions"]:
        if each["name"] == "f32":
            each["sha256"] = sha256_bytes(file.read_bytes())
    (copied / "bundle.json").write_text(json.dumps(told))
    return load_bundle(copied)


def behind_input(model: onnx.ModelProto, added: onnx.NodeProto) -> None:
    """Let everything that reads the input read it behind a node, whose first empty input is the picture."""
    name = model.graph.input[0].name
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = added.output[0]
    added.input[:] = [read or name for read in added.input]
    model.graph.node.insert(0, added)


def replace_input(model: onnx.ModelProto) -> None:
    """Let everything that reads the input read it behind 10^15 turns."""
    turns = loop()
    turns.input[:] = ["many", "yes", ""]
    behind_input(model, turns)
    model.graph.initializer.append(numpy_helper.from_array(np.int64(10**15), "many"))
    model.graph.initializer.append(numpy_helper.from_array(np.True_, "yes"))


def test_sizes_are_followed_through_what_the_graph_computes_of_constants():
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Mul", ["size", "many"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["y"], name="giant"),
    ]
    with pytest.raises(BundleError, match=r"ConstantOfShape giant makes a tensor of 1(0+) × 3\1 × 8\1 × 8\1 for one image"):
        refuse_unbounded(model_of(*nodes), "net.onnx")


def open_input(*sizes: int | str) -> onnx.ModelProto:
    """A convolution over every pixel with 512 results each."""
    model = model_of(helper.make_node("Conv", ["x", "w"], ["y"], name="wide"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, list(sizes)))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((512, 3, 1, 1), np.float32), "w"))
    return model


def test_sizes_that_a_graph_leaves_open_are_those_of_the_image():
    refuse_unbounded(open_input("n", 3, "h", "w"), "net.onnx")  # nothing is known of them
    refuse_unbounded(open_input("n", 3, "h", "w"), "net.onnx", (3, 700, 700))
    with pytest.raises(BundleError, match=r"Conv wide makes a tensor of 1 × 512 × 800 × 800 for one image, more"):
        refuse_unbounded(open_input("n", 3, "h", "w"), "net.onnx", (3, 800, 800))


def test_work_without_bounds_is_refused():
    nodes = [helper.make_node("Expand", ["one", "square"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{step}"] * 2, [f"m{step + 1}"], name=f"product {step}") for step in range(90)]
    model = model_of(*nodes, output="m90")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "one"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([16_000, 16_000], np.int64), "square"))
    with pytest.raises(BundleError, match=r"computes 1e\+14 multiplications for one image up to MatMul product 24"):
        refuse_unbounded(model, "net.onnx")


def test_local_functions_are_counted_in_place_and_looked_into():
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    huge = helper.make_node("Expand", ["x", "sizes"], ["y"], name="inside")
    sizes = helper.make_node("Constant", [], ["sizes"], value=numpy_helper.from_array(np.array([10**9, 1, 1, 1]), "sizes"))
    function = helper.make_function("own", "f", ["x"], ["y"], [sizes, huge], opset)
    model = model_of(helper.make_node("f", ["x"], ["y"], domain="own"))
    model.opset_import.append(opset[1])
    model.functions.append(function)
    with pytest.raises(BundleError, match="makes a tensor of 1000000000 × 3 × 8 × 8"):
        refuse_unbounded(model, "net.onnx")
    del model.functions[:]
    model.functions.append(helper.make_function("own", "f0", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opset))
    for level in range(1, 64):
        calls = [helper.make_node(f"f{level - 1}", [a], [b], domain="own") for a, b in (("x", "z"), ("z", "y"))]
        model.functions.append(helper.make_function("own", f"f{level}", ["x"], ["y"], calls, opset))
    model.graph.node[0].op_type = "f63"
    with pytest.raises(BundleError, match="more than 1,000,000 nodes with its local functions in place"):
        refuse_unbounded(model, "net.onnx")
    model.graph.node[0].op_type = "f8"
    refuse_unbounded(model, "net.onnx")


def test_what_the_mirror_lacks_is_refused_before_the_session_opens(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = helper.make_node("Asin", [""], ["y"], name="odd")
    bundle = changed_bundle(tiny_bundle, tmp_path, lambda model: behind_input(model, odd))
    opened: list[int] = []
    monkeypatch.setattr(DeployedModel, "_open_first", lambda self: opened.append(1))
    with pytest.raises(BundleError, match=r"f32\.onnx: the mirror has no operator Asin .*, needed by node odd"):
        BundleEvaluator(bundle, ("f32",), SessionSettings(threads=1), target="f32-top1", method="gradcam++")
    assert not opened


def test_the_mirror_is_asked_of_local_functions_in_their_place():
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = model_of(helper.make_node("f", ["x"], ["y"], domain="own"))
    model.opset_import.append(opset[1])
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opset))
    refuse_unknown_operators(model)
    model.functions[0].node[0].op_type = "Asin"
    with pytest.raises(UnsupportedGraphError, match="the mirror has no operator Asin"):
        refuse_unknown_operators(model)
