import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcam.evaluate.check.comparing import compared, same_bits
from qcam.evaluate.check.held import Deployed
from qcam.runtime.deployed import DeployedOutputs
from qcam.runtime.deployed.inspection import Inspected

LAST = torch.channels_last
#: Tensors of six images, and others that are not made of images.
SHAPES = {"map": (6, 3, 2, 2), "row": (6, 4), "constant": (1, 4), "two": (2, 3)}


@pytest.mark.parametrize(("kind", "low", "high"), [(torch.uint8, 0, 255), (torch.int8, -128, 127)])
def test_bytes_are_subtracted_without_wrapping_around(kind, low, high):
    one, other = torch.tensor([low, high, 5], dtype=kind), torch.tensor([high, low, 5], dtype=kind)
    assert compared(one, other, whole=True) == (1, 255.0)
    assert compared(one[2:], other[:1], whole=True) == (0, float(high - 5))


@pytest.mark.parametrize("simulated", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("size", [(30, 31), (30, 32)])
def test_counts_do_not_depend_on_type_or_order_in_memory_or_on_how_much_is_compared_at_a_time(simulated, layout, size):
    generator = np.random.default_rng(0)
    one = generator.integers(0, 256, (3, 40, *size), dtype=np.uint8)  # more than is compared at a time
    other = one.copy()
    other.reshape(-1)[[0, 70_000, 111_599]] ^= np.array([1, 64, 2], dtype=np.uint8)
    ours = torch.from_numpy(one).to(simulated).contiguous(memory_format=layout)
    assert compared(ours, torch.from_numpy(other), whole=True) == (one.size - 3, 64.0)
    assert compared(ours, torch.from_numpy(other).contiguous(memory_format=LAST), whole=True) == (one.size - 3, 64.0)
    assert compared(ours, torch.from_numpy(one), whole=True) == (one.size, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bytes_with_channels_last_are_held_against_bytes_with_channels_first(data):
    shape = tuple(data.draw(st.integers(1, most)) for most in (3, 9, 9, 9))
    kind = data.draw(st.sampled_from([np.uint8, np.int8]))
    lowest, highest = np.iinfo(kind).min, np.iinfo(kind).max
    one = np.random.default_rng(data.draw(st.integers(0, 99))).integers(lowest, highest, shape, kind, endpoint=True)
    other = one.copy()
    changed = data.draw(st.lists(st.integers(0, one.size - 1), max_size=3, unique=True))
    other.reshape(-1)[changed] ^= kind(1)
    begin = data.draw(st.integers(0, shape[0] - 1))  # parts of a batch begin anywhere
    ours, theirs = torch.from_numpy(one).contiguous(memory_format=LAST)[begin:], torch.from_numpy(other)[begin:]
    differing = int((one[begin:] != other[begin:]).sum())
    assert compared(ours, theirs, whole=True) == (one[begin:].size - differing, float(differing > 0))


def test_codes_of_16_bits_are_held_against_whole_numbers_in_float32():
    codes = torch.tensor([-32768, 32767, 7], dtype=torch.int16)
    assert compared(torch.tensor([32767.0, -32768.0, 7.0]), codes, whole=True) == (1, 65535.0)


def test_a_difference_that_float32_does_not_have_is_found_where_numbers_are_not_whole():
    one, other = torch.tensor([1.0]), torch.tensor([-(2.0**-30)])
    assert compared(one, other, whole=False) == (0, 1 + 2.0**-30)


def test_no_number_differs_from_itself_and_is_infinitely_far_off():
    assert compared(torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, 1.0]), whole=False) == (1, math.inf)


def test_bits_tell_zeros_of_two_signs_apart_and_know_a_nan_again():
    zeros = torch.tensor([0.0, math.nan])
    assert same_bits(zeros, zeros.clone())
    assert not same_bits(zeros, torch.tensor([-0.0, math.nan]))
    assert not same_bits(zeros.double(), zeros.double())
    assert not same_bits(zeros, zeros[:1])


def test_deployed_codes_are_those_of_a_part():
    codes = {name: np.random.default_rng(0).integers(0, 255, shape, np.uint8) for name, shape in SHAPES.items()}
    outputs = DeployedOutputs(np.zeros((6, 5), np.float32), np.zeros((6, 2), np.float32), ())
    deployed = Deployed(Inspected(outputs, codes, True), "tap")
    for part in (slice(0, 2), slice(2, 6), slice(0, 6)):
        count = part.stop - part.start
        for name, shape in SHAPES.items():
            of_images = shape[0] == 6
            simulated = torch.zeros((count, *shape[1:]) if of_images else shape, dtype=torch.uint8)
            found = deployed.codes(name, simulated, part, reshaped=False)
            np.testing.assert_array_equal(found, codes[name][part] if of_images else codes[name])
    flat = deployed.codes("map", torch.zeros(4, 3 * 2 * 2, dtype=torch.uint8), slice(2, 6), reshaped=True)
    np.testing.assert_array_equal(flat, codes["map"][2:6].reshape(4, -1))
