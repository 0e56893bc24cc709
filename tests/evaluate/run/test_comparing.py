"""Rows of a comparison: what is void in a mask counts neither way, in any figure."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from qcam.evaluate.maps.cam import enlarge, normalise
from qcam.evaluate.maps.metrics import all_metrics
from qcam.evaluate.results.folder import Row
from qcam.evaluate.run.comparing import Compared, SalientObjects
from qcam.evaluate.run.explained import Run
from qcam.evaluate.run.protocol import Sample

SIZE = (32, 32)
MEASURES = ("SIM", "CC", "KLD", "rank_correlation", "overlap", "energy_in_object")


def run_of(maps: np.ndarray) -> Run:
    return Run(np.eye(len(maps), 5, dtype=np.float32), maps, partial(enlarge, size=SIZE))


def sample(name: str, saliency: np.ndarray | None, why: str = "") -> Sample:
    crop = np.zeros((*SIZE, 3), np.uint8)
    return Sample(name, name, None, "first of 2 frames", crop, saliency, why, SIZE, "mask: ids, 25.0% void")


def rows(maps: np.ndarray, masks: list[np.ndarray | None]) -> list[Row]:
    samples = [sample(str(index), mask, "" if mask is not None else "no_reference: none") for index, mask in enumerate(masks)]
    references = SalientObjects.of([(each.saliency, each.no_saliency) for each in samples], SIZE)
    made = Compared("m", "f32", "vs_saliency", samples, np.zeros(len(samples), np.int64))
    return made.with_objects(run_of(maps), references)


def test_what_is_void_changes_no_figure_whatever_lies_there() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((1, 8, 8))
    mask = (rng.random(SIZE) > 0.6).astype(np.float32)
    mask[:16, :16] = np.nan
    (first,) = rows(maps, [mask])
    inside = maps.copy()
    inside[0, :3, :3] = rng.random((3, 3)) * maps.max() * 0.99  # cells that lie wholly under what is void
    (second,) = rows(inside, [mask])
    assert first.status == "ok"
    for name in MEASURES:
        assert getattr(first, name) == pytest.approx(getattr(second, name), abs=1e-12), name
    assert first.remark == "first of 2 frames; mask: ids, 25.0% void"


def test_the_figures_are_those_of_what_is_known() -> None:
    rng = np.random.default_rng(1)
    maps = rng.random((3, 8, 8))
    whole = (rng.random(SIZE) > 0.5).astype(np.float32)
    void = whole.copy()
    void[:, 24:] = np.nan
    known = np.zeros(SIZE, bool)
    known[:, :24] = True
    shown = enlarge(maps, SIZE)
    got = rows(maps, [whole, void, None])
    everywhere = np.ones(SIZE, bool)
    plain, part = (
        all_metrics(normalise(shown[index][where][None, None]), whole[where][None, None].astype(float))
        for index, where in ((0, everywhere), (1, known))
    )
    for name in ("SIM", "CC", "KLD"):
        assert getattr(got[0], name) == pytest.approx(plain[name][0], abs=1e-12)
        assert getattr(got[1], name) == pytest.approx(part[name][0], abs=1e-12)
    energy = normalise(shown[1][known][None, None])[0, 0]
    energy = (energy * (whole[known] >= 0.5)).sum() / energy.sum()
    assert got[1].energy_in_object == pytest.approx(energy, abs=1e-12)
    assert got[2].status == "no_reference: none"
    assert got[2].CC is None


@pytest.mark.parametrize("fill", [0.0, 1.0, np.nan])
def test_a_mask_of_one_value_beside_what_is_void_says_nothing(fill: float) -> None:
    mask = np.full(SIZE, fill, np.float32)
    mask[:, :10] = np.nan
    (row,) = rows(np.random.default_rng(2).random((1, 8, 8)), [mask])
    assert row.status == "constant_reference"
    assert all(getattr(row, name) is None for name in MEASURES)
