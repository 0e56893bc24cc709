"""Image sets and the decoding of every odd file: a picture with a remark, or a refusal with the reason."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from qcam.common.errors import QcamError
from qcam.common.files import sha256_bytes
from qcam.images.images import MAX_BYTES, ImageFile, decode, find_images, with_labels

ORIENTATION = 0x0112
#: What a viewer does with the stored pixels (height × width × …) for each EXIF orientation.
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def noise(height: int = 24, width: int = 40, *more: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *more), np.uint8)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def colour(seed: int = 0) -> Image.Image:
    return Image.fromarray(noise(24, 40, 3, seed=seed))


def stored(tmp_path: Path, data: bytes, name: str = "picture.jpg") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def pixels(path: Path) -> NDArray[np.uint8]:
    """Decode a file that must be decoded."""
    decoded = decode(path)
    assert decoded.refusal == ""
    assert decoded.image is not None
    assert decoded.image.mode == "RGB"
    assert decoded.sha256 == sha256_bytes(path.read_bytes())
    return np.asarray(decoded.image)


def refusal(path: Path) -> str:
    """Decode a file that must be refused."""
    decoded = decode(path)
    assert decoded.image is None
    assert decoded.remark == ""
    assert decoded.refusal
    assert "\n" not in decoded.refusal
    return decoded.refusal


def as_rgb(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[..., None], 3, axis=2)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes | None, extra: bytes = b"") -> bytes:
    """Write an 8-bit grayscale PNG by hand; without rows it is a header only."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = b"" if rows is None else chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")


# ---- decode: what comes through


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}), ("PPM", {})],
)
def test_lossless_kinds_keep_every_pixel(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    # The name's ending does not matter: the content does.
    path = stored(tmp_path, encoded(colour(), kind, **options))
    assert np.array_equal(pixels(path), noise(24, 40, 3))
    assert decode(path).remark == ""


def test_a_jpeg_is_what_pillow_makes_of_it(tmp_path: Path) -> None:
    path = stored(tmp_path, encoded(colour(), "JPEG", quality=90))
    assert np.array_equal(pixels(path), np.asarray(Image.open(path)))
    assert decode(path).remark == ""


def test_a_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    flat = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # pure cyan ink
    path = stored(tmp_path, encoded(flat, "JPEG", quality=95))
    assert np.abs(pixels(path).astype(int) - (0, 255, 255)).max() <= 2
    assert decode(path).remark == "converted from CMYK"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grayscale_becomes_three_equal_channels(tmp_path: Path, kind: str) -> None:
    path = stored(tmp_path, encoded(Image.fromarray(noise()), kind))
    assert np.array_equal(pixels(path), as_rgb(np.asarray(Image.open(path))))
    assert decode(path).remark == ""


def sixteen_bit() -> NDArray[np.uint16]:
    values = np.random.default_rng(1).integers(0, 1 << 16, (24, 40)).astype(np.uint16)
    values[0, :6] = 0, 255, 256, 511, 65279, 65535
    return values


@pytest.mark.parametrize(
    ("kind", "picture"),
    [
        ("PNG", lambda: Image.fromarray(sixteen_bit())),
        ("TIFF", lambda: Image.fromarray(sixteen_bit())),
        ("TIFF", lambda: Image.frombytes("I;16B", (40, 24), sixteen_bit().byteswap().tobytes())),
        ("TIFF", lambda: Image.fromarray(sixteen_bit().astype(np.int32))),
    ],
    ids=["png", "tiff", "tiff-big-endian", "tiff-32-bit"],
)
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, kind: str, picture: Callable[[], Image.Image]) -> None:
    path = stored(tmp_path, encoded(picture(), kind))
    assert np.array_equal(pixels(path), as_rgb((sixteen_bit() >> 8).astype(np.uint8)))
    assert decode(path).remark.startswith("converted from I")


def test_32_bits_beyond_16_are_clipped_at_both_ends(tmp_path: Path) -> None:
    values = np.array([[-5, -1, 0, 70_000]], np.int32)
    path = stored(tmp_path, encoded(Image.fromarray(values), "TIFF"))
    assert pixels(path)[0, :, 0].tolist() == [0, 0, 0, 255]


@pytest.mark.parametrize(("scale", "top"), [(0.5, 1.0), (1.0, 1.0), (1000.0, 1000.0)])
def test_float_pictures_are_scaled_by_their_maximum(tmp_path: Path, scale: float, top: float) -> None:
    values = np.linspace(0, scale, 960, dtype=np.float32).reshape(24, 40)
    path = stored(tmp_path, encoded(Image.fromarray(values), "TIFF"))
    assert np.array_equal(pixels(path), as_rgb((values.astype(np.float64) * (255.0 / top)).astype(np.uint8)))
    assert decode(path).remark == "converted from F"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_pictures_with_odd_numbers_do_no_harm(tmp_path: Path, value: float) -> None:
    values = np.zeros((4, 4), np.float32)
    values[1, 1] = value
    assert pixels(stored(tmp_path, encoded(Image.fromarray(values), "TIFF"))).shape == (4, 4, 3)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = noise() > 127
    path = stored(tmp_path, encoded(Image.fromarray(bits), "PNG"))
    assert np.array_equal(pixels(path), as_rgb(np.where(bits, 255, 0).astype(np.uint8)))
    assert decode(path).remark == ""


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_palettes_become_their_colours_whatever_is_transparent(tmp_path: Path, transparency: object) -> None:
    index = noise() % 3
    table = np.array([[200, 10, 30], [0, 0, 255], [7, 77, 177]], np.uint8)
    picture = Image.fromarray(index, "L")
    picture.putpalette(table.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    path = stored(tmp_path, encoded(picture, "PNG", **options))
    assert Image.open(path).mode == "P"
    assert np.array_equal(pixels(path), table[index])


@pytest.mark.parametrize(("channels", "remark"), [(4, ""), (2, "converted from LA")])
def test_alpha_is_dropped_not_blended(tmp_path: Path, channels: int, remark: str) -> None:
    values = noise(24, 40, channels)
    path = stored(tmp_path, encoded(Image.fromarray(values), "PNG"))
    expected = values[..., :3] if channels == 4 else as_rgb(values[..., 0])
    assert np.array_equal(pixels(path), expected)
    assert decode(path).remark == remark


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_pictures_come_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    path = stored(tmp_path, encoded(colour(), kind, exif=exif, **options))
    # Pillow turns a TIFF by itself and leaves the others as they are.
    as_stored = noise(24, 40, 3) if kind == "TIFF" else np.asarray(Image.open(path))
    assert as_stored.shape == (24, 40, 3)
    assert np.array_equal(pixels(path), UPRIGHT[orientation](as_stored))
    assert decode(path).remark == ("rotated as its EXIF orientation says" if orientation > 1 else "")


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing_and_say_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = stored(tmp_path, encoded(colour(), "PNG", exif=exif))
    assert np.array_equal(pixels(path), noise(24, 40, 3))
    assert decode(path).remark == ""


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    frames = [Image.new("RGB", (20, 10), each) for each in colours]
    path = stored(tmp_path, encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    found = pixels(path)
    assert found.shape == (10, 20, 3)
    assert np.array_equal(np.unique(found.reshape(-1, 3), axis=0), [colours[0]])
    assert decode(path).remark == "first of 3 frames"


def test_an_mpo_is_one_photograph(tmp_path: Path) -> None:
    path = stored(tmp_path, encoded(colour(), "MPO", save_all=True, append_images=[colour(1)]))
    with Image.open(path) as picture:
        assert (picture.format, picture.n_frames) == ("MPO", 2)
        expected = np.asarray(picture)
    assert np.array_equal(pixels(path), expected)
    assert decode(path).remark == ""


def test_remarks_add_up(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = stored(tmp_path, encoded(Image.new("CMYK", (30, 20)), "JPEG", exif=exif))
    assert pixels(path).shape == (30, 20, 3)
    assert decode(path).remark == "rotated as its EXIF orientation says; converted from CMYK"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_very_wide_pictures_are_decoded(tmp_path: Path, kind: str) -> None:
    values = as_rgb(np.broadcast_to(np.arange(30_000) // 118, (200, 30_000)).astype(np.uint8))
    found = pixels(stored(tmp_path, encoded(Image.fromarray(values), kind)))
    assert found.shape == (200, 30_000, 3)
    assert np.abs(found[::50].astype(int) - values[::50]).max() <= (0 if kind == "PNG" else 8)


# ---- decode: what is refused


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (30_000, 30_000, "more than 100 million pixels are refused"),  # refused by Pillow before us
        (2_000_000_000, 2_000_000_000, "more than 100 million pixels are refused"),
        (11_000, 11_000, "11000×11000 pixels, more than 100 million are refused"),
        (10_001, 10_000, "10001×10000 pixels, more than 100 million are refused"),
    ],
)
def test_huge_pictures_are_refused_from_the_header_alone(tmp_path: Path, width: int, height: int, said: str) -> None:
    # The file ends after its header: had decoding begun, the refusal would tell of damage.
    assert refusal(stored(tmp_path, png(width, height, None))) == said


def test_the_largest_picture_allowed_is_not_refused_for_its_size(tmp_path: Path) -> None:
    assert refusal(stored(tmp_path, png(10_000, 10_000, None))).startswith("damaged or truncated: ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(colour(), kind)
    said = refusal(stored(tmp_path, data[: int(len(data) * share)]))
    assert said.startswith(("damaged or truncated: ", "not an image that can be identified"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"this is text, not a photograph\n" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n%",
        b"\xff\xd8",
    ],
    ids=["empty", "newline", "text", "svg", "pdf", "two-bytes-of-jpeg"],
)
def test_files_that_are_no_picture_are_refused(tmp_path: Path, data: bytes) -> None:
    path = stored(tmp_path, data)
    assert refusal(path) == "not an image that can be identified"
    assert decode(path).sha256 == sha256_bytes(data)


@pytest.mark.parametrize("kind", ["PDF", "EPS", "ICO", "TGA"])
def test_kinds_that_are_not_photographs_are_not_even_tried(tmp_path: Path, kind: str) -> None:
    assert refusal(stored(tmp_path, encoded(colour(), kind))) == "not an image that can be identified"


def test_a_tiff_without_dimensions_is_refused(tmp_path: Path) -> None:
    data = bytearray(encoded(colour(), "TIFF"))
    width = data.find(struct.pack("<HHI", 256, 4, 1))
    assert width > 0
    data[width + 2 : width + 4] = struct.pack("<H", 2)  # the width becomes a text: Pillow raises TypeError
    assert refusal(stored(tmp_path, bytes(data))).startswith(("damaged", "not an image"))


ROWS = b"".join(b"\0" + bytes(range(4)) for _ in range(3))
BOMB = zlib.compress(b"A" * (80 << 20), 9)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + BOMB),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
        chunk(b"iCCP", b"Profile\0\0" + BOMB),
        chunk(b"tEXt", b"Comment\0" + b"A" * 900_000) * 80,
    ],
    ids=["zTXt", "iTXt", "iCCP", "many-tEXt"],
)
def test_decompression_bombs_in_a_png_are_refused(tmp_path: Path, extra: bytes) -> None:
    assert refusal(stored(tmp_path, png(4, 3, ROWS, extra))).startswith("damaged or truncated: ")


def test_pixels_beyond_the_header_s_size_are_not_kept(tmp_path: Path) -> None:
    path = stored(tmp_path, png(4, 3, ROWS + bytes(80 << 20)))
    assert np.array_equal(pixels(path), as_rgb(np.tile(np.arange(4, dtype=np.uint8), (3, 1))))


def test_what_cannot_be_read_is_refused_without_a_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    names = ("folder.jpg", "dangling.jpg", "loop.jpg", "absent.jpg", "folder.jpg/inside.jpg")
    for name in names:
        assert refusal(tmp_path / name).startswith("cannot be read: ")
        assert decode(tmp_path / name).sha256 == ""


def test_files_of_absurd_size_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jpg"
    with path.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)  # takes no room on disk
    assert refusal(path) == "file larger than 256 MiB"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "MPO"])
def test_damage_of_any_kind_never_raises(tmp_path: Path, kind: str) -> None:
    chance = random.Random(0)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    several: dict[str, object] = (
        {"save_all": True, "append_images": [colour(1)]} if kind in ("GIF", "WEBP", "MPO", "TIFF") else {}
    )
    whole = encoded(colour(), kind, **several, **({} if kind in ("BMP", "PPM", "GIF", "MPO") else {"exif": exif}))
    came_through = refused = 0
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 2, 5, 12])):
            place = chance.randrange(len(data) if chance.random() < 0.4 else min(200, len(data)))
            match chance.randrange(4):
                case 0:
                    del data[place : place + chance.randrange(1, 9)]
                case 1:
                    data[place:place] = chance.randbytes(chance.randrange(1, 9))
                case _:
                    data[place] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        decoded = decode(stored(tmp_path, bytes(data)))
        assert (decoded.image is None) == bool(decoded.refusal)
        assert decoded.image is None or decoded.image.mode == "RGB"
        came_through += decoded.image is not None
        refused += decoded.image is None
    assert came_through + refused == 250
    assert refused > 5  # the damage is real


# ---- find_images


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
    with pytest.raises(QcamError, match=message):
        find_images(tmp_path / "photos")


# ---- with_labels

CLASSES = ("tench", "golden retriever", "crane", "toilet tissue", "crane")


def images(*names: str) -> list[ImageFile]:
    return [ImageFile(name, Path("photos") / name) for name in names]


def labels_of(found: Sequence[ImageFile]) -> list[int | None]:
    return [image.label for image in found]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("0/a.jpg", "3/b.jpg", "03/c.jpg"), [0, 3, 3]),
        (("5/a.jpg", "-1/b.jpg", "207/c.jpg"), [None, None, None]),
        (("tench/a.jpg", "golden_retriever/deep/b.jpg", "Golden Retriever/c.jpg"), [0, 1, 1]),
        (("crane/a.jpg", "unheard of/b.jpg", "c.jpg"), [2, None, None]),  # of equal names the first
        (("n4/a.jpg", "n1/b.jpg", "n3/c.jpg", "n2/d.jpg", "n1/e.jpg"), [None] * 5),  # 4 folders, 5 classes
        # As many folders as classes, but some have names: the odd one is no class.
        (
            ("tench/a.jpg", "golden retriever/b.jpg", "crane/c.jpg", "toilet tissue/d.jpg", "more/e.jpg"),
            [0, 1, 2, 3, None],
        ),
        (("n5/a.jpg", "n1/b.jpg", "n3/c.jpg", "n2/d.jpg", "n4/e.jpg", "n1/f.jpg", "g.jpg"), [4, 0, 2, 1, 3, 0, None]),
    ],
    ids=["index", "no-such-index", "name", "equal-names", "too-few-for-order", "names-before-order", "order"],
)
def test_class_folders_are_recognised(names: tuple[str, ...], expected: list[int | None]) -> None:
    found = with_labels(images(*names), CLASSES, None)
    assert labels_of(found) == expected
    assert [(image.name, image.path) for image in found] == [(image.name, image.path) for image in images(*names)]


def test_labels_known_before_stay() -> None:
    known = [ImageFile("a.jpg", Path("a.jpg"), 3), ImageFile("tench/b.jpg", Path("b.jpg"), 3)]
    assert labels_of(with_labels(known, CLASSES, None)) == [3, 0]


@pytest.mark.parametrize(
    "text",
    [
        "image,label\nd/a.jpg,3\nb.jpg,Golden_Retriever\n",
        "\ufefflabel,image,more\r\n3,d/a.jpg,x\r\ngolden retriever, b.jpg ,y\r\n",
        'image,label\n"d/a.jpg","3"\n"b.jpg","1"\nnot-here.jpg,0\n\n',
    ],
    ids=["plain", "bom-crlf-other-order", "quotes-and-blank-line"],
)
def test_a_csv_gives_labels(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert labels_of(with_labels(images("d/a.jpg", "b.jpg", "c.jpg", "tench/d.jpg"), CLASSES, path)) == [
        3,
        1,
        None,
        None,
    ]


def test_a_csv_may_name_files_without_their_folder_but_the_full_name_counts_first(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,label\na.jpg,0\nx/a.jpg,1\n")
    assert labels_of(with_labels(images("x/a.jpg", "y/a.jpg"), CLASSES, path)) == [1, 0]


def test_a_csv_row_that_ends_early_labels_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("label,image\n1\n0,a.jpg\n")
    assert labels_of(with_labels(images("a.jpg"), CLASSES, path)) == [0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,label\na.jpg,1\n", "needs a header line with the columns image and label"),
        (b"image;label\na.jpg;1\n", "needs a header line"),
        (b"", "needs a header line"),
        (b"image,label\na.jpg,unheard of\n", r"class 'unheard of' of a\.jpg is none of the model's 5 classes"),
        (b"image,label\na.jpg,5\n", r"class '5' of a\.jpg is none of"),
        (b"image,label\na.jpg\n", r"class '' of a\.jpg is none of"),
        (b"\xff\xfe\x00", "cannot read labels from"),
        (b"image,label\na.jpg," + b"x" * 200_000 + b"\n", "cannot read labels from"),
    ],
    ids=["column", "semicolons", "empty", "name", "index", "short-row", "not-utf-8", "field-too-long"],
)
def test_a_bad_csv_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(QcamError, match=message) as raised:
        with_labels(images("a.jpg"), CLASSES, path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_csv_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(QcamError, match="cannot read labels from"):
        with_labels(images("a.jpg"), CLASSES, tmp_path / name)
