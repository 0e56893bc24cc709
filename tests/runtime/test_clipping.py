"""Ranges of quantizers, and the activation functions that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.clipping import QuantizerRange, activations, quantizer_ranges
from qcam.runtime.graph import Graph


def graph_of(scale, zero, *nodes):
    held = {"scale": np.float32(scale), "zero": zero, "six": np.float32(6), "none": np.float32(0)}
    made = [*nodes, helper.make_node("QuantizeLinear", ["y", "scale", "zero"], ["codes"])]
    graph = helper.make_graph(
        made, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_empty_tensor_value_info("codes")], [numpy_helper.from_array(np.asarray(v), k) for k, v in held.items()],
    )  # fmt: skip
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("scale", "zero", "limits", "thresholds"),
    [
        (0.5, np.uint8(128), (-np.inf, np.inf), (-64.25, 63.75)),
        (0.5, np.int8(0), (-np.inf, np.inf), (-64.25, 63.75)),
        (0.5, np.uint8(0), (0, np.inf), (-np.inf, 127.75)),
        (6 / 255, np.uint8(0), (0, 6), (-np.inf, np.inf)),
        (6 / 65535, np.int16(-32768), (0, 6), (-np.inf, np.inf)),
        (5 / 255, np.uint8(0), (0, np.inf), (-np.inf, 5 + 2.5 / 255)),
    ],
)
def test_without_a_float_graph_a_range_from_nothing_is_that_of_a_relu(scale, zero, limits, thresholds):
    (found,) = quantizer_ranges(Graph(graph_of(scale, zero, helper.make_node("Neg", ["x"], ["y"]))))
    assert (found.least, found.most) == limits
    assert found.thresholds == pytest.approx(thresholds)
    assert found.highest - found.lowest == pytest.approx((np.iinfo(zero.dtype).max - np.iinfo(zero.dtype).min) * scale)


def test_the_float_graph_says_which_activation_function_a_quantizer_stands_for():
    before, clip = helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Clip", ["a", "none", "six"], ["y"])
    told = activations(graph_of(1, np.uint8(0), before, clip))
    assert told["y"] == (0, 6)
    assert told["a"] == (-np.inf, np.inf)
    quantized = Graph(graph_of(4 / 255, np.uint8(0), helper.make_node("Neg", ["x"], ["y"])))
    (found,) = quantizer_ranges(quantized, told)
    assert (found.least, found.most) == (0, 6)
    assert found.thresholds == pytest.approx((-np.inf, 4 + 2 / 255))  # calibrated below 6: what is above 4 is lost
    (plain,) = quantizer_ranges(quantized, {"y": (-np.inf, np.inf)})
    assert plain.thresholds[0] == pytest.approx(-2 / 255)


def test_quantizers_of_constants_are_left_out():
    model = graph_of(1, np.uint8(0), helper.make_node("Neg", ["six"], ["y"]))
    assert quantizer_ranges(Graph(model)) == ()
    assert QuantizerRange("codes", -1, 1, 0.5).thresholds == (-1.25, 1.25)
