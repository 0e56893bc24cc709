"""What a normalised copy computes is what the file computes, bit for bit, however the file was written."""

import time
from collections.abc import Sequence

import foreign_graphs
import numpy as np
import onnxruntime
import pytest
from foreign_graphs import VARIANTS, pictures, quantized, tapped, variant
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.graph import Graph, attribute
from qcam.runtime.manifest import PrecisionEntry, Tap
from qcam.runtime.mirror.program import Mirror
from qcam.runtime.normal import normalised


def run(model: ModelProto, feed: dict[str, np.ndarray] | None = None, names: Sequence[str] | None = None) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(list(names) if names else None, feed or {"image": pictures(6, seed=3)})
    return found


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(
        left.dtype == right.dtype and np.array_equal(left, right) for left, right in zip(first, second, strict=True)
    )


def scalar(model: ModelProto, name: str) -> tuple[int, ...]:
    return Graph(model).array(name).shape


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("activation", ["QUInt8", "QInt8"])
def test_every_way_of_writing_a_file_runs_bit_for_bit_as_its_normalised_copy(name: str, activation: str) -> None:
    model = tapped(variant(name, activation=activation))
    before = model.SerializeToString(deterministic=True)
    copy = normalised(model)
    assert copy is not model
    assert model.SerializeToString(deterministic=True) == before, "the model was changed"
    assert same(run(model), run(copy))
    assert normalised(copy) is copy


@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_of_writing_a_file_is_written_in_one_way(name: str) -> None:
    copy = normalised(variant(name))
    graph = Graph(copy)
    seen = set(graph.initializers) | {"image"}
    for node in copy.graph.node:
        assert node.op_type not in ("Constant", "Identity", "Dropout", "Simulate")
        assert node.name
        assert seen.issuperset(input for input in node.input if input)
        seen.update(node.output)
        assert graph.shapes[node.output[0]]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert len(node.input) == 3
            assert all(graph.array(parameter).shape == graph.array(node.input[1]).shape for parameter in node.input[1:])
            assert graph.array(node.input[1]).shape != (1,)
            assert int(attribute(node, "axis", 0)) >= 0
    assert not copy.functions


@pytest.mark.parametrize("name", VARIANTS)
def test_the_mirror_computes_the_same_of_every_way_of_writing_a_file(name: str) -> None:
    def mirrored(model: ModelProto) -> np.ndarray:
        copy = normalised(model)
        quantizer = Graph(copy).quantize_of("last")
        assert quantizer is not None
        scale, zero = (Graph(copy).array(parameter) for parameter in quantizer.input[1:])
        tap = Tap("last", quantizer.output[0], str(zero.dtype), float(scale), int(zero))
        entry = PrecisionEntry("int8", "int8.onnx", "", "scores", tap)
        return Mirror(copy, entry).forward(pictures(2)).logits.numpy()

    assert np.array_equal(mirrored(variant(name)), mirrored(quantized()))


@pytest.mark.parametrize("opset", [13, 17, 21, 24])
def test_a_file_of_kernels_of_codes_runs_bit_for_bit_as_its_normalised_copy(opset: int) -> None:
    model = quantized("QOperator", opset=opset)
    codes = [name for node in model.graph.node for name in node.output if node.op_type.startswith("QLinear")]
    assert codes, "the quantizer wrote no kernels of codes"
    tapped(model, *codes)
    copy = normalised(model)
    assert not [node.op_type for node in copy.graph.node if node.op_type.startswith(("QLinear", "QGemm"))]
    assert same(run(model), run(copy))
    assert normalised(copy) is copy


def kernels_of_codes() -> ModelProto:
    """Every further kernel of codes that a file can hold, one behind the other."""
    held = {
        "s": np.float32(1 / 32), "z": np.uint8(120), "t": np.float32(1 / 64), "y": np.uint8(100), "u": np.float32(1 / 256),
        "n": np.uint8(0), "m": np.random.default_rng(0).integers(-90, 90, (4, 6)).astype(np.int8),
        "ms": (np.arange(1, 7) / 512).astype(np.float32), "mz": np.zeros(6, np.int8),
        "bias": np.arange(-300, 300, 100).astype(np.int32), "turned": np.array([0, -1], np.int64),
    }  # fmt: skip
    micro = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"], name="q"),
        helper.make_node("MaxPool", ["q"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("QLinearSigmoid", ["pooled", "s", "z", "u", "n"], ["sigmoid"], name="sigmoid", **micro),
        helper.make_node("QLinearMul", ["pooled", "s", "z", "sigmoid", "u", "n", "t", "y"], ["product"], name="mul", **micro),
        helper.make_node("QLinearLeakyRelu", ["product", "t", "y", "s", "z"], ["leaky"], name="leaky", alpha=0.1, **micro),
        helper.make_node(
            "QLinearAdd", ["leaky", "s", "z", "pooled", "s", "z", "t", "y"], ["sum"], name="add", **micro
        ),
        helper.make_node(
            "QLinearConcat", ["s", "z", "sum", "t", "y", "leaky", "s", "z"], ["joined"], name="joined", axis=1, **micro
        ),
        helper.make_node(
            "QLinearAveragePool", ["joined", "s", "z", "t", "y"], ["averaged"], name="averaged", kernel_shape=[2, 2],
            strides=[2, 2], **micro,
        ),
        helper.make_node("QLinearGlobalAveragePool", ["averaged", "t", "y", "s", "z"], ["mean"], name="mean", **micro),
        helper.make_node("Reshape", ["mean", "turned"], ["flat"], name="flat"),
        helper.make_node(
            "QGemm", ["flat", "s", "z", "m", "ms", "mz", "bias", "s", "z"], ["scores_codes"], name="gemm", alpha=1.0, **micro
        ),
        helper.make_node(
            "QLinearSoftmax", ["scores_codes", "s", "z", "u", "n"], ["soft"], name="soft", axis=-1, opset=13, **micro
        ),
        helper.make_node("DequantizeLinear", ["soft", "u", "n"], ["scores"], name="scores"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "kernels", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 6])],
        [numpy_helper.from_array(np.array(value), name) for name, value in held.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_all_further_kernels_of_codes_are_written_back_and_run_bit_for_bit() -> None:
    model = kernels_of_codes()
    tapped(model, *(node.output[0] for node in model.graph.node[:-1]))
    copy = normalised(model)
    assert not [node.op_type for node in copy.graph.node if node.op_type.startswith(("QLinear", "QGemm"))]
    images = {"image": np.random.default_rng(1).normal(size=(4, 2, 8, 8)).astype(np.float32)}
    for output, first, second in zip(model.graph.output, run(model, images), run(copy, images), strict=True):
        assert np.array_equal(first, second), output.name


def test_a_type_that_only_an_attribute_says_becomes_a_zero_point() -> None:
    model = variant("zero point left out", activation="QInt8", opset=21)
    for node in foreign_graphs.quantizers(model):
        if node.op_type == "QuantizeLinear":
            node.attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    copy = normalised(model)
    wanted = quantized(activation="QInt8", opset=21)
    assert same(run(copy), run(wanted))  # ONNX Runtime itself refuses the file as it is


def test_a_scale_that_others_read_as_a_list_keeps_its_shape_for_them() -> None:
    model = variant("scale as a list of one")
    name = next(node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear")
    model.graph.node.append(helper.make_node("Mul", [name, name], ["square"], name="square"))
    model.graph.output.append(helper.make_tensor_value_info("square", TensorProto.FLOAT, [1]))
    copy = normalised(model)
    assert same(run(model), run(copy))
    assert scalar(copy, name) == (1,)


def test_chains_of_identity_in_any_order_keep_the_names_of_outputs() -> None:
    model = variant("chains of Identity, and a Dropout")
    foreign_graphs.nodes_in_any_order(model)
    model.graph.output.append(helper.make_tensor_value_info("scores_second", TensorProto.FLOAT, ["batch", 5]))
    copy = normalised(model)
    assert [output.name for output in copy.graph.output] == ["scores", "scores_second"]
    assert same(run(model), run(copy))
    assert normalised(copy) is copy


def test_constants_of_a_file_of_the_oldest_form_are_held_where_that_form_wants_them() -> None:
    """Up to IR version 3, an initializer has to be an input too."""
    model = variant("scale as a Constant node, zero point through Identity", opset=13)
    model.ir_version = 3
    foreign_graphs.constants_as_inputs(model)
    assert same(run(normalised(model)), run(model))


def test_a_dropout_that_drops_stays_for_others_to_refuse() -> None:
    model = quantized()
    with_dropout = foreign_graphs.with_identities
    with_dropout(model)
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.5), "ratio"), numpy_helper.from_array(np.array(True), "training")]
    )
    next(node for node in model.graph.node if node.op_type == "Dropout").input.extend(["ratio", "training"])
    assert "Dropout" in [node.op_type for node in normalised(model).graph.node]


def test_nodes_in_a_circle_are_refused() -> None:
    model = quantized()
    first = next(node for node in model.graph.node if node.op_type == "Add")
    first.input[0] = "last"
    with pytest.raises(UnsupportedGraphError, match="go in a circle, at"):
        normalised(model)


def test_large_weights_are_copied_once_and_in_seconds() -> None:
    """100 MB, in an initializer and in a Constant node."""
    model = quantized()
    large = np.zeros((12, 1 << 20), np.float32)
    for name in ("first", "second"):
        model.graph.initializer.append(numpy_helper.from_array(large, name))
    tensor = model.graph.initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["second"], value=tensor))
    model.graph.node.append(helper.make_node("Add", ["first", "second"], ["total"], name="total"))
    model.graph.output.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, [12, 1 << 20]))
    begin = time.perf_counter()
    copy = normalised(model)
    assert time.perf_counter() - begin < 3
    assert copy.ByteSize() < model.ByteSize() + 100_000
    assert {"first", "second"} <= {tensor.name for tensor in copy.graph.initializer}
    assert normalised(copy) is copy
