"""A file that becomes a further precision of a bundle: beside the others, whole or not at all."""

import json
import shutil

import numpy as np
import pytest
from foreign_graphs import fixed_batch, float_graph, quantized
from onnx import numpy_helper

import qcam
from qcam.common.errors import BundleError, QcamError
from qcam.runtime.bundle import load_bundle


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A bundle of f32 and int8."""
    folder = tmp_path_factory.mktemp("held")
    (folder / "small.onnx").write_bytes(quantized().SerializeToString())
    (folder / "float.onnx").write_bytes(float_graph().SerializeToString())
    return qcam.import_onnx(
        folder / "small.onnx", float_file=folder / "float.onnx", mean=0.5, std=0.25, resize=32, output=folder / "bundles",
        classes=5, trained=False,
    )  # fmt: skip


@pytest.fixture
def bundle(held, tmp_path):
    return load_bundle(str(shutil.copytree(held.folder, tmp_path / "bundle")))


@pytest.fixture
def vendor(tmp_path):
    file = tmp_path / "vendor.onnx"
    file.write_bytes(quantized("QOperator").SerializeToString())
    return file


def test_it_stands_beside_the_others_and_nothing_else_changes(bundle, held, vendor):
    made = qcam.import_onnx(vendor, into=bundle, precision="int8-vendor")
    assert [entry.name for entry in made.precisions] == ["f32", "int8", "int8-vendor"]
    for name in ("f32", "int8"):
        assert made.precision(name) == held.precision(name)
        assert made.path(name).read_bytes() == held.path(name).read_bytes()
    assert (made.model_id, made.weights, made.classes) == (held.model_id, held.weights, held.classes)
    assert made.fingerprint != held.fingerprint
    assert load_bundle(str(bundle.folder)).fingerprint == made.fingerprint
    verdict = qcam.check(made, precisions=("int8", "int8-vendor"), limit=1, other_cpus=False)
    assert [item.result.figures["codes"] for item in verdict.checked.judged] == [1.0, 1.0]


def test_a_name_that_is_taken_is_refused_and_replaced_by_force_alone(bundle, vendor):
    before = (bundle.folder / "bundle.json").read_bytes()
    with pytest.raises(BundleError, match="holds int8 already; give the file a name of its own"):
        qcam.import_onnx(vendor, into=bundle)
    assert (bundle.folder / "bundle.json").read_bytes() == before
    made = qcam.import_onnx(vendor, into=bundle, force=True)
    assert [entry.name for entry in made.precisions] == ["f32", "int8"]
    assert made.precision("int8").sha256 != bundle.precision("int8").sha256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"like": "there"}, "into says what like says too"),
        ({"mean": 0.5, "std": 0.5}, "into says what mean says too"),
        ({"name": "other"}, "into says what name says too"),
        ({"keep": True}, "keep=True leaves a bundle as it is, into adds to one"),
        ({"cam_layer": "branch_quantized", "precision": "other"}, "they are not seen at one place; correct cam_layer"),
    ],
)
def test_what_contradicts_it_is_refused_by_name(bundle, vendor, options, message):
    before = sorted(bundle.folder.rglob("*"))
    with pytest.raises(QcamError) as caught:
        qcam.import_onnx(vendor, into=bundle, **options)
    assert message in str(caught.value)
    assert sorted(bundle.folder.rglob("*")) == before


def test_a_bundle_of_schema_1_and_what_is_none_are_refused(bundle, vendor, tmp_path):
    with pytest.raises(QcamError, match="is no bundle in a folder here"):
        qcam.import_onnx(vendor, into=tmp_path)
    manifest = bundle.folder / "bundle.json"
    told = json.loads(manifest.read_text()) | {"schema_version": 1}
    for entry in told["precisions"]:
        for name in ("input", "session", "original", "proof"):
            entry.pop(name, None)
    manifest.write_text(json.dumps(told))
    with pytest.raises(BundleError, match="has a manifest of schema version 1"):
        qcam.import_onnx(vendor, into=bundle.folder)


def test_a_network_of_other_classes_is_refused(bundle, tmp_path):
    file = tmp_path / "other.onnx"
    model = fixed_batch(quantized(), 2)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    file.write_bytes(model.SerializeToString())
    with pytest.raises(QcamError):
        qcam.import_onnx(file, into=bundle, precision="other")


@pytest.mark.parametrize(("trained", "warned"), [(True, True), (False, False)])
def test_another_network_of_the_same_shape_is_told_by_its_classes(bundle, vendor, tmp_path, caplog, trained, warned):
    manifest = bundle.folder / "bundle.json"
    told = json.loads(manifest.read_text())
    told["model"]["weights"]["trained"] = trained
    manifest.write_text(json.dumps(told))
    made = qcam.import_onnx(vendor, into=bundle.folder, precision="int8-vendor")
    assert made.precision("int8-vendor").quantization.further["imported"]["top-1"][0] == "int8-vendor and f32 agree on 8 of 8"
    assert "choose the same class" not in caplog.text
    model = quantized("QOperator")
    for tensor in model.graph.initializer:
        if tensor.name == "fc_b_quantized":  # one class is far ahead of the others
            tensor.CopyFrom(numpy_helper.from_array(np.array([10**6, 0, 0, 0, 0], np.int32), tensor.name))
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    made = qcam.import_onnx(tmp_path / "other.onnx", into=bundle.folder, precision="int8-other")
    agreed = made.precision("int8-other").quantization.further["imported"]["top-1"][0]
    assert agreed == "int8-other and f32 agree on 0 of 8"
    said = f"other.onnx and f32 of {bundle.folder} choose the same class on none of 8 photographs: it is probably another "
    assert (f"{said}network" in caplog.text) is warned
