"""QLinearAdd, QLinearMul and the operators of one operand, code for code against ONNX Runtime on this processor."""

import numpy as np
import pytest
from integer_cases import Case, Choices, Nodes, check, property_of
from integer_operators import S8, U8, add, leaky_relu, mul, sigmoid, softmax


@property_of(add, 150)
def test_add(case: Case) -> None:
    check(case)


@property_of(mul, 150)
def test_mul(case: Case) -> None:
    check(case)


@property_of(sigmoid, 100)
def test_sigmoid(case: Case) -> None:
    check(case)


@property_of(leaky_relu, 100)
def test_leaky_relu(case: Case) -> None:
    check(case)


@property_of(softmax, 150)
def test_softmax(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("operator", ["Sigmoid", "LeakyRelu"])
@pytest.mark.parametrize("seed", range(30))
def test_every_code(operator, dtype, seed):
    choices = Choices.seeded(seed)
    low = int(np.iinfo(dtype).min)
    scale, zeros = choices.scale(-6, -4), [low + choices.integer(0, 255) for _ in range(2)]
    nodes = Nodes(choices, dtype, 21)
    nodes.x = (scale * (np.arange(256) + low - zeros[0])[None]).astype(np.float32)
    x = nodes.quantize("x", scale, zeros[0], name="x")
    nodes.add(operator, "r", x.name)
    step = choices.pick(1 / 255, 1 / 256, 0.01, 0.001) if operator == "Sigmoid" else scale * choices.pick(0.5, 1, 2, 0.02)
    check(nodes.case(nodes.quantize("r", float(np.float32(step)), zeros[1], name="result").name, f"QLinear{operator}"))


@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("length", [1, 2, 8, 1000])
@pytest.mark.parametrize("levels", [333, 255, 100])
def test_shares_of_a_softmax_that_are_ties(dtype, length, levels):
    """Rows of equal codes: 100 / 8 is half way between two codes, and large products must not overflow."""
    low = int(np.iinfo(dtype).min)
    nodes = Nodes(Choices.seeded(0), dtype, 17)
    nodes.x = np.tril(np.ones((length, length), np.float32))[-50:] * 100
    x = nodes.quantize("x", 0.5, low, name="x")
    nodes.add("Softmax", "s", x.name)
    check(nodes.case(nodes.quantize("s", float(np.float32(1 / levels)), low, name="result").name, "QLinearSoftmax"))


@pytest.mark.parametrize("operator", ["Add", "Mul"])
@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("step", [2.0**-20, 2.0**-30, 1e-14, 2.0**-126])
def test_results_that_32_bits_do_not_hold(operator, dtype, step):
    """A step so small that sums and products are more than 2^31 of it: an x86 makes the lowest code of them."""
    low = int(np.iinfo(dtype).min)
    nodes = Nodes(Choices.seeded(0), dtype, 21)
    nodes.x = (np.arange(255, dtype=np.float32) - 100).reshape(1, 3, 5, 17) * np.float32(0.5)
    x = nodes.quantize("x", 0.5, low + 100, name="x")
    nodes.add(operator, "r", x.name, x.name)
    check(nodes.case(nodes.quantize("r", step, low + 100, name="result").name, f"QLinear{operator}"))
