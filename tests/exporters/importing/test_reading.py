"""A foreign file is read whole, or refused; how it is quantized is read off it, and what it is called follows from that."""

from pathlib import Path

import pytest
from foreign_graphs import SIDE, float_graph, in_functions, operator, quantized
from onnx import ModelProto, TensorProto, numpy_helper

from qcam.common.errors import BundleError, UnsupportedGraphError
from qcam.exporters.importing import reading
from qcam.exporters.importing.quantization import codes_of, described, name_for, nearest, producer_of
from qcam.exporters.importing.reading import ForeignFile, analysed, read_foreign
from qcam.runtime.described import Quantization
from qcam.runtime.graph import Graph
from qcam.runtime.normal import normalised


def read(model: ModelProto, folder: Path) -> ForeignFile:
    path = folder / "x.onnx"
    path.write_bytes(model.SerializeToString())
    return read_foreign(path)


def how(model: ModelProto) -> Quantization:
    return described(Graph(normalised(model)), model, "as the file has them")


def test_bytes_are_kept_and_local_functions_taken_apart(tmp_path: Path) -> None:
    model = quantized()
    in_functions(model)
    file = read(model, tmp_path)
    assert file.data == model.SerializeToString()
    assert file.inlined
    assert not file.model.functions
    assert "Simulate" not in {node.op_type for node in file.model.graph.node}
    assert not read(quantized(), tmp_path).inlined


def test_a_size_that_was_asked_for_is_followed_through_the_graph_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    model = quantized()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    del model.graph.value_info[:]
    file = read(model, tmp_path)
    before = file.model.SerializeToString(deterministic=True)
    assert analysed(file.model, file, (2 * SIDE, SIDE), None).shapes["last"][1:] == (16, 16, 8)
    assert file.model.SerializeToString(deterministic=True) == before


def test_names_that_mean_two_things_are_refused(tmp_path: Path) -> None:
    model = quantized()
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(BundleError, match=r"x\.onnx has two initializers named"):
        read(model, tmp_path)


def test_weights_beside_a_file_count_for_what_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized()
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 32)
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    monkeypatch.setattr(reading, "LARGEST_FILE", model.ByteSize() + size - 1)
    with pytest.raises(UnsupportedGraphError, match=r"with the files beside it; at most"):
        read(model, tmp_path)


@pytest.mark.parametrize(
    ("activation", "weight", "name", "symmetric"),
    [("QUInt8", "QInt8", "int8", False), ("QInt8", "QInt8", "int8", False), ("QUInt16", "QInt8", "int16", False)],
)
def test_types_are_read_off_the_graph(activation: str, weight: str, name: str, symmetric: bool) -> None:
    found = how(quantized("QDQ", activation, weight))
    assert (found.format, found.activation, found.weight) == ("QDQ", activation[1:].upper(), weight[1:].upper())
    assert (found.weight_per_channel, found.activation_symmetric) == (True, symmetric)
    assert name_for(found) == nearest(found) == name
    assert how(quantized("QDQ", activation, weight, per_channel=False)).weight_per_channel is False


def test_kernels_of_codes_are_another_format_and_a_float_file_has_none() -> None:
    assert how(quantized("QOperator")).format == "QOperator"
    assert how(float_graph()) == Quantization()
    assert name_for(Quantization()) == "f32"


def test_weights_that_alone_are_quantized_are_called_so() -> None:
    model = float_graph()
    held = next(tensor for tensor in model.graph.initializer if tensor.name == "head_w")
    codes = (numpy_helper.to_array(held) * 20).astype("int8")
    model.graph.initializer.remove(held)
    parameters = {
        "head_w_codes": codes,
        "head_w_scale": codes.dtype.type(1).astype("float32") / 20,
        "head_w_zero": codes[0, 0, 0, 0] * 0,
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in parameters.items())
    model.graph.node.insert(0, operator("DequantizeLinear", list(parameters), "head_w"))
    found = how(model)
    assert (found.activation, found.weight, codes_of(found)) == (None, "INT8", set())
    assert (name_for(found), nearest(found)) == ("weights-only", "int8")


def test_the_tool_that_wrote_a_file_is_named_without_what_does_not_print() -> None:
    model = ModelProto(producer_name="tool\x1b[1m", producer_version="3")
    assert producer_of(model) == "tool[1m 3"
    assert producer_of(ModelProto()) == ""
