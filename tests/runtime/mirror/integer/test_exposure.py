import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.bundle import load_onnx
from qcam.runtime.graph import Graph
from qcam.runtime.grouping import find_groups
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror.integer.exposure import exposure

VNNI, AVX2, ARM64 = KERNELS.values()


def exposed(operator, weight, *, codes=np.uint8, shape=(1, 4, 5, 5), **attributes):
    """Return the exposure of one operator between codes."""
    constants = {
        "s": np.float32(0.1), "z": codes(0), "w": weight.astype(np.int8), "wz": np.int8(0), "bias": np.zeros(1, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wf"]),
        helper.make_node(operator, ["x", "wf"], ["y"], name="op", **attributes),
        helper.make_node("QuantizeLinear", ["y", "s", "z"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes, "one", [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    index = Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    assert len(find_groups(index)) == 1
    return exposure(index, find_groups(index))


@pytest.mark.parametrize(
    ("pair", "saturable"),
    [((64, 65), 1), ((64, 64), 0), ((-64, -65), 1), ((-64, 65), 0), ((127, 2), 1), ((127, 1), 0), ((-128, -1), 1)],
)
def test_a_pair_counts_if_its_products_can_leave_16_bits(pair, saturable):
    reachable = [a * pair[0] + b * pair[1] for a in (0, 255) for b in (0, 255)]
    assert bool(saturable) == (max(reachable) > 2**15 - 1 or min(reachable) < -(2**15))
    weight = np.zeros((2, 4, 1, 1))
    weight[1, 2:, 0, 0] = pair
    found = exposed("Conv", weight)
    assert (found.saturable, found.pairs, found.lowest) == (saturable, 4, -128 in pair)
    assert found.differs(VNNI, AVX2) == found.differs(AVX2, ARM64) == bool(saturable)
    assert not found.differs(VNNI, ARM64)
    # The same as a matrix, both ways round.
    matrix = weight[:, :, 0, 0]
    assert exposed("Gemm", matrix, shape=(1, 4), transB=1) == exposed("Gemm", matrix.T, shape=(1, 4)) == found
    assert exposed("MatMul", matrix.T, shape=(1, 4)) == found


def test_pairs_run_along_the_channels_of_one_window_position():
    weight = np.zeros((1, 4, 1, 2))
    weight[0, 0, 0, :] = 100  # neighbours along the row, not along the channels
    assert exposed("Conv", weight).saturable == 0
    weight[0, 1, 0, 1] = 100
    assert exposed("Conv", weight).saturable == 1


def test_kernels_that_do_not_add_in_pairs_do_not_count():
    depthwise = np.full((4, 1, 3, 3), 127)
    depthwise[0, 0, 0, 0] = -128
    found = exposed("Conv", depthwise, group=4)
    assert (found.saturable, found.pairs, found.lowest) == (0, 0, 1)
    signed = exposed("Conv", np.full((2, 4, 1, 1), 127), codes=np.int8)
    assert signed.saturable == 0
    assert not signed.differs(VNNI, AVX2)


@pytest.mark.parametrize("reduce_range", [False, True])
def test_a_network_counts_its_additions_and_a_reduced_range_protects_it(export_tiny, tmp_path, reduce_range):
    bundle = export_tiny(tmp_path / "tiny", reduce_range=reduce_range)
    graph = Graph(load_onnx(bundle, "int8"))
    found = exposure(graph, find_groups(graph))
    assert (found.fixed_point, found.fused, found.summed) == (1, 0, 1)
    assert (found.saturable == 0) == reduce_range
    assert found.pairs > 1000
    assert found.differs(VNNI, AVX2) is not reduce_range
    assert found.differs(VNNI, ARM64)


def of_float(operator, **attributes):
    """Return the exposure of one float operator."""
    graph = onnx.helper.make_graph([helper.make_node(operator, ["x"], ["y"], **attributes)], "one", [], [])
    return exposure(Graph(helper.make_model(graph)), ())


@pytest.mark.parametrize(
    "operator",
    [
        "BatchNormalization", "GlobalAveragePool", "InstanceNormalization", "Reciprocal", "ReduceL2", "ReduceMean", "ReduceSum",
    ],
)  # fmt: skip
def test_arm64_rounds_some_float_operators_otherwise(operator):
    assert not exposed("Conv", np.ones((2, 4, 1, 1))).differs(VNNI, ARM64)
    found = of_float(operator)
    assert found.differs(VNNI, ARM64)
    assert not found.differs(VNNI, AVX2)


def test_only_linear_resize_rounds():
    assert of_float("Resize", mode="linear").differs(VNNI, ARM64)
    assert not of_float("Resize").differs(VNNI, ARM64)
    assert not of_float("AveragePool", kernel_shape=[2, 2]).differs(VNNI, ARM64)
