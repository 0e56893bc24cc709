"""Where ONNX Runtime changes layouts, float sums between integer kernels are in another order: the mirror follows, and so
does what hands out every tensor."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from emulation import Job, run, why_not
from integer_cases import here
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.deployed.inspection import with_channels_last
from qcam.runtime.kernels import KERNELS
from qcam.runtime.loaded import as_loaded
from qcam.runtime.loaded.asking import optimized, settings_of
from qcam.runtime.loaded.means import Means, means_of
from qcam.runtime.loaded.writing_back import write_back
from qcam.runtime.mirror import Mirror

CHANNELS = 32
EMULATED = [pytest.param(kernel, marks=pytest.mark.slow) for kernel in ("avx2", "arm64")]


def excited(axes=(2, 3), *, named=True, between=None):
    """A convolution whose map is averaged and weighted by what a convolution makes of the averages; these are the scores.

    `between` is an operator in front of the mean, in the same island.
    """
    draw = np.random.default_rng(0)
    nodes, held = [], {}

    def constant(name, value):
        held[name] = value
        return name

    def coded(name, scale, zero=0):
        parameters = [constant(f"{name}_scale", np.float32(scale)), constant(f"{name}_zero", np.uint8(zero))]
        nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], f"{name}_q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_d"], f"{name}_d"))
        return f"{name}_d"

    def convolved(x, name, inputs, kernel):
        weight = draw.integers(-127, 128, (CHANNELS, inputs, kernel, kernel)).astype(np.int8)
        parameters = [constant(f"{name}_w", weight), constant(f"{name}_s", np.float32(0.01)), constant(f"{name}_z", np.int8(0))]
        nodes.append(helper.make_node("DequantizeLinear", parameters, [f"{name}_w_d"], f"{name}_w_d"))
        nodes.append(helper.make_node("Conv", [x, f"{name}_w_d"], [name], name, pads=[kernel // 2] * 4))
        return name

    map_ = coded(convolved(coded("images", 0.02, 128), "map", 3, 3), 0.0631, 128)
    if between is not None:
        nodes.append(helper.make_node(between, [map_], ["between"], "between"))
    held_axes = constant("axes", np.array(axes))
    averaged = map_ if between is None else "between"
    nodes.append(helper.make_node("ReduceMean", [averaged, held_axes], ["mean"], "mean" if named else "", keepdims=1))
    inputs = 1 if 1 in axes else CHANNELS
    gate = coded(convolved(coded("mean", 0.003, 128), "gate", inputs, 1), 0.01, 128)
    nodes.append(helper.make_node("Sigmoid", [gate], ["s"], "s"))
    nodes.append(helper.make_node("Mul", [map_, coded("s", 1 / 255)], ["weighted"], "weighted"))
    behind = convolved(coded("weighted", 0.04, 128), "behind", CHANNELS, 1)
    nodes += [
        helper.make_node("Flatten", ["mean"], ["means"], "means"),
        helper.make_node("GlobalMaxPool", [coded(behind, 0.05, 128)], ["most"], "most"),
        helper.make_node("Flatten", ["most"], ["maxima"], "maxima"),
        helper.make_node("Concat", ["means", "maxima"], ["scores"], "scores", axis=1),
    ]
    graph = helper.make_graph(
        nodes, "excited", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 24, 27])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in (("scores", 1), ("behind_q", 2))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, PrecisionEntry("int8", "", "", "scores", Tap("behind", "behind_q", "uint8", 0.05, 128))


def pictures(count):
    return np.random.default_rng(count).normal(size=(count, 3, 24, 27)).astype(np.float32)


def deployed(model, images, outputs, threads=2):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, {"images": images})


def holds(model, entry, count, threads=2, **options):
    """Require the mirror's logits and codes to be the session's; return the mirror."""
    mirror = Mirror(model, entry, arithmetic="integer", family=here(), threads=threads, **options)
    outputs = mirror.forward(pictures(count))
    scores, codes = deployed(model, pictures(count), ["scores", "behind_q"], threads)
    np.testing.assert_array_equal(outputs.logits.numpy(), scores)
    np.testing.assert_array_equal(outputs.tap.numpy(), codes)
    return mirror


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 2, 5, 9, 17])
def test_a_mean_is_added_up_as_its_layout_has_it_whatever_the_number_of_images_and_threads(count, threads):
    model, entry = excited()
    assert as_loaded(model, family=here()).means.turned == {"mean": (0, 2, 3, 1)}
    holds(model, entry, count, threads)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("axes", [[3], [2], [1], [-1], [2, -1], [-2, 3], [-1, -2], [1, 3], [2, 1]], ids=str)
def test_means_over_other_axes_of_a_turned_map(axes, count):
    model, entry = excited(axes)
    assert "mean" in as_loaded(model, family=here()).means.turned
    assert not holds(model, entry, count).unordered


def test_what_cannot_be_told_is_promised_nothing():
    told = {"mean"}, set()
    for (model, entry), (unknown, unordered) in zip(
        (excited([1, 2, 3]), excited(named=False), excited([0, 1])), (told, told, told[::-1]), strict=True
    ):
        means = as_loaded(model, family=here()).means
        assert (means.unknown, means.unordered) == (unknown, unordered)
        mirror = Mirror(model, entry, arithmetic="integer", family=here(), float_kernels=True)
        assert len(mirror.unordered) == len(unknown)
        assert any("mean" in label for label in (*mirror.unordered, *mirror.delegated))


@pytest.mark.parametrize("between", ["Softplus", "Elu"])
def test_a_turned_mean_is_no_part_of_what_float_kernels_compute_alone(between):
    model, entry = excited(between=between)
    mirror = holds(model, entry, 3, float_kernels=True)
    assert [between in label for label in mirror.delegated] == [True]


def test_the_order_matters_and_on_x86_the_number_of_images_does():
    model, _ = excited()
    (scores,) = deployed(model, pictures(2), ["scores"])
    opened = onnx.ModelProto.FromString(model.SerializeToString())
    opened.graph.output.append(helper.make_empty_tensor_value_info("map_q"))
    (first, codes) = deployed(opened, pictures(2), ["scores", "map_q"])
    assert not np.array_equal(first, scores), "handing a map out with its channels first does not change this run any more"
    values = (codes.astype(np.float32) - 128) * np.float32(0.0631)
    np.testing.assert_allclose(values.mean(axis=(2, 3)), scores[:, :CHANNELS], rtol=0, atol=1e-5)
    alone = np.concatenate([deployed(model, pictures(2)[[index]], ["scores"])[0] for index in range(2)])
    assert np.array_equal(alone, scores) != here().adds_in_fours


@pytest.mark.parametrize("kernel", EMULATED)
def test_other_families_add_in_their_own_order(kernel):
    if reason := why_not(kernel):
        pytest.skip(reason)
    model, entry = excited()
    (result,) = run(kernel, [Job(model.SerializeToString(), {"images": pictures(3)})], threads=2)
    outputs = Mirror(model, entry, arithmetic="integer", family=KERNELS[kernel], threads=2).forward(pictures(3))
    np.testing.assert_array_equal(outputs.logits.numpy(), result.outputs["scores"])
    np.testing.assert_array_equal(outputs.tap.numpy(), result.outputs["behind_q"])


def test_maps_handed_out_with_their_channels_last_change_nothing_and_are_the_mirrors():
    model, entry = excited()
    seen = {}
    mirror = Mirror(model, entry, arithmetic="integer", family=here())
    mirror.forward(pictures(3), lambda name, codes: seen.__setitem__(name, codes.numpy().copy()))
    opened = with_channels_last(model, list(seen))
    handed = {name for name, output in opened.outputs.items() if name != output}
    assert handed == {"images_q", "map_q", "mean_q", "gate_q", "s_q", "weighted_q"}  # behind_q is an output of the file
    scores, *values = deployed(opened.model, pictures(3), ["scores", *opened.outputs.values()])
    np.testing.assert_array_equal(scores, deployed(model, pictures(3), ["scores"])[0])
    for name, codes in opened.codes(values).items():
        np.testing.assert_array_equal(codes, seen[name], err_msg=name)


def test_means_that_no_layout_touches_are_as_they_are():
    model, _ = excited()
    graph = optimized(model, settings_of(None, here()))
    laid_out = optimized(model, settings_of(None, here()), layouts=True)
    written = write_back(graph).model
    assert means_of(written, graph, laid_out) == Means({"mean": (0, 2, 3, 1)})
    assert means_of(written, graph, graph) == Means({})
