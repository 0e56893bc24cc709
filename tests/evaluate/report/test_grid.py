"""The picture grid."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from qcam.evaluate.report.grid import draw_grid, write_grids
from qcam.evaluate.results.folder import Results


def test_grids_are_drawn_from_what_is_stored(ran: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ran, tmp_path / "run")
    results = Results(folder)
    paths = write_grids(results, 4)
    assert [path.name for path in paths] == ["grid-tiny.png", "grid-other.png"]
    with Image.open(paths[0]) as picture:
        assert picture.height > picture.width * 0.7
    assert write_grids(results, 0) == []
    assert draw_grid(results, "tiny", ["no such image"]) is None
