"""Figures as text."""

import doctest

import pytest

from qcam.evaluate.showing import numbers
from qcam.evaluate.showing.numbers import agreement


def test_figures_are_written_as_their_examples_say():
    tried = doctest.testmod(numbers)
    assert tried.attempted == 16
    assert tried.failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (1.0, "100 %"), (1 - 1e-12, "99.999999 %"), (0.99995, "99.995000 %"), (0.5, "50.00 %"), (0.0, "0.00 %")],
)
def test_a_share_is_never_rounded_up_to_all(value, text):
    assert agreement(value) == text
