"""What a batch's quantizers clip becomes a row for each image, in units that results have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qcam.evaluate.run.clipped import Clipped
from qcam.runtime.bundle import load_onnx
from qcam.runtime.mirror import Mirror
from qcam.runtime.mirror.clipped import ABOVE, BELOW, HIGH, LOW, SQUARES, VALUES


def mirror_of(bundle, precision):
    return Mirror(load_onnx(bundle, precision), bundle.precision(precision))


def test_rows_are_those_of_the_images_in_their_order_and_distances_in_units_of_the_range(tiny_bundle):
    mirror = mirror_of(tiny_bundle, "int8")
    mirror.ranges = tuple(replace(of, lowest=of.lowest / 4, highest=of.highest / 4) for of in mirror.ranges)
    images = np.random.default_rng(0).normal(size=(3, 3, *tiny_bundle.preprocessing.crop)).astype(np.float32)
    clipped = Clipped(mirror, 3)
    mirror.forward(images, clipped=clipped.values)
    rows, counted = clipped.rows(["a", "b", "c"], "net", "int8"), clipped.values.counted()
    assert [(row.image, row.model, row.precision) for row in rows] == [(name, "net", "int8") for name in "abc"]
    for index, row in enumerate(rows):
        assert row.tensors == [of.codes for of in mirror.ranges] == list(mirror.quantized)
        for place, of in enumerate(mirror.ranges):
            found = counted[of.codes][index]
            assert (row.lowest[place], row.highest[place]) == (of.lowest, of.highest)
            assert [row.values[place], row.low[place], row.high[place]] == [found[column] for column in (VALUES, LOW, HIGH)]
            assert row.below[place] * (of.highest - of.lowest) == pytest.approx(found[BELOW])
            assert row.above[place] * (of.highest - of.lowest) == pytest.approx(found[ABOVE])
            assert row.squares[place] == found[SQUARES]
    assert sum(rows[0].high) > 0
    assert sum(rows[0].low) > 0


def test_a_precision_without_quantizers_has_no_rows(tiny_bundle):
    assert Clipped(mirror_of(tiny_bundle, "f32"), 2).rows(["a", "b"], "net", "f32") == []
