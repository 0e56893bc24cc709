"""A module of one's own, or code that builds one, becomes a bundle that checks, and the module stays as it was."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from foreign_graphs import pictures
from own_networks import GIVEN, Own, as_code, own
from torch import nn

import qcam
from qcam.commands.check import main as check_command
from qcam.commands.export import main as export_command
from qcam.images.preprocessing import Preprocessing
from qcam.models.weights import hash_parameters
from qcam.runtime.bundle import load_bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings

HOW = {"resize": 36, "crop": 32, "mean": 0.5, "std": 0.25}


def export(name: str, folder: Path, *options: object) -> Result:
    return CliRunner().invoke(export_command, [name, "--output", str(folder), *map(str, options)])


def said(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def refused(module: nn.Module, message: str, folder: Path, **options: object) -> None:
    given = {"preprocessing": HOW, "precisions": "f32", "output": folder / "out", **options}
    with pytest.raises(qcam.QcamError, match=message) as told:
        qcam.export(module, **given)  # type: ignore[arg-type]
    assert "\n" not in str(told.value)
    assert not (folder / "out").exists()


# --- modules: refusals --------------------------------------------------------------------------------------------------


def test_nothing_is_guessed_of_how_pictures_become_an_input(tmp_path: Path) -> None:
    message = "Own: nothing in a module tells how photographs become its input; give mean, std, crop"
    refused(own(), message, tmp_path, preprocessing=None)
    refused(own(), "give crop as it was trained", tmp_path, preprocessing=None, mean=0.5, std=0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sise": 3}, "preprocessing: 'sise' is unknown; it has resize, crop, mean, std, interpolation"),
        ({"crop": "32"}, "preprocessing: crop '32': give a whole number"),
        ({"crop": None}, "preprocessing: crop None is no size"),
        ({"mean": "a"}, "preprocessing: mean 'a': give a number"),
        ({"interpolation": "typo"}, "interpolation 'typo' is unknown"),
        ({"resize": 16}, "resize 16 does not hold a crop"),
    ],
)
def test_a_preprocessing_that_means_nothing_is_refused(wrong: dict[str, object], message: str, tmp_path: Path) -> None:
    refused(own(), message, tmp_path, preprocessing=HOW | wrong)


def test_a_preprocessing_has_to_say_how_pictures_are_resized(tmp_path: Path) -> None:
    refused(own(), "preprocessing: resize is missing", tmp_path, preprocessing={"crop": 32, "mean": 0.5, "std": 0.5})
    refused(own(), "give a Preprocessing, or a mapping", tmp_path, preprocessing=3)
    refused(own(), "preprocessing says what mean says too", tmp_path, mean=0.5, std=0.5)


def test_a_forward_hook_is_refused_by_layer_and_name(tmp_path: Path) -> None:
    network = own()

    def doubled(_module: nn.Module, _given: object, result: torch.Tensor) -> torch.Tensor:
        return 2 * result

    network.body[3].register_forward_hook(doubled)
    refused(network, r"Own: body\.3 has a forward hook \(.*doubled\), and an ONNX file has none", tmp_path)


class _Chance(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x)


class _OfBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class _Stubborn(nn.Module):
    def train(self, mode: bool = True) -> _Stubborn:
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class _Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("wrong\nin two lines")


class _Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = own()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.inner(x)}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: own(before=_Chance()), "answers one picture in two ways, in evaluation mode"),
        (lambda: own(before=_OfBatch()), "answers a picture otherwise in a batch than alone"),
        (lambda: own(before=_Stubborn()), "before stays in training mode after eval"),
        (lambda: own(before=_Failing()), r"test_own_modules\.py, line \d+, in forward: ValueError: wrong$"),
        (lambda: own(before=_Branching()), r"test_own_modules\.py, line \d+, in forward: .*data-dependent"),
        (lambda: own().half(), r"body\.0\.weight is of float16, and float32 is exported; give module\.float\(\)"),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3))), "is a TorchScript module"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), r"0\.weight has no values yet"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), r"returns shape \(2, 4, 30, 30\) for two pictures"),
        (_Pair, "returns dict for two pictures; let it return class scores alone"),
        (lambda: own(channels=1), r"line \d+, in forward: RuntimeError"),
    ],
)
def test_what_would_be_another_network_is_refused_by_name(network, message: str, tmp_path: Path) -> None:
    refused(network(), message, tmp_path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(qcam.QcamError, match=r"Own is a class; give a module of it: Own\(\)"):
        qcam.export(Own, output=tmp_path)  # type: ignore[call-overload]
    with pytest.raises(qcam.QcamError, match=r"a model of type int: give a name, a file, or a torch\.nn\.Module"):
        qcam.export(3, output=tmp_path)  # type: ignore[call-overload]
    refused(own(), "logits is told of files that hold a graph, and Own is a module", tmp_path, logits="x")
    refused(own(), "classes.*7", tmp_path, classes=7)


# --- modules: what is made ----------------------------------------------------------------------------------------------


def test_a_module_becomes_a_bundle_and_is_left_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="qcam")
    network = own()
    network.body[1].eval()  # frozen, as some train
    before, modes = copy.deepcopy(network.state_dict()), [part.training for part in network.modules()]
    bundle = qcam.export(network, preprocessing=HOW, classes=["a", "b", "c", "d"], trained=True, name="mine", output=tmp_path)
    assert [part.training for part in network.modules()] == modes
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert "mine: was in training mode (BatchNorm2d, Dropout); a copy in evaluation mode is exported" in caplog.text
    assert (bundle.model_id, bundle.folder, bundle.trained) == ("mine", tmp_path / "mine", True)
    assert bundle.classes == ("a", "b", "c", "d")
    assert bundle.preprocessing == Preprocessing(36, (32, 32), (0.5,) * 3, (0.25,) * 3)
    assert bundle.weights.sha256 == hash_parameters(network)
    images = pictures(2)
    with torch.no_grad():
        wanted = network.eval()(torch.from_numpy(images)).numpy()
    found = DeployedModel(bundle, "f32", SessionSettings()).run(images).logits
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    verdict = qcam.check(bundle, limit=2, other_cpus=False)
    assert verdict.verdict == "holds", verdict.reason


@pytest.mark.parametrize(("trained", "shown"), [(None, "unknown"), (False, "RANDOM")])
def test_a_module_of_which_nobody_says_whether_it_is_trained_is_unknown(trained, shown: str, tmp_path: Path) -> None:
    bundle = qcam.export(own(), preprocessing=HOW, trained=trained, precisions="f32", output=tmp_path)
    assert load_bundle(bundle.folder).trained is trained
    assert shown in bundle._repr_html_()
    assert bundle.model_id == "Own"


def test_a_grey_module_is_shown_one_channel(tmp_path: Path) -> None:
    bundle = qcam.export(own(channels=1), preprocessing=HOW, channels=1, precisions="f32", output=tmp_path)
    assert bundle.preprocessing.channels == 1


def test_what_wraps_a_network_is_taken_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="qcam")
    bundle = qcam.export(nn.DataParallel(own()), preprocessing=HOW, name="net", precisions="f32", output=tmp_path)
    assert "net: taken out of DataParallel" in caplog.text
    assert bundle.weights.sha256 == hash_parameters(own())


def test_several_modules_are_exported_in_one_call(tmp_path: Path) -> None:
    class Other(Own):
        pass

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = Other()
    bundles = qcam.export([own(), other], preprocessing=HOW, precisions="f32", output=tmp_path)
    assert [bundle.model_id for bundle in bundles] == ["Own", "Other"]
    with pytest.raises(qcam.BundleError, match="Own and Own would both become"):
        qcam.export([own(), own(1)], preprocessing=HOW, output=tmp_path / "again")
    with pytest.raises(qcam.QcamError, match="name x: 2 bundles would be made"):
        qcam.export([own(), other], preprocessing=HOW, name="x", output=tmp_path / "again")


# --- code that builds one -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "function", "message"),
    [
        ("", "", "name the function that returns the network, as in {path}:build"),
        ("", ":no such", "name the function that returns the network"),
        ("", ":other", "{path} has no function other; it has build"),
        ("def other():\n    return 3\n", ":other", "other() of {path} returns int; let it return a torch.nn.Module"),
        ("def other():\n    return 1 / 0\n", ":other", "other() of {path} failed: {path}, line 9, in other: ZeroDivisionError"),
        ("def other():\n    exit()\n", ":other", "other() of {path} failed: {path}, line 9, in other: SystemExit"),
        ("import nothing_of_that_name\n", ":build", "{path} cannot be run: {path}, line 8, in <module>: ModuleNotFoundError"),
        ("def other(:\n", ":build", "{path} cannot be run: {path}, line 8: SyntaxError"),
    ],
)
def test_errors_of_somebody_s_code_name_file_and_line(more: str, function: str, message: str, tmp_path: Path) -> None:
    path = as_code(tmp_path, more)
    told = said(export(f"{path}{function}", tmp_path / "out", *GIVEN, "--crop", 32))
    assert message.format(path=path) in told
    assert not (tmp_path / "out").exists()


def test_no_code_runs_before_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    path = as_code(tmp_path, "raise RuntimeError('ran')\n")
    told = said(export(f"{path}:build", tmp_path / "out"))
    assert "net:build: nothing in a module tells how photographs become its input; give --mean, --std, --crop" in told
    assert "its code is run" not in told
    assert "there is no file" in said(export(f"{tmp_path}/none.py:build", tmp_path / "out", *GIVEN, "--crop", 32))


def test_code_is_run_after_that_is_said_and_writes_nothing_beside_itself(tmp_path: Path) -> None:
    path = as_code(tmp_path, "import sys\nprint('RAN', file=sys.stderr)\n")
    there, paths = sorted(tmp_path.iterdir()), list(sys.path)
    found = export(f"{path}:build", tmp_path / "out", *GIVEN, "--crop", 32, "--weights", "random:3", "--classes", 4)
    assert found.exit_code == 0, found.output
    told = " ".join(found.output.split())
    assert f"{path}: its code is run now, to call build(); do so only with code that you trust" in told
    assert told.index("its code is run now") < told.index("RAN")
    assert sorted(tmp_path.iterdir()) == sorted([*there, tmp_path / "out"])
    assert sys.path == paths
    bundle = load_bundle(tmp_path / "out" / "net-build")
    assert (bundle.model_id, bundle.trained, bundle.weights.name) == ("net:build", False, "random:3")
    assert "has random weights" in told


def test_weights_are_put_into_what_code_builds(tmp_path: Path) -> None:
    torch.manual_seed(1)  # not all random weights have CAMs to compare
    trained = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "w.pth")
    options = (*GIVEN, "--crop", 32, "--weights", tmp_path / "w.pth", "--trained", "yes")
    found = export(f"{as_code(tmp_path)}:build", tmp_path / "out", *options)
    assert found.exit_code == 0, found.output
    bundle = load_bundle(tmp_path / "out" / "net-build")
    assert (bundle.trained, bundle.weights.name, bundle.weights.sha256) == (True, "w.pth", hash_parameters(trained))
    check = CliRunner().invoke(check_command, [str(bundle.folder), "--limit", "2", "--output", str(tmp_path / "check")])
    assert check.exit_code == 0, check.output
    assert json.loads((tmp_path / "check" / "check.json").read_text())["verdict"] == "holds"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--weights", "none.pth"), "no weights file at none.pth"),
        (("--weights", "IMAGENET1K_V1"), "net:build has no weights that have a name"),
        (("--weights", "random:1", "--trained", "yes"), "--weights random:1 are random; leave --trained out"),
        (("--values", "unit"), "--values is told of files that hold a graph"),
    ],
)
def test_options_that_do_not_fit_code_are_refused(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    told = said(export(f"{as_code(tmp_path)}:build", tmp_path / "out", *GIVEN, "--crop", 32, *options))
    assert message in told
