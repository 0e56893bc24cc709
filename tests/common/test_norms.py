"""The one relative error of logits."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from qcam.common import norms
from qcam.common.norms import logit_error


def test_examples_hold():
    tried = doctest.testmod(norms)
    assert tried.attempted == 1
    assert tried.failed == 0


def test_logit_error_is_the_relative_euclidean_one():
    a, b = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    assert logit_error(a, b, b) == pytest.approx(np.sqrt(((a64 - b64) ** 2).sum() / (b64**2).sum()), rel=1e-6)
    assert logit_error(a, a, b) == logit_error(a, a, np.zeros_like(a)) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logit_error_of_what_is_not_finite_on_both_sides_is_undefined(value):
    logits = np.float32([1.0, value])
    assert np.isnan(logit_error(logits, logits, logits))
    assert not logit_error(np.float32([1.0, 2.0]), logits, logits) <= 1.0


def test_logit_error_of_large_logits_does_not_vanish():
    logits = np.float32([1e20, 2e20])  # their squares are beyond float32
    assert logit_error(2 * logits, logits, logits) == pytest.approx(1.0)
