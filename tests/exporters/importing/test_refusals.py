"""What cannot be imported is refused by the name of what is in the file, before any session is opened."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_graphs import VARIANTS, across_pictures, in_functions, quantized, variant
from onnx import ModelProto, TensorProto, helper, numpy_helper

import qcam
from qcam.common.errors import QcamError, UnsupportedGraphError
from qcam.exporters.importing import refusals
from qcam.exporters.importing.refusals import refuse_codes, refuse_dropping, refuse_large, refuse_unsupported
from qcam.runtime.graph import Graph
from qcam.runtime.normal import normalised


def with_node(kind: str, domain: str = "", **attributes: object) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        node = helper.make_node(kind, ["last"], ["further"], name="further", domain=domain, **attributes)
        model.graph.node.append(node)

    return change


def with_constant(kind: int, name: str = "held") -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.graph.initializer.append(TensorProto(name=name, data_type=kind, dims=[4], raw_data=b"\0" * 8))

    return change


def with_branch(model: ModelProto) -> None:
    branch = helper.make_graph([helper.make_node("Relu", ["last"], ["r"])], "b", [], [helper.make_empty_tensor_value_info("r")])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["either"], name="either", then_branch=branch, else_branch=branch))


def with_map(model: ModelProto) -> None:
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_value_info("names", helper.make_sequence_type_proto(kind)))


def with_second_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 1, 32, 32]))


def inside_a_function(model: ModelProto) -> None:
    in_functions(model)
    model.functions[0].node.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"]))


def blocks(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "DequantizeLinear").attribute.append(
        helper.make_attribute("block_size", 16)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_constant(TensorProto.INT4), "constant held holds int4 .codes of 4 bits"),
        (with_constant(TensorProto.UINT4), "constant held holds uint4"),
        (with_constant(TensorProto.FLOAT8E4M3FN), "constant held holds float8e4m3fn .floats of 8 bits"),
        (with_constant(TensorProto.FLOAT16), "constant held holds float16 .floats of 16 bits"),
        (with_node("Cast", to=TensorProto.FLOAT16), "Cast node further makes float16"),
        (with_node("Cast", to=TensorProto.FLOAT8E5M2), "Cast node further makes float8e5m2"),
        (with_node("MatMulNBits", "com.microsoft"), "MatMulNBits node further is not supported .weights packed in blocks"),
        (with_node("DynamicQuantizeLinear"), "DynamicQuantizeLinear node further is not supported .activations quantized anew"),
        (with_node("Special", "vendor.x"), "Special node further is of domain vendor.x"),
        (with_node("Conv", "com.microsoft.nchwc"), "Conv node further is of domain com.microsoft.nchwc"),
        (with_node("SequenceAt"), "SequenceAt node further is not supported .sequences"),
        (with_node("BatchNormalization", training_mode=1), "BatchNormalization node further is in training mode"),
        (with_branch, "If node either is not supported .control flow"),
        (with_map, "output names is a sequence, not a tensor"),
        (with_second_input, "has 2 inputs .image, mask."),
        (inside_a_function, "DynamicQuantizeLinear node a, b, c is not supported"),
        (blocks, "is not supported .a scale for each block"),
    ],
)  # fmt: skip
def test_what_is_in_a_file_is_refused_by_its_name(change: Callable[[ModelProto], None], said: str) -> None:
    model = quantized()
    change(model)
    with pytest.raises(UnsupportedGraphError, match=f"^x.onnx.*{said}"):
        refuse_unsupported(model, "x.onnx")


@pytest.mark.parametrize("opset", [12, 25])
def test_operator_sets_that_are_not_imported_are_refused_by_number(opset: int) -> None:
    model = quantized()
    model.opset_import[0].version = opset
    with pytest.raises(UnsupportedGraphError, match=f"x.onnx has ONNX operator set {opset}; 13 to 24 are imported"):
        refuse_unsupported(model, "x.onnx")


def test_a_dropout_that_drops_is_refused() -> None:
    model = variant("chains of Identity, and a Dropout")
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.5), "ratio"), numpy_helper.from_array(np.array(True), "training")]
    )
    next(node for node in model.graph.node if node.op_type == "Dropout").input.extend(["ratio", "training"])
    with pytest.raises(UnsupportedGraphError, match=r"x.onnx: Dropout node dropout is in training mode"):
        refuse_dropping(normalised(model), "x.onnx")


def test_codes_of_another_width_than_8_and_16_bits_are_refused() -> None:
    model = quantized()
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    model.graph.initializer.append(numpy_helper.from_array(np.int32(0), "wide"))
    quantizer.input[2] = "wide"
    with pytest.raises(
        UnsupportedGraphError, match=f"x.onnx: QuantizeLinear node {quantizer.name} makes codes of int32; codes of 8"
    ):
        refuse_codes(Graph(normalised(model)), "x.onnx")


@pytest.mark.parametrize("name", VARIANTS)
def test_ways_of_writing_that_mean_the_same_are_not_refused(name: str) -> None:
    model = variant(name)
    refuse_unsupported(model, "x.onnx")
    refuse_dropping(normalised(model), "x.onnx")
    refuse_codes(Graph(normalised(model)), "x.onnx")


@pytest.mark.parametrize("through", [False, True])
def test_scales_may_be_floats_of_16_bits(through: bool) -> None:
    model = quantized()
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    model.graph.initializer.append(numpy_helper.from_array(np.float16(0.5), "half"))
    model.graph.node.insert(0, helper.make_node("Identity", ["half"], ["half_same"]))
    quantizer.input[1] = "half_same" if through else "half"
    refuse_unsupported(model, "x.onnx")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"123456789")
    monkeypatch.setattr(refusals, "LARGEST_FILE", 8)
    with pytest.raises(UnsupportedGraphError, match=r"x.onnx has 0.0 GB; at most"):
        refuse_large(path)
    with pytest.raises(UnsupportedGraphError, match=r"nothing.onnx is no file"):
        refuse_large(tmp_path / "nothing.onnx")


def test_a_file_of_too_many_nodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MOST_NODES", 8)
    with pytest.raises(UnsupportedGraphError, match=r"x.onnx has .* nodes; at most 8"):
        refuse_unsupported(quantized(), "x.onnx")


@pytest.mark.parametrize("step", [0.0, -0.5, float("nan"), float("inf")])
def test_a_scale_that_is_no_number_above_0_is_refused_before_any_session(step: float, tmp_path: Path) -> None:
    model = quantized()
    (held,) = [tensor for tensor in model.graph.initializer if tensor.name == "last_scale"]
    held.CopyFrom(numpy_helper.from_array(np.float32(step), held.name))
    file = tmp_path / "x.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(QcamError, match="has a scale that is no number above 0"):
        qcam.import_onnx(file, mean=0.5, std=0.25, output=tmp_path / "out")
    assert [path for path in tmp_path.rglob("*") if path != file and path.is_file()] == []


def test_a_file_that_reads_across_the_pictures_of_a_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(across_pictures(quantized()).SerializeToString())
    given = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize": 36, "trained": False, "output": tmp_path / "out"}
    with pytest.raises(QcamError, match="int8 answers a picture otherwise in a batch than alone"):
        qcam.import_onnx(path, **given)
    assert not (tmp_path / "out").exists()
