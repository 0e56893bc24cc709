"""Types, sizes and numbers of images, as far as they follow from a graph; and none where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.exporters.inferring import Inferred, size_of

LARGE = np.ones((4, 3, 64, 64), np.float32)
HELD = {
    "w": LARGE, "s": np.float32(1), "z": np.uint8(0), "values": np.array([192]), "long": np.array([10**8]),
    "windows": np.array([-1, 3, 4, 4]), "first": np.array([0]), "last": np.array([4]),
}  # fmt: skip
NODES = [
    helper.make_node("Shape", ["x"], ["count"], start=0, end=1),
    helper.make_node("Concat", ["count", "values"], ["rows"], axis=0),
    helper.make_node("Reshape", ["x", "rows"], ["flat"]),
    helper.make_node("Reshape", ["x", "windows"], ["parts"]),
    helper.make_node("Conv", ["x", "w"], ["map"], pads=[32, 32, 32, 32]),
    helper.make_node("Transpose", ["map"], ["turned"], perm=[1, 0, 2, 3]),
    helper.make_node("QuantizeLinear", ["map", "s", "z"], ["codes"], domain="com.microsoft"),
    helper.make_node("Own", ["map"], ["own"], domain="own.operators"),
    helper.make_node("Relu", ["own"], ["y"]),
]


def inferred(*further, batch="n", told=()):
    graph = helper.make_graph(
        [*NODES, *further], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in HELD.items()], value_info=told,
    )  # fmt: skip
    domains = {"": 17, "com.microsoft": 1, "own.operators": 1}
    return Inferred(helper.make_model(graph, opset_imports=[helper.make_opsetid(*each) for each in domains.items()]))


def test_types_are_told_and_zero_where_they_are_not():
    found = inferred()
    kinds = {name: found.kind(name) for name in ("x", "w", "map", "count", "codes", "own", "nowhere")}
    assert kinds == {
        "x": TensorProto.FLOAT, "w": TensorProto.FLOAT, "map": TensorProto.FLOAT, "count": TensorProto.INT64,
        "codes": TensorProto.UINT8, "own": 0, "nowhere": 0,
    }  # fmt: skip


@pytest.mark.parametrize("batch", ["n", None, 3, 4])
def test_the_images_are_counted_whatever_the_file_calls_their_number(batch):
    found = inferred(batch=batch)
    assert [name for name in ("x", "map", "flat", "turned", "parts", "w", "y", "nowhere") if found.counts_images(name)] == [
        "x", "map", "flat",
    ]  # fmt: skip


def test_what_the_file_says_counts_where_nothing_follows():
    told = [helper.make_tensor_value_info("own", TensorProto.FLOAT, ["n", 5])]
    assert inferred(told=told).counts_images("own")
    assert not inferred(told=told, batch="m").counts_images("own")


def test_sizes_are_told_and_zero_where_they_are_not():
    found = inferred()
    sizes = {name: found.size(name) for name in ("w", "map", "rows", "own")}
    assert sizes == {"w": LARGE.nbytes, "map": 0, "rows": 16, "own": 0}
    assert size_of(numpy_helper.from_array(LARGE)) == LARGE.nbytes


def test_values_of_long_rows_are_not_followed():
    # Inference took 7 GB for this one.
    made = helper.make_node("ConstantOfShape", ["long"], ["noughts"])
    found = inferred(made, helper.make_node("Slice", ["noughts", "first", "last"], ["some"]))
    assert found.size("noughts") == 4 * 10**8
    assert found.counts_images("map")
