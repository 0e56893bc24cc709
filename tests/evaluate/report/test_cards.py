"""Which images of several runs are shown because the runs differ there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qcam.evaluate.report.cards import _moved


def run(**ccs: list[float]) -> Any:
    """Return a run of two images: precision → CC v. f32."""
    columns = {(name, "vs_f32"): {"image": np.array(["a", "b"], object), "CC": np.array(cc)} for name, cc in ccs.items()}
    return SimpleNamespace(figures={"m": columns})


@pytest.mark.parametrize(
    ("one", "other", "moved"),
    [
        (run(int8=[0.9, 0.9], int16=[0.1, 0.9]), run(int8=[0.9, 0.5], int16=[0.9, 0.9]), ["b"]),
        (run(int8=[0.9, 0.9], int16=[0.1, 0.9]), run(int16=[0.9, 0.9]), ["a"]),  # int8 is not held against int16
        (run(int8=[0.9, 0.9]), run(int16=[0.1, 0.1]), []),
        (run(vendor=[0.9, 0.9]), run(vendor=[0.8, 0.1]), ["b", "a"]),
        (run(f32=[1.0, 1.0]), run(f32=[0.5, 1.0]), []),
    ],
)
def test_runs_are_held_against_each_other_by_the_coarsest_precision_that_they_share(one, other, moved: list[str]) -> None:
    assert _moved([one, other], "m") == moved
