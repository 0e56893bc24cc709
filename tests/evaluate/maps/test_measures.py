"""Rank correlation, overlap, energy in the object, drop and increase: against scipy, and by hand."""

import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from qcam.evaluate.maps import measures
from qcam.evaluate.maps.measures import (
    area_average,
    drop_and_increase,
    energy_in_object,
    explanation_crops,
    overlap,
    rank_correlation,
)


def test_the_examples_in_the_documentation_hold():
    with np.printoptions(legacy="1.25"):
        assert doctest.testmod(measures).failed == 0


@given(st.integers(0, 10_000), st.integers(2, 14), st.booleans())
def test_rank_correlation_is_scipy_s(seed, side, ties):
    random = np.random.default_rng(seed)
    maps, references = random.normal(size=(2, 3, side, side))
    if ties:  # as ReLU and few levels make them
        maps, references = np.maximum(maps, 0), np.round(references)
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(maps, references, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    expected = [spearmanr(a, b).statistic for a, b in pairs]
    found = rank_correlation(maps, references)
    np.testing.assert_allclose(found[np.isfinite(found)], expected, atol=1e-12)


def test_equal_order_is_exactly_one_and_a_constant_map_has_none():
    maps = np.random.default_rng(0).random((1, 7, 7))
    assert rank_correlation(maps, np.exp(maps))[0] == 1.0
    assert rank_correlation(maps, -maps)[0] == -1.0
    assert np.isnan(rank_correlation(maps, np.ones((1, 7, 7)))[0])
    assert np.isnan(rank_correlation(np.full((1, 7, 7), np.nan), maps)[0])


def test_overlap_by_hand():
    first = np.arange(10.0).reshape(1, 2, 5)  # top 20 %: 9, 8
    second = first.copy()
    second[0, 1, 3] = 0.5  # 8 falls: now 9, 7
    assert overlap(first, first)[0] == 1.0
    assert overlap(first, second)[0] == pytest.approx(1 / 3)
    assert overlap(first, -first)[0] == 0.0
    second[0, 0, 0] = 0.7  # now the minimum is where 8 was: all but that, and all but the first
    assert overlap(first, second, share=1.0)[0] == pytest.approx(8 / 10)


def test_overlap_takes_all_that_tie_and_never_the_background():
    flat = np.zeros((1, 2, 5))
    flat[0, 0, 0] = 1.0  # one position above zero: the rest of the top 20 % is background
    tied = np.zeros((1, 2, 5))
    tied[0, 0, :4] = 1.0  # four that tie at the second largest value
    assert overlap(flat, tied)[0] == pytest.approx(1 / 4)
    assert np.isnan(overlap(flat, np.zeros((1, 2, 5)))[0])


def test_energy_in_the_object_by_hand():
    cam = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    saliency = np.array([[[0.0, 0.5], [0.49, 1.0]]])
    assert energy_in_object(cam, saliency)[0] == pytest.approx(0.6)
    assert energy_in_object(cam, saliency, threshold=0.9)[0] == pytest.approx(0.4)
    assert np.isnan(energy_in_object(np.zeros((1, 2, 2)), saliency)[0])
    assert np.isnan(energy_in_object(cam, saliency / 4)[0])  # nothing reaches the threshold: there is no object
    everywhere = saliency + 0.5
    for seed in range(50):  # all inside: exactly 1, however the sums round
        assert energy_in_object(np.random.default_rng(seed).random((1, 2, 2)), everywhere)[0] == 1.0


def test_drop_and_increase_by_hand():
    drop, increase = drop_and_increase(np.array([0.5, 0.5, 0.2, 0.0]), np.array([0.1, 0.5, 0.3, 0.1]))
    np.testing.assert_allclose(drop[:3], [0.8, 0.0, 0.0])
    assert np.isnan(drop[3])
    assert increase.tolist() == [False, False, True, True]


def test_an_explanation_shows_what_the_map_leaves():
    crops = np.full((1, 1, 3, 3), 201, np.uint8)
    found = explanation_crops(crops, np.array([[[0.0, 0.5, 1.0]]]))
    assert found.dtype == np.uint8
    assert found[0, 0, :, 0].tolist() == [0, 100, 201]  # 100.5 to even


@pytest.mark.parametrize(("shape", "size"), [((6, 8), (3, 2)), ((7, 5), (3, 4)), ((5, 5), (5, 5)), ((224, 224), (13, 7))])
def test_area_averages_keep_the_mean_and_follow_the_area(shape, size):
    maps = np.random.default_rng(0).random((2, *shape))
    found = area_average(maps, size)
    assert found.shape == (2, *size)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), maps.mean(axis=(1, 2)))
    fine = maps.repeat(size[0], axis=1).repeat(size[1], axis=2)  # every cell a whole number of positions
    blocks = fine.reshape(2, size[0], shape[0], size[1], shape[1]).mean(axis=(2, 4))
    np.testing.assert_allclose(found, blocks)


@pytest.mark.parametrize("value", [0.3, 1.0, 1 / 255, 200 / 255])
@pytest.mark.parametrize("size", [(13, 13), (7, 7), (12, 14), (9, 11)])
def test_an_average_of_equal_values_is_that_value_to_the_last_bit(value, size):
    # 224 / 13 is no whole number: rounding must not rank the cells inside an object, or those behind it, against each other.
    assert np.unique(area_average(np.full((2, 224, 224), value), size)).tolist() == [value]


def test_a_mask_averaged_to_13_by_13_has_the_ties_that_fractions_give():
    from fractions import Fraction

    mask = np.zeros((1, 224, 224))
    mask[0, 30:200, 20:190] = 1.0
    shares = []
    for low, high in ((30, 200), (20, 190)):
        edges = [Fraction(224 * cell, 13) for cell in range(14)]
        shares.append([max(Fraction(0), min(b, high) - max(a, low)) / Fraction(224, 13) for a, b in pairwise(edges)])
    exact = [[down * across for across in shares[1]] for down in shares[0]]
    found = area_average(mask, (13, 13))[0]
    np.testing.assert_allclose(found, np.array(exact, float), rtol=1e-14)
    assert len(np.unique(found)) == len({value for row in exact for value in row})
    cam = np.random.default_rng(0).random((1, 13, 13))
    expected = spearmanr(cam.ravel(), [float(value) for row in exact for value in row]).statistic
    assert rank_correlation(cam, found[None])[0] == pytest.approx(expected, abs=1e-12)
