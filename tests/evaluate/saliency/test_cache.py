"""Salient-object maps on disk: the same values, damage noticed, shared, and never in the way."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcam.evaluate.maps.metrics import all_metrics
from qcam.evaluate.saliency import CachedSaliency, NoObjectError, default_cache, open_saliency
from qcam.evaluate.saliency.cache import _read
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.images.sources import ImageFile

FILE = ImageFile("a.jpg", Path("a.jpg"))


def photograph(index: int = 0) -> Image.Image:
    image = decode(evaluation_photographs()[index].path).image
    assert image is not None
    return image


class Counting:
    """A source that counts how often it is asked."""

    name, fingerprint, threshold = "counting", "c0" * 32, 0.5

    def __init__(self) -> None:
        self.asked = 0

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> np.ndarray:
        self.asked += 1
        if image.size == (1, 1):
            raise NoObjectError("largest probability 0.03, 0.5 wanted")
        return np.random.default_rng(0).random((7, 9), np.float32)


def test_a_map_from_the_cache_is_the_map_that_was_computed(tmp_path: Path) -> None:
    source, image = Counting(), photograph()
    uncached = CachedSaliency(source, None).whole_map(image, FILE, "ab" * 32)
    first = CachedSaliency(source, tmp_path).whole_map(image, FILE, "ab" * 32)
    again = CachedSaliency(source, tmp_path).whole_map(image, FILE, "ab" * 32)
    assert source.asked == 2
    np.testing.assert_array_equal(first, uncached)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_allclose(first, Counting().whole_map(image, FILE), rtol=2.0**-11, atol=1e-11)
    assert [path.name for path in tmp_path.rglob("*.map")] == ["ab" * 32 + ".map"]


def test_content_decides_not_the_name_and_another_source_has_its_own(tmp_path: Path) -> None:
    source, other = Counting(), Counting()
    CachedSaliency(source, tmp_path).whole_map(photograph(), FILE, "ab" * 32)
    CachedSaliency(source, tmp_path).whole_map(photograph(), ImageFile("b.jpg", Path("b.jpg")), "ab" * 32)
    assert source.asked == 1
    other.fingerprint = "d1" * 32
    CachedSaliency(other, tmp_path).whole_map(photograph(), FILE, "ab" * 32)
    CachedSaliency(other, tmp_path).whole_map(photograph(), FILE, "cd" * 32)
    CachedSaliency(other, tmp_path).whole_map(photograph(), FILE)  # content unknown: nothing to go by
    assert other.asked == 3


def test_background_is_kept_as_such(tmp_path: Path) -> None:
    source = Counting()
    for _ in range(2):
        with pytest.raises(NoObjectError, match=r"largest probability 0\.03"):
            CachedSaliency(source, tmp_path).whole_map(Image.new("RGB", (1, 1)), FILE, "ab" * 32)
    assert source.asked == 1


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 60, -1])
def test_a_truncated_entry_is_computed_again(tmp_path: Path, length: int) -> None:
    source = Counting()
    cached = CachedSaliency(source, tmp_path)
    first = cached.whole_map(photograph(), FILE, "ab" * 32)
    (path,) = tmp_path.rglob("*.map")
    path.write_bytes(path.read_bytes()[:length])
    np.testing.assert_array_equal(cached.whole_map(photograph(), FILE, "ab" * 32), first)
    assert source.asked == 2
    np.testing.assert_array_equal(cached.whole_map(photograph(), FILE, "ab" * 32), first)
    assert source.asked == 2


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    source = Counting()
    cached = CachedSaliency(source, tmp_path)
    first = cached.whole_map(photograph(), FILE, "ab" * 32)
    (path,) = tmp_path.rglob("*.map")
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert _read(path, "ab" * 32) is None, place
    np.testing.assert_array_equal(cached.whole_map(photograph(), FILE, "ab" * 32), first)
    assert source.asked == 2


def test_another_image_s_entry_under_this_name_is_not_taken(tmp_path: Path) -> None:
    source = Counting()
    cached = CachedSaliency(source, tmp_path)
    cached.whole_map(photograph(), FILE, "ab" * 32)
    (path,) = tmp_path.rglob("*.map")
    shutil.copy(path, path.with_name("ab" * 31 + "cd.map"))
    cached.whole_map(photograph(), FILE, "ab" * 31 + "cd")
    assert source.asked == 2


@pytest.mark.parametrize("about", [{}, {"shape": [9]}, {"shape": [True, 7]}, {"shape": [0, 0]}, {"no_object": 3}, []], ids=str)
def test_an_entry_that_says_what_no_entry_says_is_computed_again(tmp_path: Path, about: object) -> None:
    path = tmp_path / "entry.map"
    line = json.dumps({"version": 1, "image": "ab" * 32} | about if isinstance(about, dict) else about).encode()
    content = line + b"\n" + zlib.compress(b"\0\0")
    path.write_bytes(hashlib.sha256(content).digest() + content)
    assert _read(path, "ab" * 32) is None


@settings(max_examples=200, deadline=None)
@given(st.floats(0.0, 1.0, width=32))
def test_eleven_bits_from_1_to_2e_9(value: float) -> None:
    class Constant(Counting):
        def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> np.ndarray:
            return np.full((1, 1), value, np.float32)

    (found,) = CachedSaliency(Constant(), None).whole_map(Image.new("RGB", (2, 2)), FILE).ravel()
    assert abs(float(found) - value) <= (value * 2.0**-11 if value > 2e-9 else 1e-12)
    assert (float(found) == value) or value not in (0.0, 1.0)


def test_rounding_moves_no_metric() -> None:
    """What equal steps would not do: KLD takes the logarithm of probabilities that are almost 0."""
    place = np.arange(224)
    bump = np.exp(-((place[:, None] - 112) ** 2 + (place[None] - 112) ** 2) / (2 * 40**2))[None]
    network = open_saliency("u2netp", 2, options={"stretch": "no"})
    assert isinstance(network, CachedSaliency)
    exact = network._source.whole_map(photograph(6), FILE)[None, :224, :224].astype(np.float64)
    kept = network.whole_map(photograph(6), FILE)[None, :224, :224].astype(np.float64)
    steps = np.rint(exact * 65535) / 65535
    for name, value in all_metrics(bump, exact).items():
        assert all_metrics(bump, kept)[name] == pytest.approx(value, abs=2e-4), name
    assert all_metrics(bump, steps)["KLD"] > all_metrics(bump, exact)["KLD"] + 0.2


@pytest.mark.usefixtures("on_terminal")
def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    cached = CachedSaliency(Counting(), tmp_path / "file")
    first = cached.whole_map(photograph(), FILE, "ab" * 32)
    np.testing.assert_array_equal(cached.whole_map(photograph(), FILE, "ab" * 32), first)
    assert " ".join(capsys.readouterr().err.split()).count("salient-object maps are not kept: cannot write") == 1


@pytest.mark.parametrize("text", ["masks", "spectral"])
def test_what_is_cheap_is_not_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(tmp_path / "masks" / "a.png")
    source = open_saliency(f"masks:{tmp_path / 'masks'}" if text == "masks" else text, cache=tmp_path / "cache")
    assert source is not None
    source.whole_map(Image.radial_gradient("L").convert("RGB").resize((4, 4)), FILE, "ab" * 32)
    assert not (tmp_path / "cache").exists()


def test_models_and_runs_share_a_network_s_maps(tmp_path: Path) -> None:
    first = open_saliency("u2netp", 1, cache=tmp_path)
    assert first is not None
    whole = first.whole_map(photograph(), FILE, "ab" * 32)
    (path,) = tmp_path.rglob("*.map")
    kept = path.stat().st_mtime_ns
    again = open_saliency("u2netp", 2, cache=tmp_path)
    assert again is not None
    np.testing.assert_array_equal(again.whole_map(photograph(), FILE, "ab" * 32), whole)
    other = open_saliency("u2netp", 1, options={"stretch": "no"}, cache=tmp_path)
    assert other is not None
    other.whole_map(photograph(), FILE, "ab" * 32)
    assert len(list(tmp_path.rglob("*.map"))) == 2
    assert path.stat().st_mtime_ns == kept


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.delenv("QCAM_CACHE", raising=False)
    assert default_cache() == tmp_path / "x" / "qcam" / "saliency"
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "q"))
    assert default_cache() == tmp_path / "q" / "saliency"
