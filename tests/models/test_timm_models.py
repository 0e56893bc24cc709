"""Folders and repositories that timm saved: the picture's way in is timm's, the file that is read is told, names are used."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from skimage import data
from timm.models import save_for_hf
from torch import nn

from qcam.common.errors import QcamError
from qcam.exporters.export import ExportOptions
from qcam.exporters.ordering import ExportOrder, PreprocessingChanges, export_model
from qcam.models.sources import load_model
from qcam.models.weights import hash_parameters
from qcam.models.wishes import Wishes

Saved = Callable[..., tuple[str, nn.Module]]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Save a small network as timm does, with other settings and other top-level entries in its config.json."""

    def save(
        settings: dict[str, Any] | None = None, top: dict[str, Any] | None = None, classes: int = 4
    ) -> tuple[str, nn.Module]:
        folder = tmp_path / "mine"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = timm.create_model("test_resnet", pretrained=False, num_classes=classes).eval()
        save_for_hf(module, str(folder))
        for path in folder.iterdir():
            if path.suffix != ".json":
                path.unlink()
        torch.save(module.state_dict(), folder / "pytorch_model.bin")
        config = json.loads((folder / "config.json").read_text())
        config["pretrained_cfg"].update(settings or {})
        (folder / "config.json").write_text(json.dumps(config | (top or {})))
        return f"timm:local-dir:{folder}", module

    return save


def folder_of(name: str) -> Path:
    return Path(name.partition("local-dir:")[2])


def averaged(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value + 0.1 if value.is_floating_point() else value for name, value in module.state_dict().items()}


# --- the picture's way in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True], ids=["landscape", "portrait"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"crop_pct": 0.9},
        {"crop_pct": 1.0},
        {"crop_pct": 0.875, "crop_mode": "squash"},
        {"crop_pct": 0.9, "crop_mode": "squash"},
        {"crop_pct": 1.0, "crop_mode": "squash"},
        {"crop_pct": 0.9, "crop_mode": "squash", "input_size": [3, 96, 160]},
        {"interpolation": "bicubic"},
        {"interpolation": "lanczos"},
    ],
    ids=str,
)
def test_a_photograph_goes_in_as_in_timm(settings, turned, saved):
    name, _ = saved(settings)
    photograph = Image.fromarray(data.chelsea())
    if turned:
        photograph = photograph.transpose(Image.Transpose.ROTATE_90)
    assert photograph.width != photograph.height
    reference = timm.create_model(name.removeprefix("timm:"), pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(reference), is_training=False)
    wanted = transform(photograph).numpy()
    way_in = load_model(name, None).preprocessing
    found = way_in.normalise(way_in.crop_image(photograph)[None])[0]
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crop_mode": "border"}, r"crop_mode border.*give resize N"),
        ({"input_size": [3, 160, 96]}, r"takes pictures of 160×96.*\(crop_mode center\).*give resize N"),
        ({"crop_pct": 1.2}, r"with crop_pct 1\.2 timm resizes pictures to less than the network takes.*give resize H,W"),
    ],
)
def test_a_way_in_that_only_timm_goes_is_refused_until_the_caller_says_another(settings, said, saved):
    name, _ = saved(settings)
    with pytest.raises(QcamError, match=rf"^timm:local-dir:mine.*{said}"):
        load_model(name, None)
    assert load_model(name, None, Wishes(resize=True)).preprocessing.resize is None


@pytest.mark.parametrize("filter_", ["nearest", "box", "random"])
def test_a_filter_that_only_timm_has_is_refused_and_never_another(filter_, saved):
    name, _ = saved({"interpolation": filter_})
    with pytest.raises(
        QcamError, match=rf"by '{filter_}', which qcam does not; choose with interpolation \(bilinear, bicubic, l"
    ):
        load_model(name, None)


def test_a_size_and_a_filter_of_ones_own_reach_the_bundle(saved, tmp_path):
    name, _ = saved({"crop_mode": "border", "interpolation": "nearest"})
    order = ExportOrder(
        ExportOptions(precisions=("f32",)),
        changes=PreprocessingChanges(resize=(180, 170), interpolation="bilinear"),
        output=tmp_path / "out",
    )
    bundle = export_model(name, order, [])
    assert (bundle.preprocessing.resize, bundle.preprocessing.interpolation) == ((180, 170), "bilinear")
    assert bundle.weights.further["file"] == "pytorch_model.bin"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crop_pct": "x"}, r"config\.json: crop_pct is text and has to be a number"),
        ({"crop_pct": -1}, r"config\.json: crop_pct is -1\.0.*write one above 0"),
        ({"mean": [0.5]}, r"config\.json: mean has 1 number, .*write three"),
        ({"std": [0.5, 0.5]}, r"config\.json: std has 2 numbers, .*write three"),
        ({"std": [0, 0, 0]}, r"timm:local-dir:mine: .*std not 0"),
        ({"mean": "x"}, r"config\.json: mean is text and has to be a list"),
        ({"input_size": [3, 160]}, r"config\.json: input_size has 2 entries"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(settings, said, saved):
    name, _ = saved(settings)
    with pytest.raises(QcamError, match=said):
        load_model(name, None)


@pytest.mark.parametrize(
    ("top", "said"),
    [
        ({"model_args": {"global_pool": ""}}, r"does not take two pictures of 3×160×160: .*configuration does not fit"),
        ({"model_args": []}, r"config\.json: model_args is a list and has to be an object"),
        ({"architecture": None}, r"config\.json: architecture is missing"),
        ({"pretrained_cfg": []}, r"config\.json: pretrained_cfg is a list and has to be an object"),
    ],
)
def test_a_config_that_makes_no_classifier_is_refused_by_name(top, said, saved):
    name, _ = saved(top=top)
    with pytest.raises(QcamError, match=said):
        load_model(name, None)


# --- the file that is read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model_best.pth.tar", "last.pth", "pytorch_model.bin"])
def test_raw_and_averaged_weights_in_a_folders_file_are_refused_with_both_names(file, saved):
    name, module = saved()
    (folder_of(name) / "pytorch_model.bin").unlink()
    path = folder_of(name) / file
    torch.save({"epoch": 3, "state_dict": module.state_dict(), "state_dict_ema": averaged(module)}, path)
    with pytest.raises(QcamError, match=rf"{file} holds several sets of weights \(state_dict, state_dict_ema\).*weights_key"):
        load_model(name, None)
    assert load_model(name, str(path), Wishes("state_dict")).weights["sha256"] == hash_parameters(module)


def test_two_files_of_other_weights_are_refused_with_both_names(saved):
    name, module = saved()
    shutil.move(folder_of(name) / "pytorch_model.bin", folder_of(name) / "last.pth")
    torch.save(averaged(module), folder_of(name) / "best.pth")
    with pytest.raises(
        QcamError, match=r"two files of weights that differ, best\.pth and last\.pth, .*choose with weights .*best"
    ):
        load_model(name, None)
    shutil.move(folder_of(name) / "best.pth", folder_of(name) / "pytorch_model.pth")
    with pytest.raises(QcamError, match=r"two files of weights that differ, pytorch_model\.pth and last\.pth"):
        load_model(name, None)


def test_of_files_with_equal_weights_timms_is_read_and_told(saved, caplog):
    caplog.set_level(logging.INFO, "qcam")
    name, module = saved()
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in module.state_dict().items()}}, folder_of(name) / "a.pth.tar"
    )
    torch.save({"state": {0: {"exp_avg": torch.zeros(3)}}}, folder_of(name) / "optimizer.bin")
    (folder_of(name) / "training_args.bin").write_bytes(b"no weights")
    found = load_model(name, None).weights
    assert (found["file"], found["sha256"]) == ("pytorch_model.bin", hash_parameters(module))
    assert (
        "weights from pytorch_model.bin; left, for they hold no weights of it: optimizer.bin, training_args.bin" in caplog.text
    )


@pytest.mark.parametrize(
    "files",
    [("b.pth", "a.bin"), ("a.pth.tar", "b.pth"), ("z.bin", "a.pth.tar"), ("pytorch_model.pth", "a.pth"), ("only.pth.tar",)],
)
def test_the_file_is_the_one_that_timm_reads(files, saved, monkeypatch):
    name, module = saved()
    (folder_of(name) / "pytorch_model.bin").unlink()
    for file in files:
        torch.save(module.state_dict(), folder_of(name) / file)
    read: list[str] = []
    from timm.models import _builder, _hub

    original = _hub.load_state_dict
    for place in (_hub, _builder):
        monkeypatch.setattr(
            place, "load_state_dict", lambda path, **more: read.append(Path(path).name) or original(path, **more)
        )
    timm.create_model(name.removeprefix("timm:"), pretrained=True)
    assert load_model(name, None).weights["file"] == read[0]
    assert read == [read[0]] * 2  # and that one alone


def test_a_folder_without_weights_says_so(saved):
    name, _ = saved()
    (folder_of(name) / "pytorch_model.bin").rename(folder_of(name) / "weights.ckpt")
    with pytest.raises(QcamError, match=r"mine has no weights beside config\.json .*give weights FILE"):
        load_model(name, None)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_repositorys_file_is_recorded(file, saved, tmp_path, monkeypatch):
    from huggingface_hub import constants
    from safetensors.torch import save_file

    name, module = saved(top={"label_names": ["cat", "dog", "emu", "fox"]})
    cache, commit = tmp_path / "hub" / "models--org--net", "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    shutil.copytree(folder_of(name), cache / "snapshots" / commit)
    if file == "model.safetensors":
        (cache / "snapshots" / commit / "pytorch_model.bin").unlink()
        save_file(module.state_dict(), cache / "snapshots" / commit / file)
    else:
        (cache / ".no_exist" / commit).mkdir(parents=True)
        (cache / ".no_exist" / commit / "model.safetensors").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    loaded = load_model("timm:hf-hub:org/net", None)
    assert (loaded.weights["file"], loaded.weights["sha256"]) == (file, hash_parameters(module))
    assert loaded.classes == ("cat", "dog", "emu", "fox")


@pytest.mark.parametrize("weights", [None, "random:0"])
def test_a_repository_without_a_network_says_that_its_config_is_needed_too(weights, monkeypatch):
    def refuse(*_args: object, **_options: object) -> nn.Module:
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        QcamError, match=r"only its config\.json says .*fetch config\.json and .* give timm:local-dir:F"
    ) as found:
        load_model("timm:hf-hub:org/name", weights)
    assert "random:0" not in str(found.value)


# --- the classes' names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["settings", "top"])
def test_label_names_are_the_classes_and_told(place, saved, caplog):
    caplog.set_level(logging.INFO, "qcam")
    names = ["cat", "dog", "emu", "fox"]
    name, _ = saved(**{place: {"label_names": names}})
    assert load_model(name, None).classes == tuple(names)
    assert "timm:local-dir:mine: the classes' names are from config.json" in caplog.text
    assert load_model(name, None, Wishes(classes=("a", "b", "c", "d"))).classes == ("a", "b", "c", "d")


def test_a_thousand_names_of_ones_own_are_not_imagenets(saved):
    names = [f"bird {index}" for index in range(1000)]
    name, _ = saved(top={"label_names": names}, classes=1000)
    assert load_model(name, None).classes == tuple(names)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["cat", "dog"],
            r"gives 2 names, and the network has 4 outputs; mend config\.json, or give the names with classes FILE",
        ),
        (["cat", "dog", "emu", 4], r"is no list of names"),
        ("four", r"is no list of names"),
    ],
)
def test_label_names_that_do_not_fit_are_refused(names, said, saved):
    name, _ = saved(top={"label_names": names})
    with pytest.raises(QcamError, match=rf"timm:local-dir:mine: label_names in config\.json {said}"):
        load_model(name, None)
    assert load_model(name, None, Wishes(classes=("a", "b", "c", "d"))).classes == ("a", "b", "c", "d")


def test_label_names_of_another_head_than_the_files_are_left_and_told(saved, tmp_path, caplog):
    caplog.set_level(logging.INFO, "qcam")
    name, _ = saved(top={"label_names": ["cat", "dog", "emu", "fox"]})
    other = timm.create_model("test_resnet", pretrained=False, num_classes=3)
    torch.save(other.state_dict(), tmp_path / "three.pth")
    assert load_model(name, str(tmp_path / "three.pth")).classes == ("0", "1", "2")
    assert "gives 4 names, and the network has 3 outputs with these weights; the names are left" in caplog.text
