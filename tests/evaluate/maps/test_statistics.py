"""Intervals against scipy's bootstrap, tests against scipy and statsmodels, the effect size by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binom, binomtest, bootstrap, sem, ttest_1samp, wilcoxon
from statsmodels.stats.proportion import proportion_confint

from qcam.evaluate.maps.statistics import (
    bootstrap_intervals,
    exact_share,
    holm,
    mcnemar_test,
    paired_ratio_interval,
    paired_test,
    sign_test,
    skill,
    studentized_interval,
    wilson_interval,
)


def test_intervals_are_scipy_s_percentile_bootstrap():
    values = np.random.default_rng(1).gamma(2.0, size=200)
    low, high = bootstrap_intervals(values[:, None], resamples=20_000)
    found = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2))
    width = found.confidence_interval.high - found.confidence_interval.low
    assert low[0] == pytest.approx(found.confidence_interval.low, abs=0.03 * width)
    assert high[0] == pytest.approx(found.confidence_interval.high, abs=0.03 * width)


def test_intervals_cover_the_mean_as_often_as_they_say():
    random = np.random.default_rng(3)
    low, high = bootstrap_intervals(random.normal(5.0, 2.0, (80, 1500)))
    covered = np.mean((low <= 5.0) & (high >= 5.0))
    assert 0.91 < covered < 0.965  # a little below 95 %, as the percentile bootstrap of 80 values is


def test_intervals_are_the_same_every_time_and_paired_over_figures():
    values = np.random.default_rng(4).random((50, 1))
    both = np.hstack([values, values + 3.0])
    low, high = bootstrap_intervals(both)
    again = bootstrap_intervals(both)
    np.testing.assert_array_equal(low, again[0])
    np.testing.assert_array_equal(high, again[1])
    np.testing.assert_allclose(low[1] - low[0], 3.0)
    np.testing.assert_allclose(high[1] - high[0], 3.0)


def test_what_is_undefined_is_left_out_and_too_little_has_no_interval():
    figures = np.full((40, 4), np.nan)
    figures[:, 0] = np.random.default_rng(5).random(40)
    figures[:3, 1] = [1.0, 2.0, 3.0]
    figures[0, 2] = 7.0
    low, high = bootstrap_intervals(figures)
    assert low[0] < np.mean(figures[:, 0]) < high[0]
    assert (low[1], high[1]) == (1.0, 3.0)
    assert np.isnan([low[2], high[2], low[3], high[3]]).all()


def test_skill_is_one_less_the_share_that_is_missed():
    missed, moved = np.array([0.1, 0.2, np.nan, 0.0]), np.array([0.2, 0.4, 0.3, np.nan])
    found = skill(missed, moved)
    assert (found.value, found.n) == (pytest.approx(0.5), 2)
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))  # every image misses a half
    assert skill(2 * moved, moved).value == pytest.approx(-1)  # worse than foretelling that nothing moves
    nothing = skill(np.zeros(3), np.zeros(3))
    assert (nothing.value, nothing.low, nothing.high, nothing.n) == (None, None, None, 3)
    assert skill(missed[:1], moved[:1]).low is None
    assert skill(np.full(3, np.nan), moved[:3]).n == 0


def test_the_skill_s_interval_is_scipy_s_percentile_bootstrap_of_pairs():
    draw = np.random.default_rng(7)
    moved = draw.gamma(2.0, size=120)
    missed = moved * draw.uniform(0.1, 0.6, 120)
    found = skill(missed, moved, resamples=20_000)

    def value(one, other, axis):
        return 1 - one.sum(axis=axis) / other.sum(axis=axis)

    wanted = bootstrap(
        (missed, moved), value, paired=True, n_resamples=20_000, method="percentile", rng=np.random.default_rng(8)
    ).confidence_interval
    width = wanted.high - wanted.low
    assert found.low == pytest.approx(wanted.low, abs=0.03 * width)
    assert found.high == pytest.approx(wanted.high, abs=0.03 * width)


def test_a_figure_that_never_moves_has_an_interval_of_no_width():
    low, high = bootstrap_intervals(np.full((30, 1), 0.1))
    assert (low[0], high[0]) == (0.1, 0.1)


def test_memory_is_that_of_some_resamples_not_of_all():
    import tracemalloc

    figures = np.random.default_rng(6).random((4000, 20))
    tracemalloc.start()
    bootstrap_intervals(figures)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6  # 2000 × 4000 × 8 bytes would be 64 MB for the weights alone


def test_a_paired_test_by_hand():
    first = np.array([0.0, 0.0, 0.0, 0.0, 0.0, np.nan])
    second = np.array([1.0, 2.0, -3.0, 4.0, 0.0, 5.0])
    found = paired_test(first, second)
    assert (found.n, found.differing) == (5, 4)  # the last image is undefined; the fifth does not differ and still counts
    assert found.mean_difference == pytest.approx(0.8)
    # Ranks of 1, 2, 3, 4: positive 1 + 2 + 4 = 7, negative 3; (7 - 3) / 10.
    assert found.effect == pytest.approx(0.4)
    assert found.p == pytest.approx(wilcoxon([1.0, 2.0, -3.0, 4.0]).pvalue)


def test_equal_conditions_do_not_differ():
    values = np.random.default_rng(7).random(20)
    found = paired_test(values, values)
    assert (found.n, found.differing, found.mean_difference, found.p, found.effect) == (20, 0, 0.0, 1.0, 0.0)
    nothing = paired_test(np.full(3, np.nan), np.ones(3))
    assert (nothing.n, nothing.p, nothing.effect) == (0, None, None)


def test_a_sign_test_is_scipy_s_and_a_tie_counts_against_it():
    values = np.array([-3.0, -1.0, -0.5, 0.0, 2.0, -4.0, -0.1, np.nan, -0.2, -0.3])
    found = sign_test(values)
    assert (found.n, found.below, found.median) == (9, 7, pytest.approx(-0.3))
    assert found.p == pytest.approx(binomtest(7, 9, alternative="greater").pvalue)
    assert found.high == 0.0  # the 8th of 9: fewer than 8 are below the median in 1 - 10/512 of samples
    assert found.low == -3.0
    assert found.p_above == pytest.approx(binomtest(1, 9, alternative="greater").pvalue)
    few = sign_test(np.full(4, -1.0))
    assert (few.p, few.low, few.high) == (1 / 16, None, None)
    assert sign_test(np.full(5, -1.0)).high == -1.0
    assert sign_test(np.full(3, np.nan)).p is None


@given(st.lists(st.integers(-4, 3), min_size=1, max_size=60))
def test_the_bound_is_below_0_where_the_test_says_so(values):
    found = sign_test(np.array(values, float))
    assert (found.p < 0.05) == (found.high is not None and found.high < 0)


@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize("draw", ["normal", "lognormal", "ties"])
def test_the_bounds_of_a_median_hold_as_often_as_they_say(n, draw):
    random = np.random.default_rng(n)
    samples = {
        "normal": random.normal(0, 1, (2000, n)),
        "lognormal": random.lognormal(0, 2, (2000, n)) - 1,  # its median is 0
        "ties": random.integers(-3, 4, (2000, n)).astype(float),
    }[draw]
    found = [sign_test(sample) for sample in samples]
    # 0.95 less three standard errors of 2000 samples.
    assert np.mean([each.high >= 0 for each in found]) > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 2000)
    assert np.mean([each.low <= 0 for each in found]) > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 2000)
    assert np.mean([each.p < 0.05 for each in found]) < 0.05 + 3 * np.sqrt(0.95 * 0.05 / 2000)


@pytest.mark.parametrize(("count", "n"), [(0, 20), (20, 20), (13, 20), (1, 1), (180, 200)])
def test_the_interval_of_a_proportion_is_statsmodels_s(count, n):
    assert wilson_interval(count, n) == pytest.approx(proportion_confint(count, n, 0.05, method="wilson"))


def test_mcnemar_by_hand():
    first = np.array([1, 1, 1, 0, 0, 0, 0, 0, np.nan, 1.0])
    second = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1.0, np.nan])
    found = mcnemar_test(first, second)
    assert (found.n, found.differing, found.mean_difference) == (8, 5, pytest.approx(3 / 8))
    assert found.effect == pytest.approx((4 - 1) / 5)
    assert found.p == pytest.approx(binomtest(1, 5).pvalue)
    assert (mcnemar_test(first, first).p, mcnemar_test(first, first).effect) == (1.0, 0.0)
    assert mcnemar_test(np.full(2, np.nan), np.ones(2)).n == 0


def test_holm_by_hand():
    # Sorted: 0.01 × 3, 0.02 × 2, 0.04 × 1; never smaller than the one before.
    assert holm([0.04, 0.01, None, 0.02]) == [pytest.approx(0.04), pytest.approx(0.03), None, pytest.approx(0.04)]
    assert holm([0.9, 0.8]) == [pytest.approx(1.0), pytest.approx(1.0)]
    assert holm([None]) == [None]


def test_holm_is_statsmodels_s_own_and_never_below_the_p_it_corrects():
    p = np.random.default_rng(8).random(18) ** 3
    found = np.array(holm(list(p)))
    steps = np.maximum.accumulate(np.sort(p) * np.arange(18, 0, -1))
    np.testing.assert_allclose(np.sort(found), np.sort(np.minimum(steps, 1.0)), rtol=1e-12)
    assert (found >= p).all()


def test_intervals_of_paired_differences_are_scipy_s():
    random = np.random.default_rng(9)
    first, second = random.gamma(2.0, size=(2, 150))
    low, high = bootstrap_intervals((second - first)[:, None], resamples=20_000)
    found = bootstrap(
        (first, second),
        lambda a, b: np.mean(b - a),
        n_resamples=20_000,
        method="percentile",
        paired=True,
        vectorized=False,
        rng=np.random.default_rng(10),
    ).confidence_interval
    assert low[0] == pytest.approx(found.low, abs=0.03 * (found.high - found.low))
    assert high[0] == pytest.approx(found.high, abs=0.03 * (found.high - found.low))


def nam_blackwelder(both, second, first, n, ratio):
    """The score test, the shares under the ratio found by a general optimiser."""
    counts = np.array([both, second, first, n - both - second - first])

    def shares(free):
        of_both, only_first = free
        only_second = (ratio - 1) * of_both + ratio * only_first
        return np.array([of_both, only_second, only_first, 1 - of_both - only_first - only_second])

    def unlikely(free):
        found = shares(free)
        return -counts @ np.log(found) if (found > 0).all() else np.inf

    start = min(((a, q) for a in np.linspace(0.01, 0.99, 99) for q in np.linspace(0.01, 0.99, 99)), key=unlikely)
    found = minimize(unlikely, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12})
    of_both, only_first = found.x
    of_first = of_both + only_first
    variance = n * (ratio * of_first + ratio**2 * of_first - 2 * ratio * of_both)
    return (both + second - ratio * (both + first)) / variance**0.5


@pytest.mark.parametrize("counts", [(43, 9, 3, 59), (95, 2, 4, 200), (15, 3, 2, 30)])
def test_the_ratio_of_two_shares_is_what_the_score_test_does_not_refute(counts):
    low, high = paired_ratio_interval(*counts)
    assert nam_blackwelder(*counts, low) == pytest.approx(1.959964, abs=2e-3)
    assert nam_blackwelder(*counts, high) == pytest.approx(-1.959964, abs=2e-3)


def test_where_both_are_right_everywhere_the_ratio_has_wilsons_interval():
    low, high = paired_ratio_interval(20, 0, 0, 20)
    assert (low, high) == pytest.approx((wilson_interval(20, 20)[0], 1 / wilson_interval(20, 20)[0]))
    assert paired_ratio_interval(0, 5, 0, 20) == (0.0, float("inf"))


def test_the_ratios_interval_covers_what_it_says():
    random = np.random.default_rng(0)
    shares = (0.7, 0.02, 0.03, 0.25)
    true, covered = 0.72 / 0.73, 0
    for _ in range(300):
        both, second, first, _ = random.multinomial(200, shares)
        low, high = paired_ratio_interval(both, second, first, 200)
        covered += low <= true <= high
    assert covered / 300 > 0.92


def test_the_studentized_interval_is_that_of_each_resamples_t_statistic():
    values = np.random.default_rng(6).beta(20, 0.4, 30)
    draws = np.random.default_rng(0).integers(0, 30, (100, 30))
    t = np.sort([ttest_1samp(values[row], values.mean()).statistic for row in draws])
    low, high = studentized_interval(values, resamples=100, level=0.9)
    assert (low, high) == pytest.approx((values.mean() - t[-5] * sem(values), values.mean() - t[4] * sem(values)))


@pytest.mark.parametrize(("n", "least"), [(20, 0.92), (200, 0.93)])
def test_the_studentized_interval_covers_the_mean_of_skewed_values_where_percentiles_do_not(n, least):
    random = np.random.default_rng(7)
    draws = random.beta(20, 0.4, (n, 600))  # as CC is, near 1 with a long tail
    ends = np.array([studentized_interval(column, resamples=400) for column in draws.T])
    true = 20 / 20.4
    assert np.mean((ends[:, 0] <= true) & (ends[:, 1] >= true)) > least
    low = bootstrap_intervals(draws)[0]
    # What lets a gate hold that should not: the claim is 2.5 %.
    assert np.mean(ends[:, 0] > true) < 0.045
    assert n > 20 or np.mean(low > true) > 0.08


def test_a_sample_that_resamples_show_without_its_outlier_has_no_end_on_that_side():
    values = np.ones(20)
    values[0] = 0.0
    low, high = studentized_interval(values)
    assert low == -np.inf
    assert high < np.inf
    assert studentized_interval(np.full(20, 0.1)) == (0.1, 0.1)


def test_the_exact_interval_of_a_share_is_wrong_no_more_often_than_it_says():
    found = binomtest(18, 20).proportion_ci(method="exact")
    assert exact_share(18, 20) == pytest.approx((found.low, found.high))
    assert exact_share(0, 5)[0] == 0
    assert exact_share(5, 5)[1] == 1
    for n in (1, 3, 17, 172):
        short = [exact_share(count, n)[1] < 0.99 for count in range(n + 1)]
        assert binom.pmf(np.arange(n + 1), n, 0.99)[short].sum() <= 0.025
    # Wilson's upper end is below a true share of 0.99 where 16 of 17 images have it, which is not rare.
    assert wilson_interval(16, 17)[1] < 0.99 < exact_share(16, 17)[1]
