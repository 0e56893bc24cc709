"""Masks that lie among photographs are told apart, whatever way sets are laid out."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcam.images.beside import without_masks
from qcam.images.listing import find_images, find_masks
from qcam.images.sources import ImageFile

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), np.uint8))
MASK = Image.fromarray((RNG.random((24, 32)) > 0.5).astype(np.uint8) * 255)


def laid(folder: Path, *names: str) -> Path:
    """Write photographs and masks: whatever ends in .png or .bmp is a mask, unless it is called photo."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = path.suffix in (".png", ".bmp") and path.stem not in ("photo", "photo_a")
        (MASK if mask else PHOTO).save(path)
    return folder


@pytest.mark.parametrize(
    ("photographs", "masks"),
    [
        (["a.jpg", "b.jpg"], ["a.png", "b.png"]),  # MSRA10K
        (["a.jpg", "b.jpg"], ["a_mask.png", "b_mask.png"]),
        (["a.jpg", "b.jpg"], ["a_segmentation.png"]),
        (["a.jpg"], ["a.jpg.png"]),
        (["photo.png"], ["photo_gt.png"]),
        (["x/a.jpg", "x/b.jpg"], ["x/masks/a.png", "x/masks/b.png"]),
        (["images/a.jpg", "images/b.jpg"], ["masks/a.png", "masks/b.png", "masks/c.png"]),
        (["JPEGImages/a.jpg"], ["SegmentationClass/a.png"]),
        (["a.jpg", "b.jpg"], ["ground truth/a_gt.png", "ground truth/b_gt.png"]),
        (["DUTS-TE-Image/a.jpg"], ["DUTS-TE-Mask/a.png"]),
        (["images/a.jpg"], ["ground_truth_mask/a.png"]),
        (["leftImg8bit/x/a_1_leftImg8bit.jpg"], ["gtFine/x/a_1_gtFine_labelIds.png"]),
        (["1/images/1.jpg"], ["1/masks/x.png", "1/masks/y.png"]),  # one mask for each nucleus
        (["a.jpg"], ["mask_a.png"]),
        (["a (1).jpg"], ["a (1)_mask.png", "a (1)_mask_1.png"]),
        (["a.jpg"], ["a_MASK.png"]),
        (["photo.png"], ["photo_mask.bmp"]),
    ],
)
def test_k4_masks_are_kept_out_and_counted(tmp_path: Path, photographs: list[str], masks: list[str]) -> None:
    folder = laid(tmp_path, *photographs, *masks)
    assert [file.name for file in find_images(folder)] == sorted(photographs)
    assert [file.name for file in find_masks(folder).masks] == sorted(masks)


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "photo_a.png"],
        ["masks/a.jpg", "hats/b.jpg"],  # a class of photographs that is called so
        ["photo.jpg", "photo.png"],  # the same photograph twice
        ["a_mask.png", "b_mask.png"],  # the masks' own folder
        ["cat_label.jpg", "dog.jpg"],
        ["tench/1.jpg", "mask/1.jpg", "tench/2.jpg", "mask/2.jpg"],  # ImageNet's class 643
        ["mask/1.jpg", "no_mask/1.jpg"],
        ["1.jpg", "1-label.jpg"],
    ],
)
def test_what_only_sounds_like_a_mask_stays(tmp_path: Path, names: list[str]) -> None:
    folder = laid(tmp_path, *names)
    assert [file.name for file in find_images(folder)] == sorted(names)
    assert [file.name for file in find_masks(folder).images] == sorted(names)


@pytest.mark.parametrize("member", ["0.mask.png", "0.seg.png", "0.png", "0.target.png"])
def test_k4_in_a_webdataset(tmp_path: Path, member: str) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, image in (("0.jpg", PHOTO), (member, MASK)):
            data = io.BytesIO()
            image.save(data, format="JPEG" if name.endswith("jpg") else "PNG")
            entry = tarfile.TarInfo(name)
            entry.size = len(data.getvalue())
            tar.addfile(entry, io.BytesIO(data.getvalue()))
    assert [file.name for file in find_images(tmp_path / "0.tar")] == ["0.tar/0.jpg"]


def test_a_damaged_picture_is_no_mask_and_stops_nothing(tmp_path: Path) -> None:
    folder = laid(tmp_path, "a.jpg", "masks/a.png")
    PHOTO.save(folder / "whole.png")
    cut = (folder / "whole.png").read_bytes()[:400]
    for name in ("a_mask.png", "b.png", "masks/c.png"):
        (folder / name).write_bytes(cut)
    PHOTO.save(folder / "b.jpg")
    assert "a_mask.png" in [file.name for file in find_images(folder)]


def test_a_grey_copy_of_a_photograph_is_no_mask(tmp_path: Path) -> None:
    smooth = PHOTO.resize((6, 4)).resize((96, 64))
    smooth.save(tmp_path / "a.jpg", quality=95)
    smooth.convert("L").save(tmp_path / "a.png")
    smooth.save(tmp_path / "b.jpg", quality=95)
    smooth.quantize(64).save(tmp_path / "b.gif")
    assert find_masks(tmp_path).masks == []


def test_of_pictures_without_loss_the_colourless_one_is_the_mask(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.tif")
    MASK.save(tmp_path / "a.png")
    PHOTO.save(tmp_path / "b.png")
    MASK.save(tmp_path / "b.jpg")
    assert [file.name for file in find_images(tmp_path)] == ["a.tif", "b.png"]


def test_a_hundred_thousand_names_are_parted_at_once() -> None:
    files = [ImageFile(f"x/{index}_{index % 7}.jpg", Path(f"{index}.jpg")) for index in range(100_000)]
    assert without_masks(files) == (files, [])


def test_names_alone_do_not_leave_nothing(tmp_path: Path) -> None:
    files = find_images(laid(tmp_path, "a.png"))
    assert without_masks(files) == (files, [])
