"""Masks as people have them: palettes, ids, levels, alpha, colours; what is void; names; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from qcam.common.errors import ImageSetError, QcamError
from qcam.evaluate.saliency import MaskSaliency, NoMapError, NoObjectError, crop_map, open_saliency
from qcam.evaluate.saliency.mask_levels import MaskError, MaskLevels, MaskRules, read_mask
from qcam.evaluate.saliency.source import resized_map
from qcam.images.preprocessing import Preprocessing
from qcam.images.sources import ImageFile

SHAPE = (30, 40)
NOISE = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8))


def file(name: str = "picture.jpg") -> ImageFile:
    return ImageFile(name, Path("/photos") / name)


def regions(*ids: int, dtype: type = np.uint8) -> NDArray[np.generic]:
    """A field of 0 with one square of 8 × 8 for each id."""
    field = np.zeros(SHAPE, dtype)
    for index, value in enumerate(ids):
        row, column = divmod(index, 4)
        field[1 + 10 * row : 9 + 10 * row, 1 + 10 * column : 9 + 10 * column] = value
    return field


def saved(path: Path, image: Image.Image, **options: object) -> bytes:
    image.save(path, **options)
    return path.read_bytes()


def palette(values: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(values, mode="P")
    image.putpalette([level for index in range(256) for level in (index * 37 % 256, index * 91 % 256, index * 53 % 256)])
    return image


def read(path: Path, image: Image.Image, rules: MaskRules | None = None, **options: object) -> MaskLevels:
    return read_mask(saved(path, image, **options), MaskRules() if rules is None else rules)


# ---- K1, K2: ids


@pytest.mark.parametrize("kind", ["palette", "grey"])
def test_k1_indices_are_object_and_255_is_void(tmp_path: Path, kind: str) -> None:
    values = regions(3, 15, 255)
    found = read(tmp_path / "m.png", palette(values) if kind == "palette" else Image.fromarray(values))
    np.testing.assert_array_equal(found.values, np.where(values == 255, np.nan, (values > 0).astype(np.float32)))
    assert found.form == ("palette indices" if kind == "palette" else "ids")
    assert found.void == pytest.approx(64 / 1200)


def test_k1_a_palette_of_0_and_255_has_no_void(tmp_path: Path) -> None:
    found = read(tmp_path / "m.png", palette(regions(255)))
    np.testing.assert_array_equal(found.values, (regions(255) > 0).astype(np.float32))


def test_k1_classes_and_void_can_be_named(tmp_path: Path) -> None:
    values = regions(3, 15, 255)
    image = palette(values)
    one = read(tmp_path / "m.png", image, MaskRules.of("15", None))
    np.testing.assert_array_equal(one.values, np.where(values == 255, np.nan, (values == 15).astype(np.float32)))
    assert one.form == "palette indices, object 15"
    kept = read(tmp_path / "m.png", image, MaskRules.of(None, "none"))
    np.testing.assert_array_equal(kept.values, (values > 0).astype(np.float32))
    other = read(tmp_path / "m.png", image, MaskRules.of("any", "3,255"))
    np.testing.assert_array_equal(other.values, np.where(np.isin(values, (3, 255)), np.nan, (values > 0).astype(np.float32)))


@pytest.mark.parametrize(
    ("classes", "void", "said"),
    [
        ("dog", None, "mask classes 'dog': give any, levels, or ids with commas"),
        ("0,3", None, "0 is the background"),
        ("-1", None, "ids are not negative"),
        (None, "255,x", "mask void '255,x': give none, or ids with commas"),
        ("15", "15", "15 cannot be object and void at once"),
        ("levels", "255", "levels have no ids"),
    ],
)
def test_k1_options_that_mean_nothing_are_refused(classes: str | None, void: str | None, said: str) -> None:
    with pytest.raises(QcamError, match=said):
        MaskRules.of(classes, void)


@pytest.mark.parametrize(
    ("values", "ending"),
    [
        (regions(1, dtype=np.uint16), "png"),
        (regions(65535, dtype=np.uint16), "png"),
        (regions(1, 2, 3, 700, dtype=np.uint16), "png"),
        (regions(*range(1, 13), dtype=np.uint16), "tiff"),
        (regions(254, 255, 256, dtype=np.uint16), "png"),  # of 16 bits, 255 is an instance as any other
        (regions(1, dtype=np.int32), "tiff"),
        (regions(1, 2, 70_000, dtype=np.int32), "tiff"),
        (regions(1, 255, 70_000, dtype=np.int32), "tiff"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}-{value.max()}",
)
def test_k2_16_and_32_bits_are_as_8(tmp_path: Path, values: NDArray[np.generic], ending: str) -> None:
    found = read(tmp_path / f"m.{ending}", Image.fromarray(values))
    np.testing.assert_array_equal(found.values, (values > 0).astype(np.float32))
    assert found.void == 0


def test_instances_without_gaps_are_ids_up_to_254(tmp_path: Path) -> None:
    cell = np.zeros((8, 8))
    cell[1:, 1:] = 1
    values = np.kron(np.arange(250).reshape(10, 25), cell).astype(np.uint8)
    found = read(tmp_path / "m.png", Image.fromarray(values))
    assert found.form == "ids"
    np.testing.assert_array_equal(found.values, (values > 0).astype(np.float32))


# ---- K3: alpha; and levels


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_k3_alpha_is_the_mask(tmp_path: Path, mode: str) -> None:
    alpha = Image.fromarray(NOISE if mode != "P" else (NOISE <= 127).astype(np.uint8) * 255)
    if mode == "P":
        image = palette((NOISE > 127).astype(np.uint8) * 9)
        found = read(tmp_path / "m.png", image, transparency=9)
    else:
        image = picture().convert(mode)
        image.putalpha(alpha)
        found = read(tmp_path / "m.png", image)
    np.testing.assert_array_equal(found.values, np.asarray(alpha, np.float32) / np.float32(255))
    assert found.form == "alpha"


def test_k3_white_with_alpha_is_its_alpha(tmp_path: Path) -> None:
    image = Image.new("RGBA", SHAPE[::-1], (255,) * 4)
    image.putalpha(Image.fromarray(NOISE))
    np.testing.assert_array_equal(read(tmp_path / "m.png", image).values, NOISE.astype(np.float32) / np.float32(255))


def test_an_alpha_that_says_nothing_is_passed_over(tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat(NOISE[..., None], 3, 2)).convert("RGBA")
    found = read(tmp_path / "m.png", image)
    assert found.form == "grey levels"
    np.testing.assert_array_equal(found.values, NOISE.astype(np.float32) / np.float32(255))


def soft(size: int = 64) -> NDArray[np.uint8]:
    """A disk with an edge of a few pixels, as matting and networks give it."""
    rows, columns = np.mgrid[:size, :size] - size / 2 + 0.5
    return np.round(255 * np.clip((size / 4 - np.hypot(rows, columns)) / 3 + 0.5, 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("size", [64, 1500])
@pytest.mark.parametrize("depth", [8, 16])
def test_levels_stay_levels(tmp_path: Path, depth: int, size: int) -> None:
    values = soft(size).astype(np.uint16) * 257 if depth == 16 else soft(size)
    found = read(tmp_path / "m.png", Image.fromarray(values))
    np.testing.assert_allclose(found.values, soft(size) / 255, atol=1e-7)
    assert found.form == ("16-bit levels" if depth == 16 else "grey levels")


def test_levels_that_run_slowly_stay_levels(tmp_path: Path) -> None:
    values = np.repeat(np.linspace(0, 255, 2000).round().astype(np.uint8)[None], 50, axis=0)
    assert read(tmp_path / "m.png", Image.fromarray(values)).form == "grey levels"


def test_floating_point_levels_reach_from_0_to_1(tmp_path: Path) -> None:
    values = NOISE.astype(np.float32) / np.float32(255)
    found = read(tmp_path / "m.tiff", Image.fromarray(values))
    np.testing.assert_array_equal(found.values, values)
    for wrong, said in ((values * 255, r"values from 0 to 255; save it with numbers from 0 to 1"), (values * np.nan, "NaN")):
        with pytest.raises(MaskError, match=said):
            read(tmp_path / "m.tiff", Image.fromarray(wrong))


def test_what_may_be_ids_or_levels_is_refused_until_it_is_said(tmp_path: Path) -> None:
    values = regions(128, 200)
    with pytest.raises(MaskError, match="holds 0, 128, 200, which may be ids or grey levels; say which with"):
        read(tmp_path / "m.png", Image.fromarray(values))
    as_ids = read(tmp_path / "m.png", Image.fromarray(values), MaskRules.of("any", None))
    np.testing.assert_array_equal(as_ids.values, (values > 0).astype(np.float32))
    as_levels = read(tmp_path / "m.png", Image.fromarray(values), MaskRules.of("levels", None))
    np.testing.assert_array_equal(as_levels.values, values.astype(np.float32) / np.float32(255))


def test_colours_on_black_are_object_and_photographs_are_no_masks(tmp_path: Path) -> None:
    values = np.zeros((*SHAPE, 3), np.uint8)
    values[2:12, 2:12] = (128, 0, 0)
    values[14:24, 2:12] = (0, 128, 0)
    values[2:12, 20:24] = (224, 224, 192)  # VOC's void
    found = read(tmp_path / "m.png", Image.fromarray(values))
    assert (found.values == 1).sum() == 200
    assert np.isnan(found.values).sum() == 40
    with pytest.raises(MaskError, match="is a picture in colours and no mask"):
        read(tmp_path / "m.png", picture())


# ---- as a source


@pytest.fixture
def mask_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    (folder / "dogs").mkdir(parents=True)
    Image.fromarray(NOISE).save(folder / "gray.png")
    Image.fromarray(np.repeat(NOISE[..., None], 3, 2)).save(folder / "rgb.bmp")
    Image.fromarray(NOISE.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(NOISE > 127).save(folder / "bits.png")
    Image.fromarray(NOISE).save(folder / "dogs" / "dog.1.png")
    Image.fromarray(NOISE[:-1]).save(folder / "small.png")
    (folder / "broken.png").write_bytes((folder / "gray.png").read_bytes()[:100])
    return folder


@pytest.mark.parametrize("name", ["gray.jpg", "gray.png", "rgb.jpeg", "deep.webp", "dogs/dog.1.jpg"])
def test_masks_are_found_by_name_and_scaled(mask_folder: Path, name: str) -> None:
    source = open_saliency(f"masks:{mask_folder}")
    assert isinstance(source, MaskSaliency)
    assert source.name == f"masks:{mask_folder}"
    found = source.whole_map(picture(), file(name))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, NOISE / 255, atol=1e-7)


def test_binary_masks_are_0_and_1(mask_folder: Path) -> None:
    found = MaskSaliency("x", mask_folder).whole_map(picture(), file("bits.jpg"))
    assert set(np.unique(found)) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.jpg", r"no mask named absent\.\* in the mask folder"),
        ("dog.1.jpg", r"no mask named dog\.1\.\*"),  # it is in a folder; the image is not
        ("dogs/gray.jpg", r"no mask named dogs/gray\.\*"),
        ("small.jpg", r"mask small\.png is 40×29, the image 40×30"),
        ("broken.jpg", r"mask broken\.png: damaged or truncated"),
    ],
)
def test_images_without_a_usable_mask_are_told(mask_folder: Path, name: str, said: str) -> None:
    with pytest.raises(NoMapError, match=said):
        MaskSaliency("x", mask_folder).whole_map(picture(), file(name))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros(SHAPE, np.uint8), r"mask picture\.png is black all over"),
        (np.full(SHAPE, 255, np.uint8), r"mask picture\.png is object all over \(255 all over\)"),
        (np.full(SHAPE, 1, np.uint8), r"mask picture\.png is object all over"),
        (np.full(SHAPE, 7, np.uint16), r"mask picture\.png is object all over"),
    ],
)
def test_a_mask_of_one_value_says_so_truthfully(tmp_path: Path, values: NDArray[np.generic], said: str) -> None:
    Image.fromarray(values).save(tmp_path / "picture.png")
    with pytest.raises(NoMapError, match=said) as refused:
        MaskSaliency("x", tmp_path).whole_map(picture(), file())
    assert isinstance(refused.value, NoObjectError) == (values.max() == 0)


def test_what_a_mask_was_taken_for_is_told(tmp_path: Path) -> None:
    Image.fromarray(regions(3, 255)).save(tmp_path / "picture.png")
    source = MaskSaliency("x", tmp_path)
    source.whole_map(picture(), file())
    assert source.remark(file()) == "mask: ids, 5.3% void"


def test_the_masks_fingerprint_changes_with_any_file_and_rule(mask_folder: Path) -> None:
    before = MaskSaliency("x", mask_folder).fingerprint
    assert MaskSaliency("y", mask_folder).fingerprint == before
    ruled = MaskSaliency("x", mask_folder, MaskRules.of("any", None)).fingerprint
    Image.new("L", (40, 30)).save(mask_folder / "gray.png")
    changed = MaskSaliency("x", mask_folder).fingerprint
    (mask_folder / "gray.png").rename(mask_folder / "grey.png")
    assert len({before, ruled, changed, MaskSaliency("x", mask_folder).fingerprint}) == 4


# ---- K5: names


@pytest.mark.parametrize(
    ("mask", "way"),
    [
        ("x_segmentation.png", "_segmentation"),
        ("x.jpg.png", ".jpg"),
        ("x_mask.png", "_mask"),
        ("x-gt.png", "-gt"),
        ("x.mask.png", ".mask"),
        ("mask_x.png", "mask_"),
        ("x_MASK.png", "_MASK"),
        ("x_gtFine_labelIds.png", "_gtFine_labelIds"),
    ],
)
def test_k5_usual_names_are_matched_and_told(tmp_path: Path, mask: str, way: str) -> None:
    Image.fromarray(NOISE).save(tmp_path / mask)
    Image.fromarray(NOISE).save(tmp_path / "other.png")
    source = MaskSaliency("x", tmp_path)
    source.whole_map(picture(), file("x.jpg"))
    assert source.account([file("x.jpg"), file("y.jpg")]) == (
        f"1 of 2 images have a mask; matched by what stands beside the name: {way} (1); 1 mask belongs to none of them",
        {"with": 1, "images": 2, "unused": 1, "not_taken": 0},
    )


def test_k5_masks_that_fit_nothing_are_an_error(mask_folder: Path) -> None:
    with pytest.raises(ImageSetError, match=r"none of the 7 masks in .* \(first: .*\) belongs to any of the 2 images"):
        MaskSaliency("x", mask_folder).account([file("a.jpg"), file("b.jpg")])


def test_k5_two_masks_of_one_image_are_refused(tmp_path: Path) -> None:
    for ending in ("png", "bmp"):
        Image.fromarray(NOISE).save(tmp_path / f"x.{ending}")
    with pytest.raises(ImageSetError, match=r"x\.jpg has several masks in .*: x\.bmp and x\.png"):
        MaskSaliency("x", tmp_path).account([file("x.jpg")])


def test_two_kinds_of_masks_of_one_image_are_refused(tmp_path: Path) -> None:
    for name in ("x_mask.png", "x_gt.png"):
        Image.fromarray(NOISE).save(tmp_path / name)
    with pytest.raises(ImageSetError, match=r"x\.jpg has several masks"):
        MaskSaliency("x", tmp_path).account([file("x.jpg")])


def test_one_stray_suffix_does_not_hide_the_other_masks(tmp_path: Path) -> None:
    for name in ("x.png", "y.png", "y_gt.png", "z.png"):
        Image.fromarray(NOISE > 127).save(tmp_path / name)
    source = MaskSaliency("x", tmp_path)
    assert source.account([file("x.jpg"), file("z.jpg")])[0].startswith("2 of 2 images have a mask")
    with pytest.raises(ImageSetError, match=r"y\.jpg has several masks"):
        source.account([file("y.jpg")])


def test_a_photograph_is_never_its_own_mask(tmp_path: Path) -> None:
    picture().save(tmp_path / "x.jpg")
    image = ImageFile("x.jpg", tmp_path / "x.jpg")
    with pytest.raises(ImageSetError, match="none of the 1 masks"):
        MaskSaliency("x", tmp_path).account([image])
    Image.fromarray(NOISE > 127).save(tmp_path / "x.png")
    source = MaskSaliency("x", tmp_path)
    assert source.account([image])[0].startswith("1 of 1 image has a mask")
    np.testing.assert_array_equal(source.whole_map(picture(), image), (NOISE > 127).astype(np.float32))


@pytest.mark.parametrize(
    ("images", "masks", "below"),
    [
        ("images/dogs", "masks/dogs", ""),
        ("images/dogs", "masks/dogs", "masks"),
        ("train", "train_masks", ""),
        ("DUTS-TE-Image", "DUTS-TE-Mask", ""),
        ("img", "masks_human", ""),
        ("VOC/JPEGImages", "VOC/SegmentationClass", ""),
    ],
)
def test_folders_that_only_say_what_is_in_them_do_not_matter(tmp_path: Path, images: str, masks: str, below: str) -> None:
    for folder in (images, masks):
        (tmp_path / folder).mkdir(parents=True)
    picture().save(tmp_path / images / "x.jpg")
    Image.fromarray(NOISE > 127).save(tmp_path / masks / "x.png")
    image = ImageFile(f"{images}/x.jpg", tmp_path / images / "x.jpg")
    assert MaskSaliency("x", tmp_path / below).account([image])[0].startswith("1 of 1 image has a mask")


# ---- palettes and alpha that say something else than one thinks


def test_a_palette_of_greys_is_read_by_its_colours(tmp_path: Path) -> None:
    values = (regions(1, 2, 3) > 0).astype(np.uint8) * 255
    image = Image.fromarray(values).convert("RGB").quantize(2)
    assert (np.asarray(image)[values == 255] == 0).all()  # the object has index 0
    found = read(tmp_path / "m.png", image)
    np.testing.assert_array_equal(found.values, values.astype(np.float32) / np.float32(255))
    slope = Image.fromarray(soft()).convert("P")
    np.testing.assert_allclose(read(tmp_path / "m.gif", slope).values, soft() / 255, atol=1e-7)


@pytest.mark.parametrize("level", [5, 255])
def test_indices_without_colours_are_indices(tmp_path: Path, level: int) -> None:
    image = Image.fromarray(regions(level, 7), mode="P")
    image.putpalette([0] * 768)
    np.testing.assert_array_equal(np.nan_to_num(read(tmp_path / "m.png", image).values) > 0, regions(level % 255, 7) > 0)
    Image.fromarray(np.full(SHAPE, level, np.uint8), mode="P").save(tmp_path / "picture.png")
    with pytest.raises(NoMapError, match="object all over"):
        MaskSaliency("x", tmp_path).whole_map(picture(), file())


def test_16_bit_colour_is_refused() -> None:
    import cv2

    colours = np.repeat(regions(1, dtype=np.uint16)[..., None], 3, axis=-1)
    with pytest.raises(MaskError, match="is 16-bit colour, of which only the upper bytes are read"):
        read_mask(cv2.imencode(".png", colours)[1].tobytes())


def test_dark_16_bit_levels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="may be ids or grey levels"):
        read(tmp_path / "n.png", Image.fromarray(NOISE.astype(np.uint16)))


def test_a_transparent_background_of_a_palette_says_nothing_new(tmp_path: Path) -> None:
    values = regions(3, 15, 255)
    found = read(tmp_path / "m.png", palette(values), transparency=0)
    np.testing.assert_array_equal(found.values, np.where(values == 255, np.nan, (values > 0).astype(np.float32)))


@pytest.mark.parametrize("level", [0, 128])
def test_an_alpha_that_is_the_same_everywhere_is_passed_over(tmp_path: Path, level: int) -> None:
    image = Image.fromarray(NOISE).convert("RGBA")
    image.putalpha(level)
    np.testing.assert_array_equal(read(tmp_path / "m.png", image).values, NOISE.astype(np.float32) / np.float32(255))


def test_a_named_class_255_is_no_void_and_a_class_that_is_not_there_is_said(tmp_path: Path) -> None:
    values = regions(15, 255)
    found = read(tmp_path / "picture.png", palette(values), MaskRules.of("15,255", None))
    np.testing.assert_array_equal(found.values, (values > 0).astype(np.float32))
    with pytest.raises(NoObjectError, match=r"mask picture\.png holds none of the classes 7"):
        MaskSaliency("x", tmp_path, MaskRules.of("7", None)).whole_map(picture(), file())


def test_nearly_grey_is_grey(tmp_path: Path) -> None:
    values = (regions(1, 2) > 0).astype(np.uint8) * 255
    noise = np.random.default_rng(3).integers(0, 6, (*SHAPE, 3))
    lossy = np.clip(values[..., None].astype(int) + noise - 3, 0, 255).astype(np.uint8)
    found = read(tmp_path / "m.png", Image.fromarray(lossy))
    np.testing.assert_allclose(found.values, values / 255, atol=4 / 255)


def test_32_bits_without_a_sign_are_ids(tmp_path: Path) -> None:
    import tifffile

    values = regions(1, 2, dtype=np.uint32) * np.uint32(2_000_000_000)
    tifffile.imwrite(tmp_path / "m.tiff", values)
    found = read_mask((tmp_path / "m.tiff").read_bytes())
    np.testing.assert_array_equal(found.values, (values > 0).astype(np.float32))


# ---- void


def test_what_is_void_lends_nothing_to_what_is_around_it() -> None:
    whole = np.zeros((64, 64), np.float32)
    whole[:, 32:] = 1.0
    void = whole.copy()
    void[20:30, 20:50] = np.nan
    found, plain = (resized_map(values, (32, 32)) for values in (void, whole))
    assert np.isnan(found[11:14, 12:24]).all()
    known = ~np.isnan(found)
    far = known & (np.abs(np.arange(32) - 15.5) > 2)  # beside the object's own edge
    np.testing.assert_allclose(found[far], plain[far], atol=1e-6)
    assert np.isnan(found).sum() <= 6 * 16
    cut = crop_map(void, (64, 64), Preprocessing(32, (32, 32), (0.5,) * 3, (0.5,) * 3))
    np.testing.assert_array_equal(cut, found)
