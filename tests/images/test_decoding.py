"""One decoding policy, and what becomes of every odd file: a picture with a remark, or a refusal with the reason."""

from __future__ import annotations

import ast
import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from qcam.common.files import sha256_bytes
from qcam.images.decoding import FORMATS, MAX_PIXELS, PictureError, decode, decode_picture, open_picture
from qcam.images.sources import MAX_BYTES

ROOT = Path(__file__).parents[2]
ROOMS = ("common", "images", "commands", "calibration", "models", "exporters", "runtime", "evaluate", "benchmarks")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"
PDF = b"%PDF-1.4\n1 0 obj\n<</Type/Catalog>>\nendobj\ntrailer\n<</Root 1 0 R>>\n%%EOF\n"


def written(form, mode="RGB", size=(8, 6), **options):
    buffer = io.BytesIO()
    Image.new(mode, size, 1).save(buffer, form, **options)
    return buffer.getvalue()


def huge_png(width, height):
    """A PNG of many pixels in few bytes: only its header is ever looked at."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_on_the_list_opens(form):
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()  # to write one
    with open_picture(written(form)) as picture:
        assert picture.size == (8, 6)
    assert decode_picture(written(form), "L").mode == "L"


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.mark.parametrize("data", [EPS, PDF, SVG, b"", b"no picture", *(written(form) for form in ("ICO", "PCX", "TGA", "SGI"))])
def test_what_is_not_on_the_list_is_refused(data):
    with pytest.raises(PictureError, match="not an image that can be identified"):
        open_picture(data)


def test_ghostscript_is_never_started(tmp_path, monkeypatch):
    marker = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "picture.jpg").write_bytes(EPS)
    assert decode(tmp_path / "picture.jpg").refusal == "not an image that can be identified"
    assert not marker.exists()


def test_the_limit_is_told_from_the_header():
    assert open_picture(huge_png(10_000, 10_000)).size == (10_000, 10_000)
    for width in (10_001, 15_000, 100_000):  # beyond twice the limit Pillow refuses by itself
        with pytest.raises(PictureError, match="more than 100 million"):
            open_picture(huge_png(width, 10_000))
    assert MAX_PIXELS == 100_000_000


def test_a_limit_may_be_lowered_and_not_raised():
    with pytest.raises(PictureError, match="100×100 pixels, more than 9,999 are refused"):
        open_picture(huge_png(100, 100), max_pixels=9_999)
    with pytest.raises(PictureError, match="more than 100 million"):
        open_picture(huge_png(11_000, 10_000), max_pixels=10**9)
    with pytest.raises(ValueError, match="EPS"):
        open_picture(EPS, formats=("EPS",))


def test_some_of_the_formats_may_be_asked_for():
    with pytest.raises(PictureError, match="not an image"):
        open_picture(written("PNG"), formats=("JPEG",))


def test_damaged_pixels_are_one_sentence():
    with pytest.raises(PictureError, match="damaged or truncated: "):
        decode_picture(written("JPEG", size=(64, 64))[:400], "RGB")


def opening_calls(path):
    """Return the lines of a module that could open a picture by other ways."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and (
            (node.attr == "open" and ast.unparse(node.value).split(".")[-1] in ("Image", "PIL"))
            or node.attr in ("imread", "imdecode", "imreadmulti", "imread_collection")
        ):
            found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name for alias in node.names}
            if (node.module == "PIL.Image" and "open" in names) or (node.module == "PIL" and "ImageFile" in names):
                found.append(node.lineno)
            if node.module.split(".")[0] in ("imageio", "torchvision") and {"read_image", "decode_image", "imread"} & names:
                found.append(node.lineno)
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] in ("imageio", "cv2") for alias in node.names):
            found.append(node.lineno)
    return found


def test_nothing_else_opens_a_picture():
    modules = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")] + [*(ROOT / "src" / "qcam").glob("*.py")]
    assert len(modules) > 100
    assert opening_calls(ROOT / "images" / "decoding.py")  # the search finds what it looks for
    opening = {str(path.relative_to(ROOT)): lines for path in modules if (lines := opening_calls(path))}
    assert set(opening) == {"images/decoding.py"}


# ---- files of an image set

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
    ],
    ids=["png", "tiff", "tiff-big-endian"],
)
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, kind: str, picture: Callable[[], Image.Image]) -> None:
    path = stored(tmp_path, encoded(picture(), kind))
    assert np.array_equal(pixels(path), as_rgb((sixteen_bit() >> 8).astype(np.uint8)))
    assert decode(path).remark.startswith("converted from I")


def deep(top: int, *more: int, dtype: type = np.uint16) -> NDArray[np.generic]:
    """Levels from 0 to `top`, both of which occur."""
    values = np.random.default_rng(3).integers(0, top + 1, (24, 40, *more))
    values.flat[:2] = 0, top
    return values.astype(dtype)


def png16(values: NDArray[np.uint16], kind: int, extra: bytes = b"") -> bytes:
    """Write a 16-bit PNG by hand: of gray (0), RGB (2), gray and alpha (4) or RGBA (6)."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16(values: NDArray[np.uint16], order: str, *, largest: int = 0, planes: bool = False, white: bool = False) -> bytes:
    """Write an uncompressed 16-bit TIFF by hand, of gray or RGB, in either byte order; perhaps in planes, or 0 for white."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    data = (np.moveaxis(values, -1, 0) if planes else values).astype(f"{order}u2").tobytes()
    parts = channels if planes else 1
    meaning = 2 if channels == 3 else 1 - white
    size = len(data) // parts
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [16] * channels), (259, 3, [1]), (262, 3, [meaning]),
               (273, 4, [8 + size * part for part in range(parts)]), (277, 3, [channels]), (278, 4, [height]),
               (279, 4, [size] * parts)]  # fmt: skip
    entries += [(281, 3, [largest])] if largest else []
    entries += [(284, 3, [2])] if planes else []
    after = 8 + len(data) + 2 + 12 * len(entries) + 4
    table, tail = struct.pack(f"{order}H", len(entries)), b""
    for tag, kind, held in entries:
        packed = struct.pack(f"{order}{len(held)}{'H' if kind == 3 else 'I'}", *held)
        if len(packed) > 4:
            tail, packed = tail + packed, struct.pack(f"{order}I", after + len(tail))
        table += struct.pack(f"{order}HHI", tag, kind, len(held)) + packed.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", 8 + len(data)) + data + table + bytes(4) + tail


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (10, 1000), (12, 4095), (15, 32767), (16, 32768)])
@pytest.mark.parametrize("kind", ["png", "tiff", "png-rgb", "png-rgba", "tiff-rgb-little", "tiff-rgb-big"])
def test_i3_16_bits_are_read_in_the_depth_that_their_largest_value_needs(
    tmp_path: Path, kind: str, bits: int, top: int
) -> None:
    channels = {"png-rgb": 3, "png-rgba": 4, "tiff-rgb-little": 3, "tiff-rgb-big": 3}.get(kind, 0)
    values = deep(top, *[channels] * bool(channels))
    if kind == "png-rgba":
        values[..., 3] = 65535  # alpha has no say
    form = {0: 0, 3: 2, 4: 6}[channels]
    data = png16(values, form) if kind.startswith("png") else tiff16(values, ">" if kind.endswith("big") else "<")
    path = stored(tmp_path, data)
    eight = (values >> (bits - 8)).astype(np.uint8)
    assert np.array_equal(pixels(path), eight[..., :3] if channels else as_rgb(eight))
    name = {0: "I;16", 3: "RGB;16", 4: "RGBA;16"}[channels]
    assert decode(path).remark == f"converted from {name}: {bits} bits, which its largest value, {top}, needs"


def test_i3_fewer_than_8_bits_are_spread(tmp_path: Path) -> None:
    path = stored(tmp_path, png16(deep(1), 0))
    assert sorted(np.unique(pixels(path))) == [0, 255]


@pytest.mark.parametrize(
    ("data", "shift"),
    [
        (lambda: png16(deep(900), 0, chunk(b"sBIT", b"\x0c")), 4),
        (lambda: png16(deep(900, 3), 2, chunk(b"sBIT", b"\x0c\x0c\x0c")), 4),
        (lambda: png16(deep(900), 0, chunk(b"sBIT", b"\x10")), 8),
        (lambda: tiff16(deep(900), "<", largest=4095), 4),
        (lambda: tiff16(deep(900, 3), ">", largest=4095), 4),
    ],
    ids=["png", "png-rgb", "png-all-bits", "tiff", "tiff-rgb"],
)
def test_i3_a_declared_depth_counts_first(tmp_path: Path, data: Callable[[], bytes], shift: int) -> None:
    path = stored(tmp_path, data())
    assert pixels(path).max() == 900 >> shift
    assert decode(path).remark.endswith(f"{8 + shift} bits, as declared")


def test_i3_a_declaration_that_the_values_exceed_does_not_count(tmp_path: Path) -> None:
    path = stored(tmp_path, tiff16(deep(4095), "<", largest=255))
    assert decode(path).remark.endswith("12 bits, which its largest value, 4095, needs")


def test_i3_a_pgm_declares_its_largest_value(tmp_path: Path) -> None:
    path = stored(tmp_path, b"P5 40 24 4095\n" + deep(1000).astype(">u2").tobytes())
    assert pixels(path).max() == 1000 * 65535 // 4095 >> 8
    path = stored(tmp_path, b"P5 40 24 65535\n" + deep(4095).astype(">u2").tobytes())
    assert pixels(path).max() == 255


def test_i3_16_bit_colour_that_cannot_be_scaled_is_refused(tmp_path: Path) -> None:
    def ppm(top: int) -> bytes:  # Pillow scales it to 8 bits as it reads
        return b"P6 40 24 65535\n" + deep(top, 3).astype(">u2").tobytes()

    assert refusal(stored(tmp_path, ppm(4095))).startswith("16-bit colour that seems to use fewer bits")
    assert decode(stored(tmp_path, ppm(65535))).remark == "converted from RGB;16: the upper 8 bits"


def test_i3_layouts_that_are_taken_for_others_are_refused(tmp_path: Path) -> None:
    for order in "<>":
        path = stored(tmp_path, tiff16(deep(65535, 3), order, planes=True))
        assert refusal(path).startswith("more than 8 bits in a plane for each channel, which are not read here: write")
    path = stored(tmp_path, tiff16(deep(65535), "<", white=True))
    assert refusal(path).startswith("more than 8 bits that count down from white (MinIsWhite), which are not read here: write")


def test_i3_16_bit_gray_with_alpha_is_read_in_its_depth(tmp_path: Path) -> None:
    values = deep(4095, 2)
    values[..., 1] = 65535
    path = stored(tmp_path, png16(values, 4))
    assert np.array_equal(pixels(path), as_rgb((values[..., 0] >> 4).astype(np.uint8)))


def test_i3_16_bit_colour_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    values = deep(4095, 3)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = stored(tmp_path, png16(values, 2, chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))))
    assert np.array_equal(pixels(path), UPRIGHT[6]((values >> 4).astype(np.uint8)))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_i3_32_bits_are_spread_between_percentiles(tmp_path: Path, kind: type, scale: float) -> None:
    values = (np.linspace(-50, 50, 24 * 40) * scale).astype(kind).reshape(24, 40)
    path = stored(tmp_path, encoded(Image.fromarray(values), "TIFF"))
    low, high = np.sort(values.ravel())[[1, -2]].astype(float)
    expected = np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)
    assert np.abs(pixels(path)[..., 0] - expected).max() == 0
    assert decode(path).remark.endswith(f"{low:.6g} to {high:.6g} (0.1 to 99.9 % of its pixels) as 0 to 255")


@pytest.mark.parametrize("odd", [1e38, -1e38, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(4, 4), (24, 40)])
def test_i3_one_odd_pixel_does_not_turn_a_picture_black(tmp_path: Path, odd: float, shape: tuple[int, int]) -> None:
    values = np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    values[1, 1] = odd
    path = stored(tmp_path, encoded(Image.fromarray(values), "TIFF"))
    found = pixels(path)
    assert found.min() == 0
    assert found.max() == 255
    assert 100 < found.mean() < 155
    assert decode(path).uniform == ""
    assert ("1 pixel not finite and black" in decode(path).remark) == (not np.isfinite(odd))


def test_i3_a_picture_without_a_finite_pixel_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"))
    assert refusal(path) == "none of its pixels is a finite number"


@pytest.mark.parametrize(
    ("values", "uniform"),
    [
        (np.full((100, 100), 128), True),
        (np.random.default_rng(0).integers(60, 64, (100, 100)), True),
        (np.random.default_rng(0).integers(60, 65, (100, 100)), False),
        (np.where(np.arange(10_000).reshape(100, 100) < 10, 255, 7), True),  # ten bright pixels of 10,000
        (np.where(np.arange(10_000).reshape(100, 100) < 30, 255, 7), False),
    ],
    ids=["one-level", "four-levels", "five-levels", "specks", "an-object"],
)
def test_i3_a_nearly_uniform_picture_is_told(tmp_path: Path, values: NDArray[np.int64], uniform: bool) -> None:
    found = decode(stored(tmp_path, encoded(Image.fromarray(values.astype(np.uint8)), "PNG")))
    assert found.uniform == ("all but 0.2 % of its pixels lie within 4 of 256 levels" if uniform else "")


def test_what_is_kept_of_a_picture_goes_by_how_it_was_read(tmp_path: Path) -> None:
    plain = decode(stored(tmp_path, encoded(colour(), "PNG")))
    assert plain.key == plain.sha256
    deeper = decode(stored(tmp_path, png16(deep(4095), 0)))
    assert deeper.key not in ("", deeper.sha256)


def test_a_heif_picture_without_the_extra_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcam.images.decoding.reads_heif", lambda: False)
    path = stored(tmp_path, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "photo.jpg")
    assert refusal(path) == 'a HEIF picture; pip install "qcam[heic]" reads them'


@pytest.mark.parametrize(("kind", "feature"), [("AVIF", "avif"), ("JPEG2000", "jpg_2000")])
def test_a_kind_that_pillow_was_built_without_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, feature: str
) -> None:
    path = stored(tmp_path, encoded(colour(), kind))
    assert decode(path).refusal == ""
    monkeypatch.setattr("qcam.images.decoding.features.check", lambda name: name != feature)
    assert refusal(path) == f"{kind}, which the installed Pillow cannot read"


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
