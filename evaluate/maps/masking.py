"""CAMs from pictures with parts taken out: occlusion, and RISE. What is taken out gets the network's mean colour.

Pictures are 8-bit before and after, so that every file can be shown them, those that take pixels among them.

Occlusion, after Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014): a patch is moved over
the picture, and each position has the mean of y - y_w over the patches w that cover it, y the logit of the whole picture, y_w
that without the patch. So computes Captum's `Occlusion`. The map ends in a relu, like every other. The picture is cut into
14 × 14 cells; the patch has 2 × 2 of them and moves by one. On a picture of 224 × 224 that is 13 × 13 patches of 32 × 32
pixels, 16 pixels apart.

RISE, after Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (BMVC 2018): the map
is sum_i p_i M_i / (N E[M]), p_i the class's softmax probability of the picture under mask M_i. Masks are grids of 7 × 7 zeros
and ones, each one with probability 1/2, enlarged bilinearly to 8 × 8 cells and cut out at a random place. N is 1000 (the paper
takes 4000 to 8000). The seed is fixed: all networks of one size and all precisions see the same masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcam.evaluate.maps.cam import Array, upsample
from qcam.evaluate.maps.measures import area_average

#: Cells of an occlusion map along a side, and of its patch.
CELLS, PATCH = 14, 2
#: Masks of RISE: how many, ones and zeros along a side, probability of a one, seed.
MASKS, GRID, SHARE, SEED = 1000, 7, 0.5, 0
#: Cells of a RISE map along a side, of which each is the mean over its pixels: masks have nothing as fine.
RISE_CELLS = 28


def mean_colour(mean: Sequence[float]) -> NDArray[np.uint8]:
    """Return the colour that normalisation makes 0, as levels.

    Args:
        mean: What normalisation subtracts on a scale of 0..1: three numbers, or one for grey.

    Returns:
        uint8, 3.
    """
    levels: NDArray[np.uint8] = np.broadcast_to(np.rint(np.clip(mean, 0.0, 1.0) * np.float64(255)).astype(np.uint8), 3)
    return levels


def patches(size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Return the patches of an occlusion, rows then columns of each, in reading order.

    Args:
        size: Height and width of the picture.
    """
    down, along = ([length * cell // CELLS for cell in range(CELLS + 1)] for length in size)
    steps = range(CELLS - PATCH + 1)
    return [(slice(down[i], down[i + PATCH]), slice(along[j], along[j + PATCH])) for i in steps for j in steps]


def occluded(crop: NDArray[np.uint8], some: Sequence[tuple[slice, slice]], colour: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture once for each patch, with the patch in one colour.

    Args:
        crop: uint8, height × width × 3.
        some: Patches.
        colour: uint8, 3.

    Returns:
        uint8, patches × height × width × 3.
    """
    result = np.repeat(crop[None], len(some), axis=0)
    for picture, (rows, columns) in zip(result, some, strict=True):
        picture[rows, columns] = colour
    return result


def occlusion_map(score: float, without: NDArray[np.floating]) -> Array:
    """Return the map of an occlusion.

    Args:
        score: The explained class's logit of the whole picture.
        without: That of the picture without each patch, in the order of `patches`.

    Returns:
        float64, `CELLS` × `CELLS`, not negative, not normalised.
    """
    side = CELLS - PATCH + 1
    drops = score - without.astype(np.float64).reshape(side, side)
    total, covered = np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS))
    for i in range(PATCH):
        for j in range(PATCH):
            total[i : i + side, j : j + side] += drops
            covered[i : i + side, j : j + side] += 1
    result: Array = np.maximum(total / covered, 0.0)
    return result


@dataclass(frozen=True)
class RiseMasks:
    """The masks of RISE for pictures of one size.

    Attributes:
        size: Height and width.
        grids: Zeros and ones, float64, masks × `GRID` × `GRID`.
        corners: Where each enlarged grid is cut, in pixels from its upper left corner, masks × 2.
    """

    size: tuple[int, int]
    grids: Array
    corners: NDArray[np.int64]

    @classmethod
    def of(cls, size: tuple[int, int], count: int = MASKS, seed: int = SEED) -> RiseMasks:
        """Draw masks.

        Args:
            size: Height and width.
            count: How many.
            seed: Of NumPy's `default_rng`.
        """
        chance = np.random.default_rng(seed)
        grids = (chance.random((count, GRID, GRID)) < SHARE).astype(np.float64)
        shares = chance.random((count, 2))  # of a cell, so that sizes do not change what is drawn
        return cls(size, grids, (shares * _cell(size)).astype(np.int64))

    def some(self, part: slice) -> Array:
        """Return masks, float64, masks × height × width, 0..1."""
        height, width = self.size
        cell = _cell(self.size)
        enlarged = upsample(self.grids[part], (int((GRID + 1) * cell[0]), int((GRID + 1) * cell[1])))
        return np.stack(
            [mask[i : i + height, j : j + width] for mask, (i, j) in zip(enlarged, self.corners[part], strict=True)]
        )


def _cell(size: tuple[int, int]) -> NDArray[np.int64]:
    """Return height and width of a cell of an enlarged grid, in pixels, rounded up."""
    return -(-np.array(size, np.int64) // GRID)


def masked(crop: NDArray[np.uint8], masks: Array, colour: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture under each mask: M · picture + (1 - M) · colour, rounded half to even.

    Args:
        crop: uint8, height × width × 3.
        masks: 0..1, masks × height × width.
        colour: uint8, 3.

    Returns:
        uint8, masks × height × width × 3.
    """
    levels = colour.astype(np.float64)
    result: NDArray[np.uint8] = np.rint(masks[..., None] * (crop - levels) + levels).astype(np.uint8)
    return result


def rise_map(total: Array, count: int) -> Array:
    """Return the map of RISE.

    Args:
        total: sum_i p_i M_i, height × width.
        count: How many masks there were.

    Returns:
        float64, `RISE_CELLS` × `RISE_CELLS`, or as many as there are pixels where those are fewer; not negative.
    """
    height, width = total.shape
    result: Array = area_average(total[None] / (count * SHARE), (min(RISE_CELLS, height), min(RISE_CELLS, width)))[0]
    return result
