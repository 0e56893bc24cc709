"""What constants alone decide becomes a constant, with the value that ONNX Runtime gives it; all else stays."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import QcamError
from qcam.exporters.constants import fold_constants
from qcam.exporters.tap import expose_tap, repeat_sizes


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
    inside = [helper.make_node("Identity", ["weight"], ["w2"])]
    inner = helper.make_graph(inside, "then", [], [helper.make_empty_tensor_value_info("w2")])
    choose = helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner)
    model = standardized([choose, helper.make_node("Conv", ["x", "chosen"], ["z"], pads=[1, 1, 1, 1])], outputs=("y", "z"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    before = run(model)
    fold_constants(model)
    for one, other in zip(before, run(model), strict=True):
        np.testing.assert_array_equal(one, other)


def of_a_batch(start=0, end=1):
    """A network that reads the number of images at its input, and reshapes with it behind the CAM layer."""
    held = {
        "w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32), "one": np.array([1]),
        "rest": np.array([4 * 36]), "v": np.random.default_rng(1).normal(size=(144, 5)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Shape", ["x"], ["batch"], start=start, end=end),
        helper.make_node("Mul", ["batch", "one"], ["images"]),
        helper.make_node("Concat", ["images", "rest"], ["sizes"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["map"]),
        helper.make_node("Reshape", ["map", "sizes"], ["flat"]),
        helper.make_node("MatMul", ["flat", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_empty_tensor_value_info("y")], [numpy_helper.from_array(value, name) for name, value in held.items()],
        value_info=[helper.make_tensor_value_info("sizes", TensorProto.INT64, [2])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_sizes_of_the_batch_are_read_at_the_cam_layer_behind_it():
    model = of_a_batch()
    before = run(model, ["y"])[0]
    assert repeat_sizes(model, "map") == ["sizes"]
    np.testing.assert_array_equal(run(model, ["y"])[0], before)
    tap, skips = expose_tap(model, "map", "f32")
    assert (tap.output, skips) == ("map", ())
    assert repeat_sizes(model, "map") == []


def test_other_integers_beside_the_cam_layer_are_refused_by_name():
    model = of_a_batch(0, 2)  # with the number of channels, of which the CAM layer has another
    model.graph.node[2].CopyFrom(helper.make_node("Concat", ["one", "rest"], ["sizes0"], axis=0))
    model.graph.node.insert(3, helper.make_node("Add", ["sizes0", "images0"], ["sizes"]))
    model.graph.node.insert(3, helper.make_node("Sub", ["images", "images"], ["images0"]))
    assert repeat_sizes(model, "map") == []
    with pytest.raises(QcamError, match=r"reads sizes, which is no activation \(int64\)"):
        expose_tap(model, "map", "f32")
