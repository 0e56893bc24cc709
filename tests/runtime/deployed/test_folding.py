"""Int32 biases as floats: bit for bit what ONNX Runtime's DequantizeLinear computes, in a copy in memory."""

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from pretended import CUDA, pretend_cuda

from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.folding import EXTERNAL_FOLDER, REQUANTIZER, fold_biases, folded_copy

IMAGES = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
#: Codes that float32 holds, those that it has to round, and the ends of their range.
CODES = np.array([0, 1, -1, 16_777_216, 16_777_217, -16_777_219, 2**31 - 1, -(2**31)], np.int32)
SCALES = np.random.default_rng(0).uniform(1e-9, 3, 8).astype(np.float32)


def model(codes, scale, *, zero=None, constant=False, overridable=False, **attributes):
    """A graph of one DequantizeLinear node of a constant, and a float input that passes through."""
    held = [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(np.asarray(scale), "scale")]
    nodes = [helper.make_node("Identity", ["x"], ["same"])]
    if constant:
        nodes.append(helper.make_node("Constant", [], ["codes"], value=held.pop(0)))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    if overridable:
        inputs.append(helper.make_tensor_value_info("codes", TensorProto.INT32, list(codes.shape)))
    names = ["codes", "scale"]
    if zero is not None:
        held.append(numpy_helper.from_array(zero, "zero"))
        names.append("zero")
    nodes.append(helper.make_node("DequantizeLinear", names, ["bias"], **attributes))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("same", "bias")]
    graph = helper.make_graph(nodes, "one", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def computed(bare):
    """What the CPU provider computes, no optimization between."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(bare.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["bias"], {"x": np.zeros(1, np.float32)})[0]


def level_1(source, folder="", disabled=()):
    """Operators of the graph that providers are offered."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry(EXTERNAL_FOLDER, str(folder))
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled))


@pytest.mark.parametrize(
    ("codes", "scale", "more"),
    [
        (CODES, SCALES[0], {}),
        (CODES, SCALES[:1], {}),
        (CODES, SCALES, {"axis": 0}),
        (CODES, SCALES, {"axis": -1}),
        (CODES.reshape(2, 4), SCALES[:2], {"axis": 0}),
        (CODES.reshape(2, 4), SCALES[:4], {}),
        (CODES, SCALES[0], {"zero": np.int32(0)}),
        (CODES, SCALES[0], {"constant": True}),
        (CODES[0], SCALES[0], {}),
    ],
)
def test_a_folded_bias_is_what_dequantize_linear_computes_bit_for_bit(codes, scale, more):
    whole = model(codes, scale, **more)
    wanted = computed(whole)
    assert fold_biases(whole) == 1
    assert "DequantizeLinear" not in {node.op_type for node in whole.graph.node}
    found = next(numpy_helper.to_array(tensor) for tensor in whole.graph.initializer if tensor.name == "bias")
    assert found.dtype == wanted.dtype == np.float32
    assert found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("codes", "scale", "more"),
    [
        (CODES.astype(np.int8), SCALES[0], {}),  # 8 bits are CUDA's own
        (CODES, SCALES[0].astype(np.float16), {}),
        (CODES, SCALES[:3], {"axis": 0}),  # no such axis: ONNX Runtime refuses it
        (CODES, SCALES, {"axis": 1}),
        (CODES, SCALES[0], {"overridable": True}),
        (CODES, SCALES[:4], {"axis": 0, "block_size": 2}),
    ],
)
def test_what_is_no_constant_bias_is_left_as_it_is(codes, scale, more):
    whole = model(codes, scale, **more)
    before = whole.SerializeToString()
    assert fold_biases(whole) == 0
    assert whole.SerializeToString() == before


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_the_copy_has_no_32_bit_codes_and_the_file_is_untouched(tiny_bundle, precision):
    path = tiny_bundle.path(precision)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    copy, folded = folded_copy(path)
    assert folded == 4
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert TensorProto.INT32 not in {tensor.data_type for tensor in onnx.load_from_string(copy).graph.initializer}
    assert folded_copy(tiny_bundle.path("f32")) is None


def test_weights_in_other_files_keep_working(tiny_bundle, tmp_path):
    whole = load_onnx(tiny_bundle, "int8")
    onnx.save(whole, tmp_path / "int8.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    copy, folded = folded_copy(tmp_path / "int8.onnx")
    assert folded == 4
    session = level_1(copy, tmp_path, [REQUANTIZER])
    inside = level_1(folded_copy(tiny_bundle.path("int8"))[0], disabled=[REQUANTIZER])
    for found, wanted in zip(session.run(None, feed(session)), inside.run(None, feed(inside)), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_large_weights_stay_in_their_file(tmp_path):
    weight = np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32)
    whole = model(CODES, SCALES[0])
    whole.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    whole.graph.node.append(helper.make_node("ReduceSum", ["weight"], ["sum"]))
    whole.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, None))
    onnx.save(whole, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    copy, folded = folded_copy(tmp_path / "m.onnx")
    assert folded == 1
    assert len(copy) < weight.nbytes / 10
    assert level_1(copy, tmp_path).run(["sum"], {"x": np.zeros(1, np.float32)})[0] == pytest.approx(weight.sum(), rel=1e-4)


def feed(session):
    return {session.get_inputs()[0].name: IMAGES}


def test_sessions_on_cuda_are_made_of_the_copy_and_keep_it(tiny_bundle, monkeypatch):
    """ONNX Runtime would make int32 codes of float biases again: that one optimizer does not run."""
    pretended = pretend_cuda(monkeypatch)
    session = DeployedModel(tiny_bundle, "int8", SessionSettings(provider="CUDA"))
    (made,) = pretended.made
    assert isinstance(made["model"], bytes)
    assert (made["providers"], made["disabled_optimizers"], session.folded) == ([CUDA], [REQUANTIZER], 4)
    assert session.placement.count("DequantizeLinear") > 0
    assert session.placement.float_kernels == 4  # the integer kernels of the CPU want int32 biases


def test_a_session_on_the_cpu_is_made_of_the_file(tiny_bundle):
    assert DeployedModel(tiny_bundle, "int8", SessionSettings()).folded == 0
