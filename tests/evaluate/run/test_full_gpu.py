"""Where PyTorch's memory on a GPU is full, every run with a mirror says so in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import qcam
from qcam.common.errors import OutOfMemoryError
from qcam.runtime.mirror import Mirror

TOLD = r"PyTorch's memory on the GPU is full \(CUDA out of memory\); take "


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that does not hold a mirror's run."""

    def fail(*_arguments: Any, **_more: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Mirror, "forward", fail)
    monkeypatch.setattr(Mirror, "gradient", fail)


def test_a_study_and_a_check_advise_a_smaller_batch(tiny_bundle: Any, some_photographs: Path, tmp_path: Path, full) -> None:
    with pytest.raises(OutOfMemoryError, match=f"{TOLD}a smaller batch_size, or device cpu"):
        qcam.study(tiny_bundle, images=some_photographs, saliency="none", output=tmp_path / "out", threads=1, device="cpu")
    with pytest.raises(OutOfMemoryError, match=f"{TOLD}a smaller batch_size, or device cpu"):
        qcam.check(tiny_bundle, images=some_photographs, precisions="int8", threads=1, device="cpu")


def test_an_explanation_of_one_picture_advises_the_cpu(tiny_bundle: Any, some_photographs: Path, full) -> None:
    picture = sorted(some_photographs.iterdir())[0]
    with pytest.raises(OutOfMemoryError, match=f"{TOLD}device cpu for the mirrors"):
        qcam.explain(tiny_bundle, picture, threads=1, device="cpu")
