from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import SAME, command, finish

from qcam.images.embedded import evaluation_photographs


@pytest.fixture(scope="session")
def many(shared_once: Callable[..., Path]) -> Path:
    """Real photographs under 192 names in 12 shards, one of each shard damaged."""

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        images = evaluation_photographs()
        for index in range(192):
            shutil.copy(images[index % len(images)].path, folder / f"{index:03d}.jpg")
        for index in range(5, 192, 16):
            data = (folder / f"{index:03d}.jpg").read_bytes()
            (folder / f"{index:03d}.jpg").write_bytes(data[: len(data) // 2])

    return shared_once("engines/photographs", make)


@pytest.fixture(scope="session")
def whole(tiny_bundle, many: Path, shared_once: Callable[..., Path]) -> Path:
    """Results of one process that was left alone."""

    def make(folder: Path) -> None:
        done = finish(command(tiny_bundle.folder, many, folder.name, "--workers", 1), folder.parent)
        assert done.returncode == 0, done.stderr

    return shared_once("engines/whole", make)


@pytest.fixture(scope="session")
def same_as(whole: Path) -> Callable[[Path], None]:
    """Compare results with those of a process that was left alone, byte by byte."""

    def compare(folder: Path) -> None:
        for name in SAME:
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name

    return compare
