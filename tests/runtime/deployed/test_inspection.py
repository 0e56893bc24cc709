from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from qcam.common.errors import QcamError
from qcam.runtime.bundle import load_onnx
from qcam.runtime.codes import quantized_tensors
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.inspection import InspectedModel, as_in_the_file, exposed
from qcam.runtime.deployed.other_file import other_file
from qcam.runtime.graph import Graph

SETTINGS = SessionSettings(threads=2)


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)


def tensors_of(bundle, precision="int8"):
    return quantized_tensors(Graph(load_onnx(bundle, precision)))


def judging(bundle, file, names=None):
    return InspectedModel(
        bundle, "int8", SETTINGS, tensors_of(bundle) if names is None else names, other=other_file(bundle, "int8", file)
    )


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_every_tensor_is_handed_out_and_the_run_is_the_deployed_one(tiny_bundle, images, precision):
    names = tensors_of(tiny_bundle, precision)
    inspected = InspectedModel(tiny_bundle, precision, SETTINGS, names)
    assert (inspected.tensors, inspected.missing) == (names, ())
    found = inspected.run(images)
    plain = DeployedModel(tiny_bundle, precision, SETTINGS).run(images)
    assert np.array_equal(found.outputs.logits, plain.logits)
    assert np.array_equal(found.outputs.tap, plain.tap)
    assert tuple(found.codes) == names
    assert {codes.dtype.name for codes in found.codes.values()} == {"uint8" if precision == "int8" else "uint16"}
    assert np.array_equal(found.codes[tiny_bundle.precision(precision).tap.output], plain.tap)
    if precision == "int8":  # integer kernels stay what they are; float ones may not
        assert found.undisturbed
    else:
        assert inspected.deployed.placement.integer_kernels == 0


def test_maps_of_bytes_come_with_their_channels_last_and_look_as_in_the_file(tiny_bundle, images):
    names = tensors_of(tiny_bundle)
    inspected = InspectedModel(tiny_bundle, "int8", SETTINGS, names)
    turned = [name for name, output in inspected._everything.opened.outputs.items() if name != output]
    assert turned
    found = inspected.run(images)
    plain = as_in_the_file(load_onnx(tiny_bundle, "int8"), names).model
    session = onnxruntime.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, codes in zip(names, session.run(list(names), {"images": images}), strict=True):
        np.testing.assert_array_equal(found.codes[name], codes, err_msg=name)


def test_where_that_changes_the_run_maps_are_handed_out_as_they_are_in_the_file(tiny_bundle, images, monkeypatch):
    inspected = InspectedModel(tiny_bundle, "int8", SETTINGS, tensors_of(tiny_bundle))
    first = inspected._everything
    run = type(first).run
    monkeypatch.setattr(type(first), "run", lambda self, *given: (run(self, *given)[0], self is not first))
    found = inspected.run(images)
    assert found.undisturbed
    assert inspected._everything is not first
    assert first.session._session is None  # closed
    assert all(name == output for name, output in inspected._everything.opened.outputs.items())
    monkeypatch.setattr(type(first), "run", lambda self, *given: (run(self, *given)[0], False))
    assert not inspected.run(images).undisturbed  # there is no third way


def test_float_has_nothing_to_hand_out(tiny_bundle, images):
    found = InspectedModel(tiny_bundle, "f32", SETTINGS, ()).run(images)
    assert (found.codes, found.undisturbed, found.outputs.tap.dtype) == ({}, True, np.float32)


def test_another_files_own_scales_are_read_and_its_tap_is_exposed(tiny_bundle, images, tmp_path):
    model = load_onnx(tiny_bundle, "int8")
    tap = tiny_bundle.precision("int8").tap
    graph = Graph(model)
    scale = graph.producer[tap.output].input[1]
    graph.initializers[scale].CopyFrom(numpy_helper.from_array(np.array(graph.array(scale)) * np.float32(2), scale))
    (output,) = [value for value in model.graph.output if value.name == tap.output]
    model.graph.output.remove(output)
    onnx.save(model, tmp_path / "other.onnx")
    inspected = judging(tiny_bundle, tmp_path / "other.onnx")
    assert inspected.taps[0] == replace(tap, scale=float(np.float32(2) * np.float32(tap.scale)))
    assert inspected.run(images).undisturbed


def test_a_file_that_onnx_runtime_has_optimized_keeps_its_names(tiny_bundle, images, tmp_path):
    """QLinearConv and its like write the tensors that QuantizeLinear wrote."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tiny_bundle.path("int8")), options, providers=["CPUExecutionProvider"])
    names = tensors_of(tiny_bundle)
    other = judging(tiny_bundle, tmp_path / "optimized.onnx")
    assert other.tensors == names
    own, found = InspectedModel(tiny_bundle, "int8", SETTINGS, names).run(images), other.run(images)
    assert all(np.array_equal(own.codes[name], found.codes[name]) for name in names)


def test_names_that_a_file_does_not_have_are_told(tiny_bundle, images):
    names = tensors_of(tiny_bundle)
    inspected = judging(tiny_bundle, tiny_bundle.path("int8"), ("nowhere", *names))
    assert (inspected.tensors, inspected.missing) == (names, ("nowhere",))
    assert "nowhere" not in inspected.run(images).codes


def test_a_tap_of_many_scales_is_refused(tiny_bundle, tmp_path):
    model = load_onnx(tiny_bundle, "int8")
    tap = tiny_bundle.precision("int8").tap
    quantizer = Graph(model).producer[tap.output]
    many = np.full(16, 0.1, np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(many, "many"), numpy_helper.from_array(np.zeros(16, np.uint8), "zeros")]
    )
    quantizer.input[1:] = ["many", "zeros"]
    onnx.save(model, tmp_path / "many.onnx")
    with pytest.raises(QcamError, match=r"many.onnx quantizes .* per channel or to uint8; a tap needs one scale"):
        judging(tiny_bundle, tmp_path / "many.onnx", ())


def test_errors_name_the_file_that_was_given(tiny_bundle, tmp_path):
    model = load_onnx(tiny_bundle, "int8")
    model.graph.node.add(op_type="NoSuchOperator", input=[model.graph.output[0].name], output=["nothing"])
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(QcamError, match=r"/broken.onnx: NoSuchOperator node nothing is not as ONNX defines it") as error:
        judging(tiny_bundle, tmp_path / "broken.onnx", ())
    assert "qcam-inspect" not in str(error.value)
    inspected = judging(tiny_bundle, tiny_bundle.path("int8"), ())
    with pytest.raises(QcamError, match=rf"^{tiny_bundle.path('int8')} failed on CPU with a batch of 1") as error:
        inspected.run(np.zeros((1, 4, 32, 32), np.float32))
    assert "qcam-inspect" not in str(error.value)


def test_exposing_copies_and_repeats_no_output(tiny_bundle):
    model = load_onnx(tiny_bundle, "int8")
    before = [output.name for output in model.graph.output]
    names = [output.name for output in exposed(model, ["a", before[0], "a", "b"]).graph.output]
    assert names == [*before, "a", "b"]
    assert [output.name for output in model.graph.output] == before
