"""Networks of one's own, whole way (situations M4, M10, M13, M14): exported, proven, evaluated and checked; or refused."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from qcam.commands.export import main as export_command
from qcam.common.errors import QcamError
from qcam.evaluate.maps.scores import top_classes
from qcam.exporters.export import ExportOptions, export_bundle, override_preprocessing
from qcam.exporters.pooling import refuse_uneven_pooling
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.images.preprocessing import Preprocessing
from qcam.models.sources import LoadedModel
from qcam.models.weights import hash_parameters
from qcam.runtime.bundle import Bundle, load_bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings


class Small(nn.Module):
    """A network of two convolutions; `between` changes the feature map."""

    def __init__(self, channels: int = 3, outputs: int = 4, between: Any = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, outputs)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body[1](self.body[0](x))
        if self.between is not None:
            x = self.between(x)
        logits: torch.Tensor = self.head(self.body[3](self.body[2](x)).mean((2, 3)))
        return logits


def loaded(
    module: nn.Module, preprocessing: Preprocessing, classes: tuple[str, ...] = ("a", "b", "c", "d"), *, trained: bool = False
) -> LoadedModel:
    module.eval().requires_grad_(False)
    record = {"name": "w.pth", "sha256": hash_parameters(module), "trained": trained}
    return LoadedModel("small", "test", module, preprocessing, classes, record, "")


def small(channels: int = 3, outputs: int = 4, between: Any = None, seed: int = 0) -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Small(channels, outputs, between)


RGB = Preprocessing(resize=36, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
GREY = Preprocessing(resize=36, crop=(32, 32), mean=(0.4,), std=(0.2,))


class Overflow(nn.Module):
    """Finite on a blank picture, infinite on a photograph, and finite again behind."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        big = (x * 1e25) * (x * 1e25)
        return torch.clamp(big, 0, 6)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_m4_the_first_tensor_that_overflows_on_photographs_is_named(method, tmp_path):
    zero_mean = Preprocessing(resize=36, crop=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    model = loaded(small(between=Overflow()), zero_mean)
    assert torch.isfinite(model.module(torch.zeros(1, 3, 32, 32))).all()
    options = ExportOptions(precisions=("f32", "int8"), method=method)
    with pytest.raises(QcamError, match=r"overflows on calibration photographs: \S+ \(Mul\) is the first tensor") as refused:
        export_bundle(model, calibration_photographs(), options, tmp_path / "b")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_m4_logits_that_are_no_numbers_on_a_photograph_are_refused_in_f32_alone(tmp_path):
    class Lost(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            big = (x * 1e25) * (x * 1e25)
            return big - big * 2 + big

    model = loaded(small(between=Lost()), Preprocessing(resize=36, crop=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3))
    with pytest.raises(QcamError, match=r"f32 returns NaN or infinity on .*; the first tensor is \S+; check the weights"):
        export_bundle(model, [], ExportOptions(precisions=("f32",)), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_m4_a_mirror_that_disagrees_stops_the_bundle(tmp_path, monkeypatch):
    from qcam.exporters import proof

    monkeypatch.setitem(proof.BOUNDS, "int8", 1e-12)
    monkeypatch.setitem(proof._ALIKE, "int8", -1.0)  # nor does integer arithmetic
    monkeypatch.setattr(proof, "refuse_mixing", lambda *_arguments: None)
    with pytest.raises(QcamError, match=r"logits of int8 in ONNX Runtime are not the mirror's on .*at most 1e-12 is accepted"):
        export_bundle(loaded(small(), RGB), calibration_photographs(), ExportOptions(), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_that_is_far_off_is_told_where_integer_arithmetic_gives_the_logits(tmp_path, monkeypatch, caplog):
    from qcam.exporters import proof

    monkeypatch.setitem(proof.BOUNDS, "int8", 1e-12)
    export_bundle(loaded(small(), RGB), calibration_photographs(), ExportOptions(), tmp_path / "b")
    said = "the float simulation of int8 does not foretell what runs: the relative error of its logits is "
    assert [record.message for record in caplog.records if said in record.message]


def test_a_quotient_of_nothing_by_nothing_is_told_by_the_tensor_behind_it(tmp_path, caplog):
    """Sums that become nothing in codes of 8 bits, as in linear attention."""

    class Quotient(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            small = x.clamp(0, 1) * 0.005 + 0.002
            large = torch.cat([small, x[:, :1].abs() * 10 + 1], 1)  # one scale for both
            return large[:, : x.shape[1]] / large[:, : x.shape[1]].mean(1, keepdim=True) + x

    export_bundle(loaded(small(between=Quotient()), RGB), calibration_photographs(), ExportOptions(), tmp_path / "b")
    told = [record.message for record in caplog.records if "NaN first at" in record.message]
    assert told
    assert "the relative error of its logits is undefined" in told[0]


def test_m4_a_file_that_is_not_what_torch_computes_stops_the_bundle(tmp_path, monkeypatch):
    from qcam.exporters import export as exporting

    other = exporting.export_float(small(seed=1).eval(), (32, 32))
    monkeypatch.setattr(exporting, "export_float", lambda *_arguments: other)
    with pytest.raises(QcamError, match="logits of f32 in ONNX Runtime are not PyTorch's"):
        export_bundle(loaded(small(), RGB), [], ExportOptions(precisions=("f32",)), tmp_path / "b")


def test_m4_without_any_photograph_a_drawn_picture_proves_the_float_file(tmp_path, monkeypatch):
    from qcam.exporters import proof

    def absent() -> list[Any]:
        raise QcamError("not installed")

    monkeypatch.setattr(proof, "calibration_photographs", absent)
    for name, model in (("rgb", loaded(small(), RGB)), ("grey", loaded(small(1), GREY))):
        assert export_bundle(model, [], ExportOptions(precisions=("f32",)), tmp_path / name).precisions


# --- one output -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def score(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A network of one output; its bias is such that photographs are on both sides."""
    module = small(outputs=1)
    nn.init.normal_(module.head.weight, std=3.0, generator=torch.Generator().manual_seed(0))
    crops = [RGB.crop_image(Image.open(file.path).convert("RGB")) for file in evaluation_photographs()]
    with torch.no_grad():
        values = module(torch.from_numpy(RGB.normalise(np.stack(crops))))
        module.head.bias -= values.flatten().sort().values[9:11].mean()  # so that none of them is on the edge
    folder = tmp_path_factory.mktemp("score") / "small"
    return export_bundle(loaded(module, RGB, ("cat", "dog")), calibration_photographs(), ExportOptions(), folder)


def test_m10_the_side_of_zero_is_the_class():
    assert list(top_classes(np.float32([[-1], [0.5], [0]]))) == [0, 1, 0]


def test_m10_one_output_is_evaluated_as_the_score_it_is(score):
    import qcam

    found = [
        qcam.explain(score, Image.open(file.path), precisions=["f32", "int8"], provider="CPU")
        for file in evaluation_photographs()[:6]
    ]
    sides = {float(item.logits["f32"][0]) > 0 for item in found}
    assert sides == {True, False}
    for item in found:
        assert item.top1("f32") == ("dog" if item.logits["f32"][0] > 0 else "cat")
        assert set(item.target.values()) == {1}  # the score itself, on either side
        assert all(np.isfinite(values).all() for values in item.maps.values())


def test_m10_the_cam_of_a_score_does_not_depend_on_its_side(score, tmp_path):
    """With another bias the network says otherwise, and the map of where the score comes from stays."""
    import qcam

    module = small(outputs=1)
    nn.init.normal_(module.head.weight, std=3.0, generator=torch.Generator().manual_seed(0))
    picture = Image.open(evaluation_photographs()[0].path)
    found = []
    for name, bias in (("low", -50.0), ("high", 50.0)):
        nn.init.constant_(module.head.bias.requires_grad_(False), bias)
        options = ExportOptions(precisions=("f32",))
        bundle = export_bundle(loaded(module, RGB, ("cat", "dog")), [], options, tmp_path / name)
        found.append(qcam.explain(bundle, picture, precisions=["f32"], provider="CPU"))
    assert [item.top1("f32") for item in found] == ["cat", "dog"]
    np.testing.assert_allclose(found[0].maps["f32"], found[1].maps["f32"], rtol=1e-6)


def test_m10_a_study_and_a_check_of_one_output_count_sides(score, tmp_path, some_photographs):
    import qcam

    results = qcam.study(
        [score], images=some_photographs, output=tmp_path / "r", saliency="none", provider="CPU", faithfulness=True
    )
    table = results.to_pandas()
    assert set(table["target_class"].dropna()) == {1}
    assert set(table["top1"].dropna()) <= {0, 1}
    agrees = table[(table["precision"] == "int16") & (table["comparison"] == "vs_f32")]["top1_agrees"]
    assert agrees.dropna().all()
    verdict = qcam.check(score, images=some_photographs, precisions=["int8"], other_cpus=False)
    assert verdict


# --- one channel, and sizes -------------------------------------------------------------------------------------------


def test_m10_a_photograph_becomes_grey_by_itu_r_601():
    picture = Image.open(evaluation_photographs()[0].path).convert("RGB")
    crop = GREY.crop_image(picture)
    assert crop.shape == (32, 32, 3)
    lone = np.asarray(picture.convert("L").resize(GREY._place(picture.size, 36)[0], Image.Resampling.BILINEAR))
    top, left = (round((side - 32) / 2) for side in lone.shape)
    np.testing.assert_array_equal(crop[..., 0], lone[top : top + 32, left : left + 32])
    images = GREY.normalise(crop[None])
    assert images.shape == (1, 1, 32, 32)
    np.testing.assert_allclose(images[0, 0], (crop[..., 0] / 255 - 0.4) / 0.2, rtol=1e-4, atol=1e-5)


def test_m10_a_grey_bundle_says_so_and_runs(tmp_path, some_photographs):
    import qcam

    bundle = export_bundle(loaded(small(1), GREY), calibration_photographs(), ExportOptions(), tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert manifest["preprocessing"]["channels"] == 1
    assert load_bundle(tmp_path / "b") == bundle
    item = qcam.explain(bundle, Image.open(evaluation_photographs()[0].path), provider="CPU")
    assert np.isfinite(item.maps["int8"]).all()
    assert qcam.check(bundle, images=some_photographs, precisions=["int8"], other_cpus=False)


def test_m10_a_bundle_of_before_has_three_channels(tiny_bundle):
    record = tiny_bundle.preprocessing.to_json()
    assert "channels" not in record  # so that its fingerprint stays what it was
    assert Preprocessing.from_json(record).channels == 3
    with pytest.raises(QcamError, match="preprocessing"):
        Preprocessing.from_json(record | {"channels": 1})


def test_m10_height_and_width_of_a_crop_and_a_size():
    portrait = Preprocessing(resize=(256, 160), crop=(224, 128), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert Preprocessing.from_json(json.loads(json.dumps(portrait.to_json()))) == portrait
    picture = Image.fromarray(np.arange(300 * 500 * 3, dtype=np.uint32).astype(np.uint8).reshape(300, 500, 3))
    whole = np.asarray(picture.resize((160, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(portrait.crop_image(picture), whole[16:240, 16:144])
    np.testing.assert_allclose(portrait.crop_box(picture.size), (50.0, 18.75, 450.0, 281.25))
    with pytest.raises(QcamError, match="does not hold a crop"):
        Preprocessing(resize=(128, 224), crop=(224, 128), mean=(0.5,) * 3, std=(0.5,) * 3)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(export_command, [str(argument) for argument in arguments])


def test_m10_the_command_exports_a_portrait_network_of_ones_own_classes(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nbird\n")
    found = run(
        "timm:test_resnet", "--weights", "random:0", "--classes", names, "--crop", "96,64", "--resize", "112,80",
        "--precision", "f32", "--output", tmp_path / "out",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    bundle = load_bundle(tmp_path / "out" / "timm-test_resnet")
    assert bundle.classes == ("cat", "dog", "bird")
    assert (bundle.preprocessing.crop, bundle.preprocessing.resize) == ((96, 64), (112, 80))
    logits = DeployedModel(bundle, "f32", SessionSettings()).run(np.zeros((2, 3, 96, 64), np.float32)).logits
    assert logits.shape == (2, 3)


def test_m10_the_command_exports_a_grey_network(tmp_path):
    arguments = ("timm:test_resnet", "--weights", "random:0", "--channels", 1, "--precision", "f32", "--output", tmp_path)
    found = run(*arguments)
    assert found.exit_code == 2
    assert "--channels 1: no published mean" in found.output
    found = run(*arguments, "--mean", "0.5", "--std", "0.5")
    assert found.exit_code == 0, found.output
    bundle = load_bundle(tmp_path / "timm-test_resnet")
    assert (bundle.preprocessing.mean, bundle.preprocessing.std) == ((0.5,), (0.5,))


@pytest.mark.parametrize("value", ["224x128", "0", "1,2,3", "224,", "-5", "9000"])
def test_m10_a_size_that_is_none_is_refused_with_the_order(value, tmp_path):
    found = run("timm:test_resnet", "--crop", value, "--output", tmp_path)
    assert found.exit_code == 2
    assert "height first" in found.output


@pytest.mark.parametrize("text", ["0", "missing.txt"])
def test_m10_classes_that_are_none_are_refused(text, tmp_path):
    found = run("timm:test_resnet", "--weights", "random:0", "--classes", text, "--output", tmp_path)
    assert found.exit_code == 2
    assert "--classes" in found.output
    assert list(tmp_path.iterdir()) == []


# --- impossible options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), r"mean 0\.485,0\.456,0\.406 std 0\.229,0\.224,0\.225"),
        ((127.5,), None, r"mean 127\.5 is on the scale 0\.\.255.*mean 0\.5$"),
        (None, (58.0,), r"std 58 is on the scale 0\.\.255.*std 0\.227451$"),
        ((-0.5,), None, "none of it is below 0"),
        ((0.5,), (-0.5,), "none of it is below 0"),
        ((12345.0,), None, "give numbers on that scale"),
    ],
)
def test_m13_values_on_the_scale_of_bytes_are_refused_with_those_that_are_meant(mean, std, said):
    with pytest.raises(QcamError, match=said):
        override_preprocessing(RGB, mean=mean, std=std)


def test_m13_values_that_can_be_meant_are_taken():
    assert override_preprocessing(RGB, mean=(0.0,), std=(1.0,)).std == (1.0, 1.0, 1.0)
    assert override_preprocessing(GREY, mean=(0.5, 0.5, 0.5)).mean == (0.5,)
    with pytest.raises(QcamError, match=r"mean 0\.1,0\.2,0\.3: the network takes 1 channel; give one number"):
        override_preprocessing(GREY, mean=(0.1, 0.2, 0.3))


def test_m13_the_command_refuses_before_anything_is_written(tmp_path):
    found = run("timm:test_resnet", "--weights", "random:0", "--mean", "123.675,116.28,103.53", "--output", tmp_path / "out")
    assert found.exit_code == 2
    assert "divided by 255 that is --mean 0.485,0.456,0.406" in found.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "given", "sides"), [((256, 256), "7×7", "crop 251 or 252 or 253 or 254"), ((128, 128), "3×3", "")]
)
def test_m14_a_pooling_that_does_not_divide_is_named_with_sizes_that_work(size, given, sides, tmp_path):
    from torchvision import models

    module = models.alexnet(weights=None).eval()
    with pytest.raises(QcamError, match=rf"avgpool \(AdaptiveAvgPool2d\) makes 6×6 of {given}, .*{sides}") as refused:
        refuse_uneven_pooling(module, size)
    for side in re.findall(r"\d+", str(refused.value).partition("give crop")[2]):
        refuse_uneven_pooling(module, (int(side), int(side)))


def test_m14_what_divides_is_exported(tmp_path):
    class Pooled(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(nn.functional.adaptive_avg_pool2d(self.pool(self.body(x)), 1).flatten(1))
            return logits

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Pooled()
        module.pool = nn.AdaptiveAvgPool2d(4)
    assert export_bundle(loaded(module, RGB), calibration_photographs(), ExportOptions(), tmp_path / "b").precisions
    uneven = Preprocessing(resize=40, crop=(40, 40), mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(QcamError, match=r"pool \(AdaptiveAvgPool2d\) makes 4×4 of 10×10, which do not divide"):
        export_bundle(loaded(module, uneven), calibration_photographs(), ExportOptions(), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_m17_a_folder_of_links_says_that_they_are_links(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in evaluation_photographs()[:3]:
        (folder / file.name).symlink_to(file.path)
    found = run("timm:test_resnet", "--weights", "random:0", "--calibration", folder, "--output", tmp_path / "out")
    assert found.exit_code == 2
    last = found.output.strip().replace("\n", " ")
    assert "no image in" in last
    assert "3 files are links out of the folder" in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "values", "said"),
    [("mean", (float("nan"),) * 3, "mean nan,nan,nan: that is no number"), ("std", (1e-30,) * 3, r"below 0\.001"),
     ("std", (float("inf"),) * 3, "std inf,inf,inf: that is no number")],
)  # fmt: skip
def test_m13_numbers_that_no_network_was_trained_with_are_refused(option, values, said):
    with pytest.raises(QcamError, match=said):
        override_preprocessing(RGB, **{option: values})


def test_m14_a_picture_too_small_for_the_network_is_refused_with_sizes_that_work():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(8), nn.Flatten(), nn.AdaptiveAvgPool1d(2)).eval()
    with pytest.raises(QcamError, match=r"does not run with pictures of 8×8 pixels \(.*\); give crop 10 or 11 or 12 or 13"):
        refuse_uneven_pooling(module, (8, 8))
    refuse_uneven_pooling(module, (10, 10))
