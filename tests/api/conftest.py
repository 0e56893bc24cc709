"""One small study that tests of the API share."""

from __future__ import annotations

from pathlib import Path

import pytest

import qcam
from qcam.runtime.bundle import Bundle


@pytest.fixture(scope="session")
def studied(tiny_bundle: Bundle, some_photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> qcam.StudyResults:
    folder = tmp_path_factory.mktemp("studied") / "out"
    return qcam.study(tiny_bundle, images=some_photographs, saliency="spectral", output=folder, threads=1, grid_rows=0)
