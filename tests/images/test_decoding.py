"""One decoding policy: one list of formats, one limit, and nothing that opens a picture beside it."""

import ast
import io
import os
import zlib
from pathlib import Path

import pytest
from PIL import Image

from qcam.images.decoding import FORMATS, MAX_PIXELS, PictureError, decode_picture, open_picture
from qcam.images.images import decode

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
    with open_picture(written(form)) as picture:
        assert picture.size == (8, 6)
    assert decode_picture(written(form), "L").mode == "L"


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.mark.parametrize(
    "data", [EPS, PDF, SVG, b"", b"no picture", *(written(form) for form in ("ICO", "PCX", "TGA", "JPEG2000", "SGI"))]
)
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
    modules = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(modules) > 100
    assert opening_calls(ROOT / "images" / "decoding.py")  # the search finds what it looks for
    opening = {str(path.relative_to(ROOT)): lines for path in modules if (lines := opening_calls(path))}
    assert set(opening) == {"images/decoding.py"}
