"""Networks of every kind, whole way: export, quantize, run, mirror, CAM, at three precisions.

Weights are seeded where no trained ones can be had everywhere, so nothing here is about the quality of a figure.
`make networks` takes every network of the study.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from whole_graph import WholeGraph

from qcam.evaluate.maps.cam import cam
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.models.sources import TORCHVISION_MODELS, load_model
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.graph import Graph
from qcam.runtime.mirror import Mirror
from qcam.runtime.tables import COMPUTE_OPERATORS

pytestmark = pytest.mark.slow

#: Sums, a chain with large Gemms, concatenation behind BatchNorm, depthwise convolutions, class maps, SiLU with a gate, a stem
#: of three convolutions, ReLU6.
KINDS = (
    *("resnet50", "alexnet", "densenet121", "mobilenet_v2", "squeezenet1_1", "efficientnet_b0", "timm:resnet26d"),
    "efficientnet_lite0",
)
ALL = os.environ.get("QCAM_TEST_NETWORKS") == "all"
MODELS = list(dict.fromkeys([*KINDS, *(TORCHVISION_MODELS if ALL else ())]))


@pytest.fixture(scope="module", params=MODELS)
def case(request, seeded_bundle, lite0_bundle):
    bundle = lite0_bundle if request.param == "efficientnet_lite0" else seeded_bundle(request.param)
    crops = [bundle.preprocessing.crop_image(decode(image.path).image) for image in evaluation_photographs()[:2]]
    return request.param, bundle, bundle.preprocessing.normalise(np.stack(crops))


def compute_nodes(model):
    return sum(node.op_type in COMPUTE_OPERATORS for node in model.graph.node)


def test_float_logits_equal_torch_and_onnx_runtime(case):
    name, bundle, images = case
    session = DeployedModel(bundle, "f32", SessionSettings())
    wanted = session.run(images).logits
    found = Mirror(load_onnx(bundle, "f32"), session.entry).forward(images).logits.numpy()
    scale = np.abs(wanted).max()
    assert np.abs(found - wanted).max() / scale < 1e-4
    module = load_model(name, None if bundle.trained else "random:0").module
    with torch.no_grad():
        original = module(torch.from_numpy(images)).numpy()
    assert np.abs(original - wanted).max() / scale < 1e-4


@pytest.mark.parametrize("precision", ["int16", "int8"])
def test_the_tap_costs_no_integer_kernel_and_leaves_the_logits_bitwise_unchanged(case, precision, tmp_path):
    _, bundle, images = case
    session = DeployedModel(bundle, precision, SessionSettings())
    tapped = session.run(images)
    bare = load_onnx(bundle, precision)
    del bare.graph.output[1:]
    onnx.save(bare, tmp_path / "bare.onnx")
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    without = onnxruntime.InferenceSession(tmp_path / "bare.onnx", options, providers=["CPUExecutionProvider"])
    (logits,) = without.run(None, {"images": images})
    np.testing.assert_array_equal(tapped.logits, logits)

    from pathlib import Path

    from qcam.runtime.deployed.placement import read_profile

    placement = session.placement
    kernels = read_profile(Path(without.end_profiling()), placement.expected, "")
    assert (placement.integer_kernels, placement.float_kernels) == (kernels.integer_kernels, kernels.float_kernels)


def test_eight_bits_run_wholly_as_integer_kernels_and_sixteen_not_at_all(case):
    _, bundle, _ = case
    nodes = compute_nodes(load_onnx(bundle, "f32"))
    placements = {name: DeployedModel(bundle, name, SessionSettings()).placement for name in ("int16", "int8")}
    assert (placements["int8"].integer_kernels, placements["int8"].float_kernels) == (nodes, 0)
    assert (placements["int16"].integer_kernels, placements["int16"].float_kernels) == (0, nodes)
    eight, sixteen = placements["int8"].coverage, placements["int16"].coverage
    assert (eight.count, eight.macs) == (1.0, 1.0)
    assert (sixteen.count, sixteen.macs) == (0.0, 0.0)
    assert eight.total_macs == sixteen.total_macs


def test_every_convolution_of_the_float_file_is_found_again(case):
    """Whatever ONNX Runtime makes of the names: blocked layouts, fused activations, convolutions that were none."""
    _, bundle, _ = case
    file = load_onnx(bundle, "f32")
    names = [node.name for node in file.graph.node if node.op_type in COMPUTE_OPERATORS]
    placements = {name: DeployedModel(bundle, name, SessionSettings()).placement for name in ("f32", "int8")}
    assert sorted(node.name for node in placements["f32"].nodes if node.computes) == sorted(names)
    assert placements["f32"].float_kernels == len(names)
    assert placements["f32"].coverage.total_macs == placements["int8"].coverage.total_macs


@pytest.mark.parametrize("precision", ["f32", "int16", "int8"])
def test_a_cam_comes_out_and_its_gradient_lives(case, precision):
    name, bundle, images = case
    session = DeployedModel(bundle, precision, SessionSettings())
    outputs = session.run(images)
    mirror = Mirror(load_onnx(bundle, precision), session.entry)
    activation = mirror.dequantize(session.entry.tap, outputs.tap)
    targets = outputs.logits.argmax(axis=1)
    gradient = mirror.gradient(activation, targets)
    assert gradient.shape == activation.shape
    assert torch.isfinite(gradient).all()
    assert (gradient.abs().amax(dim=(1, 2, 3)) > 0).all(), name
    maps = cam(activation.numpy(), gradient.numpy())
    assert maps.shape == (2, *activation.shape[2:])
    assert np.isfinite(maps).all()


@pytest.mark.parametrize("precision", ["int16", "int8"])
def test_the_logits_leave_the_graph_unquantized(case, precision):
    _, bundle, _ = case
    graph = Graph(load_onnx(bundle, precision))
    name = bundle.precision(precision).logits
    while graph.producer[name].op_type in ("Reshape", "Flatten"):
        name = graph.producer[name].input[0]
    assert graph.producer[name].op_type in ("Gemm", "ReduceMean")


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_the_tail_gives_the_gradient_of_the_whole_graph(case, precision):
    """The gradient through the tail alone equals autograd through the whole mirror, at the same activation."""
    _, bundle, images = case
    session = DeployedModel(bundle, precision, SessionSettings())
    model = load_onnx(bundle, precision)
    mirror = Mirror(model, session.entry)
    passed = mirror.forward(images)
    activation = mirror.dequantize(session.entry.tap, passed.tap)
    targets = passed.logits.argmax(dim=1)
    tail = mirror.gradient(activation, targets)
    whole = WholeGraph(mirror, model)
    assert torch.equal(whole.tap(torch.from_numpy(images)), passed.tap), "another activation: nothing to compare"
    seen = whole.gradient(torch.from_numpy(images), targets)
    scale = float(tail.abs().max())
    assert float((tail - seen).abs().max()) <= 1e-5 * scale
