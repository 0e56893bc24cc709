"""Graphs whose operators read across the images of a batch are known, and their batches are not cut."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.apart import takes_images_apart
from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.mirror import Mirror

node = helper.make_node
RNG = np.random.default_rng(0)
HELD = {"w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32), "v": RNG.normal(size=(4, 5)).astype(np.float32)}
TAIL = [node("GlobalAveragePool", ["m"], ["p"]), node("Flatten", ["p"], ["f"]), node("MatMul", ["f", "v"], ["y"])]


def ints(*values):
    return np.array(values, np.int64)


def graph(nodes, held=None, opset=17):
    """Return a model: a convolution whose result `map` other nodes make `y` of, the scores."""
    held = HELD | (held or {})
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    maps = helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", 4, 8, 8])
    constants = [numpy_helper.from_array(value, name) for name, value in held.items()]
    all_nodes = [node("Conv", ["x", "w"], ["map"], pads=[1] * 4), *nodes]
    body = helper.make_graph(all_nodes, "graph", [images], [scores, maps], constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def with_tail(*nodes, **held):
    return [*nodes, *TAIL], held


SIZE = [node("Shape", ["map"], ["shape"]), node("Gather", ["shape", "zero"], ["count"], axis=0)]
ACROSS = {
    "mean": with_tail(node("ReduceMean", ["map"], ["mean"], axes=[0]), node("Sub", ["map", "mean"], ["m"])),
    "statistics": with_tail(node("ReduceMean", ["map"], ["mean"], axes=[0, 2, 3]), node("Sub", ["map", "mean"], ["m"])),
    "mean of all": with_tail(node("ReduceMean", ["map"], ["mean"]), node("Sub", ["map", "mean"], ["m"])),
    "softmax": with_tail(node("Softmax", ["map"], ["m"], axis=0)),
    "softmax from behind": with_tail(node("Softmax", ["map"], ["m"], axis=-4)),
    "sums so far": with_tail(node("CumSum", ["map", "axis"], ["m"]), axis=np.array(0)),
    "the first": with_tail(
        node("Gather", ["map", "first"], ["one"], axis=0), node("Sub", ["map", "one"], ["m"]), first=ints(0)
    ),
    "reversed": with_tail(
        node("Slice", ["map", "last", "end", "axis", "back"], ["m"]),
        last=ints(-1), end=ints(-1000), axis=ints(0), back=ints(-1),
    ),
    "transposed": with_tail(
        node("Transpose", ["map"], ["t"], perm=[1, 0, 2, 3]), node("Softmax", ["t"], ["s"], axis=1),
        node("Transpose", ["s"], ["m"], perm=[1, 0, 2, 3]),
    ),
    "one image, it says": with_tail(
        node("Reshape", ["map", "one"], ["r"]), node("ReduceMax", ["r"], ["most"], axes=[2]), node("Sub", ["r", "most"], ["s"]),
        node("Reshape", ["s", "back"], ["m"]), one=ints(1, 4, -1), back=ints(-1, 4, 8, 8),
    ),
    "times their number": with_tail(
        *SIZE, node("Cast", ["count"], ["times"], to=1), node("Mul", ["map", "times"], ["m"]), zero=np.array(0)
    ),
    "times their place": with_tail(
        *SIZE, node("Range", ["zero", "count", "one"], ["places"]), node("Cast", ["places"], ["times"], to=1),
        node("Reshape", ["times", "four"], ["t"]), node("Mul", ["map", "t"], ["m"]), zero=np.array(0), one=np.array(1),
        four=ints(-1, 1, 1, 1),
    ),
    "moved by one": with_tail(node("Pad", ["map", "pads"], ["m"]), pads=ints(1, 0, 0, 0, -1, 0, 0, 0)),
    "products of each two": with_tail(
        node("Flatten", ["map"], ["flat"]), node("Transpose", ["flat"], ["t"]), node("MatMul", ["flat", "t"], ["s"]),
        node("ReduceSum", ["s", "one"], ["sums"]), node("Reshape", ["sums", "four"], ["r"]), node("Mul", ["map", "r"], ["m"]),
        one=ints(1), four=ints(-1, 1, 1, 1),
    ),
}  # fmt: skip
APART = {
    "plain": with_tail(node("Relu", ["map"], ["m"])),
    "by itself": with_tail(node("ReduceMean", ["map"], ["mean"], axes=[1, 2, 3]), node("Sub", ["map", "mean"], ["m"])),
    "channels shuffled": with_tail(
        *SIZE, node("Unsqueeze", ["count", "first"], ["c"]), node("Concat", ["c", "groups"], ["shape5"], axis=0),
        node("Reshape", ["map", "shape5"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "back"], ["m"]), zero=np.array(0), first=ints(0), groups=ints(2, 2, 8, 8), back=ints(0, 4, 8, -1),
    ),
    "attention": with_tail(
        node("Reshape", ["map", "tokens"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["t", "r"], ["s"]), node("Softmax", ["s"], ["a"], axis=-1), node("MatMul", ["r", "a"], ["o"]),
        node("Reshape", ["o", "back"], ["m"]),
        tokens=ints(-1, 4, 64), back=ints(-1, 4, 8, 8),
    ),
    "larger": with_tail(
        node("Resize", ["map", "", "scales"], ["m"], mode="nearest"), scales=np.array([1, 1, 2, 2], np.float32)
    ),
}  # fmt: skip


def entry():
    return PrecisionEntry("f32", "m.onnx", "", "y", Tap("map", "map", "float32"))


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("arithmetic", ["fake_quant", "integer"])
@pytest.mark.parametrize("name", [*ACROSS, *APART])
def test_a_batch_is_computed_as_the_runtime_does(name, arithmetic):
    model = graph(*(ACROSS | APART)[name])
    images = RNG.normal(size=(9, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = Mirror(model, entry(), arithmetic=arithmetic).forward(images).logits.numpy()
    np.testing.assert_allclose(found, session.run(["y"], {"x": images})[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*ACROSS, *APART])
def test_which_operators_read_across_images_is_told(name):
    assert takes_images_apart(graph(*(ACROSS | APART)[name]), ["y", "map"]) == (name in APART)


def test_what_is_unknown_is_not_cut():
    squeezed = [node("GlobalAveragePool", ["map"], ["p"]), node("Squeeze", ["p"], ["y"])]
    assert not takes_images_apart(graph(squeezed), ["y"])  # of one image alone its axis would go, too
    nodes, held = with_tail(node("Einsum", ["map"], ["m"], equation="nchw->nchw"))
    assert not takes_images_apart(graph(nodes, held), ["y"])
    fixed = graph(*APART["plain"])
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert not takes_images_apart(fixed, ["y"])


@pytest.mark.parametrize("count", [1, 3, 5, 8, 17])
def test_integer_means_round_by_their_place_in_the_batch(count):
    """Means of 7 × 7 over 5 channels: in which order a map is added depends on how many maps lie in front of it."""
    held = {"scale": np.float32(0.037), "zero": np.uint8(121)}
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        node("DequantizeLinear", ["codes", "scale", "zero"], ["map"]),
        node("ReduceMean", ["map"], ["y"], axes=[2, 3], keepdims=0),
    ]  # fmt: skip
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 7, 7])
    codes = helper.make_tensor_value_info("codes", TensorProto.UINT8, ["n", 5, 7, 7])
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    body = helper.make_graph(nodes, "means", [images], [scores, codes], constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    shown = RNG.normal(size=(count, 5, 7, 7)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    coded = PrecisionEntry("int8", "m.onnx", "", "y", Tap("map", "codes", "uint8", float(np.float32(0.037)), 121))
    found = Mirror(model, coded, arithmetic="integer").forward(shown).logits.numpy()
    np.testing.assert_array_equal(found, session.run(["y"], {"x": shown})[0])
