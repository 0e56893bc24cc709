"""16-bit operators against 64-bit integers and float64."""

import numpy as np
import pytest
from integer_cases import Choices, Nodes, run_mirror, run_runtime

from qcam.runtime.kernels import KERNELS
from qcam.runtime.loaded import followed

U16, S16 = np.uint16, np.int16
BOTH = pytest.mark.parametrize("dtype", [U16, S16])


class Wide:
    """A 16-bit graph in the making, and the numbers that its operands' codes stand for."""

    def __init__(self, dtype, *shapes):
        self.dtype, self.limits = dtype, np.iinfo(dtype)
        self.nodes = Nodes(Choices.seeded(5), dtype, 21)
        self.operands = self.nodes.inputs(*shapes)
        self.numbers = np.random.default_rng(2)

    def constant(self, name, shape, scale):
        codes = self.numbers.integers(self.limits.min, self.limits.max, shape, endpoint=True).astype(self.dtype)
        zero = 7 if self.dtype == U16 else 0
        return self.nodes.held(name, codes, scale, zero), (codes.astype(np.int64) - zero)

    def run(self, tensor, scale, zero):
        case = self.nodes.case(self.nodes.quantize(tensor, scale, zero, name="result").name, None)
        found = run_mirror(case, KERNELS["vnni"])
        names = [codes.name.replace("_value", "_codes") for codes in self.operands]
        steps = [found[name].astype(np.int64) - codes.zero_point for name, codes in zip(names, self.operands, strict=True)]
        return found["result_codes"], steps

    def quantized(self, values, scale, zero):
        return np.clip(np.rint(values / scale) + zero, self.limits.min, self.limits.max)


def float64(value):
    return float(np.float32(value))


@BOTH
def test_convolution(dtype):
    wide = Wide(dtype, (2, 300, 5, 5))
    (x,) = wide.operands
    w, weight = wide.constant("w", (4, 300, 3, 3), 2.0**-20)
    step = np.float32(x.scale) * np.float32(2.0**-20)
    bias = np.array([2**31 - 1, -(2**31), 10, 0])
    wide.nodes.add("Conv", "r", x.name, w, wide.nodes.held("b", bias.astype(np.int32), step, 0), pads=[1, 1, 1, 1])
    scale = float64(x.scale * 2000)
    codes, (steps,) = wide.run("r", scale, 300)
    padded = np.pad(steps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = sum(
        np.einsum("nchw,oc->nohw", padded[:, :, row : row + 5, column : column + 5], weight[:, :, row, column])
        for row in range(3)
        for column in range(3)
    )
    values = (sums + bias[:, None, None]) * (x.scale * 2.0**-20)
    np.testing.assert_array_equal(codes, wide.quantized(values, scale, 300))
    assert np.abs(sums).max() > 2**31  # 32-bit accumulators would not do


@BOTH
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_gemm(dtype, alpha):
    wide = Wide(dtype, (3, 2000))
    (x,) = wide.operands
    w, weight = wide.constant("w", (2000, 5), 2.0**-20)
    wide.nodes.add("Gemm", "r", x.name, w, alpha=alpha)
    scale = float64(x.scale * 2000)
    codes, (steps,) = wide.run("r", scale, 300)
    values = (steps @ weight) * (x.scale * 2.0**-20 * float64(alpha))
    np.testing.assert_array_equal(codes, wide.quantized(values, scale, 300))


@BOTH
def test_matmul_of_two_activations(dtype):
    wide = Wide(dtype, (2, 4, 300), (2, 300, 6))
    a, b = wide.operands
    wide.nodes.add("MatMul", "r", a.name, b.name)
    scale = float64(a.scale * b.scale * 2**20)
    codes, (left, right) = wide.run("r", scale, 5)
    np.testing.assert_array_equal(codes, wide.quantized((left @ right) * (a.scale * b.scale), scale, 5))


@BOTH
@pytest.mark.parametrize("operator", ["Add", "Mul"])
def test_two_operands(dtype, operator):
    wide = Wide(dtype, (2, 3, 4, 5), (2, 3, 4, 5))
    a, b = wide.operands
    wide.nodes.add(operator, "r", a.name, b.name)
    scale = float64((a.scale + b.scale) if operator == "Add" else a.scale * b.scale * 30000)
    codes, (left, right) = wide.run("r", scale, 77)
    values = left * a.scale + right * b.scale if operator == "Add" else (left * a.scale) * (right * b.scale)
    np.testing.assert_array_equal(codes, wide.quantized(values, scale, 77))


@BOTH
@pytest.mark.parametrize("operator", ["Sigmoid", "LeakyRelu", "GlobalAveragePool", "AveragePool", "Concat"])
def test_other_operators(dtype, operator):
    wide = Wide(dtype, *[(2, 3, 4, 6)] * (2 if operator == "Concat" else 1))
    attributes = {"AveragePool": {"kernel_shape": [2, 3], "strides": [2, 3]}, "Concat": {"axis": 1}}.get(operator, {})
    wide.nodes.add(operator, "r", *(codes.name for codes in wide.operands), **attributes)
    scale = float64(1 / 65536 if operator == "Sigmoid" else wide.operands[0].scale * 1.5)
    codes, steps = wide.run("r", scale, 9)
    values = [step * operand.scale for step, operand in zip(steps, wide.operands, strict=True)]
    expected = {
        "Sigmoid": lambda x: 0.5 + np.tanh(x / 2) / 2,
        "LeakyRelu": lambda x: np.where(x > 0, x, x * 0.01),
        "GlobalAveragePool": lambda x: x.mean((2, 3), keepdims=True),
        "AveragePool": lambda x: x.reshape(2, 3, 2, 2, 2, 3).mean((3, 5)),
        "Concat": lambda *all_of: np.concatenate(all_of, axis=1),
    }[operator](*values)
    np.testing.assert_array_equal(codes, wide.quantized(expected, scale, 9))


def test_with_a_float_bias_nothing_is_integer_and_the_graph_as_loaded_is_followed():
    wide = Wide(U16, (1, 2, 3, 3))
    (x,) = wide.operands
    w, _ = wide.constant("w", (4, 2, 1, 1), 2.0**-20)
    wide.nodes.add("Conv", "r", x.name, w, wide.nodes.constant("b", np.ones(4, np.float32)))
    case = wide.nodes.case(wide.nodes.quantize("r", 2.0**-8, 0, name="result").name, None)
    assert not followed(case.model).wide
    theirs, _ = run_runtime(case)
    mine = run_mirror(case, KERNELS["vnni"], float_kernels=True)
    np.testing.assert_array_equal(mine["result_codes"], theirs["result_codes"].astype(np.float32))
