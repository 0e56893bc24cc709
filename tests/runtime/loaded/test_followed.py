"""The integer mirror of files that others wrote equals ONNX Runtime's run of them: every code that can be seen, every logit."""

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_graphs import CODES, VARIANTS, fixed_batch, pictures, quantized, returning_codes, tapped, variant
from integer_cases import here
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.graph import Graph
from qcam.runtime.kernels import KERNELS
from qcam.runtime.loaded import as_loaded
from qcam.runtime.loaded.asking import optimized, settings_of
from qcam.runtime.mirror import Mirror
from qcam.runtime.tables import RESULT_PARAMETERS


def run(model, images, outputs, settings=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in (settings or {}).items():
        options.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {session.get_inputs()[0].name: images})


def entry_of(model, logits="scores", settings=None):
    """Describe the tap of a file, whatever makes its codes."""
    graph = Graph(model)
    node = graph.producer.get(CODES) or graph.producer.get("head_quantized")
    if node is None:  # the quantizer is in a local function: the float tensor is all that can be handed out
        (pool,) = [node for node in model.graph.node if node.op_type == "GlobalAveragePool"]
        return PrecisionEntry("int8", "", "", logits, Tap(pool.input[0], pool.input[0], "float32"), session=settings or {})
    scale_at, zero_at = RESULT_PARAMETERS[node.op_type]

    def number(place, otherwise):
        name = node.input[place] if len(node.input) > place else ""
        while name in graph.producer and graph.producer[name].op_type == "Identity":
            name = graph.producer[name].input[0]
        return graph.array(name).reshape(()) if name else np.array(otherwise, np.uint8)

    zero = number(zero_at, 0)
    tap = Tap("last", node.output[0], zero.dtype.name, float(number(scale_at, 1)), int(zero))
    return PrecisionEntry("int8", "", "", logits, tap, session=settings or {})


def holds(model, *, settings=None, count=3, logits="scores"):
    """Require equal logits and codes of the tap, and of every tensor that shows without changing the logits."""
    images = pictures(count)
    entry = entry_of(model, logits, settings)
    tapped(model, entry.tap.output)
    mirror = Mirror(model, entry, arithmetic="integer", family=here(), float_kernels=True)
    seen = {}

    def see(name, codes):
        seen[name] = codes.numpy().copy()

    outputs = mirror.forward(images, see)
    theirs, codes = run(model, images, [logits, entry.tap.output], settings)
    np.testing.assert_array_equal(outputs.logits.numpy(), theirs)
    np.testing.assert_array_equal(outputs.tap.numpy(), codes.astype(np.float32))
    shown = tapped(onnx.ModelProto.FromString(model.SerializeToString()), *(name for name in seen if name != entry.tap.output))
    again, *values = run(shown, images, [logits, *seen], settings)
    if np.array_equal(again, theirs):
        for name, value in zip(seen, values, strict=True):
            np.testing.assert_array_equal(seen[name], value.astype(np.float32), err_msg=name)
    return mirror


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_written_in_another_way(name):
    mirror = holds(variant(name))
    assert mirror.groups or mirror.delegated


@pytest.mark.parametrize(
    ("form", "activation", "weight", "opset"),
    [
        ("QDQ", "QUInt8", "QInt8", 13),
        ("QDQ", "QUInt8", "QInt8", 21),
        ("QDQ", "QUInt8", "QUInt8", 17),
        ("QDQ", "QInt8", "QInt8", 17),
        ("QDQ", "QUInt16", "QInt8", 21),
        ("QDQ", "QInt16", "QInt8", 21),
        ("QOperator", "QUInt8", "QInt8", 17),
        ("QOperator", "QUInt8", "QUInt8", 17),
    ],
)
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_type_of_codes_and_a_form(form, activation, weight, opset, per_channel):
    holds(quantized(form, activation, weight, opset=opset, per_channel=per_channel))


@pytest.mark.parametrize("allowed", ["0", "1"])
def test_signed_activations_run_as_the_session_is_told(allowed):
    settings = {"session.qdqisint8allowed": allowed}
    mirror = holds(quantized("QDQ", "QInt8", "QInt8"), settings=settings)
    kinds = {group.inputs[0].dtype.name for group in mirror.groups}
    assert ("int8" in kinds) == (allowed == "1")


def test_the_graph_of_another_kind_of_processor_is_asked_for_by_name():
    assert settings_of({}, KERNELS["arm64"]) == {"session.qdqisint8allowed": "1"}
    assert settings_of({}, KERNELS["avx2"]) == {"session.qdqisint8allowed": "0"}
    assert settings_of({"session.qdqisint8allowed": "1"}, KERNELS["avx2"]) == {"session.qdqisint8allowed": "1"}


def with_bias_of_another_scale(model):
    """Give a bias another scale than that of its products: ONNX Runtime then keeps the convolution float."""
    graph = Graph(model)
    node = graph.producer[next(node for node in model.graph.node if node.name == "node_head").input[2]]
    (held,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held) * np.float32(1.5), held.name))
    return model


def test_a_bias_of_another_scale_stays_float_and_is_computed_by_the_runtimes_own_kernels():
    mirror = holds(with_bias_of_another_scale(quantized(per_channel=False)))
    assert any("node_head" in label for label in mirror.delegated)
    assert "node_head" not in [group.node.name for group in mirror.groups]


def test_a_float_operator_whose_order_is_not_known_is_named():
    model = with_bias_of_another_scale(quantized(per_channel=False))
    entry = entry_of(model)
    mirror = Mirror(tapped(model), entry, arithmetic="integer", family=here())
    assert mirror.delegated == ()
    assert any("node_head" in label for label in mirror.unordered)


def test_constants_listed_as_inputs_keep_their_operators_float():
    mirror = holds(variant("initializers listed as inputs"))
    assert not [group for group in mirror.groups if group.node.op_type == "Conv"]


def test_a_file_of_one_batch_size():
    holds(fixed_batch(quantized(), 3))


def test_a_saturated_score_keeps_its_gradient():
    model = returning_codes(quantized())
    # The codes become floats again: quantized scores as some tools write them.
    scale, zero = (tensor.name for tensor in model.graph.initializer if tensor.name.startswith("out_"))
    node = next(node for node in model.graph.node if node.output[0] == "scores_codes")
    model.graph.node.append(helper.make_node("DequantizeLinear", ["scores_codes", *node.input[1:]], ["dequantized"], name="dq"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("dequantized", TensorProto.FLOAT, None))
    (held,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    held.CopyFrom(numpy_helper.from_array(np.float32(1e-4), held.name))  # so fine that every score saturates
    assert scale != zero
    images = pictures(2)
    entry = entry_of(model, "dequantized")
    for arithmetic in ("fake_quant", "integer"):
        mirror = Mirror(tapped(model), entry, arithmetic=arithmetic, family=here(), float_kernels=True)
        found = mirror.forward(images)
        assert len(np.unique(found.logits.numpy())) <= 2
        gradient = mirror.gradient(mirror.dequantize(entry.tap, found.tap), np.array([0, 1]))
        assert bool((gradient != 0).any())


def test_the_graph_as_loaded_keeps_what_is_handed_out_and_says_which_kernel_is_which():
    model = tapped(quantized())
    loaded = as_loaded(model)
    assert [output.name for output in loaded.model.graph.output] == ["scores", CODES]
    assert loaded.kernels["node_stem"] == "QLinearConv"
    assert loaded.differing({"node_stem": "QLinearConv"}) == []
    assert loaded.differing({"node_stem": "Conv"}) == ["node_stem: QLinearConv in ONNX Runtime's own graph, ran as Conv"]
    onnx.checker.check_model(loaded.model)


def test_written_back_it_computes_what_it_computed_within_a_code():
    model = tapped(quantized())
    loaded = as_loaded(model)
    images = pictures(3)
    ours, theirs = run(loaded.model, images, ["scores"])[0], run(model, images, ["scores"])[0]
    np.testing.assert_allclose(ours, theirs, atol=np.abs(theirs).max() / 20)


def test_what_onnx_runtime_does_not_load_is_said():
    broken = helper.make_model(
        helper.make_graph(
            [helper.make_node("NoSuchOperator", ["x"], ["y"])],
            "broken",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
    )
    with pytest.raises(UnsupportedGraphError, match="ONNX Runtime does not load the file on the CPU"):
        optimized(broken, {})


def float_behind_codes(channels):
    """Return a file that quantizes its input and is float behind that: its convolutions may run in blocks of channels."""
    numbers = np.random.default_rng(1)

    def held(name, *shape):
        return numpy_helper.from_array(numbers.normal(size=shape).astype(np.float32) / 4, name)

    nodes = [
        helper.make_node("QuantizeLinear", ["image", "step", "zero"], [CODES], name="q"),
        helper.make_node("DequantizeLinear", [CODES, "step", "zero"], ["d"], name="dq"),
        helper.make_node("Conv", ["d", "w1"], ["c1"], name="c1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], name="r1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="c2", pads=[1] * 4),
        helper.make_node("Add", ["c2", "r1"], ["sum"], name="sum"),
        helper.make_node("Relu", ["sum"], ["last"], name="last"),
        helper.make_node("GlobalAveragePool", ["last"], ["pooled"], name="pooled"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "w3"], ["scores"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5])],
        [
            held("w1", channels, 3, 3, 3), held("w2", channels, channels, 3, 3), held("w3", channels, 5),
            numpy_helper.from_array(np.float32(1 / 64), "step"), numpy_helper.from_array(np.uint8(128), "zero"),
        ],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("channels", [5, 32])
def test_float_kernels_compute_in_the_layout_that_they_have_in_the_whole_graph(channels):
    model = float_behind_codes(channels)
    assert as_loaded(model).blocked
    mirror = holds(model)
    assert len(mirror.delegated) >= 3


def test_a_pool_behind_a_quantizer_keeps_its_layout():
    model = quantized("QDQ", "QUInt16", "QInt8", opset=21)
    assert as_loaded(model).blocked == frozenset()
    delegated = holds(model).delegated
    assert any("Conv" in label for label in delegated)
    assert not any("GlobalAveragePool" in label for label in delegated)  # its order is known, in that layout
