"""QLinearAveragePool and QLinearGlobalAveragePool, code for code against ONNX Runtime on this processor."""

import numpy as np
import pytest
from integer_cases import Case, Choices, Nodes, check, here, property_of, run_mirror
from integer_operators import S8, U8, average_pool, global_average_pool

from qcam.common.errors import QcamError


@property_of(average_pool, 200)
def test_average_pool(case: Case) -> None:
    check(case)


@property_of(global_average_pool, 100)
def test_global_average_pool(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("operator", ["AveragePool", "GlobalAveragePool"])
def test_ties(operator, dtype):
    """Sums of small codes whose means lie half way between two codes; a window as large as the image is a global pool."""
    low = int(np.iinfo(dtype).min)
    for zero in (0, 101):
        nodes = Nodes(Choices.seeded(0), dtype, 21)
        nodes.x = np.random.default_rng(0).integers(-8, 8, (4, 20, 4, 4)).astype(np.float32)
        x = nodes.quantize("x", 1.0, low + 60, name="x")
        nodes.add(operator, "p", x.name, **({"kernel_shape": [4, 4]} if operator == "AveragePool" else {}))
        check(nodes.case(nodes.quantize("p", 0.5, low + zero, name="result").name, f"QLinear{operator}"))


@pytest.mark.parametrize("include", [0, 1])
def test_windows_behind_the_padding_count_whole(include):
    nodes = Nodes(Choices.seeded(0), U8, 21)
    nodes.x = np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5) * 10
    x = nodes.quantize("x", 1.0, 0, name="x")
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": include}
    nodes.add("AveragePool", "p", x.name, **attributes)
    case = nodes.case(nodes.quantize("p", 1.0, 0, name="result").name, "QLinearAveragePool")
    check(case)
    assert run_mirror(case, here())["result_codes"][0, 0, 2, 2] == (60 if include else 240)


@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2], "strides": [2]},
        {"kernel_shape": [3], "pads": [1, 1], "count_include_pad": 1},
        {"kernel_shape": [11]},
    ],
    ids=str,
)
def test_sequences_are_averaged(dtype, attributes):
    nodes = Nodes(Choices.seeded(0), dtype, 21)
    nodes.x = np.random.default_rng(0).normal(size=(2, 5, 11)).astype(np.float32)
    x = nodes.quantize("x", 0.02, 7, name="x")
    nodes.add("AveragePool", "p", x.name, **attributes)
    check(nodes.case(nodes.quantize("p", 0.01, 9, name="result").name, "QLinearAveragePool"))


def test_dilated_windows_are_refused():
    nodes = Nodes(Choices.seeded(0), U8, 19)
    (x,) = nodes.inputs((1, 2, 6, 6))
    nodes.add("AveragePool", "p", x.name, kernel_shape=[2, 2], dilations=[2, 2])
    case = nodes.case(nodes.quantize("p", 1.0, 0, name="result").name, "QLinearAveragePool")
    with pytest.raises(QcamError, match=r"ONNX Runtime does not load the file on the CPU: .*AveragePool_p"):
        run_mirror(case, here())
