"""Products added in pairs into 16 bits, against a loop over all pairs (and test_emulated.py against the real kernels)."""

import numpy as np
import pytest
from integer_cases import Choices, Nodes, run_mirror
from integer_operators import S8, U8

from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror.integer import saturation
from qcam.runtime.mirror.integer.saturation import saturable_pairs

#: channels, outputs, groups, window, pads, strides, dilations
SHAPES = [
    (4, 3, 1, (1, 1), (0, 0, 0, 0), (1, 1), (1, 1)),
    (3, 2, 1, (3, 3), (1, 1, 1, 1), (1, 1), (1, 1)),  # K is odd
    (5, 4, 1, (2, 3), (0, 1, 2, 0), (2, 1), (1, 1)),
    (6, 4, 2, (3, 1), (2, 0, 1, 1), (1, 2), (2, 1)),
    (9, 6, 3, (2, 2), (1, 1, 1, 1), (3, 2), (1, 3)),
    (4, 8, 4, (3, 3), (1, 1, 1, 1), (1, 1), (1, 1)),  # two filters a channel: not depthwise
    (1, 1, 1, (5, 5), (2, 2, 2, 2), (1, 1), (1, 1)),
]


def rows_of(x, window, pads, strides, dilations, zero):
    """Return positions × (kernel row, kernel column, channel) of one group's inputs, padded with the zero point."""
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero)
    height = (x.shape[2] - (window[0] - 1) * dilations[0] - 1) // strides[0] + 1
    width = (x.shape[3] - (window[1] - 1) * dilations[1] - 1) // strides[1] + 1
    taps = [
        x[:, :, row * dilations[0] :, column * dilations[1] :][:, :, :: strides[0], :: strides[1]][:, :, :height, :width]
        for row in range(window[0])
        for column in range(window[1])
    ]
    return np.stack(taps, axis=1).transpose(0, 3, 4, 1, 2).reshape(len(x), height, width, -1)


def saturated(rows, weights, zero):
    """Return sums over pairs, one pair after the other, less the zero point's part."""
    total = np.zeros((*rows.shape[:-1], len(weights)), np.int64)
    if rows.shape[-1] % 2:
        rows, weights = np.pad(rows, ((0, 0),) * 3 + ((0, 1),)), np.pad(weights, ((0, 0), (0, 1)))
    for k in range(0, rows.shape[-1], 2):
        pair = rows[..., k, None] * weights[:, k] + rows[..., k + 1, None] * weights[:, k + 1]
        total += np.clip(pair, -(2**15), 2**15 - 1)
    return total - zero * weights.sum(axis=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch", "chunk"), [(1, 2**20), (3, 2**20), (3, 64)])
def test_convolutions(shape, seed, batch, chunk, with_loops, monkeypatch):
    monkeypatch.setattr(saturation, "_CHUNK", chunk)
    channels, outputs, groups, window, pads, strides, dilations = shape
    numbers = np.random.default_rng(seed)
    weight = numbers.choice([-128, -100, -30, 0, 60, 127], (outputs, channels // groups, *window))
    codes = numbers.choice([0, 100, 200, 255], (batch, channels, 7, 6), p=[0.1, 0.2, 0.3, 0.4])
    zero, bias = int(numbers.integers(0, 256)), numbers.integers(-5000, 5000, outputs)
    nodes = Nodes(Choices.seeded(0), U8, 21)
    nodes.x = (codes - zero).astype(np.float32)
    x = nodes.quantize("x", 1.0, zero, name="x")
    w, b = nodes.held("w", weight.astype(S8), 1.0, 0), nodes.held("b", bias.astype(np.int32), 1.0, 0)
    nodes.add("Conv", "c", x.name, w, b, pads=pads, strides=strides, dilations=dilations, group=groups)
    case = nodes.case(nodes.quantize("c", 512.0, 128, name="result").name, "QLinearConv")

    parts = []
    for group in range(groups):
        mine = slice(group * channels // groups, (group + 1) * channels // groups)
        filters = weight[group * outputs // groups : (group + 1) * outputs // groups].transpose(0, 2, 3, 1)
        rows = rows_of(codes[:, mine], window, pads, strides, dilations, zero)
        parts.append(saturated(rows, filters.reshape(len(filters), -1), zero))
    sums = (np.concatenate(parts, axis=-1) + bias).transpose(0, 3, 1, 2)
    expected = np.clip(np.rint(sums / 512), -128, 127) + 128
    np.testing.assert_array_equal(run_mirror(case, KERNELS["avx2"])["result_codes"], expected)
    exact = run_mirror(case, KERNELS["vnni"])["result_codes"]
    assert not np.array_equal(exact, expected) or channels // groups == 1  # it did matter


def test_pairs_that_saturate_at_one_place_alone(with_loops):
    """One bright spot in a large dark picture: only there, and only at the outputs that it reaches."""
    numbers = np.random.default_rng(0)
    weight = numbers.choice([-128, -90, 3, 127], (6, 4))
    codes = np.full((2, 4, 60, 60), 3)
    codes[1, :, 31, 7] = 255
    nodes = Nodes(Choices.seeded(0), U8, 21)
    nodes.x = codes.astype(np.float32)
    x = nodes.quantize("x", 1.0, 0, name="x")
    nodes.add("Conv", "c", x.name, nodes.held("w", weight.astype(S8)[:, :, None, None], 1.0, 0))
    case = nodes.case(nodes.quantize("c", 512.0, 128, name="result").name, "QLinearConv")
    sums = saturated(codes.transpose(0, 2, 3, 1), weight, 0).transpose(0, 3, 1, 2)
    expected = np.clip(np.rint(sums / 512), -128, 127) + 128
    found = run_mirror(case, KERNELS["avx2"])["result_codes"]
    np.testing.assert_array_equal(found, expected)
    assert (found != run_mirror(case, KERNELS["vnni"])["result_codes"]).any(axis=(0, 1)).nonzero() == (31, 7)


def test_a_depthwise_convolution_does_not_saturate():
    nodes = Nodes(Choices.seeded(0), U8, 21)
    nodes.x = np.full((1, 3, 4, 4), 255, np.float32)
    x = nodes.quantize("x", 1.0, 0, name="x")
    nodes.add("Conv", "c", x.name, nodes.held("w", np.full((3, 1, 3, 3), 127, S8), 1.0, 0), group=3)
    case = nodes.case(nodes.quantize("c", 2048.0, 0, name="result").name, "QLinearConv")
    for family in ("avx2", "vnni"):
        assert np.unique(run_mirror(case, KERNELS[family])["result_codes"]).tolist() == [round(9 * 127 * 255 / 2048)]


@pytest.mark.parametrize("dtypes", [(S8, S8), (U8, U8)])
def test_only_unsigned_by_signed_saturates(dtypes):
    nodes = Nodes(Choices.seeded(0), dtypes[0], 21)
    nodes.x = np.full((2, 16), 255, np.float32)
    x = nodes.quantize("x", 1.0, int(np.iinfo(dtypes[0]).min), name="x")
    nodes.add("Gemm", "y", x.name, nodes.held("w", np.full((16, 3), 127, dtypes[1]), 1.0, 0))
    assert np.unique(run_mirror(nodes.case("y", "QGemm"), KERNELS["avx2"])["y"]).tolist() == [16 * 127 * 255]


def test_pairs_that_can_saturate():
    weight = np.array([[64, 65, 64, 64, -128, -1, -128, 0, 127, -128, 127]], np.int16)[:, :, None, None]
    pairs = saturable_pairs(weight)
    assert pairs.weights.tolist() == [[64, 65], [-128, -1]]
    assert pairs.rows[:, 0].tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize(("inputs", "zero"), [(4608, 0), (1200, 128)])
def test_differences_beyond_what_float32_counts(inputs, zero, with_loops):
    """Thousands of pairs that saturate by far: the difference leaves 2^24, and so does the sum of all."""
    numbers = np.random.default_rng(0)
    weight = numbers.integers(90, 128, (3, inputs))
    weight[1] = numbers.choice([-127, 127], inputs)
    codes = numbers.integers(200, 256, (2, inputs))
    nodes = Nodes(Choices.seeded(0), U8, 21)
    nodes.x = (codes - zero).astype(np.float32)
    x = nodes.quantize("x", 1.0, zero, name="x")
    nodes.add("Gemm", "y", x.name, nodes.held("w", weight.T.astype(S8), 1.0, 0))
    wanted = saturated(codes[:, None, None], weight, zero)[:, 0, 0]
    found = run_mirror(nodes.case("y", "QGemm"), KERNELS["avx2"])["y"]
    np.testing.assert_array_equal(found, wanted.astype(np.float32))
