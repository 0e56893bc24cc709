"""Positions at which Grad-CAM++'s denominator is not positive, counted one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qcam.common.denominators import crossings


def one_by_one(activation, gradient):
    counts = []
    for a, g in zip(activation, gradient, strict=True):
        count = 0
        for channel in range(a.shape[0]):
            total = sum(float(value) for value in a[channel].ravel())
            count += sum(2 + total * float(slope) <= 0 for slope in g[channel].ravel() if slope > 0)
        counts.append(count)
    return counts


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_every_position_counts(seed, batch, channels, side, alike):
    draw = np.random.default_rng(seed)
    activation = draw.integers(-6, 4, (batch, channels, side, side + 1)).astype(np.float32)
    gradient = draw.integers(-2, 3, activation.shape).astype(np.float32) / 4  # sums and products of these are exact
    if alike:
        gradient = np.broadcast_to(gradient[:, :, :1, :1], activation.shape)
    found = crossings(activation, gradient)
    assert found.dtype == np.int64
    assert found.tolist() == one_by_one(activation, gradient)


def test_a_denominator_of_nothing_counts_and_activations_that_are_not_negative_never_do():
    assert crossings(np.full((1, 1, 1, 2), -1.0), np.ones((1, 1, 1, 2))).tolist() == [2]  # 2 - 2
    assert crossings(np.full((1, 1, 1, 2), -0.99), np.ones((1, 1, 1, 2))).tolist() == [0]
    draw = np.random.default_rng(0)
    assert not crossings(draw.random((3, 5, 7, 7)), 1e6 * draw.normal(size=(3, 5, 7, 7))).any()
