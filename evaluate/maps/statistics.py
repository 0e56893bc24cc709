"""Statistics that carry weight: intervals, paired tests with effect size, non-inferiority, correction for many tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Resamples of the images, and the seed that draws them.
RESAMPLES, SEED = 2000, 0
#: How sure an interval is.
LEVEL = 0.95
#: What moves an image by less does not move it: it is rounding.
_ROUNDING = 1e-12
#: A variance by the square of the mean's shift that is rounding.
_NO_SPREAD = 1e-12
#: Resamples drawn at a time: memory is that by the number of images, however many figures there are.
_AT_ONCE = 100


@dataclass(frozen=True)
class PairedTest:
    """Two conditions on the same images.

    Attributes:
        n: Images where both are defined.
        differing: How many of them differ at all; the test and the effect are of these alone.
        mean_difference: Second less first.
        p: Two-sided p of Wilcoxon's signed-rank test, or McNemar's; 1 if no image differs, None without an image.
        effect: Matched-pairs rank-biserial correlation, -1..1: the share of rank sums where the second is larger, less that
            where it is smaller (Kerby 2014); 0 if no image differs.
    """

    n: int
    differing: int
    mean_difference: float | None
    p: float | None
    effect: float | None


def bootstrap_intervals(
    figures: Array, *, resamples: int = RESAMPLES, seed: int = SEED, level: float = LEVEL
) -> tuple[Array, Array]:
    """Return percentile bootstrap intervals of means over images (Efron 1979).

    All figures share their resamples of the images, so that intervals of differences are paired.

    Args:
        figures: images × figures, NaN where undefined; a resample's mean is that of its defined values.
        resamples: How many resamples are drawn.
        seed: Of the generator.
        level: Coverage, 0..1.

    Returns:
        Lower and upper ends, one per figure; NaN for a figure with fewer than two defined values.
    """
    images, count = figures.shape
    defined = np.isfinite(figures)
    enough = defined.sum(axis=0) >= 2
    low, high = np.full(count, np.nan), np.full(count, np.nan)
    if not enough.any():
        return low, high
    # Means are taken of differences from the mean: a figure that is the same everywhere has an interval of no width.
    centre = np.where(enough, np.nansum(figures, axis=0) / np.maximum(defined.sum(axis=0), 1), 0.0)
    values = np.where(defined, figures - centre, 0.0)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, count))
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        drawn = generator.integers(0, images, (size, images))
        weights = np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            means[start : start + size] = (weights @ values) / (weights @ defined)
    tail = 100 * (1 - level) / 2
    ends = np.nanpercentile(means[:, enough], [tail, 100 - tail], axis=0)
    low[enough], high[enough] = ends + centre[enough]
    return low, high


def studentized_interval(
    values: Array, *, resamples: int = RESAMPLES, seed: int = SEED, level: float = LEVEL
) -> tuple[float, float]:
    """Return the bootstrap-t interval of a mean over images (Efron 1981; Hall 1988).

    Of skewed values it is wider towards the long tail, where the percentile interval is too narrow. A resample of one image
    alone has no spread: its t is infinite, and so is the end of an interval where there are too many of these.

    Args:
        values: One finite value per image, at least one.
        resamples: How many resamples are drawn.
        seed: Of the generator.
        level: Coverage, 0..1.

    Returns:
        Lower and upper end; they may be infinite, and both are the mean where all values are the same.
    """
    n, mean = len(values), float(values.mean())
    away = values - mean
    error = float(np.sqrt((away @ away) / n / n))
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    generator = np.random.default_rng(seed)
    found = np.empty(resamples)
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        weights = np.stack([np.bincount(row, minlength=n) for row in generator.integers(0, n, (size, n))]).astype(np.float64)
        shift = weights @ away / n
        square = weights @ (away * away) / n - shift * shift
        with np.errstate(divide="ignore", invalid="ignore"):
            t = shift / np.sqrt(np.maximum(square, 0.0) / n)
        found[start : start + size] = np.where(square > _NO_SPREAD * shift * shift, t, np.copysign(np.inf, shift))
    found.sort()
    cut = max(round(resamples * (1 - level) / 2) - 1, 0)
    return mean - float(found[-1 - cut]) * error, mean - float(found[cut]) * error


@dataclass(frozen=True)
class Skill:
    """How much of what moves a map a prediction foretells.

    Attributes:
        value: 1 - sum(missed) / sum(moved): 1 where nothing is missed, 0 where the prediction is no better than none, below 0
            where it is worse; None where nothing moved.
        low: Lower end of its interval; None of fewer than two images.
        high: Upper end.
        n: Images where both are defined.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def skill(
    missed: Array, moved: Array, *, resamples: int = RESAMPLES, seed: int = SEED, level: float = LEVEL
) -> Skill:
    """Return the skill of a prediction, with a percentile bootstrap interval over images.

    It is the skill score of forecasts (Murphy 1988), 1 - error / error of a reference forecast, where the reference forecasts
    that nothing moves.

    Args:
        missed: What is left between prediction and outcome, one value per image, not negative; NaN where undefined.
        moved: What lies between the outcome and what it was before, same length.
        resamples: How many resamples are drawn.
        seed: Of the generator.
        level: Coverage, 0..1.
    """
    both = np.isfinite(missed) & np.isfinite(moved)
    left, whole = missed[both], moved[both]
    n = int(both.sum())
    if not n or whole.sum() <= n * _ROUNDING:
        return Skill(None, None, None, n)
    value = float(1 - left.sum() / whole.sum())
    if n < 2:
        return Skill(value, None, None, n)
    generator = np.random.default_rng(seed)
    found = np.empty(resamples)
    for start in range(0, resamples, _AT_ONCE):
        drawn = generator.integers(0, n, (min(_AT_ONCE, resamples - start), n))
        with np.errstate(divide="ignore", invalid="ignore"):
            found[start : start + len(drawn)] = 1 - left[drawn].sum(axis=1) / whole[drawn].sum(axis=1)
    found = found[np.isfinite(found)]  # resamples in which nothing moved say nothing
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    return Skill(value, float(low), float(high), n)


def paired_test(first: Array, second: Array) -> PairedTest:
    """Compare two conditions image by image.

    Args:
        first: One value per image, NaN where undefined.
        second: Same length.
    """
    from scipy.stats import rankdata, wilcoxon

    difference = second - first
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        return PairedTest(0, 0, None, None, None)
    mean = float(difference.mean())
    moved = difference[difference != 0]
    if not len(moved):
        return PairedTest(len(difference), 0, mean, 1.0, 0.0)
    ranks = rankdata(np.abs(moved))
    effect = float(np.sum(np.sign(moved) * ranks) / np.sum(ranks))
    return PairedTest(len(difference), len(moved), mean, float(wilcoxon(moved).pvalue), effect)


@dataclass(frozen=True)
class SignTest:
    """Whether differences are below 0 for most images, exactly, whatever their distribution.

    Attributes:
        n: Images where the difference is defined.
        below: How many of them are below 0.
        median: Of the differences; None without an image.
        low: One-sided lower bound of the population's median; None where there are too few images for one.
        high: One-sided upper bound.
        p: One-sided: of at least so many below 0 if a difference were as likely above or at 0. None without an image.
        p_above: Likewise of at least so many above 0.
    """

    n: int
    below: int
    median: float | None
    low: float | None
    high: float | None
    p: float | None
    p_above: float | None


def sign_test(differences: Array, *, level: float = LEVEL) -> SignTest:
    """Test with the exact sign test (Conover 1999, section 3.4) whether a difference is below 0 more often than not.

    Differences of 0 count against it. The bounds of the median are order statistics: with confidence `level` or more, whatever
    the distribution, the population's median is not above `high`, and not below `low`; and p is below 1 - level exactly where
    `high` is below 0.

    Args:
        differences: One value per image, NaN where undefined.
        level: Of each bound, 0..1.
    """
    from scipy.stats import binom

    known = np.sort(differences[np.isfinite(differences)])
    n, below = len(known), int((known < 0).sum())
    if not n:
        return SignTest(0, 0, None, None, None, None, None)
    p, p_above = (float(binom.sf(count - 1, n, 0.5)) for count in (below, int((known > 0).sum())))
    # The k-th smallest is not below the median with the probability of fewer than k differences below it.
    place = int(binom.ppf(level, n, 0.5))
    high = float(known[place]) if place < n and binom.cdf(place, n, 0.5) >= level else None
    low = float(known[n - 1 - place]) if high is not None else None
    return SignTest(n, below, float(np.median(known)), low, high, p, p_above)


def wilson_interval(count: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a proportion after Wilson (1927), which has a width at 0 and at 1 too.

    Args:
        count: Of how many images it is true.
        n: Of how many images, at least 1.
        level: Coverage, 0..1.
    """
    from scipy.stats import binomtest

    found = binomtest(count, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def mcnemar_test(first: Array, second: Array) -> PairedTest:
    """Compare two truth values image by image: McNemar's test (1947), exact.

    Args:
        first: One value per image, 0 or 1, NaN where undefined.
        second: Same length.

    Returns:
        The test; its effect is the share of the differing images where only the second is true, less that of the others.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    known = np.isfinite(first) & np.isfinite(second)
    one, other = first[known] == 1, second[known] == 1
    n, gained, lost = len(one), int((~one & other).sum()), int((one & ~other).sum())
    if not n:
        return PairedTest(0, 0, None, None, None)
    differing = gained + lost
    table = [[int((one & other).sum()), lost], [gained, int((~one & ~other).sum())]]
    p = float(mcnemar(table, exact=True).pvalue) if differing else 1.0
    return PairedTest(n, differing, (gained - lost) / n, p, (gained - lost) / differing if differing else 0.0)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Correct p values for their number, after Holm (1979); None stays None and is not counted."""
    from statsmodels.stats.multitest import multipletests

    known = [value for value in p if value is not None]
    if not known:
        return list(p)
    corrected = iter(multipletests(known, method="holm")[1])
    return [None if value is None else float(next(corrected)) for value in p]


def exact_share(count: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a share after Clopper and Pearson (1934).

    Each end is on the wrong side of the true share in at most (1 - level) / 2 of all samples, whatever n and the share are.
    Wilson's is not: with 17 images or fewer its upper end is below a true share of 0.99 in up to 16 % of samples.

    Args:
        count: Of how many images it is true; may be no whole number.
        n: Of how many images, above 0.
        level: Coverage, 0..1.
    """
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if count <= 0 else float(beta.ppf(tail, count, n - count + 1))
    high = 1.0 if count >= n else float(beta.ppf(1 - tail, count + 1, n - count))
    return low, high


def paired_ratio_interval(both: float, second: float, first: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the score interval of a ratio of two shares of the same images (Tang, Tang and Chan 2003).

    It is what is left of all ratios that the score test of Nam and Blackwelder (2002) does not refute; it has a width where
    both are right everywhere, as a bootstrap has not.

    Args:
        both: Number of images where both are true.
        second: Where only the second is.
        first: Where only the first is.
        n: Of how many images.
        level: Coverage, 0..1.

    Returns:
        Ends of the interval of share of the second / share of the first; 0 to infinity if the first is nowhere true.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    if both + first <= 0:
        return 0.0, float("inf")

    def score(logarithm: float) -> float:
        """Return how many standard errors the shares are away from a ratio, whose logarithm is given."""
        ratio = float(np.exp(logarithm))
        # Share of images where only the first is true, under the ratio, by maximum likelihood.
        a = n * (1 + ratio)
        b = (both + first) * ratio**2 - (both + second + 2 * first)
        c = first * (1 - ratio) * (both + second + first) / n
        only_first = (-b + float(np.sqrt(max(b * b - 4 * a * c, 0.0)))) / (2 * a)
        variance = n * (1 + ratio) * only_first + (both + second + first) * (ratio - 1)
        difference = both + second - ratio * (both + first)
        return difference / float(np.sqrt(variance)) if variance > 0 else float(np.sign(difference)) * 1e9

    estimate = (both + second) / (both + first)
    middle = float(np.log(estimate)) if estimate > 0 else -20.0
    low = 0.0 if estimate <= 0 or score(-20.0) < z else float(np.exp(brentq(lambda at: score(at) - z, -20.0, middle)))
    high = float("inf") if score(20.0) > -z else float(np.exp(brentq(lambda at: score(at) + z, middle, 20.0)))
    return low, high
