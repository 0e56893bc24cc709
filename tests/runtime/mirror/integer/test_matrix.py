"""QGemm, QLinearMatMul and MatMulIntegerToFloat, code for code and bit for bit against ONNX Runtime on this processor."""

import numpy as np
import pytest
from integer_cases import Case, Choices, Nodes, check, here, property_of, run_mirror
from integer_operators import S8, U8, gemm, matmul

from qcam.common.errors import QcamError


@property_of(gemm, 200)
def test_gemm(case: Case) -> None:
    check(case)


@property_of(matmul, 200)
def test_matmul(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5)])
@pytest.mark.parametrize("large", [False, True])
def test_biases_that_all_rows_share(shape, large):
    check(biased(shape, 2**30 if large else 2000))


@pytest.mark.parametrize("shape", [(4, 5), (4, 1)])
def test_a_bias_for_each_row_is_refused(shape):
    with pytest.raises(QcamError, match=r"one bias for each output, not one of shape .* at Gemm Gemm_g"):
        run_mirror(biased(shape, 2000), here())


def biased(shape, reach):
    nodes = Nodes(Choices.seeded(3), U8, 21)
    (x,) = nodes.inputs((4, 6), scale=0.5)
    numbers = np.random.default_rng(0)
    w = nodes.held("w", numbers.integers(-9, 9, (6, 5)).astype(S8), 0.5, 0)
    b = nodes.held("b", numbers.integers(-reach, reach, shape).astype(np.int32), 0.25, 0)
    nodes.add("Gemm", "g", x.name, w, b)
    return nodes.case(nodes.quantize("g", reach / 200, 128, name="result").name, "QGemm")
