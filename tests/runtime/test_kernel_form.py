"""What the inputs of kernels of codes are, held against the names that ONNX Runtime's own schemas give them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

from qcam.runtime import tables
from qcam.runtime.kernel_form import OPERATOR_OF, kernel_form

#: Kernel → names of its inputs, as ONNX Runtime registers it.
SCHEMAS = {
    schema.name: [given.name for given in schema.inputs]
    for schema in state.get_all_operator_schema()
    if schema.name in OPERATOR_OF
}
#: Kernel → what its schema calls the bias.
BIAS = {"QLinearConv": "B", "QGemm": "C", "MatMulIntegerToFloat": "bias"}


@pytest.mark.parametrize("kind", sorted(OPERATOR_OF.keys() - {"QLinearConcat"}))
def test_operands_and_bias_stand_where_onnx_runtime_reads_them(kind: str) -> None:
    form = kernel_form(helper.make_node(kind, SCHEMAS[kind], ["result"]), {})
    for operand in form.operands:
        named = (f"{operand.codes}_scale".lower(), f"{operand.codes}_zero_point".lower())
        assert (operand.scale.lower(), operand.zero_point.lower()) == named
    assert form.bias == BIAS.get(kind, "")
    read = [name for operand in form.operands for name in (operand.codes, operand.scale, operand.zero_point)]
    assert sorted([*form.further, *read, *filter(None, [form.bias]), *(form.result or ())]) == sorted(SCHEMAS[kind])


def test_a_concat_has_as_many_operands_as_it_is_given() -> None:
    given = ["ys", "yz", *(f"{name}{operand}" for operand in range(3) for name in ("x", "s", "z"))]
    form = kernel_form(helper.make_node("QLinearConcat", given, ["y"], axis=1), {})
    assert [(each.codes, each.scale, each.zero_point) for each in form.operands] == [
        ("x0", "s0", "z0"),
        ("x1", "s1", "z1"),
        ("x2", "s2", "z2"),
    ]
    assert (form.result, [each.name for each in form.attributes]) == (("ys", "yz"), ["axis"])


def test_every_operator_that_becomes_a_kernel_is_read_back_as_that_operator() -> None:
    made = {**tables.INTEGER_KERNEL_OF, **tables.FLOAT_RESULT_KERNEL_OF}
    assert {operator: OPERATOR_OF[kernel] for operator, kernel in made.items()} == {operator: operator for operator in made}


@pytest.mark.parametrize(
    ("kind", "settings", "shape", "axis"),
    [("QLinearConv", {}, (4, 3, 1, 1), 0), ("QGemm", {}, (3, 4), 1), ("QGemm", {"transB": 1}, (4, 3), 0),
     ("QLinearMatMul", {}, (3, 4), 1), ("MatMulIntegerToFloat", {}, (2, 3, 4), 2)],
)  # fmt: skip
def test_scales_of_weights_run_along_their_outputs(
    kind: str, settings: dict[str, int], shape: tuple[int, ...], axis: int
) -> None:
    node = helper.make_node(kind, SCHEMAS[kind], ["y"], **settings)
    codes = kernel_form(node, {}).operands[1].codes
    held = {codes: numpy_helper.from_array(np.zeros(shape, np.int8), codes)}
    assert kernel_form(node, held).operands[1].axis == axis
    assert kernel_form(node, held).operands[0].axis is None


def test_a_setting_of_the_kernel_alone_is_named_only_where_it_says_something() -> None:
    names = SCHEMAS["QLinearAveragePool"]
    for value, unknown in ((0, ""), (1, "channels_last")):
        form = kernel_form(helper.make_node("QLinearAveragePool", names, ["y"], channels_last=value, ceil_mode=0), {})
        assert (form.unknown, [each.name for each in form.attributes]) == (unknown, ["ceil_mode"])
    form = kernel_form(helper.make_node("QLinearSoftmax", SCHEMAS["QLinearSoftmax"], ["y"], opset=13, axis=1), {})
    assert (form.unknown, [each.name for each in form.attributes]) == ("", ["axis"])


def test_the_scale_of_a_bias_is_multiplied_in_the_kernel_s_order() -> None:
    names = SCHEMAS["QGemm"]
    held = {names[6]: TensorProto(name=names[6], dims=[1, 2], data_type=TensorProto.INT32)}
    form = kernel_form(helper.make_node("QGemm", names, ["y"], alpha=0.3), held)
    first, second = np.float32(0.7), np.array([0.013, 0.0071], np.float32)
    wanted = (np.float32(0.3) * first) * second
    assert not np.array_equal(wanted, (first * second) * np.float32(0.3))
    assert np.array_equal(form.bias_scale(first, second), wanted)
    assert form.bias_scale(first, second[:1]).shape == ()
    assert form.bias_axis == 1
