import pickle
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from qcam.common.errors import QcamError
from qcam.models.checkpoints import plain, read_checkpoint
from qcam.models.sources import TORCHVISION_MODELS, load_model
from qcam.models.weights import hash_parameters


def state_of_file(path):
    return plain(read_checkpoint(path))


@pytest.fixture(scope="module")
def squeezenet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return models.squeezenet1_1(weights=None).eval()


@pytest.mark.parametrize("name", TORCHVISION_MODELS)
def test_every_study_model_loads_with_seeded_weights_and_its_own_preprocessing(name):
    loaded = load_model(name, "random:3")
    assert loaded.weights["trained"] is False
    assert len(loaded.classes) == 1000
    assert loaded.classes[207] == "golden retriever"
    assert loaded.preprocessing.crop == (224, 224)
    assert loaded.preprocessing.resize == 256
    assert loaded.preprocessing.interpolation == ("bicubic" if name == "efficientnet_b0" else "bilinear")
    assert not loaded.module.training


def test_a_seed_gives_the_same_weights_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    first, second, other = (load_model("squeezenet1_1", f"random:{seed}").weights["sha256"] for seed in (1, 1, 2))
    assert first == second != other
    assert torch.equal(before, torch.get_rng_state())


def test_lite0_has_real_weights():
    loaded = load_model("efficientnet_lite0", None)
    assert loaded.weights["trained"] is True
    assert loaded.preprocessing.interpolation == "bicubic"


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "data_parallel", "safetensors"])
def test_state_dict_files_load_in_every_usual_form(squeezenet, tmp_path, wrap):
    state = squeezenet.state_dict()
    path = tmp_path / ("w.safetensors" if wrap == "safetensors" else "w.pth")
    if wrap == "safetensors":
        save_file(state, path)
    elif wrap == "state_dict":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif wrap == "data_parallel":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    loaded = load_model("squeezenet1_1", str(path))
    record = {"state_dict": {"checkpoint": {"key": "state_dict", "left": {"epoch": 1}}},
              "data_parallel": {"checkpoint": {"dropped": ["module"]}}}.get(wrap, {})  # fmt: skip
    assert loaded.weights == {"name": path.name, "sha256": hash_parameters(squeezenet), "trained": True} | record


def test_weights_come_from_torchs_cache_without_a_network(squeezenet, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    torch.save(squeezenet.state_dict(), file)
    loaded = load_model("squeezenet1_1", None)
    assert loaded.weights["name"] == "IMAGENET1K_V1"
    assert loaded.weights["sha256"] == hash_parameters(squeezenet)


def test_without_a_network_the_error_names_the_file_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_args, **_kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(QcamError, match=r"vgg16-397923af\.pth .* weights FILE"):
        load_model("vgg16", None)


def test_a_timm_model_takes_a_local_file(tmp_path):
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model("test_resnet", pretrained=False).eval()
    torch.save(module.state_dict(), tmp_path / "w.pth")
    loaded = load_model("timm:test_resnet", str(tmp_path / "w.pth"))
    assert loaded.weights["sha256"] == hash_parameters(module)
    assert loaded.preprocessing.crop == (160, 160)


def test_a_timm_model_without_a_network_names_the_way_out(monkeypatch):
    import timm

    def refuse(*_args, **_kwargs):
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        QcamError, match=r"timm:resnet26d could not be downloaded or read .*model\.safetensors of timm/resnet26d"
    ):
        load_model("timm:resnet26d", None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("b", r"b is a bundle, exported already; give the bundle's folder to qcam\.study"),
        ("b/int8.onnx", r"b/int8\.onnx is a file inside the bundle b, exported already"),
        ("my.pth", r"my\.pth is a weights file; give a model's name .*, and the file with weights my\.pth"),
        ("saved", r"saved is a folder; give .* or timm:local-dir:saved"),
        ("resnet26d.bt_in1k", r"model 'resnet26d\.bt_in1k' is timm's; write timm:resnet26d\.bt_in1k"),
    ],
)
def test_h2_what_is_no_model_s_name_is_told_for_what_it_is(tmp_path, monkeypatch, name, said) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("b", "saved"):
        (tmp_path / folder).mkdir()
    (tmp_path / "b" / "bundle.json").touch()
    with pytest.raises(QcamError, match=said):
        load_model(name, None)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet51", None, "is unknown .*; choose efficientnet_lite0, vgg16"),
        ("resnet50", "IMAGENET1K_V9", "choose one of IMAGENET1K_V1, IMAGENET1K_V2"),
        ("resnet50", "random:x", "whole number"),
        ("resnet50", "missing.pth", "no weights file at"),
        ("timm:no_such_net", None, "timm has no model"),
        ("timm:resnet26dd", None, "'resnet26dd'; near: resnet26d"),
        ("efficientnet_lite0", "IMAGENET1K_V1", "give a state dict file or random:SEED"),
    ],
)
def test_unknown_names_are_refused_with_what_to_choose(name, weights, message):
    with pytest.raises(QcamError, match=message):
        load_model(name, weights)


class Malicious:
    def __reduce__(self):
        return (open, ("pwned", "w"))


def test_pickled_code_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, save in (("a.pth", torch.save), ("b.pth", lambda value, path: path.write_bytes(pickle.dumps(value)))):
        save({"w": Malicious()}, tmp_path / name)
        with pytest.raises(QcamError, match="cannot read weights"):
            state_of_file(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_weights_of_another_model_are_refused_by_name(squeezenet, tmp_path):
    state = squeezenet.state_dict()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(QcamError, match=r"do not fit the model: parameters .*missing .*unknown"):
        load_model("resnet50", str(tmp_path / "w.pth"))
    state["features.0.weight"] = torch.zeros(1, 3, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(QcamError, match=r"features\.0\.weight has shape \(1, 3, 3, 3\)"):
        load_model("squeezenet1_1", str(tmp_path / "w.pth"))
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(QcamError, match="holds no state dict"):
        state_of_file(tmp_path / "w.pth")
