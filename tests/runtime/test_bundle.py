import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import BundleError, QcamError
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import Bundle, PrecisionEntry, Tap, load_bundle, ordered_precisions, read_onnx
from qcam.runtime.described import Calibration, CamLayer, Quantization, Weights
from qcam.runtime.manifest import parse_manifest


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle.folder, tmp_path / "copy")
    return tmp_path / "copy"


def edit(folder, change):
    value = json.loads((folder / "bundle.json").read_text())
    change(value)
    (folder / "bundle.json").write_text(json.dumps(value))


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(QcamError, match=r"is no bundle: it has no bundle\.json"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": 1}'])
def test_a_broken_manifest_is_refused(copy, text):
    (copy / "bundle.json").write_text(text)
    with pytest.raises(QcamError, match="export the bundle again"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.pop("classes"), "classes is missing"),
        (lambda value: value.update(classes=[1, 2]), r"classes\[0\] is a whole number and has to be text"),
        (lambda value: value["model"].update(id=None), "model.id is missing and has to be text"),
        (lambda value: value["precisions"][1].pop("quantization"), r"precisions\[1\].quantization is missing"),
        (lambda value: value["precisions"][2]["tap"].update(scale=True), r"precisions\[2\].tap.scale is a truth value and has"),
        (lambda value: value["precisions"][2]["tap"].update(unit="m"), "says of a tap what this qcam does not know: 'unit'"),
        (lambda value: value["model"]["weights"].update(trained="no"), "model.weights.trained is text and has to be true or"),
        (lambda value: value["cam_layer"].update(tensor=7), "cam_layer.tensor is a whole number and has to be text"),
        (lambda value: value["calibration"].update(refused="none"), "calibration.refused is text and has to be a list"),
        (lambda value: value["precisions"][1]["quantization"].update(scheme=8), r"\[1\].quantization.scheme is a whole number"),
        (lambda value: value["preprocessing"].update(resize="256"), "resize is text and has to be a whole number"),
    ],
)
def test_a_manifest_of_other_types_is_refused_by_field(copy, change, words):
    edit(copy, change)
    with pytest.raises(QcamError, match=rf"{copy / 'bundle.json'}.*{words}.*; export the bundle again with force=True$"):
        load_bundle(copy)


def test_a_manifest_keeps_its_fingerprint_whatever_its_numbers_are_written_like(copy):
    edit(copy, lambda value: value["precisions"][0]["tap"].update(scale=1))
    value = json.loads((copy / "bundle.json").read_text())
    assert json.dumps(load_bundle(copy).to_json()) == json.dumps(value)
    edit(copy, lambda value: value.update(later={"x": 1}))
    assert json.dumps(load_bundle(copy).to_json()) == json.dumps(value)


@pytest.mark.parametrize("further", ["checkpoint", "further"])
def test_what_a_manifest_says_besides_is_kept_and_counts(copy, further):
    before = load_bundle(copy).fingerprint
    for object_of in (
        lambda value: value["model"]["weights"],
        lambda value: value["cam_layer"],
        lambda value: value["calibration"],
        lambda value: value["precisions"][1]["quantization"],
    ):
        edit(copy, lambda value, object_of=object_of: object_of(value).update({further: {"key": [1, None]}}))
        bundle = load_bundle(copy)
        assert object_of(bundle.to_json())[further] == {"key": [1, None]}
        assert bundle.fingerprint != before
        before = bundle.fingerprint
    assert json.loads(bundle.manifest_text()) == json.loads((copy / "bundle.json").read_text())


def test_what_a_manifest_does_not_say_is_not_put_into_it(copy):
    def bare(value):
        value["model"]["weights"], value["cam_layer"], value["calibration"] = {"name": "w", "sha256": None}, {}, {"images": 3}
        value["precisions"][1]["quantization"] = {"activation": "UINT16"}

    edit(copy, bare)
    bundle = load_bundle(copy)
    assert not bundle.trained
    assert bundle.to_json() == json.loads((copy / "bundle.json").read_text())


def test_another_schema_is_refused(copy):
    edit(copy, lambda value: value.update(schema_version=99))
    with pytest.raises(QcamError, match="schema version 99, this qcam reads 1 and 2"):
        load_bundle(copy)


def test_a_changed_file_is_refused(copy):
    data = bytearray((copy / "int8.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "int8.onnx").write_bytes(data)
    with pytest.raises(QcamError, match=r"int8\.onnx is not the file that was exported"):
        load_bundle(copy)


def test_a_missing_file_is_refused(copy):
    (copy / "int16.onnx").unlink()
    with pytest.raises(QcamError, match=r"int16\.onnx is missing"):
        load_bundle(copy)


def test_a_file_outside_the_bundle_is_refused(copy):
    shutil.move(copy / "f32.onnx", copy.parent / "f32.onnx")
    edit(copy, lambda value: value["precisions"][0].update(file="../f32.onnx"))
    with pytest.raises(QcamError, match="lies outside the bundle"):
        load_bundle(copy)


def test_a_precision_it_does_not_hold_is_refused(tiny_bundle):
    with pytest.raises(QcamError, match="holds no int4, only f32, int16, int8"):
        tiny_bundle.precision("int4")


@pytest.mark.parametrize("name", ["int8-vendor", "A8W8.2", "w4_a16", "x" * 40])
def test_a_precision_may_have_a_name_of_its_own(copy, name):
    edit(copy, lambda value: value["precisions"][2].update(name=name))
    assert load_bundle(copy).precision(name).file == "int8.onnx"


@pytest.mark.parametrize("name", ["", "int8@vendor", "int 8", "int8/vendor", "ïnt8", "x" * 41, "int8\n"])
def test_a_name_that_is_none_is_refused(copy, name):
    edit(copy, lambda value: value["precisions"][2].update(name=name))
    with pytest.raises(BundleError, match=r"names a precision .*: a name has 1 to 40 letters, digits"):
        load_bundle(copy)


def test_two_precisions_of_one_name_are_refused(copy):
    edit(copy, lambda value: value["precisions"][2].update(name="int16"))
    with pytest.raises(BundleError, match="holds precision int16 twice"):
        load_bundle(copy)


def test_precisions_have_an_order():
    names = ["w4", "int8", "f32", "Int8", "int8-vendor", "int16", "int8"]
    assert ordered_precisions(names) == ("f32", "int16", "int8", "Int8", "int8-vendor", "w4")


def test_what_is_wrong_with_a_bundle_is_an_error_of_its_own(copy, tiny_bundle):
    (copy / "int16.onnx").unlink()
    for refused in (lambda: load_bundle(copy), lambda: load_bundle(copy.parent), lambda: tiny_bundle.precision("int4")):
        with pytest.raises(BundleError):
            refused()


def test_the_fingerprint_follows_the_files_and_not_the_versions(copy):
    before = load_bundle(copy).fingerprint
    edit(copy, lambda value: value["versions"].update(python="9"))
    assert load_bundle(copy).fingerprint == before
    edit(copy, lambda value: value["preprocessing"].update(resize=40))
    assert load_bundle(copy).fingerprint != before


def test_without_external_files_a_fingerprint_is_what_it_always_was():
    """Runs are resumed, maps found again by it."""
    tap = Tap("t", "t_q", "uint8", 0.5, 3)
    how = Quantization(scheme="u8s8")
    entry = PrecisionEntry("int8", "int8.onnx", "0" * 64, "logits", tap, (Tap("s", "s", "float32"),), how)
    bundle = Bundle(
        folder=Path("x"),
        model_id="m",
        source="test",
        weights=Weights(name="random:0", sha256="1" * 64, trained=False),
        preprocessing=Preprocessing(resize=36, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3),
        classes=("a", "b"),
        cam_layer=CamLayer(requested="l", tensor="t"),
        calibration=Calibration(),
        precisions=(entry,),
        versions={"qcam": "1"},
        schema=1,
    )
    assert bundle.fingerprint == "5faf0b6051dae64c9b418ada9e271e3d795a505e0395d6d0c7ffc7fc38b1c8cb"
    assert "external" not in bundle.manifest_text()
    assert parse_manifest(bundle.manifest_text().encode(), Path("x"), "here") == bundle
    outside = replace(bundle, precisions=(replace(entry, external={"w.bin": "2" * 64}),))
    assert outside.fingerprint != bundle.fingerprint
    assert parse_manifest(outside.manifest_text().encode(), Path("x"), "here") == outside


def external(path, location):
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [4])],
        [helper.make_tensor_value_info("y", 1, [4])],
        [weight],
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
def test_external_weights_outside_the_folder_are_refused(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
    (tmp_path / "inner").mkdir()
    external(tmp_path / "inner" / "m.onnx", location)
    with pytest.raises(QcamError, match="would be read from outside the folder"):
        read_onnx(tmp_path / "inner" / "m.onnx")


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "w.bin").symlink_to(tmp_path / "secret.bin")
    external(tmp_path / "inner" / "m.onnx", "w.bin")
    with pytest.raises(QcamError, match="outside the folder"):
        read_onnx(tmp_path / "inner" / "m.onnx")


def test_external_weights_beside_the_file_are_read(tmp_path):
    (tmp_path / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    external(tmp_path / "m.onnx", "w.bin")
    model = read_onnx(tmp_path / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), [0, 1, 2, 3])
    onnx.checker.check_model(model)


def test_a_text_file_is_no_onnx_file(tmp_path):
    (tmp_path / "m.onnx").write_text("hello")
    with pytest.raises(QcamError, match="as an ONNX file"):
        read_onnx(tmp_path / "m.onnx")
