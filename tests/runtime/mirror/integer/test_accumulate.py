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
    exact = (x.astype(np.int64) - zero) @ weight.T.astype(np.int64)
    before = given.clone()
    np.testing.assert_array_equal(sums.exact(given).double().numpy(), exact)
    exact += 0 if bias is None else bias
    np.testing.assert_array_equal(sums(given).numpy(), wrapped(exact))
    np.testing.assert_array_equal(sums.with_bias(sums.exact(given)).numpy(), wrapped(exact))
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


@pytest.mark.parametrize("window", [(1, 1), (1, 7)])
@pytest.mark.usefixtures("of_bytes")
def test_a_bias_next_to_24_bits_is_rounded_once(window):
    numbers = np.random.default_rng(0)
    channels = 250 // window[1]
    weight = numbers.integers(127, 256, (64, channels, *window)).astype(np.int16)  # none fits a byte
    bias = np.full(64, 2**24 - 20) - np.arange(64)
    given = torch.from_numpy(codes(4, channels * 16 * 16).reshape(4, channels, 16, 16))
    make = convolution(Window([1, 1], [1, 1], 1, lambda _size: [0] * 4), 0, CPU)
    sums = ExactSum(weight, bias, 0, 255, make, CPU, cuttable=True)
    exact = F.conv2d(given.double(), torch.from_numpy(weight).double()).numpy().astype(np.int64) + bias[:, None, None]
    np.testing.assert_array_equal(sums(given).numpy(), wrapped(exact))


@pytest.mark.usefixtures("of_bytes")
def test_an_empty_batch_keeps_its_axes():
    weight = adversarial(20).astype(np.int16)
    sums = ExactSum(weight, None, 0, 255, matrix(0, CPU), CPU, cuttable=False)
    assert sums(torch.zeros((2, 0, 20), dtype=torch.uint8)).shape == (2, 0, 5)


@pytest.fixture
def asked_anew():
    products.bytes_are_exact.cache_clear()
    yield
    products.bytes_are_exact.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_a_processor_that_saturates_is_found_out(monkeypatch):
    whole = products._ByteConvolution.product
    monkeypatch.setattr(products._ByteConvolution, "product", lambda *given: whole(*given).clamp(max=2**19))
    assert not products.bytes_are_exact()


def test_a_shape_for_which_the_product_of_bytes_is_wrong_is_found_out(monkeypatch):
    if not products.bytes_are_exact():
        pytest.skip("this processor multiplies no bytes exactly")
    whole, asked = products._ByteConvolution.product, []

    def wrong_for_narrow_ones(self, given, bias):
        asked.append(tuple(given.shape))
        result = whole(self, given, bias)
        return result + 1 if given.shape[-1] < 8 else result

    monkeypatch.setattr(products._ByteConvolution, "product", wrong_for_narrow_ones)
    weight = adversarial(27).reshape(5, 3, 3, 3).astype(np.int16)
    product = convolution(Window([2, 2], [1, 1], 1, lambda _size: [0] * 4), 3, CPU)(weight, torch.float32)
    for shape in [(2, 3, 9, 7), (2, 3, 9, 8), (1, 3, 9, 7), (2, 3, 9, 8), (2, 3, 9, 7)]:
        given = torch.from_numpy(codes(shape[0], 27 * shape[3]).reshape(shape))
        exact = F.conv2d(given.double() - 3, torch.from_numpy(weight).double(), stride=2)
        assert torch.equal(product(given, None).double(), exact)
    assert asked == [(2, 3, 9, 7), (2, 3, 9, 8), (2, 3, 9, 8), (1, 3, 9, 7), (2, 3, 9, 8)]


@pytest.mark.parametrize("seed", range(3))
def test_sums_of_convolutions_of_any_shape(seed):
    numbers = np.random.default_rng(seed)
    for _ in range(60):
        groups = int(numbers.choice([1, 1, 2, 3]))
        channels, outputs = groups * int(numbers.integers(1, 40)), groups * int(numbers.integers(1, 40))
        if numbers.integers(3) == 0:
            groups = outputs = channels
        square = numbers.integers(4) > 0
        window, stride, dilation = ([int(n) for n in numbers.integers(1, high, 2)] for high in (5, 4, 3))
        if square:
            window[1], stride[1], dilation = window[0], stride[0], [1, 1]
        pads = [int(n) for n in numbers.integers(0, 3, 4)]
        size = [(length - 1) * step + 1 + int(n) for length, step, n in
                zip(window, dilation, numbers.integers(0, 9, 2), strict=True)]  # fmt: skip
        weight = numbers.integers(-128, 128, (outputs, channels // groups, *window)).astype(np.int16)
        given = torch.from_numpy(numbers.integers(0, 256, (2, channels, *size)).astype(np.uint8))
        zero = int(numbers.integers(0, 256))
        make = convolution(Window(stride, dilation, groups, lambda _size, pads=pads: pads), zero, CPU)
        sums = ExactSum(weight, None, -zero, 255 - zero, make, CPU, cuttable=groups == 1)
        top, left, bottom, right = pads
        padded = F.pad(given.double() - zero, [left, right, top, bottom])
        exact = F.conv2d(padded, torch.from_numpy(weight).double(), stride=stride, dilation=dilation, groups=groups)
        assert torch.equal(sums(given).double(), exact), (weight.shape, given.shape, pads, stride, dilation, groups)


@pytest.mark.usefixtures("asked_anew")
def test_a_pytorch_without_products_of_bytes_is_found_out(monkeypatch):
    def refuse(*_arguments):
        raise NotImplementedError("no such operator for this processor")

    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", refuse)
    assert not products.bytes_are_exact()
