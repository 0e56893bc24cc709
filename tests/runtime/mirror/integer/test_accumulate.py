"""Exact sums against 64-bit integers, wrapped to the kernels' 32 bits, whichever way they are added and multiplied."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qcam.runtime.mirror.integer import products
from qcam.runtime.mirror.integer.accumulate import ExactSum
from qcam.runtime.mirror.integer.products import Window, convolution, matrix

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


def codes(batch, length, seed=1):
    """Return extreme codes, the first row the highest."""
    values = np.random.default_rng(seed).choice([0, 1, 254, 255], (batch, length)).astype(np.uint8)
    values[0] = 255
    return values


@pytest.fixture(params=[True, False], ids=["bytes", "floats"])
def of_bytes(request, monkeypatch):
    """Multiply bytes where this processor does it exactly, or float32 as on one that does not."""
    if not request.param:
        monkeypatch.setattr(products, "bytes_are_exact", lambda: False)
    return request.param


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
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.usefixtures("threads", "of_bytes")
def test_matrix_sums(length, batch, reach, zero, signed):
    weight, x = adversarial(length).astype(np.int16), codes(batch, length)
    bias = None if reach is None else np.array([reach, -reach - (reach > 2**30), reach // 3, -1, 0], np.int64)
    given, point = (torch.from_numpy(x), zero) if not signed else (torch.from_numpy((x ^ 128).view(np.int8)), zero - 128)
    sums = ExactSum(weight, bias, -zero, 255 - zero, matrix(point, CPU), CPU, cuttable=True)
    if zero != 100:  # values of both signs allow longer sums
        assert (len(sums._parts), sums._kind) == LENGTHS[length]
    exact = (x.astype(np.int64) - zero) @ weight.T.astype(np.int64) + (0 if bias is None else bias)
    before = given.clone()
    np.testing.assert_array_equal(sums(given).numpy(), wrapped(exact))
    np.testing.assert_array_equal(sums.exact(given).double().numpy(), exact)
    assert torch.equal(given, before)  # left as it was


@pytest.mark.parametrize("channels", [50, 100, 200, 1100])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("batch", [1, 17])
@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 1, 2, 1]])
@pytest.mark.usefixtures("threads", "of_bytes")
def test_convolution_sums(channels, groups, batch, pads):
    per_group = channels // groups
    weight = adversarial(per_group * 9)[[0, 1, 3, 4]].reshape(4, per_group, 3, 3).astype(np.int16)
    x = codes(batch, channels * 16).reshape(batch, channels, 4, 4)
    bias = np.array([2**31 - 1, -(2**31), 7, 0])
    make = convolution(Window([1, 1], [1, 1], groups, lambda _size: pads), 3, CPU)
    sums = ExactSum(weight, bias, -3, 252, make, CPU, cuttable=groups == 1)
    top, left, bottom, right = pads
    padded = F.pad(torch.from_numpy(x).double() - 3, [left, right, top, bottom])
    exact = F.conv2d(padded, torch.from_numpy(weight).double(), groups=groups).numpy().astype(np.int64) + bias[:, None, None]
    np.testing.assert_array_equal(sums(torch.from_numpy(x)).numpy(), wrapped(exact))


def test_groups_are_not_cut():
    weight = np.full((4, 1100, 1, 1), 127, np.int16)
    make = convolution(Window([1, 1], [1, 1], 2, lambda _size: [0] * 4), 0, CPU)
    sums = ExactSum(weight, None, 0, 255, make, CPU, cuttable=False)
    assert (len(sums._parts), sums._kind) == (1, torch.float64)


def test_weights_that_fit_no_byte_are_multiplied_as_floats(of_bytes):
    weight = np.full((3, 20), 200, np.int16)  # of unsigned weights with a zero point of 0
    assert not products.of_bytes(weight, CPU)
    sums = ExactSum(weight, None, 0, 255, matrix(0, CPU), CPU, cuttable=True)
    assert sums(torch.full((2, 20), 255, dtype=torch.uint8)).tolist() == [[200 * 255 * 20] * 3] * 2


def test_a_processor_that_saturates_is_found_out(monkeypatch):
    whole = products._ByteConvolution.__call__
    monkeypatch.setattr(products._ByteConvolution, "__call__", lambda self, codes: whole(self, codes).clamp(max=2**19))
    products.bytes_are_exact.cache_clear()
    try:
        assert not products.bytes_are_exact()
        monkeypatch.setattr(products._ByteConvolution, "__call__", whole)
        monkeypatch.setattr(torch.ops.onednn, "qconv_pointwise", None)  # a PyTorch that has no such operator
        products.bytes_are_exact.cache_clear()
        assert not products.bytes_are_exact()
    finally:
        products.bytes_are_exact.cache_clear()
