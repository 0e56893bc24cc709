from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from qcam.common.errors import QcamError, UnsupportedGraphError
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.slopes import DIRECTIONS, STEPS, Slopes, StepResult, best, told
from qcam.runtime.bundle import Tap
from qcam.runtime.deployed import DeployedOutputs, SessionSettings

SCALE = 0.25
RANDOM = np.random.default_rng(7)
WEIGHTS = RANDOM.normal(size=(3, 4, 5, 5))  # classes × channels × height × width
CODES = RANDOM.integers(0, 256, (4, 4, 5, 5)).astype(np.uint8)
CODES[:, :2] = 0  # no code is below it: such a step goes to one side alone
TARGETS = np.array([2, 0, 1, 1])


class LinearTail:
    """Logits that are linear in the tap's values, so that the slope over any step is the derivative."""

    def __init__(self, dtype="uint8"):
        self.entry = SimpleNamespace(tap=Tap("tap", "tap", dtype, SCALE, 0))
        self.taps = (self.entry.tap,)
        self.faithful = True

    def run(self, tap, skips=()):
        return np.einsum("nchw,kchw->nk", tap.astype(np.float64) * SCALE, WEIGHTS)

    def prove(self, outputs):
        if not self.faithful:
            raise UnsupportedGraphError("other logits")


class Gradient:
    """A mirror whose gradient is the weights' own, times a factor, and plus noise."""

    def __init__(self, factor=1.0, noise=0.0):
        self.factor, self.noise = factor, noise

    def dequantize(self, tap, values):
        return torch.from_numpy(values.astype(np.float32)) * tap.scale

    def gradient(self, activation, targets, skips):
        values = self.factor * WEIGHTS[targets] + self.noise * np.random.default_rng(1).normal(size=activation.shape)
        return torch.from_numpy(values)


def slopes_of(tail: Any) -> Slopes:
    return Slopes(tail)


def measured(mirror: Any, codes=CODES, sizes=(4,), dtype="uint8"):
    slopes = slopes_of(LinearTail(dtype))
    found = slopes.empty()
    start = 0
    for size in sizes:
        part = slice(start, start := start + size)
        slopes.add(DeployedOutputs(np.zeros((size, 3), np.float32), codes[part], ()), TARGETS[part], [(mirror, found)])
    return found


@pytest.mark.parametrize("factor", [1.0, 0.5, -1.0])
def test_slopes_of_a_linear_tail_are_its_gradient_at_every_size_of_step(factor):
    for step in measured(Gradient(factor)):
        np.testing.assert_allclose(np.array(step.measured), np.array(step.foretold) / factor, rtol=1e-9)
        assert step.correlation == pytest.approx(np.sign(factor))
        assert step.slope == pytest.approx(1 / factor)
        assert len(step.measured) == len(CODES) * DIRECTIONS


def test_another_gradient_is_told_from_the_right_one():
    chosen = best(measured(Gradient(noise=1.0)))
    assert chosen is not None
    assert chosen.correlation is not None
    assert 0.3 < chosen.correlation < 0.9
    assert f"r {chosen.correlation:.4f}" in told([chosen])


def test_directions_do_not_depend_on_the_batch():
    together, apart = (measured(Gradient(noise=1.0), sizes=sizes) for sizes in ((4,), (1, 3)))
    for one, other in zip(together, apart, strict=True):
        assert sorted(one.measured) == pytest.approx(sorted(other.measured), rel=1e-12)


def test_steps_are_shares_of_what_the_type_reaches():
    assert [step.codes for step in slopes_of(LinearTail()).empty()] == list(STEPS)
    assert [step.codes for step in slopes_of(LinearTail("uint16")).empty()] == [256 * step for step in STEPS]


def test_the_best_size_is_that_of_the_largest_r_and_a_constant_score_has_none():
    flat = StepResult(2, [1.0, 2.0], [3.0, 3.0])
    good, poor = StepResult(4, [1.0, 2.0, 3.0], [2.0, 4.0, 6.1]), StepResult(8, [1.0, 2.0, 3.0], [2.0, 4.0, 3.0])
    broken = StepResult(16, [1.0, 2.0], [1.0, float("nan")])
    assert (flat.correlation, flat.slope, broken.correlation) == (None, None, None)
    assert best([flat, poor, good, broken]) is good
    assert best([flat, broken]) is None
    assert "undefined" in told([flat])
    assert "over 3 steps of ±4 codes (r 0.5000 at 8, – at 16)" in told([poor, good, broken])


def test_a_tail_that_is_not_the_deployed_one_is_refused():
    tail = LinearTail()
    tail.faithful = False
    slopes = slopes_of(tail)
    with pytest.raises(UnsupportedGraphError, match="other logits; leave finite_differences=True out"):
        slopes.add(DeployedOutputs(np.zeros((4, 3), np.float32), CODES, ()), TARGETS, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"finite_differences": True, "settings": SessionSettings(provider="CUDA")}, "runs alone on CPU only, not on CUDA"),
        ({"gates": {"finite_differences": 0.9}, "deployed": Path(__file__)}, "the tail is that of the bundle's own file"),
    ],
)
def test_finite_differences_are_refused_where_there_are_none(options, message):
    with pytest.raises(QcamError, match=message):
        CheckOptions(**options)


def test_a_gate_on_them_asks_for_them():
    assert CheckOptions(gates={"finite_differences": 0.9}).finite_differences
    assert not CheckOptions(gates={"cc": 0.9}).finite_differences
