"""Which photographs a folder holds, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qcam.common.errors import ImageSetError
from qcam.images.listing import find_images


def folder_with(tmp_path: Path, names: Sequence[str]) -> Path:
    folder = tmp_path / "photos"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_images_are_found_at_any_depth_sorted_by_name(tmp_path: Path) -> None:
    names = [
        "b.JPG",
        "a.jpeg",
        "n/deep/er.png",
        "a-b/x.webp",
        "a/x.webp",
        "a.b/x.tif",
        "B.bmp",
        "ü ö.gif",
        "10.ppm",
        "9.tiff",
    ]
    folder = folder_with(tmp_path, [*names, "labels.csv", "readme.txt", "x.jpg.part", "jpg", "n/y.pdf"])
    found = find_images(folder)
    assert [image.name for image in found] == sorted(names)
    assert all(image.path == folder / image.name and image.label is None for image in found)


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / ".hidden parent", ["a.jpg", ".b.jpg", "._a.jpg", ".trash/c.jpg", "d/.e/f.jpg", ".jpg"])
    assert [image.name for image in find_images(folder)] == ["a.jpg"]


def test_links_that_lead_out_of_the_folder_are_left_out(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ["inside.jpg"])
    outside = folder_with(tmp_path / "other", ["secret.jpg"])
    (folder / "out.jpg").symlink_to(outside / "secret.jpg")
    (folder / "relative.jpg").symlink_to("../other/photos/secret.jpg")
    (folder / "linked").symlink_to(outside)
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "again.jpg").symlink_to(folder / "inside.jpg")
    (folder / "folder.jpg").mkdir()
    assert [image.name for image in find_images(folder)] == ["again.jpg", "inside.jpg"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ["a.jpg"])
    (tmp_path / "link").symlink_to(folder)
    assert [image.name for image in find_images(tmp_path / "link")] == ["a.jpg"]


@pytest.mark.parametrize(("limit", "count"), [(None, 5), (1, 1), (3, 3), (5, 5), (99, 5)])
def test_the_limit_takes_the_first(tmp_path: Path, limit: int | None, count: int) -> None:
    names = [f"{index}.jpg" for index in range(5)]
    found = find_images(folder_with(tmp_path, names), limit=limit)
    assert [image.name for image in found] == names[:count]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no image folder at .*photos"),
        (lambda path: path.touch(), "no image folder at .*photos"),
        (lambda path: path.mkdir(), r"no image in .*photos; looked for files ending in \.bmp .*\.webp"),
        (lambda path: folder_with(path.parent, ["a.txt", ".b.jpg"]), "no image in"),
    ],
    ids=["absent", "file", "empty", "nothing-fits"],
)
def test_folders_without_images_are_refused(tmp_path: Path, prepare: Callable[[Path], object], message: str) -> None:
    prepare(tmp_path / "photos")
    with pytest.raises(ImageSetError, match=message):
        find_images(tmp_path / "photos")
