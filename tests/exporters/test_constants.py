"""What constants alone decide becomes a constant, with the value that ONNX Runtime gives it; all else stays."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.exporters.constants import fold_constants


def standardized(extra=(), outputs=("y",)):
    """A convolution whose weight is standardized in the graph: (w - mean) · gain."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["w", "axes"], ["mean"]),
        helper.make_node("Sub", ["w", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "gain"], ["weight"]),
        helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1]),
        *extra,
    ]
    held = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
        numpy_helper.from_array(np.float32(1.7), "gain"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_empty_tensor_value_info(name) for name in outputs], held,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model, outputs=None):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(outputs, {"x": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)})


def test_a_standardized_weight_becomes_a_weight():
    model = standardized()
    before = run(model)[0]
    assert fold_constants(model) == ["weight"]
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert [tensor.name for tensor in model.graph.initializer] == ["weight"]
    np.testing.assert_array_equal(run(model)[0], before)
    assert fold_constants(model) == []


def test_a_constant_that_is_an_output_stays_computed():
    model = standardized(outputs=("y", "weight"))
    fold_constants(model)
    assert {node.op_type for node in model.graph.node} >= {"Conv", "Mul"}
    assert len(run(model)) == 2


@pytest.mark.parametrize("kind", ["random", "large"])
def test_what_is_another_value_each_time_or_much_larger_stays(kind):
    if kind == "random":
        first = helper.make_node("RandomNormal", [], ["noise"], shape=[1, 4, 8, 8])
    else:
        first = helper.make_node("Expand", ["gain", "sizes"], ["noise"])
    add = helper.make_node("Add", ["y", "noise"], ["z"])
    model = standardized([first, add], outputs=("z",))
    model.graph.initializer.append(numpy_helper.from_array(np.array([64, 4, 512, 512]), "sizes"))
    assert fold_constants(model) == ["weight"]
    assert first.op_type in [node.op_type for node in model.graph.node]


def test_subgraphs_are_left_alone():
    inner = helper.make_graph([helper.make_node("Identity", ["weight"], ["w2"])], "then", [], [helper.make_empty_tensor_value_info("w2")])
    choose = helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner)
    model = standardized([choose, helper.make_node("Conv", ["x", "chosen"], ["z"], pads=[1, 1, 1, 1])], outputs=("y", "z"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    before = run(model)
    fold_constants(model)
    for one, other in zip(before, run(model), strict=True):
        np.testing.assert_array_equal(one, other)
