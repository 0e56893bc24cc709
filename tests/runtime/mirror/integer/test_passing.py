"""QLinearConcat, operators that work on codes as they are, and operators that stay float, against ONNX Runtime here."""

import numpy as np
import pytest
from integer_cases import Case, check, property_of
from integer_operators import concat, passing, unfused
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.graph import Graph
from qcam.runtime.grouping import find_groups


@property_of(concat, 80)
def test_concat(case: Case) -> None:
    check(case)


@property_of(passing, 150)
def test_operators_on_codes(case: Case) -> None:
    check(case)


@property_of(unfused, 100)
def test_a_limit_that_takes_something_away_keeps_the_operator_float(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (16, np.uint16)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_resize_that_mixes_values_is_none_of_codes(mode: str, bits: int, kind: type) -> None:
    constants = {"scale": np.float32(0.1), "zero": kind(3), "sizes": np.array([1, 1, 2, 2], np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["map"]),
        helper.make_node("Resize", ["map", "", "sizes"], ["larger"], mode=mode),
        helper.make_node("QuantizeLinear", ["larger", "scale", "zero"], ["result"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "resize", [given], [helper.make_empty_tensor_value_info("result")], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    assert [group.node.op_type for group in find_groups(Graph(model), bits=bits)] == (["Resize"] if mode == "nearest" else [])
