"""Float islands: which operators are computed together, and that ONNX Runtime computes one alone as in the whole graph."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.loaded.islands import Island, IslandSession, find_islands, rounds_once


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)


def cut(nodes, *, grouped=(), wanted=("y",), fixed=("w", "s", "z")):
    places = {id(nodes[index]) for index in grouped}
    return find_islands(nodes, grouped=places, fixed=fixed, wanted=wanted, ordered=rounds_once)


def names(island):
    return [node.name for node in island.nodes]


def test_what_reads_each_other_is_one_island_and_quantizers_part_islands():
    nodes = [
        node("Conv", "x w", "a"), node("Relu", "a", "b"), node("QuantizeLinear", "b s z", "q"),
        node("DequantizeLinear", "q s z", "d"), node("Mul", "d w", "y"),
    ]  # fmt: skip
    first, second = cut(nodes)
    assert (names(first), first.inputs, first.outputs) == (["a", "b"], ("x",), ("b",))
    assert [node.op_type for node in first.unordered] == ["Conv"]
    assert (names(second), second.inputs, second.outputs, second.unordered) == (["y"], ("d",), ("y",), ())


def test_an_island_never_waits_for_what_needs_its_own_result():
    # A sum of what goes around through codes and of what does not: one island would wait for itself.
    nodes = [
        node("Conv", "x w", "a"), node("QuantizeLinear", "a s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("Add", "a d", "y"),
    ]  # fmt: skip
    first, second = cut(nodes)
    assert (names(first), first.outputs) == (["a"], ("a",))
    assert (names(second), second.inputs) == (["y"], ("a", "d"))


def test_an_integer_kernel_parts_islands_and_what_is_handed_out_is_an_output():
    nodes = [node("Conv", "x w", "a"), node("Gemm", "a w", "g"), node("Softmax", "g", "y")]
    first, second = cut(nodes, grouped=[1], wanted=("a", "y"))
    assert (names(first), first.outputs) == (["a"], ("a",))
    assert (names(second), second.inputs) == (["y"], ("g",))


def test_operators_that_others_define_have_no_known_rounding():
    assert rounds_once(node("Add", "a b", "y"))
    assert not rounds_once(node("Add", "a b", "y", domain="com.example"))
    assert not rounds_once(node("Conv", "a b", "y"))


def whole(nodes):
    graph = helper.make_graph(
        nodes,
        "whole",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_island_alone_computes_its_outputs():
    nodes = [node("MatMul", "x w", "m"), node("Relu", "m", "y")]
    (island,) = cut(nodes)
    numbers = np.random.default_rng(0)
    x, w = numbers.normal(size=(2, 4)).astype(np.float32), numbers.normal(size=(4, 3)).astype(np.float32)
    (found,) = IslandSession(island, {"w": w}, whole(nodes), {}).run(x)
    np.testing.assert_allclose(found, np.maximum(x @ w, 0), rtol=1e-6)


def test_what_does_not_load_or_run_alone_is_said_with_its_operator():
    nodes = [node("MatMul", "x w", "y")]
    (island,) = cut(nodes)
    session = IslandSession(island, {"w": np.zeros((4, 3), np.float32)}, whole(nodes), {})
    session.run(np.zeros((2, 4), np.float32))
    with pytest.raises(UnsupportedGraphError, match="ONNX Runtime cannot compute MatMul y alone"):
        session.run(np.zeros((2, 5), np.float32))
    unknown = Island((node("NoSuch", "x", "y"),), ("x",), ("y",), ())
    with pytest.raises(UnsupportedGraphError, match="ONNX Runtime does not load NoSuch y alone"):
        IslandSession(unknown, {}, whole(nodes), {}).run(np.zeros((2, 4), np.float32))
