"""Exact sums against 64-bit integers, wrapped to the kernels' 32 bits, whichever way they are added."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qcam.runtime.mirror.integer.accumulate import ExactSum

CPU = torch.device("cpu")
#: Length of the sums → parts that they are cut into, and whether float64 adds them instead. 518 · 127 · 255 < 2^24.
LENGTHS = {500: (1, torch.float32), 1000: (2, torch.float32), 1500: (3, torch.float32), 9000: (1, torch.float64)}


def wrapped(sums):
    """Return 64-bit sums as the kernels' 32-bit accumulators hold them, converted to float32."""
    return sums.astype(np.int32).astype(np.float32)


def adversarial(length, seed=0):
    """Return weights of which some are all the largest, all the lowest, one then the other, and any."""
    numbers = np.random.default_rng(seed)
    rows = [np.full(length, 127), np.full(length, -128), np.where(np.arange(length) < length // 2, 127, -128)]
    return np.stack([*rows, numbers.integers(-128, 128, length), numbers.choice([-128, 127], length)])


def inputs(batch, length, low, high, seed=1):
    numbers = np.random.default_rng(seed)
    values = numbers.choice([low, low + 1, high - 1, high], (batch, length))
    values[0] = high
    return values


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("batch", [1, 17])
@pytest.mark.parametrize("reach", [None, 0, 2**20, 2**31 - 1])
@pytest.mark.parametrize("zero", [0, 255, 100])
@pytest.mark.usefixtures("threads")
def test_matrix_sums(length, batch, reach, zero):
    weight, x = adversarial(length).astype(np.int16), inputs(batch, length, -zero, 255 - zero)
    bias = None if reach is None else np.array([reach, -reach - (reach > 2**30), reach // 3, -1, 0], np.int64)
    sums = ExactSum(weight, bias, -zero, 255 - zero, F.linear, CPU, cuttable=True)
    if zero != 100:  # values of both signs allow longer sums
        assert (len(sums._parts), sums._parts[0][1].dtype) == LENGTHS[length]
    exact = x.astype(np.int64) @ weight.T.astype(np.int64) + (0 if bias is None else bias)
    given = torch.from_numpy(x).float()
    np.testing.assert_array_equal(sums(given).numpy(), wrapped(exact))
    np.testing.assert_array_equal(sums.exact(given).double().numpy(), exact)
    np.testing.assert_array_equal(given.numpy(), x)  # left as it was


@pytest.mark.parametrize("channels", [50, 100, 200, 1100])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("batch", [1, 17])
@pytest.mark.usefixtures("threads")
def test_convolution_sums(channels, groups, batch):
    per_group = channels // groups
    weight = adversarial(per_group * 9)[[0, 1, 3, 4]].reshape(4, per_group, 3, 3).astype(np.int16)
    x = inputs(batch, channels * 16, -3, 252).reshape(batch, channels, 4, 4)
    bias = np.array([2**31 - 1, -(2**31), 7, 0])
    sums = ExactSum(
        weight, bias, -3, 252, lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=groups), CPU, cuttable=groups == 1
    )
    exact = F.conv2d(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=1, groups=groups).numpy()
    exact = exact.astype(np.int64) + bias[:, None, None]
    np.testing.assert_array_equal(sums(torch.from_numpy(x).float()).numpy(), wrapped(exact))


def test_groups_are_not_cut():
    weight = np.full((4, 1100, 1, 1), 127, np.int16)
    sums = ExactSum(weight, None, 0, 255, lambda x, w, b: F.conv2d(x, w, b, groups=2), CPU, cuttable=False)
    assert [part.dtype for _, part in sums._parts] == [torch.float64]


def test_one_part_too_many_channels_long_and_an_odd_rest():
    """Parts of unequal length cover every input once."""
    weight = np.full((1, 1037), 127, np.int16)
    sums = ExactSum(weight, None, 0, 255, F.linear, CPU, cuttable=True)
    assert sum(part.shape[1] for _, part in sums._parts) == 1037
    assert sums(torch.full((1, 1037), 255.0)).item() == np.float32(1037 * 127 * 255)
