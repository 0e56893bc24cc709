"""QLinearAdd, QLinearMul and the operators of one operand, code for code against ONNX Runtime on this processor."""

import numpy as np
import pytest
from integer_cases import Case, Choices, Nodes, check, property_of
from integer_operators import S8, U8, add, leaky_relu, mul, sigmoid, softmax


@property_of(add, 100)
def test_add(case: Case) -> None:
    check(case)


@property_of(mul, 100)
def test_mul(case: Case) -> None:
    check(case)


@property_of(sigmoid, 60)
def test_sigmoid(case: Case) -> None:
    check(case)


@property_of(leaky_relu, 60)
def test_leaky_relu(case: Case) -> None:
    check(case)


@property_of(softmax, 100)
def test_softmax(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("operator", ["Add", "Mul", "Sigmoid", "LeakyRelu"])
@pytest.mark.parametrize("seed", range(4))
def test_every_pair_of_codes(operator, dtype, seed):
    choices = Choices.seeded(seed)
    low = int(np.iinfo(dtype).min)
    scales = [choices.scale(-6, -4) for _ in range(3)]
    zeros = [low + choices.integer(0, 255) for _ in range(3)]
    nodes = Nodes(choices, dtype, 21)
    nodes.x = np.broadcast_to(np.float32(scales[0]) * (np.arange(256) + low - zeros[0])[:, None], (256, 256)).astype(np.float32)
    operands = [nodes.quantize("x", scales[0], zeros[0], name="x").name]
    if operator in ("Add", "Mul"):
        operands.append(nodes.held("w", (np.arange(256) + low).astype(dtype), scales[1], zeros[1]))
    nodes.add(operator, "r", *operands)
    step = {"Add": 2 * scales[0], "Mul": 64 * scales[0] * scales[1], "Sigmoid": 1 / 255, "LeakyRelu": scales[0]}[operator]
    check(nodes.case(nodes.quantize("r", float(np.float32(step)), zeros[2], name="result").name, f"QLinear{operator}"))


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
