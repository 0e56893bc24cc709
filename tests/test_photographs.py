"""The photographs that measurements take out of a package of Debian's: cut out whole, by their own lengths."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import photographs


def picture(seed: int, side: int = 128) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)).save(file, "WEBP")
    return file.getvalue()


def test_files_are_cut_out_whole_and_small_or_cut_off_ones_are_left() -> None:
    first, second, small = picture(0), picture(1), picture(2, 8)
    resource = b"qres\0RIFF" + first + b"\0\0\0\5" + small + b"tree" + second + first[:-1]
    assert list(photographs.cut_out(resource)) == [first, second]
