"""The tables of operators and kernels, held against ONNX Runtime's own; and where two readers of them once differed."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

from qcam.runtime import tables
from qcam.runtime.deployed.filenodes import FileNodes
from qcam.runtime.deployed.placement import Placement, read_profile

#: operator → names of its inputs, one list for each version, as ONNX Runtime registers them.
SCHEMAS: dict[str, list[list[str]]] = {}
for schema in state.get_all_operator_schema():
    SCHEMAS.setdefault(schema.name, []).append([given.name for given in schema.inputs])


@pytest.mark.parametrize("operator", tables.RESULT_PARAMETERS)
def test_scale_and_zero_point_of_a_result_stand_where_onnx_runtime_reads_them(operator: str) -> None:
    scale, zero_point = tables.RESULT_PARAMETERS[operator]
    results = {"Y", "y", "C", "z", "reduced"}  # what the schemas call it
    for inputs in SCHEMAS[operator]:
        assert inputs[scale] in {f"{result}_scale" for result in results}
        assert inputs[zero_point] in {f"{result}_zero_point" for result in results}
        assert not [name for name in inputs[zero_point + 1 :] if name.endswith(("_scale", "_zero_point"))]


def test_every_kernel_of_the_tables_is_one_of_onnx_runtimes() -> None:
    made = {*tables.INTEGER_KERNEL_OF.values(), *tables.FLOAT_RESULT_KERNEL_OF.values()}
    assert (tables.INTEGER_KERNELS | tables.FLOAT_KERNELS | made) - set(SCHEMAS) == set()


def test_every_kernel_that_a_group_becomes_computes_with_integers() -> None:
    made = {*tables.INTEGER_KERNEL_OF.values(), *tables.FLOAT_RESULT_KERNEL_OF.values()}
    assert [name for name in sorted(made | tables.INTEGER_KERNELS) if not tables.is_integer_kernel(name)] == []
    assert [name for name in sorted(tables.FLOAT_KERNELS) if tables.is_integer_kernel(name)] == []


def test_on_the_cpu_no_kernel_that_computes_with_integers_is_left_out() -> None:
    """By the types that ONNX Runtime's kernels of matrix products and convolutions are registered for."""
    kernels = {kernel.op_name for kernel in state.get_all_opkernel_def() if kernel.provider == "CPUExecutionProvider"}
    named = {name for name in kernels if name.startswith(("QLinear", "QGemm")) or "Integer" in name or "NBits" in name}
    # MatMulInteger16 exists for 16-bit operands of files that ask for it; nothing is rewritten to it.
    assert {name for name in named if not tables.is_integer_kernel(name)} == {"MatMulInteger16"}


def test_quantizers_move_only_across_operators_that_pass_codes_on() -> None:
    assert tables.PROPAGATING_OPERATORS < tables.PASSING_OPERATORS
    assert tables.PASSING_OPERATORS.isdisjoint(tables.INTEGER_KERNEL_OF)


@pytest.mark.parametrize(
    ("operator", "codes"),
    [("QLinearConv", True), ("QGemm", True), ("DynamicQuantizeMatMul", True), ("DynamicQuantizeLinear", True),
     ("MatMulNBits", False), ("Conv", False), ("DequantizeLinear", False)],
)  # fmt: skip
def test_what_a_files_operators_say_of_its_activations(operator: str, codes: bool) -> None:
    """MatMulNBits takes and gives floats; DynamicQuantizeLinear gives codes and computes nothing with them."""
    assert tables.has_codes_of_activations(operator) is codes
    assert tables.is_integer_kernel(operator) is ((codes or operator == "MatMulNBits") and operator != "DynamicQuantizeLinear")


# --- MatMulNBits: integer for grouping once, and nothing for placement -------------------------------------------------

NUMBERS = np.random.default_rng(0)
WEIGHT = NUMBERS.integers(-90, 90, (64, 8)).astype(np.int8)
ACTIVATION = NUMBERS.normal(size=(5, 64)).astype(np.float32)


def blockwise(values: np.ndarray) -> np.ndarray:
    """Round to 8 bits, each block of 32 by its own largest magnitude."""
    blocks = values.reshape(len(values), -1, 32)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    return (np.rint(blocks / scale) * scale).reshape(values.shape)


def run_weight_only(folder: Path, level: str | None = None) -> tuple[np.ndarray, Placement]:
    """Multiply float activations with a dequantized matrix; return the product and who computed it."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["weight"], name="dequantize"),
        helper.make_node("MatMul", ["x", "weight"], ["y"], name="product"),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "weight only",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 8])],
            [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.float32(1 / 64), "s")],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    if level is not None:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": ACTIVATION})
    return product, read_profile(Path(session.end_profiling()), 1, "", FileNodes(model))


def test_a_matrix_of_codes_is_multiplied_by_activations_rounded_to_codes(tmp_path: Path) -> None:
    """So MatMulNBits, as ONNX Runtime makes it, is an integer kernel: for groups, rewrites and placement alike."""
    product, placement = run_weight_only(tmp_path)
    weight = WEIGHT.astype(np.float64) / 64
    np.testing.assert_allclose(product, blockwise(ACTIVATION.astype(np.float64)) @ weight, atol=2e-5)
    assert np.abs(product - ACTIVATION @ weight).max() > 0.01
    assert [node.kernel for node in placement.nodes] == ["MatMulNBits"]
    assert (placement.integer_kernels, placement.float_kernels) == (1, 0)
    assert placement.nodes[0].integer
    assert placement.coverage.macs == 1
    assert placement.coverage.total_macs == 5 * 64 * 8


def test_below_accuracy_level_4_it_multiplies_floats(tmp_path: Path) -> None:
    """What the table's entry is limited to: ONNX Runtime's own choice of the level."""
    product, _ = run_weight_only(tmp_path, "0")
    np.testing.assert_allclose(product, ACTIVATION @ (WEIGHT.astype(np.float64) / 64), atol=2e-5)


def test_a_matmulnbits_of_the_file_itself_is_not_counted(tmp_path: Path) -> None:
    """It computes as its own attribute says, which a profile does not tell; it is no Conv, Gemm or MatMul of the file."""
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], name="own", domain="com.microsoft")
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    event = {"cat": "Node", "name": "own_kernel_time", "args": {"op_name": "MatMulNBits", "provider": "CPUExecutionProvider"}}
    (tmp_path / "profile.json").write_text(json.dumps([event]))
    placement = read_profile(tmp_path / "profile.json", 0, "", FileNodes(model))
    assert (placement.integer_kernels, placement.float_kernels) == (0, 0)
    assert not placement.nodes[0].integer


# --- the way of a weight: longer for the manifest's check than for placement once ---------------------------------------


@pytest.mark.parametrize("operator", sorted(tables.WEIGHT_WAY - {"QuantizeLinear", "DequantizeLinear"}))
def test_what_lies_between_a_constant_and_its_weight_is_folded(operator: str, tmp_path: Path) -> None:
    extra = {"Reshape": [64, 8], "Squeeze": [2], "Unsqueeze": [0]}.get(operator)
    shape = {"Transpose": (8, 64), "Squeeze": (64, 8, 1), "Reshape": (8, 64)}.get(operator, (64, 8))
    weight = np.ones(shape, np.float32)
    initializers = [numpy_helper.from_array(weight, "w")]
    if extra is not None:
        initializers.append(numpy_helper.from_array(np.array(extra, np.int64), "extra"))
    attributes = {"to": TensorProto.FLOAT} if operator == "Cast" else {}
    graph = helper.make_graph(
        [
            helper.make_node(operator, ["w", *(["extra"] if extra else [])], ["weight"], **attributes),
            helper.make_node("MatMul", ["x", "weight"], ["y"], name="product"),
        ],
        "folded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (product,) = onnx.load(tmp_path / "loaded.onnx").graph.node
    assert product.op_type in tables.FLOAT_KERNELS
    (described,) = [node for node in FileNodes(model)._by_name.values() if node.operator == "MatMul"]
    assert described.products == (64 if operator in tables.WEIGHT_WAY_OF_KNOWN_SHAPE else 0)
