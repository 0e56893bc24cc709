"""Kinds of pictures: told by a file's first bytes, and by the endings of names."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath

from qcam.common.packages import find_package

#: Bytes that are enough to tell a kind.
HEAD = 64
#: Endings that are taken for photographs, in lower case. What such a file holds is found out when it is decoded.
SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm",
        ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpf", ".jpx",
    }
)  # fmt: skip
#: Endings of HEIF pictures: they need the extra `heic`.
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
#: Endings of raw photographs: their first bytes are TIFF's, and what TIFF's decoder finds in them is a thumbnail.
_RAW = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".k25", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf",
        ".pef", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    }
)  # fmt: skip
#: Endings of files that are not whole, or no longer wanted.
_UNFINISHED = frozenset({".aria2", ".bak", ".crdownload", ".download", ".old", ".part", ".partial", ".tmp"})
#: Endings of what is no picture by its kind: of thousands of such files beside photographs none is opened.
_OTHER = frozenset(
    {
        ".cls", ".csv", ".gz", ".htm", ".html", ".js", ".json", ".jsonl", ".log", ".md", ".npy", ".npz", ".onnx",
        ".parquet", ".pkl", ".pt", ".pth", ".py", ".rst", ".safetensors", ".tar", ".toml", ".tsv", ".txt", ".xml", ".yaml",
        ".yml", ".zip",
    }
)  # fmt: skip
#: How to get HEIF pictures read.
HEIF_ADVICE = 'pip install "qcam[heic]" reads them'

_PPM = re.compile(rb"P[1-6]\s+(?:#[^\n]*(?:\n\s*|$))*(?:[0-9]|$)")
_AVIF, _HEIF = (b"avif", b"avis"), (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def kind_of(head: bytes) -> str:
    r"""Return Pillow's name of a picture's format, told by the file's first bytes; empty if it is none that is known.

    Args:
        head: The first bytes, `HEAD` of them where there are as many.

    >>> kind_of(b"\xff\xd8\xff\xe0")
    'JPEG'
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return "JPEG2000"
    if _PPM.match(head):
        return "PPM"
    if head[4:8] == b"ftyp":
        size = int.from_bytes(head[:4], "big")
        brands = [head[8:12], *(head[start : start + 4] for start in range(16, min(size, len(head)), 4))]
        if any(brand in _AVIF for brand in brands):
            return "AVIF"
        if any(brand in _HEIF for brand in brands):
            return "HEIF"
    return ""


@lru_cache(maxsize=1)
def reads_heif() -> bool:
    """Tell whether HEIF pictures can be read: whether the extra `heic` is installed."""
    return find_package("pillow_heif") is not None


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot; empty without one."""
    return PurePosixPath(name).suffix.lower()


def is_photograph(name: str) -> bool:
    """Tell whether a file is taken for a photograph by its name."""
    return ending(name) in SUFFIXES or (ending(name) in HEIF_SUFFIXES and reads_heif())


def may_be(name: str) -> bool:
    """Tell whether a file without a picture's ending is looked into: not text and the like, raw files, and unfinished ones."""
    end = ending(name)
    return not (end in _RAW or end in _UNFINISHED or end in _OTHER or end in HEIF_SUFFIXES or name.endswith("~"))


def is_readable(kind: str) -> bool:
    """Tell whether pictures of a kind are read here."""
    return bool(kind) and (kind != "HEIF" or reads_heif())
