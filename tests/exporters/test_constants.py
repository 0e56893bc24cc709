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


def test_constants_that_would_grow_much_together_stay():
    held = {"one": np.float32(0), "sizes": np.array([1365, 3, 8, 8])}
    nodes = [helper.make_node("Expand", ["one", "sizes"], [f"e{number}"]) for number in range(5)]
    nodes += [helper.make_node("Slice", [f"e{number}", "none", "images"], [f"s{number}"]) for number in range(5)]
    nodes += [helper.make_node("Sum", ["x", *(f"s{number}" for number in range(5))], ["y"])]
    nodes[:0] = [
        helper.make_node("Shape", ["x"], ["images"], start=0, end=1),
        helper.make_node("Sub", ["images", "images"], ["none"]),
    ]
    model = of(nodes, held)
    before = run(model, ["y"])[0]
    assert fold_constants(model) == ["e0"]  # 1 MB, and no more fits
    assert model.ByteSize() < 2 * 2**20
    np.testing.assert_array_equal(run(model, ["y"])[0], before)


@pytest.mark.parametrize("size", [10**8, 10**11])
def test_what_is_known_to_be_too_large_is_not_computed(size, monkeypatch):
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["noughts"]),
        helper.make_node("Shape", ["x"], ["images"], start=0, end=1),
        helper.make_node("Slice", ["noughts", "first", "images"], ["some"]),
        helper.make_node("ReduceSum", ["some"], ["nought"]),
        helper.make_node("ReduceMax", ["noughts"], ["most"]),
        helper.make_node("Sum", ["x", "nought", "most"], ["y"]),
    ]
    model = of(nodes, {"sizes": np.array([size]), "first": np.array([0])})
    monkeypatch.setattr("qcam.exporters.constants._computed", None)
    assert fold_constants(model) == []
    assert len(model.graph.node) == 6


def test_an_input_whose_constant_is_folded_goes_with_it():
    model = standardized()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    before = run(model)[0]
    assert fold_constants(model) == ["weight"]
    assert [value.name for value in model.graph.input] == ["x"]
    np.testing.assert_allclose(run(model)[0], before, atol=1e-5)  # of a weight, the convolution adds in another order


def test_what_drops_values_out_stays():
    nodes = [
        helper.make_node("Dropout", ["w", "ratio", "training"], ["weight"]),
        helper.make_node("Conv", ["x", "weight"], ["y"]),
    ]
    model = of(nodes, {"w": np.ones((4, 3, 3, 3), np.float32), "ratio": np.float32(0.5), "training": np.array(True)})
    assert fold_constants(model) == []


def test_names_of_the_network_are_left_to_it():
    model = standardized([helper.make_node("Relu", ["weight.computed"], ["z"])], outputs=("z",))
    model.graph.node[3].output[0] = "weight.computed"
    before = run(model)[0]
    assert fold_constants(model) == ["weight"]
    np.testing.assert_array_equal(run(model)[0], before)


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


def of(nodes, held, outputs=("y",), batch="n", told=()):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()], value_info=told,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


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


CONV = helper.make_node("Conv", ["x", "w"], ["map"], pads=[1, 1, 1, 1])
HELD = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32), "rest": np.array([-1])}
SIZES = helper.make_node("Concat", ["count", "rest"], ["sizes"], axis=0)
RESHAPE = helper.make_node("Reshape", ["map", "sizes"], ["y"])


def counted(tensor, *before, conv=CONV, start=0, end=1, batch="n", told=(), **held):
    """A network that reads the number of entries of a tensor, and reshapes with it behind the CAM layer."""
    count = helper.make_node("Shape", [tensor], ["count"], start=start, end=end)
    return of([*before, count, conv, SIZES, RESHAPE], HELD | held, batch=batch, told=told)


NOT_SURELY_IMAGES = {
    "another axis": counted("t", helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3])),
    "windows": counted("t", helper.make_node("Reshape", ["x", "windows"], ["t"]), windows=np.array([-1, 3, 4, 4])),
    "rows": counted("t", helper.make_node("Reshape", ["x", "eight"], ["t"]), eight=np.array([8, -1])),
    "the CAM layer has windows": counted(
        "x", helper.make_node("Reshape", ["x", "windows"], ["t"]), windows=np.array([-1, 3, 4, 4]),
        conv=helper.make_node("Conv", ["t", "w"], ["map"], pads=[1, 1, 1, 1]),
    ),
    "as many channels as images": counted("t", helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]), batch=3),
    "the file has one name for two": counted(
        "t", helper.make_node("Transpose", ["x"], ["t"], perm=[2, 3, 0, 1]), batch="n",
        told=[helper.make_tensor_value_info("t", TensorProto.FLOAT, ["m", 8, "n", 3])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_SURELY_IMAGES)
def test_a_size_that_is_not_surely_the_number_of_images_is_refused(what):
    model = NOT_SURELY_IMAGES[what]
    before = model.SerializeToString()
    assert repeat_sizes(model, "map") == []
    assert model.SerializeToString() == before
    with pytest.raises(QcamError, match=r"reads sizes, which is no activation \(int64\)"):
        expose_tap(model, "map", "f32")


@pytest.mark.parametrize("batch", ["n", None, 2])
def test_a_size_that_surely_is_the_number_of_images_is_read_at_the_cam_layer(batch):
    flat = [
        helper.make_node("Shape", ["x"], ["first"], start=0, end=1),
        helper.make_node("Concat", ["first", "values"], ["rows"], axis=0),
        helper.make_node("Reshape", ["x", "rows"], ["t"]),  # as exporters write it
    ]
    model = counted("t", *flat, batch=batch, values=np.array([192]))
    before = run(model, ["y"])[0]
    assert repeat_sizes(model, "map") == ["sizes"]
    np.testing.assert_array_equal(run(model, ["y"])[0], before)
    assert expose_tap(model, "map", "f32")[1] == ()


@pytest.mark.parametrize("kind", ["random", "If"])
def test_what_may_be_another_value_a_second_time_is_not_computed_again(kind):
    sizes = [helper.make_node("Concat", ["count", "rest"], ["ones"], axis=0)]
    if kind == "random":
        sizes += [
            helper.make_node("ConstantOfShape", ["ones"], ["noughts"]),
            helper.make_node("RandomUniformLike", ["noughts"], ["sizes"], seed=1.0),
        ]
    else:
        inside = [helper.make_node("Identity", ["ones"], ["chosen"])]
        inner = helper.make_graph(inside, "g", [], [helper.make_empty_tensor_value_info("chosen")])
        sizes += [
            helper.make_node("Cast", ["count"], ["yes"], to=TensorProto.BOOL),
            helper.make_node("If", ["yes"], ["sizes"], then_branch=inner, else_branch=inner),
        ]
    count = helper.make_node("Shape", ["x"], ["count"], start=0, end=1)
    last = helper.make_node("Add", ["map", "sizes"], ["y"])
    model = of([count, CONV, *sizes, last], HELD | {"rest": np.array([1, 1, 1])})
    assert repeat_sizes(model, "map") == []


def test_copies_take_no_name_of_the_network():
    model = counted("x")
    model.graph.node[-1].output[0] = "count.behind"
    model.graph.node.append(helper.make_node("Relu", ["count.behind"], ["y"]))
    before = run(model, ["y"])[0]
    assert repeat_sizes(model, "map") == ["sizes"]
    np.testing.assert_array_equal(run(model, ["y"])[0], before)


def test_a_tensor_of_unknown_type_beside_the_cam_layer_is_refused_by_name():
    own = helper.make_node("Own", ["x"], ["skip"], domain="own.operators")
    model = of([own, CONV, helper.make_node("Add", ["map", "skip"], ["y"])], HELD)
    model.opset_import.append(helper.make_opsetid("own.operators", 1))
    with pytest.raises(QcamError, match=r"reads skip, which is of unknown type"):
        expose_tap(model, "map", "f32")
