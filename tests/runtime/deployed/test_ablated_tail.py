"""The tail of a deployed file by itself: the same logits bit for bit, and scores without single channels."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from pretended import pretend_cuda

from qcam.common.errors import BundleError, QcamError
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.ablated_tail import AblatedTail, cut_out, rows_at_a_time, scores_without
from qcam.runtime.mirror import Mirror

PRECISIONS = ("f32", "int16", "int8")


@pytest.fixture(scope="module")
def stem_bundle(export_tiny, tmp_path_factory):
    """With the tap at the stem: behind it are convolutions, a skip connection over them, and no mean."""
    return export_tiny(tmp_path_factory.mktemp("stem") / "tiny", cam_layer="stem")


def opened(bundle, precision):
    session = DeployedModel(bundle, precision, SessionSettings(threads=1))
    return session, AblatedTail(session, load_onnx(bundle, precision), bundle.preprocessing)


def pictures(bundle, count=3):
    noise = np.random.default_rng(5).integers(0, 256, (count, *bundle.preprocessing.crop, 3), np.uint8)
    return bundle.preprocessing.normalise(noise)


def with_channel_removed(bundle, precision, channel, channels):
    """Return a session of the whole file in which a channel of the tap is 0 from there on, and the name of the logits."""
    entry, model = bundle.precision(precision), load_onnx(bundle, precision)
    read = entry.tap.output
    if precision == "int16":  # ONNX Runtime chooses among floats, not among 16-bit codes
        read = next(node.output[0] for node in model.graph.node if read in node.input)
    zero = np.array(entry.tap.zero_point, entry.tap.dtype) if precision == "int8" else np.float32(0)
    keep = (np.arange(channels) != channel).reshape(1, -1, 1, 1)
    for node in model.graph.node:
        node.input[:] = ["kept" if name == read else name for name in node.input]
    index = next(i for i, node in enumerate(model.graph.node) if read in node.output)
    model.graph.initializer.extend([numpy_helper.from_array(keep, "keep"), numpy_helper.from_array(np.array(zero), "nothing")])
    model.graph.node.insert(index + 1, helper.make_node("Where", ["keep", read, "nothing"], ["kept"]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options), entry.logits


@pytest.mark.parametrize(("layer", "precision"), [*(("head", name) for name in PRECISIONS), ("stem", "int8")])
def test_scores_are_those_of_the_whole_file_with_the_channel_removed_in_it(tiny_bundle, stem_bundle, layer, precision) -> None:
    bundle = {"head": tiny_bundle, "stem": stem_bundle}[layer]
    session, tail = opened(bundle, precision)
    assert tail.behind_pool == (layer == "head")
    images = pictures(bundle)
    outputs = session.run(images)
    np.testing.assert_array_equal(tail.logits(outputs.tap, outputs.skips), outputs.logits)
    columns = np.array([3, 0, 9])
    whole, without = tail.scores(outputs.tap, outputs.skips, columns)
    assert whole.shape == without.shape == (3, tail.channels) == (3, {"head": 16, "stem": 8}[layer])
    np.testing.assert_allclose(whole, np.repeat(outputs.logits[[0, 1, 2], columns][:, None], tail.channels, 1), rtol=2e-6)
    assert (whole != without).mean() > 0.5
    for channel in (0, tail.channels - 1):
        reference, logits = with_channel_removed(bundle, precision, channel, tail.channels)
        expected = reference.run([logits], {reference.get_inputs()[0].name: images})[0][[0, 1, 2], columns]
        if precision == "int8":  # integers do not round by how many rows there are
            np.testing.assert_array_equal(without[:, channel], expected)
        else:
            np.testing.assert_allclose(without[:, channel], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_behind_the_mean_every_removed_channel_is_the_same_bit_for_bit(tiny_bundle, precision) -> None:
    session, tail = opened(tiny_bundle, precision)
    outputs = session.run(pictures(tiny_bundle))
    behind = tail.scores(outputs.tap, outputs.skips, np.array([1, 2, 3]))
    tail._pooled = None  # as where the proof fails
    assert not tail.behind_pool
    for found, expected in zip(behind, tail.scores(outputs.tap, outputs.skips, np.array([1, 2, 3])), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_where_the_mean_is_not_the_same_the_tail_begins_in_front_of_it(tiny_bundle, monkeypatch) -> None:
    monkeypatch.setattr(AblatedTail, "_same_behind", lambda *_: False)
    session, tail = opened(tiny_bundle, "int8")
    assert not tail.behind_pool
    assert tail.logits(session.run(pictures(tiny_bundle)).tap).shape == (3, 10)


def test_a_tail_that_is_not_what_runs_is_refused(tiny_bundle) -> None:
    session = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1))
    model = load_onnx(tiny_bundle, "f32")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "classifier.bias")
    values = numpy_helper.to_array(bias).copy()
    values[4] += 1
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    with pytest.raises(QcamError, match=r"^Ablation-CAM of f32: .* the logits of the whole run \(4 of 4 pictures of noise\)"):
        AblatedTail(session, model, tiny_bundle.preprocessing)


def test_on_cuda_the_part_s_biases_are_folded_as_the_whole_file_s_are(stem_bundle, monkeypatch) -> None:
    pretended = pretend_cuda(monkeypatch)
    session = DeployedModel(stem_bundle, "int8", SessionSettings("CUDA", threads=1))
    AblatedTail(session, load_onnx(stem_bundle, "int8"), stem_bundle.preprocessing)
    whole, part = (onnx.load_from_string(made["model"]) for made in pretended.made)
    for model in (whole, part):
        codes = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT32}
        assert not [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in codes]
    assert {made["strict"] for made in pretended.made} == {"1"}
    file = load_onnx(stem_bundle, "int8").graph
    assert any(tensor.data_type == onnx.TensorProto.INT32 for tensor in file.initializer)  # or nothing was folded


def test_a_part_that_reads_something_else_is_named(stem_bundle) -> None:
    model, entry = load_onnx(stem_bundle, "f32"), stem_bundle.precision("f32")
    named = next(node.output[0] for node in model.graph.node if node.op_type == "Conv" and entry.tap.output in node.input)
    with pytest.raises(BundleError, match=f"^{entry.logits} of {entry.file} does not follow from {named} alone$"):
        cut_out(model, [named], entry.logits, entry)
    with pytest.raises(BundleError, match=r"does not depend on classifier\.weight$"):
        cut_out(model, ["classifier.weight", entry.tap.output], entry.tap.output, entry)


def test_a_part_holds_no_more_weights_than_it_needs(tiny_bundle) -> None:
    entry = tiny_bundle.precision("int8")
    part = cut_out(load_onnx(tiny_bundle, "int8"), [entry.tap.output], entry.logits, entry)
    onnx.checker.check_model(part)
    assert not [node for node in part.graph.node if node.op_type == "Conv"]
    assert part.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_what_is_subtracted_runs_together_and_what_is_zero_does_not_run() -> None:
    seen = []

    def score(rows, skip):
        seen.append((rows.shape, skip.shape))
        return rows.reshape(len(rows), -1).sum(axis=1) + 100 * len(seen)  # another kernel each time

    values = np.array([1, 2, 0, 4, 5], np.float32).reshape(1, 5, 1, 1)
    whole, without = scores_without(values, [np.zeros((1, 7))], 0, score, batch=3)
    assert (whole - without).tolist() == [1, 2, 0, 4, 5]
    assert seen == [((3, 5, 1, 1), (3, 7))] * 2
    everything = np.zeros((1, 5, 1, 1), np.float32)
    assert all(not each.any() for each in scores_without(everything, [], 0, lambda rows: rows.sum(axis=(1, 2, 3))))


@pytest.mark.parametrize(("shape", "batch", "rows"), [((1, 2048), None, 1024), ((1, 64, 512, 512), None, 2), ((1, 9), 8, 8)])
def test_rows_are_bounded_by_bytes(shape, batch, rows) -> None:
    assert rows_at_a_time(np.broadcast_to(np.float32(0), shape), batch) == rows


@pytest.mark.parametrize("layer", ["head", "stem"])
def test_the_mirror_s_scores_are_those_of_its_whole_run(tiny_bundle, stem_bundle, layer) -> None:
    bundle = {"head": tiny_bundle, "stem": stem_bundle}[layer]
    mirror = Mirror(load_onnx(bundle, "f32"), bundle.precision("f32"), "cpu")
    assert mirror.pools == (layer == "head")
    images = torch.from_numpy(pictures(bundle))
    passed = mirror.forward(images)
    found = mirror.scores(passed.tap, np.array([3, 0, 9]), passed.skips)
    expected = passed.logits[[0, 1, 2], [3, 0, 9]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if mirror.pools:
        torch.testing.assert_close(mirror.scores(passed.tap.mean((2, 3), keepdim=True), np.array([3, 0, 9])), found)
