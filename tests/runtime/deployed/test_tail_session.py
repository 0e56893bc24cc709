from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from qcam.common.errors import ProviderError, UnsupportedGraphError
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.tail_session import TailSession, tail_model

IMAGES = np.random.default_rng(3).normal(size=(5, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def branch_bundle(export_tiny, tmp_path_factory):
    """Its tap is the branch in front of an addition, so that the tail reads the other summand as well."""
    return export_tiny(tmp_path_factory.mktemp("branch") / "bundle", cam_layer="branch")


@pytest.fixture(params=["last", "branch"])
def bundle(request, tiny_bundle, branch_bundle):
    return {"last": tiny_bundle, "branch": branch_bundle}[request.param]


@pytest.mark.parametrize("precision", ["f32", "int16", "int8"])
def test_the_tail_alone_gives_the_logits_of_the_whole_file_bit_for_bit(bundle, precision):
    outputs = DeployedModel(bundle, precision, SessionSettings()).run(IMAGES)
    tail = TailSession(bundle, precision, SessionSettings())
    np.testing.assert_array_equal(tail.run(outputs.tap, outputs.skips), outputs.logits)
    tail.prove(outputs)


def overwritten(model, entry):
    """Return the file with the tap added to by what a further input says, in codes: the whole network, of another tap."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == entry.tap.output:
                node.input[index] = "moved"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(entry.tap.dtype))
    at = next(index for index, node in enumerate(graph.node) if entry.tap.output in node.output)
    for step in (
        helper.make_node("Add", ["wide", "by"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["moved"], to=kind),
    ):
        at += 1
        graph.node.insert(at, step)
    graph.node.insert(at - 1, helper.make_node("Cast", [entry.tap.output], ["wide"], to=onnx.TensorProto.INT32))
    graph.input.append(helper.make_tensor_value_info("by", onnx.TensorProto.INT32, None))
    return changed


def test_codes_moved_at_the_tap_do_what_they_do_within_the_whole_file(bundle):
    model, entry = load_onnx(bundle, "int8"), bundle.precision("int8")
    outputs = DeployedModel(bundle, "int8", SessionSettings()).run(IMAGES)
    limits = np.iinfo(entry.tap.dtype)
    by = np.random.default_rng(4).integers(-40, 41, outputs.tap.shape, np.int32)
    moved = np.clip(outputs.tap + by, limits.min, limits.max).astype(np.int32)
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(
        overwritten(model, entry).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    images = session.get_inputs()[0].name
    (wanted,) = session.run([entry.logits], {images: IMAGES, "by": moved - outputs.tap.astype(np.int32)})
    found = TailSession(bundle, "int8", SessionSettings()).run(moved.astype(entry.tap.dtype), outputs.skips)
    np.testing.assert_array_equal(found, wanted)
    assert np.any(found != outputs.logits)


def test_a_tail_that_is_not_what_is_deployed_is_refused_by_name(tiny_bundle):
    outputs = DeployedModel(tiny_bundle, "int8", SessionSettings()).run(IMAGES)
    logits = outputs.logits.copy()
    logits[1, 2] = np.nextafter(logits[1, 2], np.float32(np.inf))
    tail = TailSession(tiny_bundle, "int8", SessionSettings())
    with pytest.raises(UnsupportedGraphError, match=r"int8\.onnx.* gives other logits alone .*for 1 of 5 images, by up to"):
        tail.prove(replace(outputs, logits=logits))


def test_what_the_tail_cannot_take_is_refused(branch_bundle):
    outputs = DeployedModel(branch_bundle, "int8", SessionSettings()).run(IMAGES)
    tail = TailSession(branch_bundle, "int8", SessionSettings())
    with pytest.raises(UnsupportedGraphError, match="takes 1 skip tensors, and was given 0"):
        tail.run(outputs.tap)
    with pytest.raises(UnsupportedGraphError, match="as uint8, not as int64"):
        tail.run(outputs.tap.astype(np.int64), outputs.skips)
    with pytest.raises(ProviderError, match="alone on CPU only, not on CUDA"):
        TailSession(branch_bundle, "int8", SessionSettings(provider="CUDA"))


def test_a_tensor_that_the_bundle_does_not_know_is_refused(branch_bundle):
    entry = replace(branch_bundle.precision("int8"), skips=())
    with pytest.raises(UnsupportedGraphError, match="of which the bundle says nothing"):
        tail_model(load_onnx(branch_bundle, "int8"), entry)
