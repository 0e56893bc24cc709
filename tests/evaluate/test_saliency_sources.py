"""Presets and options, the spectral residual, the cache, and models that bring their own code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from qcam.calibration.images import ImageFile, decode
from qcam.calibration.photographs import evaluation_photographs
from qcam.common.errors import QcamError
from qcam.evaluate.saliency import CachedSaliency, NoObjectError, default_cache, open_saliency
from qcam.evaluate.saliency.settings import PRESETS, network_settings
from qcam.evaluate.saliency.spectral import SpectralSaliency, spectral_residual

DATA = Path(__file__).parent / "data"
FILE = ImageFile("a.jpg", Path("a.jpg"))


def photograph(index: int = 0) -> Image.Image:
    image = decode(evaluation_photographs()[index].path).image
    assert image is not None
    return image


# ---- presets and options


def test_presets_are_those_of_the_networks_own_repositories() -> None:
    assert PRESETS["u2netp"].scale_by_maximum
    assert (PRESETS["u2netp"].size, PRESETS["u2netp"].mean[0], PRESETS["u2netp"].std[0]) == (320, 0.485, 0.229)
    assert (PRESETS["isnet"].size, PRESETS["isnet"].mean, PRESETS["isnet"].std) == (1024, (0.5,) * 3, (1.0,) * 3)
    assert (PRESETS["birefnet"].size, PRESETS["birefnet"].stretch) == (1024, False)


def test_options_override_a_preset() -> None:
    options = {"size": "64", "mean": "0.5", "std": "0.1,0.2,0.3", "scale": "maximum", "output": "2", "activation": "none"}
    found = network_settings("birefnet", options | {"stretch": "yes", "background": "0.25"})
    assert (found.size, found.mean, found.std) == (64, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert (found.scale_by_maximum, found.output, found.activation) == (True, 2, "none")
    assert (found.stretch, found.background) == (True, 0.25)


@pytest.mark.parametrize(
    ("preset", "options", "said"),
    [
        ("u3net", {}, "preset 'u3net' is unknown; choose one of plain, u2net"),
        (None, {"colour": "red"}, "option 'colour' is unknown; choose one of size, mean"),
        (None, {"size": "0"}, "size=0: give the side of the input"),
        (None, {"size": "big"}, "size=big: give"),
        (None, {"std": "1,0,1"}, "none of them 0"),
        (None, {"mean": "1,2"}, "one number or three"),
        (None, {"mean": "nan"}, "one number or three"),
        (None, {"scale": "7"}, "255 or maximum"),
        (None, {"activation": "relu"}, "auto or none or sigmoid"),
        (None, {"background": "2"}, "a probability"),
    ],
)
def test_unknown_settings_name_the_choices(preset: str | None, options: dict[str, str], said: str) -> None:
    with pytest.raises(QcamError, match=said):
        network_settings(preset, options)


@pytest.mark.parametrize("text", ["none", "spectral", "masks:somewhere"])
def test_settings_of_networks_belong_to_networks(text: str) -> None:
    with pytest.raises(QcamError, match="--saliency-option to a network"):
        open_saliency(text, options={"size": "64"})
    with pytest.raises(QcamError, match="--saliency-preset belongs to onnx:FILE"):
        open_saliency(text, preset="isnet")


def brightness_network(path: Path) -> Path:
    """A network of two outputs: the input's first channel, and its logit by four."""
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["image", "from", "to", "axis"], ["first"]),
            helper.make_node("Mul", ["first", "four"], ["fourfold"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("first", "fourfold")],
        [
            helper.make_tensor("from", TensorProto.INT64, [1], [0]),
            helper.make_tensor("to", TensorProto.INT64, [1], [1]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("four", TensorProto.FLOAT, [], [4.0]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_output_activation_size_and_stretch_do_what_they_say(tmp_path: Path) -> None:
    path = brightness_network(tmp_path / "net.onnx")
    options = {"size": "8", "mean": "0", "std": "1", "output": "1", "activation": "sigmoid", "stretch": "no", "background": "0"}
    source = open_saliency(f"onnx:{path}", 1, preset="plain", options=options)
    assert source is not None
    found = source.whole_map(Image.new("RGB", (20, 10), (51, 0, 0)), FILE)
    assert found.shape == (8, 8)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-4 * 0.2)), atol=1e-5)
    plain = open_saliency(f"onnx:{path}", 1, options=options | {"output": "0", "activation": "none"})
    assert plain is not None
    np.testing.assert_allclose(plain.whole_map(Image.new("RGB", (20, 10), (51, 0, 0)), FILE), 0.2, atol=1e-5)
    assert plain.fingerprint != source.fingerprint


# ---- spectral residual


def test_the_spectral_residual_is_opencv_contrib_s() -> None:
    """Recorded with opencv-contrib-python-headless 5.0.0: StaticSaliencySpectralResidual of a photograph's grey 64 × 64.

    It divides by the maximum where a map is stretched here; its float32 FFT leaves differences of some 1e-4.
    """
    with np.load(DATA / "spectral_residual.npz") as held:
        grey, opencv = held["grey"].astype(np.float64), held["opencv"].astype(np.float64)
    stretched = (opencv - opencv.min()) / (opencv.max() - opencv.min())
    np.testing.assert_allclose(spectral_residual(grey), stretched, atol=5e-4)


def test_spectral_needs_no_weights_and_sees_a_spot() -> None:
    source = open_saliency("spectral")
    assert isinstance(source, SpectralSaliency)
    pixels = np.full((128, 128, 3), 100, np.uint8)
    pixels[80:90, 30:40] = 250
    found = source.whole_map(Image.fromarray(pixels), FILE)
    assert (found.shape, found.dtype, found.min(), found.max()) == ((64, 64), np.float32, 0, 1)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert (abs(int(row) - 42), abs(int(column) - 17)) <= (5, 5)
    with pytest.raises(NoObjectError, match="of one colour"):
        source.whole_map(Image.new("RGB", (30, 30), (9, 9, 9)), FILE)


# ---- cache


class Counting:
    """A source that counts how often it is asked."""

    name, fingerprint, threshold = "counting", "c0" * 32, 0.5

    def __init__(self) -> None:
        self.asked = 0

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> np.ndarray:
        self.asked += 1
        if image.size == (1, 1):
            raise NoObjectError("largest probability 0.03, 0.5 is wanted")
        return np.random.default_rng(0).random((7, 9), np.float32)


def test_a_map_from_the_cache_is_the_map_that_was_computed(tmp_path: Path) -> None:
    source, image = Counting(), photograph()
    uncached = CachedSaliency(source, None).whole_map(image, FILE, "ab" * 32)
    first = CachedSaliency(source, tmp_path).whole_map(image, FILE, "ab" * 32)
    again = CachedSaliency(source, tmp_path).whole_map(image, FILE, "ab" * 32)
    assert source.asked == 2
    np.testing.assert_array_equal(first, uncached)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_allclose(first, Counting().whole_map(image, FILE), atol=0.5 / 65535 + 1e-7)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["ab" * 32 + ".png"]


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


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, damage: bytes) -> None:
    source = Counting()
    cached = CachedSaliency(source, tmp_path)
    first = cached.whole_map(photograph(), FILE, "ab" * 32)
    (path,) = tmp_path.rglob("*.png")
    path.write_bytes(damage)
    np.testing.assert_array_equal(cached.whole_map(photograph(), FILE, "ab" * 32), first)
    assert source.asked == 2
    np.testing.assert_array_equal(cached.whole_map(photograph(), FILE, "ab" * 32), first)
    assert source.asked == 2


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.delenv("QCAM_CACHE", raising=False)
    assert default_cache() == tmp_path / "x" / "qcam" / "saliency"
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "q"))
    assert default_cache() == tmp_path / "q" / "saliency"


# ---- models that bring their own code

MODELLING = '''
from pathlib import Path

Path(__file__).with_name("executed").write_text("yes")
Path({marker!r}).write_text("yes")

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class TinyConfig(PretrainedConfig):
    model_type = "TinySegmentation"


class Tiny(PreTrainedModel):
    """BiRefNet's interface: a list of logits maps, coarse to fine; the last one counts."""

    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.colours = nn.Conv2d(3, 1, 1)
        self.post_init()

    def forward(self, x):
        return [torch.full((len(x), 1, 4, 4), 9.0), self.colours(x)]
'''


@pytest.fixture
def segmentation(tmp_path: Path) -> Path:
    """A model folder as BiRefNet's hub repository is one: configuration, modelling file, weights."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    value = {
        "architectures": ["Tiny"],
        "model_type": "TinySegmentation",
        "auto_map": {"AutoConfig": "tiny.TinyConfig", "AutoModelForImageSegmentation": "tiny.Tiny"},
    }
    (folder / "config.json").write_text(json.dumps(value))
    (folder / "tiny.py").write_text(MODELLING.format(marker=str(tmp_path / "executed")))
    weight = torch.tensor([1.5, -0.5, 2.0]).reshape(1, 3, 1, 1)
    save_file(
        {"colours.weight": weight, "colours.bias": torch.tensor([-0.25])}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def test_remote_code_is_named_and_does_not_run_unasked(segmentation: Path, tmp_path: Path) -> None:
    with pytest.raises(QcamError) as told:
        open_saliency(f"birefnet:{segmentation}")
    text = str(told.value)
    assert "would execute tiny.py (SHA-256 " in text
    assert f"from {segmentation}" in text
    assert "--trust-remote-code" in text
    assert not (tmp_path / "executed").exists()


def test_a_trusted_model_folder_gives_maps(segmentation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    source = open_saliency(f"birefnet:{segmentation}", trust_remote_code=True)
    assert source is not None
    assert (tmp_path / "executed").exists()
    image = photograph()
    found = source.whole_map(image, FILE)
    pixels = np.asarray(image.resize((1024, 1024), Image.Resampling.BILINEAR), np.float64) / 255
    normalised = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    probability = 1 / (1 + np.exp(-(normalised @ [1.5, -0.5, 2.0] - 0.25)))
    assert (found.shape, found.dtype) == ((1024, 1024), np.float32)
    np.testing.assert_allclose(found, probability, atol=2e-5)  # not stretched


def test_other_weights_or_code_are_another_source(segmentation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    before = open_saliency(f"birefnet:{segmentation}", trust_remote_code=True)
    other = shutil.copytree(segmentation, tmp_path / "other")
    same = open_saliency(f"birefnet:{other}", trust_remote_code=True)
    (other / "tiny.py").write_text((other / "tiny.py").read_text() + "\n# changed\n")
    changed = open_saliency(f"birefnet:{other}", trust_remote_code=True)
    assert before is not None
    assert same is not None
    assert changed is not None
    assert before.fingerprint == same.fingerprint != changed.fingerprint


@pytest.mark.parametrize(
    ("where", "trust", "said"),
    [
        ("", False, "would download and execute the Python files that the configuration of hub model ZhengPeng7/BiRefNet at"),
        (":someone/net@" + "a" * 40, False, "hub model someone/net at revision aaaa.*--trust-remote-code"),
        (":someone/net@main", True, "needs a pinned revision.*40 hexadecimal digits"),
        (":someone/net", True, "needs a pinned revision"),
        (":./nowhere", True, "no model folder at ./nowhere"),
        (":nowhere", True, "no model folder at nowhere"),
    ],
)
def test_what_is_not_pinned_or_not_there_is_refused(where: str, trust: bool, said: str) -> None:
    with pytest.raises(QcamError, match=said):
        open_saliency(f"birefnet{where}", trust_remote_code=trust)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(QcamError, match=r"cannot load someone/net@aaaa.*give a local folder of the model"):
        open_saliency("birefnet:someone/net@" + "a" * 40, trust_remote_code=True, cache=tmp_path)


def test_a_folder_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(QcamError, match=r"cannot read .*config\.json"):
        open_saliency(f"birefnet:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(QcamError, match=r"cannot load .*give a local folder of the model"):
        open_saliency(f"birefnet:{tmp_path}", trust_remote_code=True)
