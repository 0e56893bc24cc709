"""A file as a check reads it: the graph that is deployed, what can be seen of it, and where the file's own reading differs."""

import numpy as np
import pytest
from foreign_graphs import quantized
from integer_cases import here
from onnx import TensorProto, helper, numpy_helper
from plain_graphs import Build

from qcam.common.errors import UnsupportedGraphError
from qcam.evaluate.check.reading import Reading
from qcam.runtime.kernels import KERNELS
from qcam.runtime.loaded import asking


def test_of_a_file_as_onnx_runtime_writes_it_everything_is_kept_and_both_readings_agree():
    reading = Reading(quantized(), {}, here())
    assert reading.deployed is not None
    assert reading.kept == reading.tensors != ()
    assert reading.second_opinion() == []
    labels = reading.labels((*reading.tensors, "scores"))
    assert labels["last_QuantizeLinear_Output"] == "Conv node_head"


def test_where_the_readings_differ_it_is_said():
    reading = Reading(quantized("QDQ", "QInt8", "QInt8"), {"session.qdqisint8allowed": "0"}, here())
    (first, *_) = reading.second_opinion()
    assert "in ONNX Runtime's own graph" in first
    assert len(reading.kept) < len(reading.tensors)


def test_what_does_not_run_on_this_cpu_is_read_off_the_file_alone():
    reading = Reading(quantized(), {})
    assert reading.deployed is None
    assert reading.kept == reading.tensors
    assert reading.followed[0] is reading.graph


@pytest.mark.parametrize(
    ("operator", "axes", "foretold"),
    [("ReduceMean", [2, 3], True), ("ReduceSum", [1, 3], True), ("ReduceL2", [0, 3], False), ("ReduceLogSum", [1], False)],
)
def test_float_operators_are_named_that_may_be_rounded_otherwise_elsewhere(operator, axes, foretold):
    held = {"s": np.float32(0.05), "z": np.uint8(128), "axes": np.array(axes)}
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["image_q"]),
        helper.make_node("DequantizeLinear", ["image_q", "s", "z"], ["x"]),
        helper.make_node(operator, ["x", "axes"], ["y"], "added"),
        helper.make_node("QuantizeLinear", ["y", "s", "z"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "s", "z"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes, "one", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )  # fmt: skip
    reading = Reading(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), {}, here())
    assert reading.float_operators == (() if foretold else (f"{operator} added",))


def test_of_joined_quantizers_the_first_is_not_held_against_the_file():
    build = Build()
    first = build.q(build.conv(), 100, 1 / 16, name="first")
    second = build.q(build.add("Identity", "same", first), 90, 1 / 128, name="second")
    model = build.case(second, None).model
    del model.graph.output[1:]  # an output is left as it is
    reading = Reading(model, {}, here())
    assert [name in reading.kept for name in ("x_codes", "first_codes", "second_codes")] == [True, False, False]


def test_scales_below_the_normal_numbers_are_named():
    build = Build()
    build.q(build.conv(), 100, 1e-42, name="faint")
    assert Reading(build.case("faint_value", None).model, {}, here()).faint == ("faint_codes", "y")


def test_products_of_16_by_16_bits_are_not_what_is_deployed():
    reading = Reading(quantized("QDQ", "QUInt16", "QInt16", opset=21), {}, here())
    assert reading.loaded(here()).wide
    assert reading.deployed is None


def test_each_familys_graph_is_asked_for_once_and_a_refusal_stays_one(monkeypatch):
    asked = []

    def optimized(model, settings, *, layouts=False):
        asked.append(settings)
        raise UnsupportedGraphError("no")

    monkeypatch.setattr(asking, "optimized", optimized)
    reading = Reading(quantized(), {}, here())
    assert reading.deployed is None
    for _ in range(2):
        with pytest.raises(UnsupportedGraphError, match="no"):
            reading.loaded(here())
    with pytest.raises(UnsupportedGraphError, match="no"):
        reading.loaded(KERNELS["arm64"])
    assert asked == [{"session.qdqisint8allowed": "0"}, {"session.qdqisint8allowed": "1"}]
