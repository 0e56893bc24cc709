"""A foreign file becomes a bundle: its bytes kept, a copy that hands out the CAM layer held against them bit for bit."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import foreign_graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_graphs import (
    CODES,
    INSIDE,
    SIDE,
    VARIANTS,
    before_input,
    fixed_batch,
    float_graph,
    normalising,
    operator,
    quantized,
    returning_codes,
    tapped,
    variant,
    with_outputs,
    with_softmax,
)
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

import qcam
from qcam.common.errors import ProviderError, QcamError, UnsupportedGraphError
from qcam.exporters.importing import bundling, ordering, proof
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.external import external_hashes
from qcam.runtime.mirror import Mirror
from qcam.runtime.normal import normalised

#: How the pictures of the small classifier are normalised outside.
OUTSIDE = {"mean": 0.5, "std": 0.25}


def save(model: ModelProto, folder: Path, name: str = "vendor.onnx") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def import_model(model: ModelProto, folder: Path, **options: object) -> qcam.Bundle:
    path = save(model, folder / "given")
    given = {"output": folder / "bundles", **options}
    return qcam.import_onnx(path, **given)  # type: ignore[arg-type]


def decided(bundle: qcam.Bundle, precision: str = "int8") -> dict[str, list[str]]:
    told = bundle.precision(precision).quantization.further["imported"]
    assert isinstance(told, dict)
    return told


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def held_against_the_file(bundle: qcam.Bundle, output: str, precision: str = "int8") -> tuple[np.ndarray, np.ndarray]:
    """Return what a session of the bundle gives and what the user's own bytes give, of five pictures."""
    entry = bundle.precision(precision)
    images = bundle.preprocessing.normalise(crops(5))
    session = onnxruntime.InferenceSession(bundle.deployed_path(precision), providers=["CPUExecutionProvider"])
    fed = entry.input.feed(images, bundle.preprocessing)
    parts = [session.run([output], {entry.input.name: entry.input.filled(fed[part])})[0] for part in entry.input.chunks(5)]
    return DeployedModel(bundle, precision, SessionSettings()).run(images).logits, np.concatenate(parts)[:5]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_of_writing_a_file_is_imported_with_its_bytes_kept(name: str, tmp_path: Path) -> None:
    model = variant(name)
    bundle = import_model(model, tmp_path, **OUTSIDE)
    entry = bundle.precision("int8")
    assert entry.original is not None
    assert (bundle.folder / entry.original.file).read_bytes() == model.SerializeToString()
    assert entry.proof == "bitwise"
    assert (entry.tap.tensor, entry.tap.dtype) == ("last", "uint8")
    assert entry.session == {}
    assert bundle.trained is None
    assert qcam.load_bundle(str(bundle.folder)) == bundle
    ours, theirs = held_against_the_file(bundle, "scores")
    assert np.array_equal(ours, theirs)


def test_a_file_of_kernels_of_codes_is_imported_with_the_kernel_s_codes(tmp_path: Path) -> None:
    bundle = import_model(quantized("QOperator"), tmp_path, **OUTSIDE)
    entry = bundle.precision("int8")
    assert (entry.proof, entry.tap.dtype, entry.quantization.format) == ("bitwise", "uint8", "QOperator")
    ours, theirs = held_against_the_file(bundle, "scores")
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("activation", "weight", "opset", "name"),
    [("QUInt16", "QInt16", 17, "int16"), ("QUInt16", "QInt8", 17, "int16"), ("QUInt16", "QInt16", 21, "int16"),
     ("QInt8", "QInt8", 13, "int8"), ("QUInt8", "QUInt8", 24, "int8")],
)  # fmt: skip
def test_codes_of_8_and_16_bits_and_every_operator_set_are_in(
    activation: str, weight: str, opset: int, name: str, tmp_path: Path
) -> None:
    bundle = import_model(quantized("QDQ", activation, weight, opset=opset), tmp_path, **OUTSIDE)
    entry = bundle.precision(name)
    # A tap of signed codes has one reader more in the copy, so that x86 kernels are others there.
    assert entry.proof == ("differs" if activation == "QInt8" else "bitwise")
    assert (entry.quantization.activation, entry.quantization.weight) == (activation[1:].upper(), weight[1:].upper())


@pytest.mark.parametrize("name", INSIDE)
def test_pixels_reach_a_file_that_normalises_by_itself(name: str, tmp_path: Path) -> None:
    bundle = import_model(normalising(name), tmp_path)
    entry = bundle.precision("int8")
    assert (entry.input.values, entry.proof) == (INSIDE[name][0], "bitwise")
    pixels = crops(2)
    fed = entry.input.feed(bundle.preprocessing.normalise(pixels), bundle.preprocessing).astype(np.float64)
    wanted = pixels.transpose(0, 3, 1, 2) / (255 if entry.input.values == "unit" else 1)
    assert np.allclose(fed, wanted, rtol=1e-6)
    ours, theirs = held_against_the_file(bundle, "scores")
    assert np.array_equal(ours, theirs)


def test_channels_behind_height_and_width_and_codes_of_pixels_come_in(tmp_path: Path) -> None:
    model = before_input(
        quantized(),
        operator("Cast", ["picture"], "float", to=1),
        operator("Transpose", ["float"], "turned", perm=[0, 3, 1, 2]),
        operator("Div", ["turned", "f"], "image"),
        held={"f": np.float32(64)},
        kind=TensorProto.UINT8,
        shape=("batch", SIDE, SIDE, 3),
    )
    entry = import_model(model, tmp_path).precision("int8")
    assert (entry.input.layout, entry.input.dtype, entry.input.values) == ("NHWC", "uint8", "pixels")
    assert entry.proof == "bitwise"


@pytest.mark.parametrize("count", [1, 2])
def test_a_fixed_batch_is_kept_to(count: int, tmp_path: Path) -> None:
    bundle = import_model(fixed_batch(quantized(), count), tmp_path, **OUTSIDE)
    assert bundle.precision("int8").input.batch == count
    ours, theirs = held_against_the_file(bundle, "scores")
    assert np.array_equal(ours, theirs)


def test_a_batch_that_is_said_to_be_any_and_fixed_inside_is_found_out(tmp_path: Path) -> None:
    model = quantized()
    flat = next(node for node in model.graph.node if node.op_type == "Flatten")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 16], np.int64), "to"))
    flat.CopyFrom(operator("Reshape", [flat.input[0], "to"], flat.output[0]))
    bundle = import_model(model, tmp_path, **OUTSIDE)
    assert bundle.precision("int8").input.batch == 1
    assert decided(bundle)["batch"] == ["fixed to 1", "it does not run with more, though its input says any"]


def test_a_softmax_is_left_behind_the_logits(tmp_path: Path) -> None:
    bundle = import_model(with_softmax(quantized()), tmp_path, **OUTSIDE)
    entry = bundle.precision("int8")
    assert (entry.logits, entry.proof) == ("scores", "bitwise")
    ours, theirs = held_against_the_file(bundle, "probabilities")
    shares = np.exp(ours - ours.max(axis=1, keepdims=True))
    assert np.allclose(shares / shares.sum(axis=1, keepdims=True), theirs, atol=1e-6)


def test_a_copy_can_be_imported_again(tmp_path: Path) -> None:
    first = import_model(returning_codes(quantized()), tmp_path, **OUTSIDE)
    again = onnx.load(first.path("int8"))
    second = import_model(again, tmp_path, logits="scores_codes", name="again", **OUTSIDE)
    assert second.precision("int8").logits == "qcam/scores/2"
    ours, theirs = held_against_the_file(second, "scores_codes")
    assert np.array_equal(ours, (theirs.astype(np.float32) - 120) / 8)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_softmax_that_is_quantized_is_left_behind_scores_that_are_dequantized(form: str, tmp_path: Path) -> None:
    bundle = import_model(quantized(form, softmax=True), tmp_path, **OUTSIDE)
    entry = bundle.precision("int8")
    assert entry.proof == "bitwise"
    assert entry.logits != "probabilities"
    ours, theirs = held_against_the_file(bundle, "probabilities")
    assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))
    assert len(np.unique(np.round(ours.sum(axis=1), 3))) > 1, "shares, not scores"


@pytest.mark.parametrize(("dtype", "step"), [(np.uint8, 120), (np.int8, 0)])
def test_scores_that_are_codes_are_dequantized_in_the_copy(dtype: type, step: int, tmp_path: Path) -> None:
    bundle = import_model(returning_codes(quantized(), dtype), tmp_path, **OUTSIDE)
    assert bundle.precision("int8").proof == "bitwise"
    ours, theirs = held_against_the_file(bundle, "scores_codes")
    assert theirs.dtype == dtype
    assert np.array_equal(ours, (theirs.astype(np.float32) - step) / 8)


def test_scores_of_one_place_are_made_batch_by_classes(tmp_path: Path) -> None:
    model = quantized()
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 5, 1, 1], np.int64), "to"))
    model.graph.node.append(operator("Reshape", ["scores", "to"], "placed"))
    del model.graph.output[:]
    bundle = import_model(with_outputs(model, "placed"), tmp_path, **OUTSIDE)
    ours, theirs = held_against_the_file(bundle, "placed")
    assert np.array_equal(ours, theirs.reshape(5, 5))


def test_features_in_front_of_the_scores_and_a_map_by_name(tmp_path: Path) -> None:
    model = with_outputs(quantized(), "last", first=True)
    bundle = import_model(model, tmp_path, cam_layer="branch", **OUTSIDE)
    entry = bundle.precision("int8")
    assert (entry.logits, entry.tap.tensor, [skip.tensor for skip in entry.skips]) == ("scores", "branch", ["stem_relu"])
    assert bundle.cam_layer.requested == "branch"


def test_a_file_that_hands_out_everything_itself_needs_no_copy(tmp_path: Path) -> None:
    model = tapped(quantized(), CODES)
    bundle = import_model(model, tmp_path, **OUTSIDE)
    entry = bundle.precision("int8")
    assert (entry.original, entry.proof) == (None, "")
    assert bundle.path("int8").read_bytes() == model.SerializeToString()


def outside(model: ModelProto, folder: Path, location: str) -> ModelProto:
    """Move weights into a file beside the model's."""
    data = b""
    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data") and tensor.data_type != TensorProto.INT64 and len(tensor.raw_data) > 32:
            values = tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", len(data)), ("length", len(values))):
                tensor.external_data.add(key=key, value=str(value))
            data += values
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    (folder / location).write_bytes(data)
    return model


def test_weights_beside_a_file_come_along_for_each_precision_apart(tmp_path: Path) -> None:
    given = tmp_path / "given"
    save(outside(float_graph(), given / "float", "weights.bin"), given / "float", "float.onnx")
    model = outside(quantized(), given, "weights.bin")
    bundle = import_model(model, tmp_path, float_file=given / "float" / "float.onnx", **OUTSIDE)
    for name in ("int8", "f32"):
        entry = bundle.precision(name)
        assert entry.external == external_hashes(bundle.path(name))
        assert list(entry.external) == ["weights.bin"]
        assert entry.proof == "bitwise"
    assert bundle.precision("int8").original is not None
    assert len({entry.external["weights.bin"] for entry in bundle.precisions}) == 2
    ours, theirs = held_against_the_file(bundle, "scores")
    assert np.array_equal(ours, theirs)


def test_weights_that_would_be_read_from_outside_the_folder_are_refused(tmp_path: Path) -> None:
    model = outside(quantized(), tmp_path / "given", "weights.bin")
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = "../weights.bin"
    with pytest.raises(qcam.BundleError, match="would be read from outside the folder"):
        import_model(model, tmp_path, **OUTSIDE)
    assert not (tmp_path / "bundles").exists()


def test_the_float_file_becomes_f32_and_what_both_choose_is_told(tmp_path: Path) -> None:
    path = save(float_graph(), tmp_path / "given", "float.onnx")
    bundle = import_model(quantized(), tmp_path, float_file=path, precision="int8-vendor", **OUTSIDE)
    assert [entry.name for entry in bundle.precisions] == ["f32", "int8-vendor"]
    assert decided(bundle, "int8-vendor")["top-1"][0] == "int8-vendor and f32 agree on 8 of 8"
    assert bundle.precision("f32").tap == qcam.load_bundle(str(bundle.folder)).precision("f32").tap


def test_a_float_file_alone_is_f32(tmp_path: Path) -> None:
    bundle = import_model(float_graph(), tmp_path, **OUTSIDE)
    assert [entry.name for entry in bundle.precisions] == ["f32"]


def test_two_float_files_are_refused(tmp_path: Path) -> None:
    path = save(float_graph(), tmp_path / "given", "float.onnx")
    with pytest.raises(QcamError, match=r"vendor.onnx is a float file, and so is float_file; give the quantized file"):
        import_model(float_graph(), tmp_path, float_file=path, **OUTSIDE)


def test_a_float_file_of_another_map_is_refused(tmp_path: Path) -> None:
    path = save(float_graph(), tmp_path / "given", "float.onnx")
    with pytest.raises(
        QcamError, match=r"vendor.onnx has a CAM layer of 16 × 8 × 8, float.onnx 8 × 16 × 16: .* float_cam_layer"
    ):
        import_model(quantized(), tmp_path, float_file=path, float_cam_layer="sum", **OUTSIDE)
    bundle = import_model(quantized(), tmp_path, float_file=path, cam_layer="sum", float_cam_layer="sum", **OUTSIDE)
    assert {entry.tap.tensor for entry in bundle.precisions} == {"sum"}


def test_preprocessing_and_classes_of_another_bundle_are_taken(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    first = import_model(quantized(), tmp_path, classes=names, resize=40, interpolation="bicubic", name="first", **OUTSIDE)
    second = import_model(quantized(), tmp_path, like=first, name="second", trained=True)
    assert (second.preprocessing, second.classes, second.trained) == (first.preprocessing, tuple(names), True)
    with pytest.raises(QcamError, match="like says what mean says too; leave one of them out"):
        import_model(quantized(), tmp_path, like=first, name="third", **OUTSIDE)


def test_mean_and_std_are_asked_for_and_never_assumed(tmp_path: Path) -> None:
    with pytest.raises(QcamError, match=r"nothing in the graph normalises pictures.*give the mean and std that the network"):
        import_model(quantized(), tmp_path)
    with pytest.raises(QcamError, match="mean and std belong together"):
        import_model(quantized(), tmp_path, mean=0.5)
    with pytest.raises(QcamError, match=r"vendor.onnx normalises pictures by itself; leave mean and std out"):
        import_model(normalising("pixels, Sub and Div"), tmp_path, **OUTSIDE)
    assert not (tmp_path / "bundles").exists()


def test_what_is_assumed_of_resizing_and_of_a_thousand_names_is_told(tmp_path: Path) -> None:
    told = decided(import_model(quantized(), tmp_path, **OUTSIDE))
    assert told["resize"] == [
        "shorter side 32, centre 32 × 32, bilinear", "assumed; give {resize} and {interpolation} where it is another way"
    ]  # fmt: skip
    assert told["classes"] == ["5: 0, 1 …", "numbers, for no names are given"]
    assert told["trained"] == ["not known", "nobody says"]
    assert told["session"] == ["ONNX Runtime's defaults", "no {session_config}"]


def test_session_settings_are_those_that_the_user_deploys_with(tmp_path: Path) -> None:
    setting = {"session.qdqisint8allowed": "1"}
    model = quantized("QDQ", "QInt8")
    as_it_is = import_model(model, tmp_path, session_config=setting, name="one", **OUTSIDE)
    by_default = import_model(model, tmp_path, name="two", **OUTSIDE)
    assert as_it_is.precision("int8").session == setting
    assert by_default.precision("int8").session == {}
    with pytest.raises(QcamError, match=r"session_config: session.x_file_path is about files"):
        import_model(model, tmp_path, session_config={"session.x_file_path": "1"}, name="three", **OUTSIDE)


def refused_by_session(model: ModelProto) -> None:
    """A type that a quantizer's attribute says: ONNX Runtime takes the zero point's alone."""
    foreign_graphs.without_zero_points(model)
    for node in foreign_graphs.quantizers(model):
        if node.op_type == "QuantizeLinear":
            node.attribute.append(onnx.helper.make_attribute("output_dtype", TensorProto.INT8))


def test_a_file_that_onnx_runtime_itself_does_not_run_is_refused_with_its_words(tmp_path: Path) -> None:
    model = quantized("QDQ", "QInt8", opset=21)
    refused_by_session(model)
    with pytest.raises(ProviderError, match=r"ONNX Runtime does not run vendor.onnx on the CPU: .*the file has to run") as told:
        import_model(model, tmp_path, **OUTSIDE)
    assert ".part" not in str(told.value), "the folder in which the bundle was made"
    assert not (tmp_path / "bundles").exists()


def test_what_no_mirror_knows_is_refused_before_any_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_session(*given: object, **options: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(onnxruntime, "InferenceSession", no_session)
    model = quantized()
    last = next(node for node in model.graph.node if "scores" in node.output)
    last.output[0] = "before"
    model.graph.node.append(operator("Erf", ["before"], "erf"))
    model.graph.node.append(operator("Mish", ["erf"], "mish"))
    model.graph.node.append(operator("Hardmax", ["mish"], "scores"))
    model.opset_import[0].version = 18
    with pytest.raises(UnsupportedGraphError, match="the mirror has no operator"):
        import_model(model, tmp_path, **OUTSIDE)


def with_border(*widths: NodeProto, held: dict[str, np.ndarray]) -> ModelProto:
    """Put a border to the right of and below the map that the last convolution reads; nodes compute its `widths`."""
    model = quantized()
    del model.graph.value_info[:]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in held.items())
    head = next(node for node in model.graph.node if node.name == "node_head")
    place = list(model.graph.node).index(head)
    for node in reversed([*widths, operator("Pad", [head.input[0], "widths"], "bordered")]):
        model.graph.node.insert(place, node)
    next(node for node in model.graph.node if node.name == "node_head").input[0] = "bordered"
    return model


def test_a_border_whose_widths_are_computed_from_constants_hides_no_map_behind_it(tmp_path: Path) -> None:
    model = with_border(  # as PyTorch's exporter writes torch.nn.functional.pad
        operator("ConstantOfShape", ["six"], "none", value=numpy_helper.from_array(np.zeros(1, np.int64))),
        operator("Concat", ["one", "none"], "backwards", axis=0),
        operator("Reshape", ["backwards", "pairs"], "by_axis"),
        operator("Slice", ["by_axis", "last_row", "first_row", "zeroth", "back"], "forwards"),
        operator("Transpose", ["forwards"], "turned", perm=[1, 0]),
        operator("Reshape", ["turned", "all"], "flat_widths"),
        operator("Cast", ["flat_widths"], "widths", to=TensorProto.INT64),
        held={
            "six": np.array([4]), "one": np.array([0, 1, 0, 1]), "pairs": np.array([-1, 2]), "last_row": np.array([-1]),
            "first_row": np.array([np.iinfo(np.int64).min]), "zeroth": np.array([0]), "back": np.array([-1]),
            "all": np.array([-1]),
        },
    )  # fmt: skip
    bundle = import_model(model, tmp_path, **OUTSIDE)
    entry = bundle.precision("int8")
    assert (entry.tap.tensor, entry.proof) == ("last", "bitwise")
    assert decided(bundle)["CAM layer"][0].endswith("16 × 9 × 9")
    ours, theirs = held_against_the_file(bundle, "scores")
    assert np.array_equal(ours, theirs)


def test_a_map_is_not_taken_for_the_last_one_where_others_behind_it_have_unknown_sizes(tmp_path: Path) -> None:
    model = with_border(
        operator("ReduceMax", ["image"], "brightest", keepdims=0),
        operator("Mul", ["brightest", "zeros"], "float_widths"),
        operator("Cast", ["float_widths"], "widths", to=TensorProto.INT64),
        held={"zeros": np.zeros(8, np.float32)},
    )
    with pytest.raises(QcamError, match=r"vendor\.onnx: the height and width of bordered \(Pad\) cannot be told from the file"):
        import_model(model, tmp_path, **OUTSIDE)
    assert not (tmp_path / "bundles").exists()


def changed_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a copy seem to differ, as files do of which exposing a tensor changes what ONNX Runtime makes of them."""
    first = proof._outputs

    def outputs(path: Path, *given: object) -> object:
        found = first(path, *given)  # type: ignore[arg-type]
        return found if ".original" in path.name else {name: value + 1 for name, value in found.items()}

    monkeypatch.setattr(proof, "_outputs", outputs)


def test_a_copy_that_differs_is_said_to_and_the_file_itself_gives_the_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    changed_copy(monkeypatch)
    bundle = import_model(quantized(), tmp_path, **OUTSIDE)
    entry = bundle.precision("int8")
    assert (entry.proof, entry.promised) == ("differs", False)
    assert "nothing is promised of the two" in caplog.text
    assert decided(bundle)["proof"][0] == "the copy's logits differ from the file's"


def test_a_copy_that_differs_without_scores_of_the_file_s_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_copy(monkeypatch)
    with pytest.raises(qcam.BundleError, match="changes what ONNX Runtime computes, and the file itself does not return"):
        import_model(with_softmax(quantized()), tmp_path, **OUTSIDE)
    assert not (tmp_path / "bundles").exists()


def test_a_bundle_that_exists_is_replaced_or_kept_when_told(tmp_path: Path) -> None:
    first = import_model(quantized(), tmp_path, **OUTSIDE)
    with pytest.raises(qcam.BundleError, match="exists already; use force=True to replace it, keep=True to leave it"):
        import_model(quantized(), tmp_path, **OUTSIDE)
    told = []
    import_model(quantized(), tmp_path, keep=True, on_bundle=lambda *given: told.append(given))
    assert told == [(first, True)]
    again = import_model(quantized(), tmp_path, force=True, name="vendor", trained=False, **OUTSIDE)
    assert (again.folder, again.trained) == (first.folder, False)


def test_a_file_is_never_replaced_by_its_own_bundle(tmp_path: Path) -> None:
    path = save(quantized(), tmp_path / "vendor")
    with pytest.raises(QcamError, match=r"lies in .*vendor, where its bundle would go"):
        qcam.import_onnx(path, output=tmp_path, force=True, **OUTSIDE)  # type: ignore[arg-type]
    assert path.is_file()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"values": "bytes"}, "values 'bytes' is unknown"),
        ({"layout": "NCWH"}, "layout 'NCWH' is unknown"),
        ({"precision": "a b"}, "'a b': a name has 1 to 40 letters"),
        ({"precision": "int16"}, "its activations are UINT8, so it is no int16; leave precisions out"),
        ({"precision": "f32"}, "is quantized .UINT8., so it is no f32"),
        ({"resize": 40, "squash": True}, "resize is a size or squash, not both"),
        ({"float_cam_layer": "x"}, "float_cam_layer is of the file of float_file, and there is none"),
        ({"name": " "}, "name is empty"),
        ({"classes": 7}, "no output has 7 classes"),
        ({"classes": "names.txt"}, "classes 'names.txt': give the number"),
        ({"size": 64}, "which is not the size 64,64"),
        ({"trained": "yes"}, "trained 'yes': give True or False"),
        ({"session_config": {"a": 1}}, "give a mapping of text to text"),
    ],
)
def test_what_means_nothing_is_refused_and_nothing_written(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(QcamError, match=message):
        import_model(quantized(), tmp_path, **OUTSIDE | wrong)
    assert not (tmp_path / "bundles").exists()


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"not onnx", b"\x08\x09"):
        path = tmp_path / "x.onnx"
        path.write_bytes(data)
        with pytest.raises(UnsupportedGraphError, match=r"cannot read .*x.onnx as an ONNX file"):
            qcam.import_onnx(path, output=tmp_path / "bundles")
    with pytest.raises(UnsupportedGraphError, match=r"nothing.onnx is no file; give the ONNX file to import"):
        qcam.import_onnx(tmp_path / "nothing.onnx", output=tmp_path / "bundles")


def test_manifests_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    first = import_model(quantized(), tmp_path, name="first", **OUTSIDE)
    second = import_model(quantized(), tmp_path, name="second", like=first)
    for bundle in (first, second):
        text = (bundle.folder / "bundle.json").read_text()
        assert str(tmp_path) not in text
        assert json.loads(text)["schema_version"] == 2


def test_a_large_file_is_imported_in_seconds(tmp_path: Path) -> None:
    """100 MB of weights that are there and hardly compute."""
    model = quantized()
    large = np.zeros((1 << 20, 25), np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(large, "large"), numpy_helper.from_array(np.int64(0), "at")])
    model.graph.node.append(operator("Gather", ["large", "at"], "row"))
    model.graph.node.append(operator("ReduceMax", ["row"], "zero", keepdims=0))
    last = next(node for node in model.graph.node if "scores" in node.output)
    last.output[0] = "before"
    model.graph.node.append(operator("Add", ["before", "zero"], "scores"))
    begin = time.perf_counter()
    bundle = import_model(model, tmp_path, **OUTSIDE)
    assert time.perf_counter() - begin < 30
    assert bundle.precision("int8").proof == "bitwise"


IMPORTS: dict[str, Callable[[], ModelProto]] = {
    "plain": quantized, "kernels of codes": lambda: quantized("QOperator"), "codes out": lambda: returning_codes(quantized()),
    "pixels in": lambda: normalising("pixels of uint8, Cast, Div, Sub and Div"), "softmax": lambda: with_softmax(quantized()),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPORTS)
def test_the_mirror_of_an_imported_file_follows_it_to_the_cam_layer(name: str, tmp_path: Path) -> None:
    """Fake-quant codes of the map are those of the deployed run, but for roundings of one step."""
    model = IMPORTS[name]()
    bundle = import_model(model, tmp_path, **({} if "pixels" in name else OUTSIDE))
    entry = bundle.precision("int8")
    images = bundle.preprocessing.normalise(crops(4))
    mirror = Mirror(normalised(load_onnx(bundle, "int8")), entry, preprocessing=bundle.preprocessing)
    simulated = mirror.forward(images).tap.numpy()
    deployed = DeployedModel(bundle, "int8", SessionSettings()).run(images).tap
    steps = np.abs(simulated - deployed.astype(np.float32))
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.98


def test_stages_are_told(tmp_path: Path) -> None:
    told: list[str] = []
    path = save(quantized(), tmp_path)
    bundling.import_file(ordering.ImportOrder(file=path, mean=(0.5,), std=(0.25,), output=tmp_path / "bundles"), told.append)
    assert told == ["reading", "writing the copy with the CAM layer", "running 8 photographs"]
