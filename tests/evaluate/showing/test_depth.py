"""The chart of agreement over depth, which a report and a check share."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from qcam.evaluate.showing.canvas import figure_bytes
from qcam.evaluate.showing.depth import DepthLine, depth_chart

LINES = (
    DepthLine("int8, integer (vnni)", "int8", True, [1.0, 0.75, 0.5], [1.0, 0.9, None]),
    DepthLine("int8, fake_quant", "int8", False, [0.99, 0.7, 0.4], [None, None, None]),
)


def test_lines_are_drawn_as_they_are_and_dots_where_an_operator_was_fed():
    drawn = depth_chart("net", "depth", LINES).figure.axes[0].lines
    assert [list(line.get_ydata()) for line in drawn] == [[1.0, 0.75, 0.5], [1.0, 0.9], [0.99, 0.7, 0.4]]
    assert [line.get_linestyle() for line in drawn] == ["-", "None", "--"]


@pytest.mark.parametrize(("place", "share"), [(1, 0.9), (2, 0.5)])
def test_the_first_operator_that_differs_is_ringed_and_named(place, share):
    axes = depth_chart("net", "depth", LINES[:1], (place, "Conv " + "x" * 60)).figure.axes[0]
    assert (list(axes.lines[-1].get_xdata()), list(axes.lines[-1].get_ydata())) == ([place + 1], [share])
    assert axes.get_xlabel().endswith("○ first to differ: Conv xxxxxxx…" + "x" * 25)


def test_the_same_chart_is_the_same_file():
    first, second = (figure_bytes(depth_chart("net", "depth", LINES).figure, "png") for _ in range(2))
    assert first == second
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.width > 800
