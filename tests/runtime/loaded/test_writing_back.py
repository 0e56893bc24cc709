"""Integer operators written back as operators between quantizers: what each computes, within a code, in plain ONNX."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.loaded.writing_back import write_back

MICROSOFT = "com.microsoft"
NUMBERS = np.random.default_rng(0)
X = NUMBERS.integers(0, 256, (2, 3, 4, 4)).astype(np.uint8)


def model_of(node, held, output=TensorProto.UINT8):
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, None)],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def scales(**further):
    return {
        "xs": np.float32(0.1), "xz": np.uint8(3), "ys": np.float32(0.2), "yz": np.uint8(9), **further,
    }  # fmt: skip


def test_a_convolution_with_a_bias_is_what_onnx_says_of_it():
    w, b = NUMBERS.integers(-90, 90, (5, 3, 1, 1)).astype(np.int8), NUMBERS.integers(-900, 900, 5).astype(np.int32)
    held = scales(w=w, ws=np.linspace(0.01, 0.05, 5, dtype=np.float32), wz=np.zeros(5, np.int8), b=b)
    node = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], name="conv")
    model = model_of(node, held)
    loaded = write_back(model)
    (group,) = loaded.groups
    assert (group.kernel, group.node.op_type, group.result) == ("QLinearConv", "Conv", "y")
    assert [codes.tensor for codes in group.inputs] == ["x", "w", "b"]
    np.testing.assert_array_equal(group.inputs[2].scale, np.float32(0.1) * held["ws"])
    (ours,), (theirs,) = (ReferenceEvaluator(each).run(None, {"x": X}) for each in (loaded.model, model))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert (ours == theirs).mean() > 0.99


def test_a_zero_point_that_is_left_out_is_zero_of_the_codes_type():
    held = scales(w=np.ones((1, 3, 1, 1), np.int8), ws=np.float32(0.1))
    model = model_of(helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "", "ys", "yz"], ["y"]), held)
    (group,) = write_back(model).groups
    assert group.inputs[1].zero_point.dtype == np.int8
    assert int(group.inputs[1].zero_point) == 0


def test_an_operator_that_rearranges_codes_stays_one_of_codes_of_the_same_meaning():
    nodes = [
        helper.make_node("QLinearSigmoid", ["x", "xs", "xz", "ys", "yz"], ["s"], domain=MICROSOFT, name="s"),
        helper.make_node("Flatten", ["s"], ["y"], name="f"),
    ]
    model = model_of(nodes[0], scales())
    model.graph.node.append(nodes[1])
    groups = write_back(model).groups
    assert [group.kernel for group in groups] == ["QLinearSigmoid", "Flatten"]
    assert groups[0].output.same_meaning(groups[1].output)
    assert groups[1].output.tensor == "y"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            helper.make_node("QLinearLeaky", ["x"], ["y"], domain=MICROSOFT),
            "QLinearLeaky at y, of which the mirror has no integer",
        ),
        (
            helper.make_node("QLinearAveragePool", ["x", "xs", "xz", "ys", "yz"], ["y"], domain=MICROSOFT, channels_last=1),
            "QLinearAveragePool does not know channels_last of node y",
        ),
        (
            helper.make_node("QLinearConv", ["x", "xs", "xz", "x", "xs", "xz", "ys", "yz", "x"], ["y"], name="c"),
            "the mirror needs a constant bias, at QLinearConv c",
        ),
        (
            helper.make_node("QLinearAdd", ["x", "computed", "xz", "x", "xs", "xz", "ys", "yz"], ["y"], domain=MICROSOFT),
            "the mirror needs constant scales and zero points",
        ),
        (
            helper.make_node("QLinearConv", ["x", "xs", "xz", "x", "computed", "xz", "ys", "yz"], ["y"]),
            "the mirror needs constant scales and zero points",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(node, message):
    model = model_of(node, scales())
    if "computed" in node.input:
        model.graph.input.append(helper.make_tensor_value_info("computed", TensorProto.FLOAT, []))
    with pytest.raises(UnsupportedGraphError, match=message):
        write_back(model)


def test_an_operator_on_codes_that_is_not_known_is_refused_by_name():
    model = model_of(helper.make_node("QLinearSigmoid", ["x", "xs", "xz", "ys", "yz"], ["s"], domain=MICROSOFT), scales())
    model.graph.node.append(helper.make_node("Relu", ["s"], ["y"], name="r"))
    with pytest.raises(UnsupportedGraphError, match="ONNX Runtime runs Relu r on codes, which the mirror does not know"):
        write_back(model)


def test_a_model_without_integer_operators_is_as_it_was():
    model = model_of(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT), {}, TensorProto.FLOAT)
    loaded = write_back(model)
    assert loaded.groups == ()
    assert [node.op_type for node in loaded.model.graph.node] == ["Cast"]


@pytest.mark.parametrize(("said", "border"), [((), (0 - 9) * np.float32(0.2)), ((200,), (200 - 9) * np.float32(0.2))])
def test_codes_are_padded_with_a_code_which_need_not_stand_for_0(said, border):
    model = model_of(helper.make_node("QLinearSigmoid", ["x", "xs", "xz", "ys", "yz"], ["s"], domain=MICROSOFT), scales())
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"))
    model.graph.initializer.extend(numpy_helper.from_array(np.uint8(code), "code") for code in said)
    model.graph.node.append(helper.make_node("Pad", ["s", "pads", *(["code"] if said else [])], ["y"], name="p"))
    loaded = write_back(model)
    (pad,) = [node for node in loaded.model.graph.node if node.op_type == "Pad"]
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.model.graph.initializer}
    np.testing.assert_allclose(held[pad.input[2]], border, rtol=1e-6)


def test_codes_of_one_meaning_are_joined_and_those_of_several_are_refused():
    nodes = [
        helper.make_node("QLinearSigmoid", ["x", "xs", "xz", "ys", "yz"], [name], domain=MICROSOFT, name=name)
        for name in ("a", "b")
    ]
    model = model_of(nodes[0], scales())
    model.graph.node.extend([nodes[1], helper.make_node("Concat", ["a", "b"], ["y"], name="join", axis=1)])
    assert write_back(model).groups[-1].kernel == "QLinearSigmoid"
    assert [node.op_type for node in write_back(model).model.graph.node][-2:] == ["Concat", "QuantizeLinear"]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.7), "other"))
    model.graph.node[1].input[3] = "other"
    with pytest.raises(UnsupportedGraphError, match="joins codes of different meanings at Concat join"):
        write_back(model)
