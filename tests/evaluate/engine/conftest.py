from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import SAME, command, finish

from qcam.images.embedded import evaluation_photographs


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs under 320 names in 20 shards, one of each shard damaged."""
    folder = tmp_path_factory.mktemp("many") / "photographs"
    folder.mkdir()
    images = evaluation_photographs()
    for index in range(320):
        shutil.copy(images[index % len(images)].path, folder / f"{index:03d}.jpg")
    for index in range(5, 320, 16):
        data = (folder / f"{index:03d}.jpg").read_bytes()
        (folder / f"{index:03d}.jpg").write_bytes(data[: len(data) // 2])
    return folder


@pytest.fixture(scope="session")
def whole(tiny_bundle, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one process that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    done = finish(command(tiny_bundle.folder, many, "out", "--workers", 1), folder)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture(scope="session")
def same_as(whole: Path) -> Callable[[Path], None]:
    """Compare results with those of a process that was left alone, byte by byte."""

    def compare(folder: Path) -> None:
        for name in SAME:
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name

    return compare
