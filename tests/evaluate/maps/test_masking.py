"""Occlusion and RISE against loops that do it position by position."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qcam.evaluate.maps.masking import (
    CELLS,
    GRID,
    MASKS,
    RISE_CELLS,
    RiseMasks,
    masked,
    mean_colour,
    occluded,
    occlusion_map,
    patches,
    rise_map,
)


def test_every_position_has_the_mean_drop_of_the_patches_that_cover_it() -> None:
    size, score = (28, 56), 3.0
    some = patches(size)
    assert len(some) == 169
    without = np.random.default_rng(0).normal(score, 1, len(some))
    # Position by position, as Captum's Occlusion adds and divides, and then one value a cell.
    total, covered = np.zeros(size), np.zeros(size)
    for (rows, columns), found in zip(some, without, strict=True):
        total[rows, columns] += score - found
        covered[rows, columns] += 1
    by_position = np.maximum(total / covered, 0)
    assert covered.min() == 1
    assert covered.max() == 4
    found = occlusion_map(score, without)
    assert found.shape == (CELLS, CELLS)
    np.testing.assert_allclose(np.kron(found, np.ones((2, 4))), by_position, rtol=1e-12, atol=1e-12)
    assert (found == 0).any()  # a drop below 0 counts as none


@pytest.mark.parametrize("size", [(224, 224), (30, 47), (299, 299)])
def test_patches_cover_the_picture_and_no_more(size) -> None:
    covered = np.zeros(size, int)
    for rows, columns in patches(size):
        assert 0 <= rows.start < rows.stop <= size[0]
        assert 0 <= columns.start < columns.stop <= size[1]
        covered[rows, columns] += 1
    assert covered.min() == 1
    assert {(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in patches((224, 224))} == {(32, 32)}


def test_an_occluded_picture_is_the_picture_but_for_the_patch() -> None:
    crop = np.random.default_rng(1).integers(0, 256, (28, 28, 3), np.uint8)
    before = crop.copy()
    colour = mean_colour((0.485, 0.456, 0.406))
    assert colour.tolist() == [124, 116, 104]
    some = patches((28, 28))[20:23]
    for picture, (rows, columns) in zip(occluded(crop, some, colour), some, strict=True):
        assert (picture[rows, columns] == colour).all()
        kept = np.ones((28, 28), bool)
        kept[rows, columns] = False
        np.testing.assert_array_equal(picture[kept], crop[kept])
    np.testing.assert_array_equal(crop, before)


@pytest.mark.parametrize(
    ("mean", "levels"), [((0.5,), [128] * 3), ((0.0, 0.0, 0.0), [0] * 3), ((2.0, -1.0, 1.0), [255, 0, 255])]
)
def test_the_mean_colour_is_a_colour_for_any_normalisation(mean, levels) -> None:
    assert mean_colour(mean).tolist() == levels


@pytest.mark.parametrize("size", [(224, 224), (30, 47)])
def test_masks_are_grids_enlarged_and_cut_at_a_random_place(size) -> None:
    drawn = RiseMasks.of(size, 40)
    cell = [-(-length // GRID) for length in size]
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(drawn.grids)[:, None], tuple((GRID + 1) * each for each in cell), mode="bilinear"
    )[:, 0].numpy()
    for index, mask in enumerate(drawn.some(slice(0, 40))):
        i, j = drawn.corners[index]
        assert 0 <= i < cell[0]
        assert 0 <= j < cell[1]
        np.testing.assert_allclose(mask, enlarged[index, i : i + size[0], j : j + size[1]], atol=1e-12)
        assert mask.shape == size
    assert set(np.unique(drawn.grids)) == {0.0, 1.0}
    np.testing.assert_array_equal(drawn.some(slice(7, 9)), RiseMasks.of(size, 40).some(slice(7, 9)))
    assert not np.array_equal(drawn.grids, RiseMasks.of(size, 40, seed=1).grids)


def test_masks_leave_half_of_the_picture() -> None:
    drawn = RiseMasks.of((56, 56))
    assert len(drawn.grids) == MASKS
    assert np.mean([drawn.some(slice(start, start + 100)).mean() for start in range(0, MASKS, 100)]) == pytest.approx(
        0.5, abs=0.01
    )


def test_a_masked_picture_is_between_itself_and_one_colour() -> None:
    crop = np.array([[[0, 100, 255], [10, 20, 30]]], np.uint8)
    colour = np.array([100, 100, 100], np.uint8)
    found = masked(crop, np.array([[[1.0, 0.0]], [[0.5, 0.25]]]), colour)
    assert found.tolist() == [[[[0, 100, 255], [100, 100, 100]]], [[[50, 100, 178], [78, 80, 82]]]]


def test_a_rise_map_is_the_mean_over_its_cells() -> None:
    total = np.random.default_rng(2).random((56, 56))
    by_hand = total.reshape(RISE_CELLS, 2, RISE_CELLS, 2).mean(axis=(1, 3)) / (10 * 0.5)
    np.testing.assert_allclose(rise_map(total, 10), by_hand, rtol=1e-12)
    assert rise_map(np.ones((20, 20)), 4).tolist() == [[0.5] * 20] * 20
