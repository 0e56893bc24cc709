"""SIM, CC and KLD against values worked out by hand, and what they must not change under."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qcam.evaluate.maps import metrics
from qcam.evaluate.maps.metrics import EPSILON, METRICS, all_metrics, correlation, divergence, is_constant, similarity

Metric = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
FUNCTIONS: dict[str, Metric] = {"SIM": similarity, "CC": correlation, "KLD": divergence}


def one(*rows: list[float]) -> NDArray[np.float64]:
    return np.array([rows], np.float64)


def random_maps(count: int = 6, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random((count, 9, 11)) ** 3


P = one([1.0, 3.0], [0.0, 4.0])  # as a distribution: 1/8, 3/8, 0, 1/2
Q = one([2.0, 2.0], [4.0, 8.0])  # as a distribution: 1/8, 1/8, 1/4, 1/2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIM", 1 / 8 + 1 / 8 + 0 + 1 / 2),
        # Means 2 and 4; deviations (-1, 1, -2, 2) and (-2, -2, 0, 4).
        ("CC", (2 - 2 + 0 + 8) / (math.sqrt(10) * math.sqrt(24))),
        # Weighted by the first map: 1/8 log 1 + 3/8 log 3 + 0 + 1/2 log 1.
        ("KLD", 3 / 8 * math.log(3)),
    ],
)
def test_the_example_worked_out_by_hand(name: str, value: float) -> None:
    assert FUNCTIONS[name](P, Q)[0] == pytest.approx(value, rel=1e-14)


def test_kld_weights_by_the_evaluated_map() -> None:
    # The other way round: 1/8 log 1 + 1/8 log 1/3 + 1/4 log((1/4) / eps) + 1/2 log 1.
    swapped = 1 / 8 * math.log(1 / 3) + 1 / 4 * math.log(1 / 4 / EPSILON)
    assert divergence(Q, P)[0] == pytest.approx(swapped, rel=1e-13)
    assert swapped > 8 > divergence(P, Q)[0]


def test_epsilon_is_inside_the_logarithm_and_under_the_fraction() -> None:
    # Maps that share nothing: 1 · log(eps + 1 / (eps + 0)).
    assert divergence(one([1.0, 0.0]), one([0.0, 1.0]))[0] == pytest.approx(math.log(EPSILON + 1 / EPSILON), rel=1e-15)
    assert np.finfo(np.float64).eps == EPSILON


@pytest.mark.parametrize(("name", "ideal"), [("SIM", 1.0), ("CC", 1.0), ("KLD", 0.0)])
def test_a_map_agrees_with_itself(name: str, ideal: float) -> None:
    maps = random_maps()
    np.testing.assert_allclose(FUNCTIONS[name](maps, maps), ideal, atol=1e-13)


@pytest.mark.parametrize("name", METRICS)
def test_brightness_does_not_matter(name: str) -> None:
    maps, references = random_maps(), random_maps(seed=1)
    found = FUNCTIONS[name](maps * 3e-7, references * 250)
    np.testing.assert_allclose(found, FUNCTIONS[name](maps, references), rtol=1e-12, atol=1e-12)


def test_an_offset_does_not_matter_to_cc_and_inversion_turns_its_sign() -> None:
    maps, references = random_maps(), random_maps(seed=1)
    expected = correlation(maps, references)
    np.testing.assert_allclose(correlation(maps * 2 + 5, references), expected, atol=1e-12)
    np.testing.assert_allclose(correlation(1 - maps, references), -expected, atol=1e-12)
    assert correlation(maps, 1 - maps) == pytest.approx(-1)


@pytest.mark.parametrize("name", ["SIM", "CC"])
def test_sim_and_cc_are_symmetric(name: str) -> None:
    maps, references = random_maps(), random_maps(seed=1)
    assert np.array_equal(FUNCTIONS[name](maps, references), FUNCTIONS[name](references, maps))


@pytest.mark.parametrize("name", METRICS)
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    maps, references = random_maps(), random_maps(seed=1)
    alone = [FUNCTIONS[name](maps[i : i + 1], references[i : i + 1])[0] for i in range(len(maps))]
    found = FUNCTIONS[name](maps, references)
    assert (found.shape, found.dtype) == ((6,), np.float64)
    np.testing.assert_allclose(found, alone, rtol=1e-13)


@pytest.mark.parametrize("seed", range(20))
def test_values_stay_in_their_ranges(seed: int) -> None:
    chance = np.random.default_rng(seed)
    maps, references = chance.random((2, 50, 5, 4)) * (chance.random((2, 50, 5, 4)) > 0.6)
    found = all_metrics(maps, references)
    with np.errstate(invalid="ignore"):
        valid = ~(is_constant(maps) | is_constant(references))
    assert valid.sum() > 40
    assert ((found["SIM"][valid] >= 0) & (found["SIM"][valid] <= 1 + 1e-12)).all()
    assert (np.abs(found["CC"][valid]) <= 1).all()
    assert (found["KLD"][valid] >= -1e-12).all()
    assert np.isfinite(found["KLD"][valid]).all()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "useless",
    [
        one([0.0, 0.0], [0.0, 0.0]),
        one([3.0, 3.0], [3.0, 3.0]),
        one([1.0, math.nan], [0.0, 2.0]),
        one([1.0, math.inf], [0.0, 2.0]),
        np.full((1, 2, 2), math.nan),
    ],
    ids=["zero", "constant", "nan", "infinite", "all-nan"],
)
def test_a_map_that_says_nothing_has_no_value(name: str, useless: NDArray[np.float64]) -> None:
    good = one([1.0, 2.0], [0.0, 2.0])
    maps, references = np.concatenate([useless, good, good]), np.concatenate([good, useless, good])
    with np.errstate(invalid="ignore"):
        found = FUNCTIONS[name](maps, references)
    assert np.isnan(found).tolist() == [True, True, False]


def test_all_metrics_are_the_three_by_name() -> None:
    maps, references = random_maps(), random_maps(seed=1)
    found = all_metrics(maps, references)
    assert tuple(found) == METRICS == ("SIM", "CC", "KLD")
    for name, values in found.items():
        assert np.array_equal(values, FUNCTIONS[name](maps, references))


def test_no_images_give_no_values() -> None:
    empty = np.empty((0, 3, 3))
    assert all(values.shape == (0,) for values in all_metrics(empty, empty).values())


def test_the_examples_in_the_documentation_hold() -> None:
    results = doctest.testmod(metrics, extraglobs={"np": np})
    assert results.attempted >= 2
    assert results.failed == 0
