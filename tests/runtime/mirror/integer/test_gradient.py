"""Straight-through gradients behind exact codes: those of the simulation, with the kernels' values in the forward pass."""

import numpy as np
import pytest
import torch
from integer_cases import CONFIG, Choices, Nodes
from integer_operators import S8, U8
from whole_graph import WholeGraph

from qcam.runtime.bundle import PrecisionEntry
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror import Mirror

CLASSES = 5
FAMILIES = pytest.mark.parametrize("family", KERNELS.values(), ids=str)


def residual(dtype, seed):
    """Return a network of two convolutions, a skip connection, pools and a Gemm, by powers of two: float32 is exact."""
    numbers = np.random.default_rng(seed)
    nodes = Nodes(Choices.seeded(seed), dtype, 21)
    low = int(np.iinfo(dtype).min)
    middle = low + 128
    nodes.x = (numbers.integers(-100, 100, (3, 4, 8, 8)) / 16).astype(np.float32)
    x = nodes.quantize("x", 1 / 16, middle, name="x")

    def weight(name, *shape):
        return nodes.held(name, numbers.integers(-4, 5, shape).astype(S8), 1 / 8, 0)

    nodes.add("Conv", "c1", x.name, weight("w1", 6, 4, 3, 3), pads=[1, 1, 1, 1])
    nodes.add("Relu", "s", "c1")
    skip = nodes.quantize("s", 1 / 4, low, name="s")
    nodes.add("MaxPool", "p", skip.name, kernel_shape=[2, 2], strides=[2, 2])
    pool = nodes.quantize("p", 1 / 4, low, name="p")
    nodes.add("Conv", "t", pool.name, weight("w2", 6, 6, 3, 3), pads=[1, 1, 1, 1])
    tap = nodes.quantize("t", 1 / 2, middle, name="t")
    nodes.add("Conv", "u", tap.name, weight("w3", 6, 6, 1, 1))
    branch = nodes.quantize("u", 1 / 2, middle, name="u")
    nodes.add("Add", "a", branch.name, pool.name)
    joined = nodes.quantize("a", 1 / 2, middle, name="a")
    nodes.add("GlobalAveragePool", "g", joined.name)
    mean = nodes.quantize("g", 1 / 16, middle, name="g")
    nodes.add("Flatten", "f", mean.name)
    flat = nodes.quantize("f", 1 / 16, middle, name="f")
    nodes.add("Gemm", "y", flat.name, weight("w4", 6, CLASSES))
    case = nodes.case("y", None)
    by_name = {item.tensor: item for item in nodes.taps}
    return case, PrecisionEntry("int8", "", "", "y", by_name["t"], (by_name["p"],), session=CONFIG)


def codes_of(mirror, x):
    seen = {}
    mirror.forward(x, lambda name, codes: seen.__setitem__(name, codes.clone()))
    return seen


@FAMILIES
@pytest.mark.parametrize("dtype", [U8, S8])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_the_simulations_where_codes_agree(dtype, seed, family):
    case, entry = residual(dtype, seed)
    exact = Mirror(case.model, entry, arithmetic="integer", family=family)
    simulated = Mirror(case.model, entry)
    mine, theirs = codes_of(exact, case.x), codes_of(simulated, case.x)
    assert len(exact.groups) == 8
    assert mine.keys() == theirs.keys()
    # A condition of the test, not a claim: nothing here saturates in pairs, and the fixed-point ratios are exact.
    agree = all(torch.equal(mine[name], theirs[name]) for name in mine)
    targets = np.array([0, 4, 2])
    gradients = []
    for mirror in (exact, simulated):
        outputs = mirror.forward(case.x)
        skips = [mirror.dequantize(skip, value) for skip, value in zip(entry.skips, outputs.skips, strict=True)]
        activation = mirror.dequantize(entry.tap, outputs.tap)
        gradients.append(mirror.gradient(activation, targets, skips))
        # The whole graph, differentiated, gives the same.
        whole = WholeGraph(mirror, case.model).gradient(torch.from_numpy(case.x), torch.from_numpy(targets))
        torch.testing.assert_close(gradients[-1], whole, rtol=1e-6, atol=0)
    assert agree or family.fixed_point_add
    assert gradients[0].abs().sum() > 0
    if agree:
        assert torch.equal(*gradients)


@FAMILIES
@pytest.mark.parametrize("dtype", [U8, S8])
def test_values_in_the_differentiable_graph_are_exact(dtype, family):
    case, entry = residual(dtype, 7)
    mirror = Mirror(case.model, entry, arithmetic="integer", family=family)
    x = torch.from_numpy(case.x)
    differentiable = WholeGraph(mirror, case.model).logits(x.clone().requires_grad_())
    assert differentiable.requires_grad
    assert torch.equal(differentiable.detach(), mirror.forward(x).logits)


def saturating():
    """Return two convolutions of which the first loses what does not fit 16 bits."""
    numbers = np.random.default_rng(0)
    nodes = Nodes(Choices.seeded(0), U8, 21)
    nodes.x = numbers.choice([0, 255], (2, 8, 4, 4), p=[0.2, 0.8]).astype(np.float32)
    x = nodes.quantize("x", 1.0, 0, name="x")
    nodes.add("Conv", "t", x.name, nodes.held("w1", np.full((4, 8, 1, 1), 127, S8), 1.0, 0))
    tap = nodes.quantize("t", 1024.0, 0, name="t")
    nodes.add("Conv", "u", tap.name, nodes.held("w2", numbers.integers(-90, 127, (CLASSES, 4, 1, 1)).astype(S8), 1.0, 0))
    last = nodes.quantize("u", 2.0**19, 128, name="u")
    nodes.add("ReduceMean", "y", last.name, nodes.constant("axes", np.array([2, 3])), keepdims=0)
    return nodes.case("y", None), PrecisionEntry("int8", "", "", "y", nodes.taps[1], session=CONFIG)


@FAMILIES
def test_values_are_exact_where_the_simulation_is_not(family):
    case, entry = saturating()
    mirror, simulated = Mirror(case.model, entry, arithmetic="integer", family=family), Mirror(case.model, entry)
    x = torch.from_numpy(case.x)
    outputs = mirror.forward(x)
    assert torch.equal(outputs.tap, simulated.forward(x).tap) != family.pairs_saturate
    assert torch.equal(WholeGraph(mirror, case.model).logits(x).detach(), outputs.logits)
    # Straight through: the weights' gradient, whatever saturated on the way.
    gradient = mirror.gradient(mirror.dequantize(entry.tap, outputs.tap), np.array([0, 3]))
    assert torch.equal(gradient, simulated.gradient(mirror.dequantize(entry.tap, outputs.tap), np.array([0, 3])))


@FAMILIES
def test_a_float_tail_against_finite_differences(family):
    """Tap → BatchNormalization → Sigmoid → ReduceMean → Gemm, differentiated in float64 without PyTorch."""
    numbers = np.random.default_rng(4)
    nodes = Nodes(Choices.seeded(0), U8, 21)
    nodes.x = numbers.integers(-100, 100, (2, 3, 4, 4)).astype(np.float32) / 32
    tap = nodes.quantize("x", 1 / 32, 128, name="x")
    scale, shift, mean = (numbers.normal(size=3).astype(np.float32) for _ in range(3))
    variance, matrix = numbers.uniform(0.5, 2, 3).astype(np.float32), numbers.normal(size=(3, CLASSES)).astype(np.float32)
    constants = {"scale": scale, "shift": shift, "mean": mean, "variance": variance}
    held = [nodes.constant(*pair) for pair in constants.items()]
    nodes.add("BatchNormalization", "n", tap.name, *held)
    nodes.add("Sigmoid", "s", "n")
    nodes.add("ReduceMean", "m", "s", nodes.constant("axes", np.array([2, 3])), keepdims=0)
    nodes.add("Gemm", "y", "m", nodes.constant("matrix", matrix))
    case = nodes.case("y", None)
    mirror = Mirror(case.model, case.entry, arithmetic="integer", family=family)

    def score(activation):
        normalized = activation - mean[:, None, None].astype(np.float64)
        normalized /= np.sqrt(variance[:, None, None].astype(np.float64) + float(np.float32(1e-5)))
        normalized = normalized * scale[:, None, None].astype(np.float64) + shift[:, None, None].astype(np.float64)
        return ((1 / (1 + np.exp(-normalized))).mean((2, 3)) @ matrix.astype(np.float64))[[0, 1], [3, 1]].sum()

    outputs = mirror.forward(case.x)
    activation = mirror.dequantize(mirror.entry.tap, outputs.tap)
    found = mirror.gradient(activation, np.array([3, 1])).numpy()
    base, expected = activation.double().numpy(), np.zeros(activation.shape)
    for index in np.ndindex(*base.shape):
        step = np.zeros_like(base)
        step[index] = 1e-4
        expected[index] = (score(base + step) - score(base - step)) / 2e-4
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-8)
