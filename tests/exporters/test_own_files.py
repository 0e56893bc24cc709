"""A float ONNX file, or a program of `torch.export`, becomes a bundle that checks; what cannot be decided is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from foreign_graphs import (
    INSIDE,
    SIDE,
    across_pictures,
    before_input,
    constants_as_inputs,
    fixed_batch,
    float_graph,
    normalising,
    operator,
    pictures,
    quantized,
    with_identities,
    with_softmax,
)
from onnx import ModelProto, TensorProto
from own_networks import GIVEN, as_program, own

import qcam
from qcam.commands.check import main as check_command
from qcam.commands.export import main as export_command
from qcam.exporters.importing import float_file
from qcam.runtime.bundle import Bundle, load_bundle, load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings


def save(model: ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def export(path: Path | str, folder: Path, *options: object) -> Result:
    return CliRunner().invoke(export_command, [str(path), "--output", str(folder), *map(str, options)])


def exported(path: Path, folder: Path, *options: object) -> Bundle:
    found = export(path, folder, *options)
    assert found.exit_code == 0, found.output
    return load_bundle(folder / "net")


def said(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def refused(model: ModelProto, folder: Path, *options: object) -> str:
    told = said(export(save(model, folder), folder / "out", *options))
    assert not (folder / "out").exists()
    return told


def logits_of(bundle: Bundle, images: np.ndarray, precision: str = "f32") -> np.ndarray:
    return DeployedModel(bundle, precision, SessionSettings()).run(images).logits


def run_file(model: ModelProto, images: np.ndarray, output: str = "scores") -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run([output], {session.get_inputs()[0].name: images})[0]
    return found


def checks(bundle: Bundle) -> None:
    """`qcam-check` finds that the bundle is computed as it is simulated."""
    place = bundle.folder.parent / "check"
    found = CliRunner().invoke(check_command, [str(bundle.folder), "--limit", "2", "--output", str(place)])
    assert found.exit_code == 0, found.output
    told = json.loads((place / "check.json").read_text())
    assert told["verdict"] == "holds"


# --- refusals -----------------------------------------------------------------------------------------------------------


def test_what_normalises_pictures_is_asked_for_and_never_guessed(tmp_path: Path) -> None:
    told = refused(float_graph(), tmp_path)
    assert "nothing in the graph normalises pictures" in told
    assert "give the --mean and --std that the network was trained with, or --like" in told


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_file_that_is_quantized_already_is_refused_with_the_command_that_takes_it(form: str, tmp_path: Path) -> None:
    told = refused(quantized(form), tmp_path)
    assert "is quantized already" in told
    assert "take it as it is with qcam-import" in told
    with pytest.raises(qcam.UnsupportedGraphError, match=r"take it as it is with qcam\.import_onnx"):
        qcam.export(tmp_path / "net.onnx", output=tmp_path / "out")


def test_a_file_that_reads_across_the_pictures_of_a_batch_is_refused(tmp_path: Path) -> None:
    told = refused(across_pictures(float_graph()), tmp_path, *GIVEN, "--cam-layer", "last")
    assert "f32 answers a picture otherwise in a batch than alone" in told


def test_a_float16_file_is_refused_and_not_told_to_be_quantized(tmp_path: Path) -> None:
    model = float_graph()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "fc_b")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), "fc_b"))
    told = refused(model, tmp_path, *GIVEN)
    assert "holds float16" in told
    assert "save the network in float32 without it" in told


def test_an_open_size_is_asked_for_by_the_option_of_this_command(tmp_path: Path) -> None:
    model = float_graph()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    told = refused(model, tmp_path, *GIVEN)
    assert "size is not known; give --crop" in told
    assert "--size" not in told
    bundle = exported(tmp_path / "net.onnx", tmp_path / "out", *GIVEN, "--crop", SIDE, "--precision", "f32")
    assert bundle.preprocessing.crop == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--weights", "w.pth"), "--weights w.pth: net holds its own weights; leave it out"),
        (("--weights-key", "ema"), "--weights-key ema: net holds its own weights; leave it out"),
        (("--channels", "1"), "--channels: net says itself how many channels it takes"),
        (("--mean", "0.5"), "--mean and --std belong together"),
        (("--like", "b", "--mean", "0.5", "--std", "0.5"), "--like says what --mean says too"),
        (("--like", "b", "--classes", "4"), "--like says what --classes says too"),
        (("--name", " "), "--name is empty"),
        (("--opset", "9", *GIVEN), "opset 9 is not supported; choose 18 to 24"),
        (("--logits", "none", *GIVEN), "has no tensor none for --logits; nearest:"),
        (("--cam-layer", "none", *GIVEN), "has no tensor none for --cam-layer; maps with similar names:"),
        (("--classes", "7", *GIVEN), "no output has 7 classes"),
        (("--crop", "64", *GIVEN), "is not the size 64,64 that was asked for"),
    ],
)
def test_what_contradicts_the_file_is_refused_by_option(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in refused(float_graph(), tmp_path, *options)


@pytest.mark.parametrize("option", ["--trained=yes", "--name=x", "--logits=x", "--layout=NCHW", "--values=unit", "--like=b"])
def test_what_is_told_of_own_networks_is_refused_for_a_name(option: str, tmp_path: Path) -> None:
    told = said(export("squeezenet1_1", tmp_path / "out", "--weights", "random:0", option))
    assert f"{option.partition('=')[0]} is told of networks of your own" in told
    assert not (tmp_path / "out").exists()


def test_a_file_inside_a_bundle_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    told = said(export(tiny_bundle.path("f32"), tmp_path / "out"))
    assert "is a file inside the bundle" in told


def test_a_file_that_does_not_run_is_refused_with_the_words_of_onnx_runtime(tmp_path: Path) -> None:
    model = float_graph()
    model.graph.initializer[0].dims[1] = 2  # the stem reads two channels
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[: 8 * 2 * 9 * 4]
    told = refused(model, tmp_path, *GIVEN)
    assert "ONNX Runtime does not run" in told
    assert "has to run before it can be quantized" in told


def test_a_graph_that_computes_another_thing_than_the_file_makes_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof is against the user's own bytes: a fold that went wrong is found."""
    folded = float_file._folded

    def wrong(*given: object) -> ModelProto:
        model = folded(*given)  # type: ignore[arg-type]
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "fc_b")
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, "fc_b"))
        return model

    monkeypatch.setattr(float_file, "_folded", wrong)
    told = refused(float_graph(), tmp_path, *GIVEN, "--precision", "f32")
    assert "the logits of f32 in ONNX Runtime are not those of net.onnx" in told


# --- what is made -------------------------------------------------------------------------------------------------------


def test_a_float_file_becomes_three_precisions_that_check(tmp_path: Path) -> None:
    model = float_graph()
    found = export(save(model, tmp_path), tmp_path / "out", *GIVEN, "--resize", "36")
    assert found.exit_code == 0, found.output
    assert "the last map before pooling" in found.output
    assert "shorter side 36" in found.output
    bundle = load_bundle(tmp_path / "out" / "net")
    assert [entry.name for entry in bundle.precisions] == ["f32", "int16", "int8"]
    assert bundle.trained is None
    assert bundle.cam_layer.tensor == "last"
    assert bundle.precision("int8").tap.dtype == "uint8"
    images = pictures(3)
    np.testing.assert_allclose(logits_of(bundle, images), run_file(model, images), rtol=1e-4, atol=1e-5)
    for precision, bound in (("int16", 2e-3), ("int8", 0.1)):
        error = np.linalg.norm(logits_of(bundle, images, precision) - run_file(model, images))
        assert error < bound * np.linalg.norm(run_file(model, images)), precision
    checks(bundle)


@pytest.mark.parametrize("trained", ["yes", "no", "unknown"])
def test_whether_it_is_trained_stands_in_the_manifest(trained: str, tmp_path: Path) -> None:
    found = export(save(float_graph(), tmp_path), tmp_path / "out", *GIVEN, "--precision", "f32", "--trained", trained)
    told = json.loads((tmp_path / "out" / "net" / "bundle.json").read_text())["model"]["weights"]
    assert told.get("trained") is {"yes": True, "no": False, "unknown": None}[trained]
    assert ("has random weights" in found.output) == (trained == "no")


def test_a_batch_normalization_is_folded_and_an_old_operator_set_is_raised(tmp_path: Path) -> None:
    """As the old exporter of torch wrote it."""
    network = own().eval()
    path = tmp_path / "net.onnx"
    torch.onnx.export(
        network, (torch.zeros(1, 3, 32, 32),), path, dynamo=False, opset_version=11, input_names=["x"], output_names=["scores"],
        dynamic_axes={"x": {0: "n"}, "scores": {0: "n"}}, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
    )  # fmt: skip
    before = onnx.load(path)
    assert any(node.op_type == "BatchNormalization" for node in before.graph.node)
    assert before.opset_import[0].version == 11
    found = export(path, tmp_path / "out", *GIVEN)
    assert found.exit_code == 0, found.output
    told = " ".join(found.output.split())
    assert "net.onnx: operator set 11 made 17 (onnx.version_converter), for quantizers need 13" in told
    bundle = load_bundle(tmp_path / "out" / "net")
    graph = load_onnx(bundle, "f32").graph
    assert not any(node.op_type in ("BatchNormalization", "Constant", "Identity") for node in graph.node)
    images = pictures(2)
    with torch.no_grad():
        wanted = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits_of(bundle, images), wanted, rtol=1e-4, atol=1e-5)
    checks(bundle)


def test_an_operator_set_that_is_asked_for_is_made(tmp_path: Path) -> None:
    bundle = exported(save(float_graph(), tmp_path), tmp_path / "out", *GIVEN, "--opset", 21)
    assert load_onnx(bundle, "f32").opset_import[0].version == 21
    kinds = {node.domain for node in load_onnx(bundle, "int16").graph.node if node.op_type == "QuantizeLinear"}
    assert kinds == {""}


def test_scores_are_taken_in_front_of_a_softmax(tmp_path: Path) -> None:
    model = with_softmax(float_graph())
    bundle = exported(save(model, tmp_path), tmp_path / "out", *GIVEN, "--precision", "f32")
    images = pictures(2)
    np.testing.assert_allclose(logits_of(bundle, images), run_file(float_graph(), images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [constants_as_inputs, with_identities], ids=lambda change: change.__name__)
def test_files_written_in_other_ways_are_the_same_network(change, tmp_path: Path) -> None:
    model = float_graph()
    change(model)
    bundle = exported(save(model, tmp_path), tmp_path / "out", *GIVEN, "--precision", "f32,int8")
    images = pictures(2)
    np.testing.assert_allclose(logits_of(bundle, images), run_file(float_graph(), images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_a_fixed_batch_is_calibrated_and_run_as_it_is(method: str, tmp_path: Path) -> None:
    """Three photographs at a time, of which the fourth stands alone."""
    model = fixed_batch(float_graph(), 2)
    path = save(model, tmp_path)
    if method == "entropy":
        told = said(export(path, tmp_path / "out", *GIVEN, "--method", method, "--calibration-limit", 3))
        assert "takes 2 pictures at a time, and 3 photographs cannot be shown so but with copies" in told
    bundle = exported(path, tmp_path / "out", *GIVEN, "--method", method, "--calibration-limit", 3 if method == "minmax" else 4)
    assert bundle.precision("int8").input.batch == 2
    images = pictures(3)
    np.testing.assert_allclose(logits_of(bundle, images), run_file(float_graph(), images), rtol=1e-4, atol=1e-5)
    assert logits_of(bundle, images, "int8").shape == (3, 5)


@pytest.mark.parametrize("name", [name for name in INSIDE if "dequantized" not in name])
def test_a_file_that_normalises_by_itself_is_shown_pixels(name: str, tmp_path: Path) -> None:
    values, _, _, kind = INSIDE[name]
    bundle = exported(save(normalising(name, float_graph()), tmp_path), tmp_path / "out")
    taken = bundle.precision("int8").input
    assert taken.values == values
    assert taken.dtype == ("uint8" if kind == TensorProto.UINT8 else "float32")
    checks(bundle)


def test_an_input_with_its_channels_last_is_exported(tmp_path: Path) -> None:
    turned = operator("Transpose", ["picture"], "image", perm=[0, 3, 1, 2])
    model = before_input(float_graph(), turned, shape=("batch", SIDE, SIDE, 3))
    bundle = exported(save(model, tmp_path), tmp_path / "out", *GIVEN)
    assert bundle.precision("int8").input.layout == "NHWC"
    images = pictures(2)
    np.testing.assert_allclose(logits_of(bundle, images), run_file(float_graph(), images), rtol=1e-4, atol=1e-5)
    checks(bundle)


def test_a_layer_that_folding_would_take_away_carries_the_cam(tmp_path: Path) -> None:
    """A convolution in front of BatchNormalization: folded, its own result would be no tensor of the graph."""
    network = own().eval()
    path = tmp_path / "net.onnx"
    torch.onnx.export(
        network, (torch.zeros(1, 3, 32, 32),), path, dynamo=False, opset_version=17, input_names=["x"], output_names=["scores"],
        dynamic_axes={"x": {0: "n"}}, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
    )  # fmt: skip
    convolution = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"][-1].output[0]
    bundle = exported(path, tmp_path / "out", *GIVEN, "--precision", "f32", "--cam-layer", convolution)
    assert bundle.cam_layer.tensor == convolution


def test_weights_that_lie_beside_the_file_are_read_and_count_in_its_fingerprint(tmp_path: Path) -> None:
    fingerprints = []
    for scale in (1, 2):
        folder = tmp_path / str(scale)
        folder.mkdir()
        model = float_graph()
        head = next(tensor for tensor in model.graph.initializer if tensor.name == "fc_w")
        head.CopyFrom(onnx.numpy_helper.from_array(scale * onnx.numpy_helper.to_array(head), "fc_w"))
        onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=16)
        bundle = exported(folder / "net.onnx", folder / "out", *GIVEN, "--precision", "f32")
        fingerprints.append(bundle.weights.sha256)
        assert {path.name for path in bundle.folder.iterdir()} == {"bundle.json", "f32.onnx"}
    assert fingerprints[0] != fingerprints[1]


def test_a_bundle_of_the_same_network_tells_preprocessing_and_classes(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\ne\n")
    path = save(float_graph(), tmp_path)
    first = exported(path, tmp_path / "out", *GIVEN, "--resize", 40, "--classes", names, "--precision", "f32")
    found = export(path, tmp_path / "out", "--like", first.folder, "--name", "again", "--precision", "f32")
    assert found.exit_code == 0, found.output
    second = load_bundle(tmp_path / "out" / "again")
    assert second.classes == ("a", "b", "c", "d", "e")
    assert second.preprocessing == first.preprocessing
    assert second.model_id == "again"


def test_two_exports_of_one_file_are_equal(tmp_path: Path) -> None:
    path = save(float_graph(), tmp_path)
    first, second = (exported(path, tmp_path / place, *GIVEN) for place in ("one", "two"))
    assert [entry.sha256 for entry in first.precisions] == [entry.sha256 for entry in second.precisions]


# --- programs of torch.export -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 2])
def test_a_program_becomes_a_bundle_that_checks_and_what_is_trusted_is_told(batch: int | None, tmp_path: Path) -> None:
    path = as_program(tmp_path, batch=batch)
    found = export(path, tmp_path / "out", *GIVEN, "--trained", "yes")
    assert found.exit_code == 0, found.output
    assert "of which torch says: never load what you do not trust" in " ".join(found.output.split())
    bundle = load_bundle(tmp_path / "out" / "net")
    assert bundle.precision("f32").input.batch == batch
    assert bundle.trained is True
    images = pictures(3)
    with torch.no_grad():
        wanted = own().eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits_of(bundle, images), wanted, rtol=1e-4, atol=1e-5)
    checks(bundle)


def test_the_layer_of_a_program_is_named_by_its_module(tmp_path: Path) -> None:
    bundle = exported(as_program(tmp_path), tmp_path / "out", *GIVEN, "--cam-layer", "body.2", "--precision", "f32")
    assert bundle.precision("f32").tap.tensor != "body.2"
    assert DeployedModel(bundle, "f32", SessionSettings()).run(pictures(1)).tap.shape == (1, 8, 16, 16)
