"""What people bring (situations M1 to M12): published files, checkpoints of training scripts, heads and inputs of their own."""

from __future__ import annotations

import argparse
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import cached, published_layout, trained_like
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from qcam.common.errors import QcamError
from qcam.models.sources import load_model
from qcam.models.weights import hash_parameters
from qcam.models.wishes import Wishes

#: What differs in kind among published files: nothing; a version in the metadata; names of before. Heads of the training are
#: GoogLeNet's below. `make classifiers` takes every classifier of torchvision (docs/models.md).
KINDS = ("mobilenet_v3_small", "mnasnet0_5", "vit_b_32")


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def leave_weights_alone(monkeypatch):
    """Let builders draw no weights: those of the file replace every one of them, and drawing takes most of the time."""
    for name in vars(torch.nn.init):
        if name.endswith("_") and not name.startswith("_") and callable(getattr(torch.nn.init, name)):
            monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_given, **_named: tensor)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_m1_a_published_file_gives_the_logits_of_torchvisions_own_builder(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path, entry = cached(name, tmp_path)
    leave_weights_alone(monkeypatch)
    reference = models.get_model(name, weights=entry).eval()
    size = entry.transforms().crop_size[0]
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = reference(images)
        for weights in (entry.name, str(path)):
            assert relative(load_model(name, weights).module(images), wanted) < 1e-5, weights


@pytest.mark.parametrize("name", ["googlenet"])
def test_m1_the_inputs_transformation_is_part_of_the_weights(name, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path, entry = cached(name, tmp_path)
    reference = models.get_model(name, weights=entry).eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = reference(images)
        found = load_model(name, str(path))
        assert relative(found.module(images), wanted) < 1e-5
        reference.transform_input = False
        assert relative(found.module(images), reference(images)) > 1e-3  # the flag is what this test sees
    assert found.weights["flags"] == {"transform_input": True}


def test_m1_heads_of_training_may_be_absent_or_of_other_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    _, entry = cached("googlenet", tmp_path)
    saved = models.get_model("googlenet", weights=entry).eval()  # torchvision takes them off
    torch.save(saved.state_dict(), tmp_path / "saved.pth")
    loaded = load_model("googlenet", str(tmp_path / "saved.pth"))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative(loaded.module(images), saved(images)) < 1e-5
    tuned = trained_like("googlenet", num_classes=3, aux_logits=True, init_weights=False)
    torch.save(tuned.state_dict(), tmp_path / "tuned.pth")
    loaded = load_model("googlenet", str(tmp_path / "tuned.pth"))
    tuned.transform_input = True
    with torch.no_grad():
        assert relative(loaded.module(images), tuned(images)) < 1e-5


def test_m2_densenets_published_keys_load(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path, entry = cached("densenet121", tmp_path)
    assert "features.denseblock1.denselayer1.norm.1.weight" in torch.load(path)
    wanted = hash_parameters(models.get_model("densenet121", weights=entry))
    loaded = load_model("densenet121", str(path))
    assert loaded.weights["sha256"] == load_model("densenet121", None).weights["sha256"] == wanted
    assert loaded.weights["checkpoint"] == {"renamed_by_builder": 580}


def test_m2_published_keys_load_from_within_a_checkpoint(tmp_path):
    state = {f"module.{name}": tensor for name, tensor in published_layout("densenet121").items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth")
    loaded = load_model("densenet121", str(tmp_path / "w.pth"))
    assert loaded.weights["sha256"] == hash_parameters(trained_like("densenet121"))


@pytest.mark.parametrize("form", ["pth", "safetensors", "wrapped"])
def test_m3_mnasnet_loads_with_and_without_its_version(form, tmp_path):
    module = trained_like("mnasnet0_5")
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(module.state_dict(), path)
    else:
        torch.save({"model": module.state_dict()} if form == "wrapped" else module.state_dict(), path)
    assert load_model("mnasnet0_5", str(path)).weights["sha256"] == hash_parameters(module)


@pytest.mark.parametrize("recorded", [True, False])
def test_m3_mnasnets_first_version_with_its_wide_stem_loads(recorded, tmp_path):
    first = trained_like("mnasnet0_5")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first._load_from_state_dict({}, "", {"version": 1}, False, [], [], [])  # torchvision's own way back
    first.eval()
    state = first.state_dict()
    torch.save(state if recorded else dict(state), tmp_path / "w.pth")
    loaded = load_model("mnasnet0_5", str(tmp_path / "w.pth"))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative(loaded.module(images), first(images)) < 1e-5


# --- checkpoints of training scripts ----------------------------------------------------------------------------------


@functools.cache
def squeezenet(seed: int = 7) -> nn.Module:
    return trained_like("squeezenet1_1", seed)


@functools.cache
def shufflenet(seed: int = 7) -> nn.Module:
    return trained_like("shufflenet_v2_x0_5", seed)


def loads_as(module: nn.Module, value: Any, path: Path, name: str = "squeezenet1_1", **wishes: Any) -> dict[str, Any]:
    """Save a value, load it as weights, and prove that they are the module's; return what was recorded of the file."""
    torch.save(value, path)
    loaded = load_model(name, str(path), Wishes(**wishes))
    assert loaded.weights["sha256"] == hash_parameters(module)
    found: dict[str, Any] = loaded.weights.get("checkpoint", {})
    return found


@pytest.mark.parametrize(
    "beside",
    [argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=1)), np.float64(76.1), np.int64(3), Path("runs/3"), np.zeros(3)],
)
def test_m5_harmless_records_beside_the_weights_are_left(beside, tmp_path):
    found = loads_as(squeezenet(), {"state_dict": squeezenet().state_dict(), "args": beside}, tmp_path / "w.pth")
    assert found == {"key": "state_dict", "left": {"args": 1}}


def test_m5_files_of_before_torch_1_6_and_safetensors_under_another_name_are_read(tmp_path):
    value = {"state_dict": squeezenet().state_dict(), "args": argparse.Namespace(lr=0.1), "acc": np.float64(1)}
    torch.save(value, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert load_model("squeezenet1_1", str(tmp_path / "w.pth")).weights["sha256"] == hash_parameters(squeezenet())
    save_file(squeezenet().state_dict(), tmp_path / "w.bin")
    assert load_model("squeezenet1_1", str(tmp_path / "w.bin")).weights["sha256"] == hash_parameters(squeezenet())


class Config:
    pass


def test_m5_another_global_is_named_without_advice_to_run_it(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": squeezenet().state_dict(), "config": Config()}, path)
    with pytest.raises(QcamError) as refused:
        load_model("squeezenet1_1", str(path))
    said = str(refused.value)
    assert said == (
        f"cannot read weights from {path}: it holds {__name__}.Config, code or an object that is never loaded; "
        "save the weights alone: torch.save(model.state_dict(), FILE)"
    )


def test_m5_a_whole_model_is_named_as_what_it_is(tmp_path):
    torch.save(squeezenet(), tmp_path / "w.pth")
    with pytest.raises(QcamError, match=r"holds torchvision\.models\.squeezenet\.SqueezeNet, code or an object") as refused:
        load_model("squeezenet1_1", str(tmp_path / "w.pth"))
    assert not re.search(r"\x1b|weights_only=False|safe_globals", str(refused.value))


@pytest.mark.parametrize(
    ("raw", "ema"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("student", "teacher"), ("net", "swa.weights")]
)
def test_m6_two_sets_of_weights_are_never_chosen_between(raw, ema, tmp_path):
    value: dict[str, Any] = {raw: squeezenet(1).state_dict()}
    inner, _, last = ema.partition(".")
    value[inner] = {last: squeezenet(2).state_dict()} if last else squeezenet(2).state_dict()
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(QcamError, match=f"holds 2 sets of weights .*{re.escape(raw)}, {re.escape(ema)}; choose.*weights_key"):
        load_model("squeezenet1_1", str(tmp_path / "w.pth"))
    assert loads_as(squeezenet(1), value, tmp_path / "w.pth", weights_key=raw)["key"] == raw
    assert loads_as(squeezenet(2), value, tmp_path / "w.pth", weights_key=ema)["key"] == ema
    with pytest.raises(QcamError, match=rf"weights_key other: .* has no weights below it; it holds {raw}, {inner}"):
        load_model("squeezenet1_1", str(tmp_path / "w.pth"), Wishes(weights_key="other"))


def test_m6_two_sets_under_prefixes_of_one_dictionary_are_two_sets(tmp_path):
    value = {f"student.{name}": tensor for name, tensor in squeezenet(1).state_dict().items()}
    value |= {f"teacher.module.{name}": tensor for name, tensor in squeezenet(2).state_dict().items()}
    torch.save({"state_dict": value}, tmp_path / "w.pth")
    with pytest.raises(QcamError, match=r"2 sets of weights .*state_dict\.student, state_dict\.teacher\.module"):
        load_model("squeezenet1_1", str(tmp_path / "w.pth"))
    loads_as(squeezenet(2), {"state_dict": value}, tmp_path / "w.pth", weights_key="state_dict.teacher")


def test_m6_names_with_and_without_a_wrapper_are_two_sets(tmp_path):
    value = dict(squeezenet(1).state_dict())
    value |= {f"module.{name}": tensor for name, tensor in squeezenet(2).state_dict().items()}
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(QcamError, match="2 sets of weights"):
        load_model("squeezenet1_1", str(tmp_path / "w.pth"))


def test_m6_two_equal_sets_are_one(tmp_path):
    state = squeezenet().state_dict()
    copied = {name: tensor.clone() for name, tensor in state.items()}
    assert loads_as(squeezenet(), {"model": state, "model_ema": copied}, tmp_path / "w.pth")["key"] == "model"


def test_m6_averages_of_the_parameters_alone_are_a_second_set(tmp_path):
    module, other = shufflenet(1), shufflenet(2)
    value = {"state_dict": module.state_dict(), "ema": dict(other.named_parameters())}
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(QcamError, match=r"holds 2 sets of weights .*: state_dict, ema; choose"):
        load_model("shufflenet_v2_x0_5", str(tmp_path / "w.pth"))
    loads_as(module, value, tmp_path / "w.pth", "shufflenet_v2_x0_5", weights_key="state_dict")
    with pytest.raises(QcamError, match=r"do not fit the model: parameters .* missing"):
        load_model("shufflenet_v2_x0_5", str(tmp_path / "w.pth"), Wishes(weights_key="ema"))


def test_m10_a_backbone_without_a_head_is_told_apart(tmp_path):
    state = {f"backbone.{name}": tensor for name, tensor in shufflenet().state_dict().items() if not name.startswith("fc")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(QcamError, match=r"the network fits, but the file holds no head for it \(fc\)"):
        load_model("shufflenet_v2_x0_5", str(tmp_path / "w.pth"))


def test_m6_a_key_needs_a_file():
    with pytest.raises(QcamError, match="weights_key chooses between the weights in a file"):
        load_model("squeezenet1_1", "random:0", Wishes(weights_key="model"))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module."])
def test_m7_prefixes_of_compile_and_data_parallel_are_dropped_and_told(prefix, tmp_path, caplog):
    caplog.set_level("INFO", "qcam")
    value = {f"{prefix}{name}": tensor for name, tensor in squeezenet().state_dict().items()}
    found = loads_as(squeezenet(), value, tmp_path / "w.pth")
    assert found == {"dropped": sorted(prefix.strip(".").split("."))}
    assert f"{', '.join(found['dropped'])} dropped from names" in caplog.text


def test_m8_averaged_models_load_and_their_counter_is_left(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(squeezenet())
    found = loads_as(squeezenet(), averaged.state_dict(), tmp_path / "w.pth")
    assert found == {"dropped": ["module"], "left": {"n_averaged": 1}}


def test_m8_lightnings_checkpoints_load_and_what_is_beside_is_told(tmp_path, caplog):
    caplog.set_level("INFO", "qcam")
    value = {
        "epoch": 3,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in shufflenet().state_dict().items()}
        | {"criterion.weight": torch.ones(1000)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"lr": 0.1},
    }
    found = loads_as(shufflenet(), value, tmp_path / "w.ckpt", "shufflenet_v2_x0_5")
    assert found["key"] == "state_dict.model"
    assert found["left"] == {
        "state_dict.criterion": 1, "optimizer_states": 2, "epoch": 1, "pytorch-lightning_version": 1, "hyper_parameters": 1
    }  # fmt: skip
    assert "taken from 'state_dict.model'; left: " in caplog.text


@pytest.mark.parametrize("key", ["net", "network", "model_state", "weights", "a.b"])
def test_m8_any_wrapper_is_found(key, tmp_path):
    assert loads_as(squeezenet(), {key: squeezenet().state_dict(), "acc": 0.7}, tmp_path / "w.pth")["key"] == key


def test_m8_counts_that_a_profiler_left_are_told(tmp_path):
    state = squeezenet().state_dict() | {"total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)}
    assert loads_as(squeezenet(), state, tmp_path / "w.pth")["left"] == {"total_ops": 1, "total_params": 1}


def test_m8_weights_of_a_deeper_network_are_still_refused(tmp_path):
    torch.save(trained_like("resnet34").state_dict(), tmp_path / "w.pth")
    with pytest.raises(QcamError, match=r"do not fit the model: parameters .* unknown \(first: layer1\.2\.conv1\.weight\)"):
        load_model("resnet18", str(tmp_path / "w.pth"))


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod"])
def test_m9_a_wrapper_inside_the_network_is_dropped(wrapper, tmp_path):
    value = {name.replace("features.", f"features.{wrapper}."): tensor for name, tensor in squeezenet().state_dict().items()}
    assert f"features.{wrapper}.0.weight" in value
    assert loads_as(squeezenet(), value, tmp_path / "w.pth") == {"dropped": [wrapper]}


# --- heads and inputs of one's own ------------------------------------------------------------------------------------


def with_head(name: str, head: nn.Module, seed: int = 5) -> nn.Module:
    module = trained_like(name, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in head.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                part.reset_parameters()
    if hasattr(module, "fc"):
        module.fc = head
    elif isinstance(module.classifier, nn.Sequential) and not isinstance(head, nn.Sequential):
        last = max(index for index, part in enumerate(module.classifier) if isinstance(part, (nn.Linear, nn.Conv2d)))
        module.classifier[last] = head
    else:
        module.classifier = head
    return module.eval()


HEADS = {
    "two classes": ("shufflenet_v2_x0_5", lambda: nn.Linear(1024, 2)),
    "dropout and linear": ("shufflenet_v2_x0_5", lambda: nn.Sequential(nn.Dropout(0.3), nn.Linear(1024, 7))),
    "without bias": ("shufflenet_v2_x0_5", lambda: nn.Linear(1024, 3, bias=False)),
    "last of several": ("mobilenet_v2", lambda: nn.Linear(1280, 4)),
    "in place of several": ("mobilenet_v2", lambda: nn.Sequential(nn.Dropout(0.2), nn.Dropout(0.2), nn.Linear(1280, 4))),
    "a convolution": ("squeezenet1_1", lambda: nn.Conv2d(512, 5, 1)),
    "one output": ("shufflenet_v2_x0_5", lambda: nn.Linear(1024, 1)),
}


@pytest.mark.parametrize("kind", HEADS)
def test_m10_the_files_head_gives_the_classes(kind, tmp_path, caplog):
    caplog.set_level("INFO", "qcam")
    name, make = HEADS[kind]
    module = with_head(name, make())
    torch.save(module.state_dict(), tmp_path / "w.pth")
    loaded = load_model(name, str(tmp_path / "w.pth"))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = module(images)
        assert relative(loaded.module(images), wanted) < 1e-5
    assert loaded.classes == tuple(str(index) for index in range(max(2, wanted.shape[1])))
    assert f"a head of {wanted.shape[1]} " in caplog.text


def test_m10_several_layers_are_refused_with_the_reason(tmp_path):
    module = with_head("shufflenet_v2_x0_5", nn.Sequential(nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 2)))
    torch.save(module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(QcamError, match=r"fits but its head fc, which must be one Linear layer of 1024 features .*several"):
        load_model("shufflenet_v2_x0_5", str(tmp_path / "w.pth"))


def test_m10_names_come_from_the_option_and_must_be_as_many(tmp_path):
    torch.save(with_head("shufflenet_v2_x0_5", nn.Linear(1024, 3)).state_dict(), tmp_path / "w.pth")
    weights = str(tmp_path / "w.pth")
    assert load_model("shufflenet_v2_x0_5", weights, Wishes(classes=("a", "b", "c"))).classes == ("a", "b", "c")
    assert load_model("shufflenet_v2_x0_5", weights, Wishes(classes=3)).classes == ("0", "1", "2")
    for wrong in (2, ("a", "b"), ("a", "b", "c", "d")):
        with pytest.raises(QcamError, match=r"3 classes.*classes (asks for|gives)"):
            load_model("shufflenet_v2_x0_5", weights, Wishes(classes=wrong))
    with pytest.raises(QcamError, match="'a' twice"):
        Wishes(classes=("a", "b", "a"))


@pytest.mark.parametrize(
    ("given", "names"), [(1, ("0", "1")), (("cat", "dog"), ("cat", "dog")), (("dog",), ("not dog", "dog"))]
)
def test_m10_one_output_has_the_names_of_its_two_sides(given, names, tmp_path):
    torch.save(with_head("shufflenet_v2_x0_5", nn.Linear(1024, 1)).state_dict(), tmp_path / "w.pth")
    loaded = load_model("shufflenet_v2_x0_5", str(tmp_path / "w.pth"), Wishes(classes=given))
    assert loaded.classes == names


def test_m10_random_weights_take_the_wanted_classes():
    loaded = load_model("shufflenet_v2_x0_5", "random:0", Wishes(classes=6))
    assert len(loaded.classes) == 6
    assert load_model("timm:test_resnet", "random:0", Wishes(classes=("a", "b", "c"))).classes == ("a", "b", "c")


def test_m10_published_weights_keep_their_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached("shufflenet_v2_x0_5", tmp_path)
    with pytest.raises(QcamError, match=r"a head of 1000 classes .*classes asks for 2"):
        load_model("shufflenet_v2_x0_5", None, Wishes(classes=2))


def test_m10_one_input_channel_by_option(tmp_path):
    module = trained_like("shufflenet_v2_x0_5")
    module.conv1[0] = nn.Conv2d(1, 24, 3, 2, 1, bias=False)
    torch.save(module.eval().state_dict(), tmp_path / "w.pth")
    with pytest.raises(QcamError, match=r"grey pictures \(conv1\.0\.weight takes one channel\); add channels 1, and mean"):
        load_model("shufflenet_v2_x0_5", str(tmp_path / "w.pth"))
    loaded = load_model("shufflenet_v2_x0_5", str(tmp_path / "w.pth"), Wishes(channels=1))
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative(loaded.module(images), module(images)) < 1e-5
    assert loaded.preprocessing.channels == 1
    torch.save(shufflenet().state_dict(), tmp_path / "rgb.pth")
    with pytest.raises(QcamError, match="leave channels 1 out"):
        load_model("shufflenet_v2_x0_5", str(tmp_path / "rgb.pth"), Wishes(channels=1))
    with pytest.raises(QcamError, match="choose 1 or 3"):
        Wishes(channels=4)


# --- timm -------------------------------------------------------------------------------------------------------------


def timm_folder(folder: Path, **options: Any) -> nn.Module:
    import timm
    from timm.models import save_for_hf

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model("test_resnet", pretrained=False, **options).eval()
    save_for_hf(module, str(folder))
    return module


@pytest.mark.parametrize("prefix", ["timm:", ""])
def test_m11_a_folder_of_timms_opens_as_in_timm(prefix, tmp_path):
    import timm

    timm_folder(tmp_path / "mine", num_classes=4)
    reference = timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval()
    loaded = load_model(f"{prefix}local-dir:{tmp_path / 'mine'}", None)
    assert loaded.weights["sha256"] == hash_parameters(reference)
    assert loaded.weights["trained"] is True
    assert len(loaded.classes) == 4
    assert loaded.id == "timm:local-dir:mine"  # nothing of this machine


def test_m11_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(QcamError, match=r"is no folder of timm's: it has no config\.json"):
        load_model(f"timm:local-dir:{tmp_path}", None)


def test_m11_a_folder_with_two_sets_of_weights_is_refused(tmp_path):
    module = timm_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    both = {"state_dict": module.state_dict(), "state_dict_ema": {k: v + 1 for k, v in module.state_dict().items()}}
    torch.save(both, tmp_path / "pytorch_model.bin")
    with pytest.raises(QcamError, match=r"several sets of weights \(state_dict, state_dict_ema\).*weights_key"):
        load_model(f"timm:local-dir:{tmp_path}", None)
    found = load_model(f"timm:local-dir:{tmp_path}", str(tmp_path / "pytorch_model.bin"), Wishes(weights_key="state_dict"))
    assert found.weights["sha256"] == hash_parameters(module)


def test_m11_the_hub_is_asked_and_without_a_network_the_way_out_is_named(monkeypatch):
    import timm

    asked = []

    def refuse(name: str, **_options: object) -> nn.Module:
        asked.append(name)
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(QcamError, match=r"timm:hf-hub:org/name could not be downloaded .*model\.safetensors of org/name"):
        load_model("timm:hf-hub:org/name", None)
    assert asked == ["hf-hub:org/name"]


def test_m12_a_network_without_classifier_is_refused():
    with pytest.raises(QcamError, match=r"returns 2048 features, no classes: .*weights FILE classes N"):
        load_model("timm:resnet50_clip_gap.openai", "random:0")
