"""SIM, CC and KLD between maps, as the paper defines them.

Conventions (named in every report): for SIM and KLD both maps are divided by their sum; KLD weights by the evaluated map
and puts epsilon inside the logarithm and under the fraction: sum P log(eps + P / (eps + Q)), P the evaluated map, Q the
reference, eps 2.2204e-16. The MIT benchmark and pysaliency weight by the reference instead, sum Q log(eps + Q / (P + eps)):
their figure is this one with the arguments swapped. CC is Pearson's. A map that is constant or not finite has none of the
three: NaN is returned, for the caller to count; nothing is made up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: numpy's float64 machine epsilon, as the MIT benchmark uses.
EPSILON = 2.220446049250313e-16
#: Metric names in the order of every table.
METRICS = ("SIM", "CC", "KLD")


def image_by_image(metric: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Let a metric see one image at a time: a batch of large maps in float64 leaves the processor's cache."""

    @wraps(metric)
    def each(maps: Array, references: Array) -> Array:
        if len(maps) < 2 or maps.shape != references.shape:
            return metric(maps, references)
        pairs = zip(maps[:, None], references[:, None], strict=True)
        return np.concatenate([metric(one, other) for one, other in pairs])

    return each


@image_by_image
def similarity(maps: Array, references: Array) -> Array:
    """Similarity, or histogram intersection: sum min(P, Q) of the maps as distributions; 1 for equal maps, 0 at least.

    Args:
        maps: Evaluated maps, not negative, batch × height × width.
        references: Same shape.

    Returns:
        float64, batch; NaN where a map is constant.

    >>> similarity(np.array([[[1.0, 0.0]]]), np.array([[[1.0, 3.0]]]))
    array([0.25])
    """
    result: Array = np.minimum(_distribution(maps), _distribution(references)).sum(axis=(1, 2))
    return undefined_if_constant(_one_if_equal(result, maps, references), maps, references)


@image_by_image
def correlation(maps: Array, references: Array) -> Array:
    """Pearson's linear correlation coefficient over positions, -1 to 1.

    Args:
        maps: Evaluated maps, batch × height × width.
        references: Same shape.

    Returns:
        float64, batch; NaN where a map is constant.

    >>> correlation(np.array([[[0.0, 1.0, 2.0]]]), np.array([[[2.0, 1.0, 0.0]]]))
    array([-1.])
    """
    a = maps - maps.mean(axis=(1, 2), keepdims=True)
    b = references - references.mean(axis=(1, 2), keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        product = (a * b).sum(axis=(1, 2))
        result = product / (np.sqrt((a * a).sum(axis=(1, 2))) * np.sqrt((b * b).sum(axis=(1, 2))))
    return undefined_if_constant(_one_if_equal(np.clip(result, -1.0, 1.0), maps, references), maps, references)


@image_by_image
def divergence(maps: Array, references: Array) -> Array:
    """Kullback-Leibler divergence, the paper's: sum P log(eps + P / (eps + Q)); 0 for equal maps.

    Args:
        maps: Evaluated maps P, not negative, batch × height × width.
        references: Reference maps Q, same shape.

    Returns:
        float64, batch, in nats; NaN where a map is constant.
    """
    p, q = _distribution(maps), _distribution(references)
    result: Array = (p * np.log(EPSILON + p / (EPSILON + q))).sum(axis=(1, 2))
    return undefined_if_constant(result, maps, references)


def all_metrics(maps: Array, references: Array) -> dict[str, Array]:
    """Return every metric by name, batch of values each."""
    return {
        "SIM": similarity(maps, references),
        "CC": correlation(maps, references),
        "KLD": divergence(maps, references),
    }


def is_constant(maps: Array) -> NDArray[np.bool_]:
    """Tell for each map whether it says nothing: constant, or with values that are not finite."""
    axes = (1, 2)
    constant: NDArray[np.bool_] = ~np.isfinite(maps).all(axis=axes) | (maps.max(axis=axes) == maps.min(axis=axes))
    return constant


def _distribution(maps: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = maps / maps.sum(axis=(1, 2), keepdims=True)
    return result


def _one_if_equal(values: Array, maps: Array, references: Array) -> Array:
    """Return exactly 1 for equal maps, whatever rounding made of it: a gate at 1 has to hold."""
    return np.where((maps == references).all(axis=(1, 2)), 1.0, values)


def undefined_if_constant(values: Array, maps: Array, references: Array) -> Array:
    """Return values of map by map, NaN where either map says nothing (`is_constant`)."""
    return np.where(is_constant(maps) | is_constant(references), np.nan, values)
