"""Kernels of codes are written back where all is known that they compute, and stay as they are elsewhere."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from foreign_graphs import quantized
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qcam.runtime.normal import normalised
from qcam.runtime.qoperators import written_back


def of(model: ModelProto) -> tuple[list[NodeProto] | None, list[TensorProto]]:
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    return written_back(list(model.graph.node), held, {"image"}, 17)


def kernel(model: ModelProto, kind: str) -> NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def test_a_file_without_kernels_of_codes_is_left() -> None:
    assert of(quantized()) == (None, [])


def test_a_convolution_s_bias_has_the_scale_of_its_products() -> None:
    model = quantized("QOperator")
    node = kernel(model, "QLinearConv")
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, made = of(model)
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in made}
    x, w = (numpy_helper.to_array(held[name]) for name in (node.input[1], node.input[4]))
    assert np.array_equal(scales[f"{node.input[8]}/scale"], x * w)
    assert nodes is not None
    assert not [each.op_type for each in nodes if each.op_type.startswith("QLinear")]
    result = next(each for each in nodes if node.output[0] in each.output)
    assert (result.op_type, list(result.input[1:])) == ("QuantizeLinear", list(node.input[6:8]))


def computed_scale(node: NodeProto) -> None:
    node.input[4] = "computed"


def channels_last(node: NodeProto) -> None:
    node.attribute.append(helper.make_attribute("channels_last", 1))


@pytest.mark.parametrize("change", [computed_scale, channels_last])
def test_what_is_not_known_of_a_kernel_leaves_it_for_others_to_refuse(change: Callable[[NodeProto], None]) -> None:
    model = quantized("QOperator")
    node = kernel(model, "QLinearConv")
    change(node)
    nodes, _ = of(model)
    assert nodes is not None
    assert [each.op_type for each in nodes if node.output[0] in each.output] == ["QLinearConv"]


def test_a_bias_that_is_a_row_has_its_scales_along_the_row() -> None:
    numbers = np.random.default_rng(1)
    held = {
        "s": np.float32(0.02), "z": np.uint8(7), "b": numbers.integers(-90, 90, (6, 4), np.int8),
        "bs": np.linspace(0.01, 0.04, 4, dtype=np.float32), "bz": np.zeros(4, np.int8),
        "c": numbers.integers(-900, 900, (1, 4), np.int32), "ys": np.float32(0.1), "yz": np.uint8(120),
    }  # fmt: skip
    inputs = ["x", "s", "z", "b", "bs", "bz", "c", "ys", "yz"]
    graph = helper.make_graph(
        [helper.make_node("QGemm", inputs, ["y"], domain="com.microsoft", alpha=1.0)], "row",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [3, 6])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [3, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    given = {"x": numbers.integers(0, 256, (3, 6), np.uint8)}
    codes, ours = (
        onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)[0]
        for each in (model, normalised(model))
    )
    assert np.array_equal(codes, ours)
