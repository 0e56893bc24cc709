"""The strip of clipped values over depth."""

from __future__ import annotations

import pytest

from qcam.evaluate.showing.canvas import colours_of
from qcam.evaluate.showing.clipping import ClippedLine, clipping_chart

LINES = (
    ClippedLine("int16", [0.0, 1e-3, 1e-9], [False, True, True]),
    ClippedLine("int8", [0.0, 1e-3, 0.0], [False, False, False]),
)


def stems(chart):
    """Return (place, foot, top) of every stem, and the places with a dot."""
    lines = chart.figure.axes[0].lines
    ends = [(*line.get_xdata(), *line.get_ydata()) for line in lines if len(line.get_xdata()) == 2]
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines if line.get_marker() == "."]
    return [(left, foot, top) for left, right, foot, top in ends if left == right], dots


def test_a_tensor_that_clips_has_a_stem_of_its_share_and_a_dot_where_clipping_is_the_larger_error():
    drawn, dots = stems(clipping_chart("net", "clipping", LINES, colours_of(["int16", "int8"])))
    assert [(place, foot) for place, foot, _ in drawn] == [(2, 0), (3, 0), (2, -1)]
    assert drawn[0][2] == pytest.approx(0.4)  # 1e-3 is half way from 1e-6 to 1
    assert drawn[2][2] == pytest.approx(-0.6)
    assert 0 < drawn[1][2] < 0.02  # smaller than the scale: at its foot, and to be seen
    assert dots == [(place, top) for place, _, top in drawn[:2]]


def test_the_description_says_what_is_drawn():
    told = clipping_chart("net", "clipping", LINES, colours_of(["int16", "int8"])).description
    assert told == (
        "int16: 2 of 3 tensors clip, at most 0.1 % of their values; in 2 clipping is a larger error than rounding; "
        "int8: 1 of 3 tensors clip, at most 0.1 % of their values; in 0 clipping is a larger error than rounding"
    )
