"""How networks want their input: presets, and options that override them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from qcam.common.errors import QcamError
from qcam.evaluate.saliency import open_saliency
from qcam.evaluate.saliency.settings import PRESETS, network_settings
from qcam.images.sources import ImageFile

FILE = ImageFile("a.jpg", Path("a.jpg"))


def test_presets_are_those_of_the_networks_own_repositories() -> None:
    assert PRESETS["u2netp"].scale_by_maximum
    assert (PRESETS["u2netp"].size, PRESETS["u2netp"].mean[0], PRESETS["u2netp"].std[0]) == (320, 0.485, 0.229)
    assert (PRESETS["isnet"].size, PRESETS["isnet"].mean, PRESETS["isnet"].std) == (1024, (0.5,) * 3, (1.0,) * 3)
    assert not PRESETS["isnet"].scale_by_maximum
    assert (PRESETS["birefnet"].size, PRESETS["birefnet"].stretch, PRESETS["birefnet"].index) == (1024, False, -1)
    assert (PRESETS["u2net"].resampling, PRESETS["birefnet"].resampling) == ("lanczos", "bilinear")


def test_options_override_a_preset() -> None:
    options = {"size": "64", "mean": "0.5", "std": "0.1,0.2,0.3", "scale": "maximum", "output": "2", "activation": "none"}
    found = network_settings("birefnet", options | {"stretch": "yes", "background": "0.25", "resampling": "lanczos"})
    assert (found.size, found.mean, found.std) == (64, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert (found.scale_by_maximum, found.index, found.output) == (True, 2, "probabilities")
    assert (found.stretch, found.background, found.resampling) == (True, 0.25, "lanczos")


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
        (None, {"activation": "relu"}, "what the output is: logits, probabilities, bytes"),
        (None, {"background": "2"}, "a probability"),
        (None, {"background": "nan"}, "a probability"),
        (None, {"resampling": "nearest"}, "lanczos or bilinear"),
        (None, {"index": "last"}, "the index of an output"),
    ],
)
def test_unknown_settings_name_the_choices(preset: str | None, options: dict[str, str], said: str) -> None:
    with pytest.raises(QcamError, match=said):
        network_settings(preset, options)


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ({"output": "1"}, {"index": "1"}),
        ({"output": "-1", "activation": "sigmoid"}, {"index": "-1", "output": "logits"}),
        ({"activation": "none"}, {"output": "probabilities"}),
        ({"activation": "auto"}, {}),
    ],
)
def test_options_of_earlier_versions_mean_the_same(old: dict[str, str], now: dict[str, str]) -> None:
    assert network_settings("plain", old) == network_settings("plain", now)


def test_an_old_name_and_a_new_one_do_not_contradict_each_other() -> None:
    with pytest.raises(QcamError, match="option output is given twice, as logits and as probabilities"):
        network_settings(None, {"output": "logits", "activation": "none"})


@pytest.mark.parametrize("text", ["none", "spectral", "masks:somewhere"])
def test_settings_of_networks_belong_to_networks(text: str) -> None:
    with pytest.raises(QcamError, match="saliency_options to a network"):
        open_saliency(text, options={"size": "64"})
    with pytest.raises(QcamError, match="saliency_preset belongs to onnx:FILE"):
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


def test_output_index_size_and_stretch_do_what_they_say(tmp_path: Path) -> None:
    path = brightness_network(tmp_path / "net.onnx")
    options = {"size": "8", "mean": "0", "std": "1", "index": "1", "output": "logits", "stretch": "no", "background": "0"}
    source = open_saliency(f"onnx:{path}", 1, preset="plain", options=options)
    assert source is not None
    found = source.whole_map(Image.new("RGB", (20, 10), (51, 0, 0)), FILE)
    assert found.shape == (8, 8)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-4 * 0.2)), rtol=2.0**-11)
    plain = open_saliency(f"onnx:{path}", 1, options=options | {"index": "0", "output": "probabilities"})
    assert plain is not None
    np.testing.assert_allclose(plain.whole_map(Image.new("RGB", (20, 10), (51, 0, 0)), FILE), 0.2, rtol=2.0**-11)
    assert plain.fingerprint != source.fingerprint
