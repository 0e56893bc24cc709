"""QLinearConv, code for code against ONNX Runtime on this processor."""

import numpy as np
import pytest
from integer_cases import Case, Choices, Nodes, check, here, property_of, run_mirror
from integer_operators import S8, U8, conv, conv_of_a_row

from qcam.common.errors import QcamError


@property_of(conv, 300)
def test_codes_are_onnx_runtimes(case: Case) -> None:
    check(case)


@property_of(conv_of_a_row, 200)
def test_codes_along_one_axis_are_onnx_runtimes(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(("dtype", "weights"), [(U8, S8), (S8, S8), (U8, U8)])
def test_sums_far_beyond_24_bits(dtype, weights):
    nodes = Nodes(Choices.seeded(0), dtype, 21)
    limits, channels = np.iinfo(weights), 2500
    nodes.x = np.full((2, channels, 2, 2), 255, np.float32)
    low = int(np.iinfo(dtype).min)
    x = nodes.quantize("x", 1.0, low, name="x")
    codes = np.stack([np.full((channels, 2, 2), value) for value in (limits.max, limits.min, limits.max - 1)])
    codes[2, ::2] = limits.min
    bias = np.array([2**31 - 5, -(2**31), 12345], np.int32)  # the accumulators wrap around
    operands = nodes.held("w", codes.astype(weights), 1 / 4, 0), nodes.held("b", bias, 1 / 4, 0)
    nodes.add("Conv", "c", x.name, *operands)
    result = nodes.quantize("c", 2.0**20, low + 128, name="result")
    check(nodes.case(result.name, "QLinearConv"))


def test_only_rows_and_images_are_convolved():
    nodes = Nodes(Choices.seeded(0), U8, 21)
    (x,) = nodes.inputs((1, 2, 5, 5, 5))
    nodes.add("Conv", "c", x.name, nodes.held("w", np.ones((3, 2, 3, 3, 3), S8), 0.5, 0))
    case = nodes.case(nodes.quantize("c", 1.0, 0, name="result").name, "QLinearConv")
    with pytest.raises(QcamError, match="Conv_c"):
        run_mirror(case, here())
