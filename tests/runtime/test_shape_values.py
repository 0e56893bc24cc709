"""Whole numbers that follow from constants are worked out, and nothing that is large, not whole, or not known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qcam.runtime.graph import Graph
from qcam.runtime.normal import normalised
from qcam.runtime.shape_values import whole_numbers

HELD = {
    "a": np.array([3, 4]), "b": np.array([[1], [2]]), "zero": np.array([0]), "f": np.array([1.5], np.float32),
    "huge": np.array([1 << 40]), "many": np.arange(1024), "less": np.array([-1]),
}  # fmt: skip


def found(*nodes: NodeProto) -> dict[str, list[int]]:
    constants = {name: numpy_helper.from_array(value, name) for name, value in HELD.items()}
    return {name: numpy_helper.to_array(value).tolist() for name, value in whole_numbers(nodes, constants, 17).items()}


def test_one_after_the_other_is_worked_out_as_onnx_defines_it() -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["a"], ["filled"], value=numpy_helper.from_array(np.array([7]))),
        helper.make_node("Transpose", ["filled"], ["turned"]),
        helper.make_node("Mul", ["turned", "a_row"], ["of others"]),
        helper.make_node("Squeeze", ["b", "less"], ["flat"]),
        helper.make_node("Sub", ["a", "flat"], ["less by"]),
        helper.make_node("Cast", ["less by"], ["short"], to=TensorProto.INT32),
    ]
    assert found(*nodes) == {
        "filled": [[7] * 4] * 3, "turned": [[7] * 3] * 4, "flat": [1, 2], "less by": [2, 2], "short": [2, 2],
    }  # fmt: skip


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("ConstantOfShape", ["huge"], ["y"], value=numpy_helper.from_array(np.array([7]))),
        helper.make_node("ConstantOfShape", ["less"], ["y"], value=numpy_helper.from_array(np.array([7]))),
        helper.make_node("ConstantOfShape", ["a"], ["y"]),
        helper.make_node("Concat", ["many", "a"], ["y"], axis=0),
        helper.make_node("Div", ["a", "zero"], ["y"]),
        helper.make_node("Cast", ["a"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "f"], ["y"]),
        helper.make_node("Add", ["a", "picture"], ["y"]),
        helper.make_node("Reshape", ["a", "huge"], ["y"]),
        helper.make_node("Add", ["a", "a"], ["y"], domain="vendor"),
    ],
    ids=["huge", "negative", "floats", "many", "by zero", "to floats", "of floats", "computed", "wrong", "another's"],
)
def test_what_is_large_not_whole_wrong_or_not_known_stays_computed(node: NodeProto) -> None:
    assert found(node) == {}


def test_what_grows_by_itself_ends_soon() -> None:
    nodes = [helper.make_node("Concat", [f"x{step}", f"x{step}"], [f"x{step + 1}"], axis=0) for step in range(5000)]
    nodes.insert(0, helper.make_node("Add", ["a", "a"], ["x0"]))
    began = time.monotonic()
    assert len(found(*nodes)) == 10
    assert time.monotonic() - began < 5


def test_a_graph_gets_them_as_constants_but_for_an_output() -> None:
    nodes = [
        helper.make_node("Add", ["a", "a"], ["kept"]),
        helper.make_node("Sub", ["kept", "a"], ["handed out"]),
        helper.make_node("Reshape", ["x", "kept"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [48])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("handed out", TensorProto.INT64, [2]),
        ],
        [numpy_helper.from_array(HELD["a"], "a")],
    )  # fmt: skip
    normal = Graph(normalised(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])))
    assert normal.array("kept").tolist() == [6, 8]
    assert [node.op_type for node in normal.model.graph.node] == ["Sub", "Reshape"]
    assert normal.shapes["y"] == (6, 8)
