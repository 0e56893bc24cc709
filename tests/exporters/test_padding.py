"""Padding below every number in front of a maximum becomes the maximum's own, and nothing else does."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qcam.exporters.padding import pad_within_pools

NOTHING = -np.inf


def padded(around, value=NOTHING, window=(3, 3), mode="constant", reader="MaxPool", outputs=("y",), **attributes):
    """A Pad of a map, and what reads it."""
    told = {"kernel_shape": list(window), "strides": [2, 2]} | attributes if reader == "MaxPool" else attributes
    nodes = [
        helper.make_node("Pad", ["x", "pads", "value"], ["padded"], mode=mode),
        helper.make_node(reader, ["padded"], ["y"], **told),
    ]
    held = [numpy_helper.from_array(np.array(around), "pads"), numpy_helper.from_array(np.float32(value), "value")]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 9, 8])],
        [helper.make_empty_tensor_value_info(name) for name in outputs], held,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).normal(size=(2, 3, 9, 8)).astype(np.float32) - 5})[0]


@pytest.mark.parametrize("value", [NOTHING, np.finfo(np.float32).min])
def test_a_maximum_pads_by_itself(value):
    model = padded([0, 0, 0, 1, 0, 0, 1, 1], value)
    before = run(model)
    assert pad_within_pools(model) == ["padded"]
    assert [node.op_type for node in model.graph.node] == ["MaxPool"]
    np.testing.assert_array_equal(run(model), before)
    assert pad_within_pools(model) == []


def test_a_padded_map_that_is_asked_for_stays():
    model = padded([0, 0, 0, 1, 0, 0, 1, 1])
    assert pad_within_pools(model, keep=["padded"]) == []
    assert [node.op_type for node in model.graph.node] == ["Pad", "MaxPool"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.lists(st.integers(0, 2), min_size=4, max_size=4), st.data())
def test_whatever_the_window_results_are_the_same(pads, own, data):
    window = [data.draw(st.integers(1, 4)) for _ in range(2)]
    assume(all(side < width for side, width in zip(own, [*window, *window], strict=True)))
    model = padded([0, 0, *pads[:2], 0, 0, *pads[2:]], window=window, pads=own)
    before = run(model)
    fits = all(more + mine < side for more, mine, side in zip(pads, own, [*window, *window], strict=True))
    assert (pad_within_pools(model) == ["padded"]) == fits
    np.testing.assert_array_equal(run(model), before)


@pytest.mark.parametrize(
    "model",
    [
        padded([0, 0, 0, 1, 0, 0, 1, 1], 0.0),  # may win
        padded([0, 0, 0, 1, 0, 0, 1, 1], -1e30),
        padded([0, 0, 0, 1, 0, 0, 1, 1], mode="edge"),
        padded([0, 1, 0, 1, 0, 0, 1, 1]),  # further channels
        padded([1, 0, 0, 1, 0, 0, 1, 1]),  # further images
        padded([0, 0, 0, -1, 0, 0, 1, 1]),  # cuts off
        padded([0, 0, 0, 3, 0, 0, 1, 1]),  # a window of nothing
        padded([0, 0, 0, 1, 0, 0, 1, 1], np.nan),
        padded([0, 0, 1, 1, 0, 0, 1, 1], window=(2, 2), dilations=[9, 9]),
        padded([0, 0, 0, 1, 0, 0, 1, 1], ceil_mode=1),
        padded([0, 0, 0, 1, 0, 0, 1, 1], auto_pad="SAME_UPPER"),
        padded([0, 0, 0, 1, 0, 0, 1, 1], reader="Relu"),
        padded([0, 0, 0, 1, 0, 0, 1, 1], outputs=("y", "padded")),
    ],
)
def test_what_means_something_else_stays(model):
    assert pad_within_pools(model) == []
    assert model.graph.node[0].op_type == "Pad"
