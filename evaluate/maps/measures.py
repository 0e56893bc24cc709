"""Further measures of maps that users of CAM libraries know, beside SIM, CC and KLD (`metrics.py`).

All are undefined (NaN) for a map that is constant or not finite, as there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcam.evaluate.maps.metrics import undefined_if_constant

Array = NDArray[np.float64]

#: Share of positions that `overlap` compares.
TOP_SHARE = 0.2
#: Share of a map's maximum below which `tie_small` takes values for nothing.
SMALL = 0.01
#: Value of a salient-object map from which a position belongs to the object.
OBJECT = 0.5


def rank_correlation(maps: Array, references: Array) -> Array:
    """Spearman's rank correlation over positions, ties ranked by their mean, -1 to 1; 1 for maps of equal order.

    Args:
        maps: Evaluated maps, batch × height × width.
        references: Same shape.

    Returns:
        float64, batch; NaN where a map is constant.

    >>> rank_correlation(np.array([[[0.0, 1.0, 9.0]]]), np.array([[[5.0, 2.0, 1.0]]]))
    array([-1.])
    """
    a, b = _centred_ranks(maps), _centred_ranks(references)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    result = np.where((a == b).all(axis=1), 1.0, np.clip(result, -1.0, 1.0))
    return undefined_if_constant(result, maps, references)


def tie_small(maps: Array, share: float = SMALL) -> Array:
    """Return maps with 0 wherever they are below a share of their maximum: what is nothing has no order of its own.

    Args:
        maps: Not negative, batch × height × width.
        share: Of the maximum, 0 to 1.

    >>> tie_small(np.array([[[0.0, 0.009, 1.0]]]))
    array([[[0., 0., 1.]]])
    """
    return np.where(maps < share * maps.max(axis=(1, 2), keepdims=True), 0.0, maps)


def overlap(
    maps: Array,
    references: Array,
    share: float = TOP_SHARE,
    *,
    tops: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> Array:
    """Intersection over union of the positions with the largest values (`top_positions`), 0 to 1; 1 for equal maps.

    Args:
        maps: Evaluated maps, batch × height × width.
        references: Same shape.
        share: Share of positions, above 0 to 1.
        tops: The top positions of both, where they are known already.

    Returns:
        float64, batch; NaN where a map is constant.

    >>> overlap(np.array([[[3.0, 2.0, 1.0, 0.0]]]), np.array([[[3.0, 1.0, 2.0, 0.0]]]), share=0.5)
    array([0.33333333])
    """
    a, b = tops or (top_positions(maps, share), top_positions(references, share))
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (a & b).sum(axis=(1, 2)) / (a | b).sum(axis=(1, 2))
    return undefined_if_constant(result, maps, references)


def energy_in_object(maps: Array, saliency: Array, threshold: float = OBJECT) -> Array:
    """Share of a map's sum that lies inside the salient object, 0 to 1.

    The energy-based pointing game of Wang et al., "Score-CAM" (CVPR workshops 2020), with the object where the
    salient-object map reaches a threshold.

    Args:
        maps: Evaluated maps, not negative, batch × height × width.
        saliency: Salient-object maps, 0..1, same shape.
        threshold: From which value on a position belongs to the object.

    Returns:
        float64, batch; NaN where the map is constant, the salient-object map is, or it has no object at this threshold.

    >>> energy_in_object(np.array([[[1.0, 3.0]]]), np.array([[[0.2, 0.9]]]))
    array([0.75])
    """
    inside = saliency >= threshold
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.where(inside, maps, 0.0).sum(axis=(1, 2)) / maps.sum(axis=(1, 2))
    # The two sums round differently: a share is at most 1.
    return undefined_if_constant(np.where(inside.any(axis=(1, 2)), np.minimum(result, 1.0), np.nan), maps, saliency)


def drop_and_increase(before: Array, after: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Drop and increase of confidence, after Chattopadhyay et al., "Grad-CAM++" (WACV 2018), section 4.

    Args:
        before: Probability Y of the explained class for the whole picture, batch, 0..1.
        after: Probability O for the picture multiplied with its CAM, batch, 0..1.

    Returns:
        max(0, Y - O) / Y, float64, batch, 0..1 (NaN where Y is 0); and whether O > Y, batch.

    >>> drop_and_increase(np.array([0.8, 0.5]), np.array([0.2, 0.6]))
    (array([0.75, 0.  ]), array([False,  True]))
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        drop: Array = np.maximum(0.0, before - after) / before
    return drop, after > before


def explanation_crops(crops: NDArray[np.uint8], maps: Array) -> NDArray[np.uint8]:
    """Multiply pictures with maps: what a CAM leaves of them.

    Args:
        crops: uint8, batch × height × width × 3.
        maps: 0..1, batch × height × width.

    Returns:
        uint8, the shape of `crops`, rounded half to even.
    """
    result: NDArray[np.uint8] = np.rint(crops * maps[..., None]).astype(np.uint8)
    return result


def area_average(maps: Array, size: tuple[int, int]) -> Array:
    """Average maps over the cells of a coarser grid; a position that two cells share counts towards both by its area.

    Args:
        maps: batch × height × width.
        size: Height and width of the grid.

    Returns:
        float64, batch × size, never outside the values that a cell covers: what is equal throughout stays equal.

    >>> area_average(np.array([[[0.0, 3.0, 6.0]]]), (1, 2))
    array([[[1., 5.]]])
    """
    for axis, cells in enumerate(size, 1):
        maps = _along(maps, axis, cells)
    return maps


def _along(maps: Array, axis: int, cells: int) -> Array:
    """Average along one axis; an average of equal values is that value to the last bit, so that ties stay ties."""
    length = maps.shape[axis]
    found = []
    for cell in range(cells):
        # A position is `cells` units long and a cell `length` units: what they share is a whole number.
        first, last = cell * length // cells, -(-(cell + 1) * length // cells)
        places = np.arange(first, last)
        shared = np.minimum((cell + 1) * length, (places + 1) * cells) - np.maximum(cell * length, places * cells)
        part = np.moveaxis(maps, axis, -1)[..., first:last]
        found.append(np.clip(part @ shared.astype(np.float64) / length, part.min(axis=-1), part.max(axis=-1)))
    return np.stack(found, axis=axis)


def _centred_ranks(maps: Array) -> Array:
    """Return the ranks of each map's positions less their mean, ties ranked by their mean; batch × positions."""
    from scipy.stats import rankdata

    flat = maps.reshape(len(maps), -1)
    ranks: Array = rankdata(flat, axis=1) - (flat.shape[1] + 1) / 2.0
    return ranks


def top_positions(maps: Array, share: float = TOP_SHARE) -> NDArray[np.bool_]:
    """Tell which positions of each map have its largest values.

    They are those that reach its k-th largest value, k = share of the positions rounded up, and exceed its minimum: more than
    k where values tie, fewer where a map is zero nearly everywhere.

    Args:
        maps: batch × height × width.
        share: Share of positions, above 0 to 1.
    """
    flat = maps.reshape(len(maps), -1)
    count = max(1, int(np.ceil(share * flat.shape[1])))
    least = np.partition(flat, flat.shape[1] - count, axis=1)[:, flat.shape[1] - count]
    lowest = maps.min(axis=(1, 2), keepdims=True)
    chosen: NDArray[np.bool_] = (maps >= least[:, None, None]) & (maps > lowest)
    return chosen
