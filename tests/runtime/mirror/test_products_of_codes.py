"""Large products of a tail: exact sums forward, the float32 weights' gradient back; anything else stays as it was."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from qcam.runtime.graph import Graph
from qcam.runtime.mirror import products_of_codes
from qcam.runtime.mirror.integer.products import bytes_are_exact
from qcam.runtime.mirror.operators.matrix import gemm
from qcam.runtime.mirror.products_of_codes import by_codes
from qcam.runtime.mirror.steps import Step

CPU = torch.device("cpu")
X_SCALE, X_ZERO, W_SCALE = np.float32(0.037), np.uint8(3), np.float32(0.011)

pytestmark = pytest.mark.skipif(not bytes_are_exact(), reason="this processor's products of bytes saturate")


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch):
    monkeypatch.setattr(products_of_codes, "LARGE", 1)


def case(attributes=None, inputs=300, **constants: Any):
    """Return a Gemm's step, its graph, and the operands."""
    numbers = np.random.default_rng(0)
    codes = numbers.integers(0, 256, (4, inputs)).astype(np.uint8)
    held = {
        "x_scale": X_SCALE,
        "x_zero": X_ZERO,
        "w_codes": numbers.integers(-128, 128, (7, inputs)).astype(np.int8),
        "w_scale": W_SCALE,
        "w_zero": np.int8(0),
    } | constants
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "x_scale", "x_zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w_codes", "w_scale", "w_zero"], ["w"], axis=0),
        helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1),
    ]
    given = [helper.make_tensor_value_info("codes", onnx.TensorProto.UINT8, codes.shape)]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    graph = Graph(helper.make_model(helper.make_graph(nodes, "g", given, [], initializers)))
    step = Step(gemm, attributes or {"transB": 1}, ("x", "w", "b"), ("y",), "Gemm", "fc")
    zeros = np.asarray(held["w_zero"]).astype(np.float32)
    scales = np.reshape(held["w_scale"], (-1, 1)) if np.size(held["w_scale"]) > 1 else held["w_scale"]
    weight = (held["w_codes"].astype(np.float32) - zeros) * np.float32(scales)
    return step, graph, codes, held["w_codes"], torch.from_numpy(weight)


@pytest.mark.parametrize("scale", [W_SCALE, np.linspace(0.001, 0.02, 7, dtype=np.float32)])
@pytest.mark.parametrize("inputs", [300, 5000])  # 5,000 products reach beyond 2^24, where float32 has gaps
def test_sums_are_rounded_once(scale, inputs):
    step, graph, codes, weight_codes, weight = case(w_scale=scale, inputs=inputs)
    (changed,) = by_codes([step], graph, CPU)
    assert changed.compute is not gemm
    x = torch.from_numpy((codes.astype(np.float32) - X_ZERO) * X_SCALE)
    bias = torch.linspace(-3, 3, 7)
    sums = (codes.astype(np.int64) - int(X_ZERO)) @ weight_codes.astype(np.int64).T
    wanted = sums.astype(np.float32) * (scale * X_SCALE) + bias.numpy()
    np.testing.assert_array_equal(changed.compute(x, weight, bias, **changed.attributes).numpy(), wanted)
    close = gemm(x, weight, bias, transB=1).numpy()
    np.testing.assert_allclose(wanted, close, atol=1e-5 * np.abs(close).max())


def test_what_is_no_number_stays_none():
    step, graph, codes, _, weight = case()
    (changed,) = by_codes([step], graph, CPU)
    x = torch.from_numpy((codes.astype(np.float32) - X_ZERO) * X_SCALE)
    x[1, 7] = torch.nan
    assert changed.compute(x, weight, None, transB=1).isnan().all(dim=1).tolist() == [False, True, False, False]


def test_gradients_are_those_of_the_float_weights():
    step, graph, codes, _, weight = case()
    (changed,) = by_codes([step], graph, CPU)
    back = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    gradients = []
    for compute in (step.compute, changed.compute):
        x = torch.from_numpy((codes.astype(np.float32) - X_ZERO) * X_SCALE).requires_grad_()
        gradients += torch.autograd.grad(compute(x, weight, None, transB=1), x, back)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("attributes", "constants"),
    [
        ({"transB": 1, "alpha": 0.5}, {}),
        ({"transB": 0}, {}),
        ({"transB": 1}, {"w_zero": np.int8(1)}),
        ({"transB": 1}, {"w_codes": np.ones((7, 300), np.uint8), "w_zero": np.uint8(0)}),
        ({"transB": 1}, {"x_scale": np.full(300, 0.5, np.float32), "x_zero": np.zeros(300, np.uint8)}),
        ({"transB": 1}, {"x_zero": np.uint16(3)}),
        ({"transB": 1}, {"w_scale": np.full((7, 1), 0.5, np.float32)}),
    ],
    ids=["alpha", "not transposed", "zero point", "unsigned", "scales of inputs", "16 bit", "scales in a matrix"],
)
def test_others_stay_as_they_are(attributes, constants):
    step, graph, *_ = case(attributes, **constants)
    assert by_codes([step], graph, CPU) == [step]


def test_small_ones_and_other_devices_stay_as_they_are(monkeypatch):
    step, graph, *_ = case()
    assert by_codes([step], graph, torch.device("meta")) == [step]
    monkeypatch.setattr(products_of_codes, "LARGE", 7 * 300 + 1)
    assert by_codes([step], graph, CPU) == [step]
