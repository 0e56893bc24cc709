"""A product and a sum in one rounding, against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcam.runtime.mirror.integer.rounding import multiply_add

FLOATS = st.floats(-(2.0**20), 2.0**20, width=32).filter(lambda value: value == 0 or abs(value) > 2.0**-40)


def nearest(value: Fraction) -> np.float32:
    """Return the float32 nearest to a fraction, of two the even one."""
    near = np.float32(float(value))
    candidates = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(candidates, key=lambda each: (abs(Fraction(float(each)) - value), int(each.view(np.uint32)) & 1))


@given(FLOATS, FLOATS, FLOATS)
def test_it_is_the_nearest_number(one, other, added):
    (found,) = multiply_add(*(torch.tensor([value]) for value in (one, other, added)))
    assert found.item() == nearest(Fraction(one) * Fraction(other) + Fraction(added))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("one", "other", "added"),
    [
        (2**23 + 1, 2**23 - 1, 1 + 2.0**-23),  # a product just below 2^-24, and an odd number
        (2**23 + 2896, 2**23 - 2895, 1.0),  # just above, and an even one
        (2**23 + 1, -(2**23) + 1, 1 + 2.0**-22 + 2.0**-23),
        (2**23 + 2896, -(2**23) + 2895, 1 + 2.0**-22),
    ],
)
def test_what_float64_rounds_to_half_way_is_not_rounded_twice(one, other, added, sign):
    one, other, added = float(one), sign * other * 2.0**-70, sign * added
    wanted = nearest(Fraction(one) * Fraction(other) + Fraction(added))
    assert np.float32(one * other + added) != wanted
    many = multiply_add(torch.tensor([1.0, one]), torch.tensor([[other], [2.0]]), torch.tensor(added))
    assert many[0, 1].item() == wanted
    assert many[1].tolist() == [np.float32(2.0 + added), np.float32(2 * one + added)]
