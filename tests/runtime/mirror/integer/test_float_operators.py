"""Float operators between integer ones, bit for bit: on this machine's kernels and on emulated ones."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from emulation import NATIVE, Job, run, why_not
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_cases import here
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.deployed.probe import probe_kernels
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror.integer.islands import (
    average_pool,
    global_average_pool,
    hard_sigmoid,
    instance_normalization,
    layer_normalization,
    reciprocal,
)
from qcam.runtime.mirror.integer.own_kernel import erf, exp, gelu, power, tanh
from qcam.runtime.mirror.integer.resizing import resize
from qcam.runtime.mirror.registry import resolve

EMULATED = [pytest.param(kernel, marks=pytest.mark.slow) for kernel in ("avx2", "arm64")]
FUNCTIONS = {"Gelu": gelu, "Erf": erf, "Tanh": tanh, "Exp": exp}


@pytest.fixture(params=[NATIVE, *EMULATED])
def kernel(request):
    if reason := why_not(request.param):
        pytest.skip(reason)
    return request.param, KERNELS[probe_kernels().name if request.param == NATIVE else request.param]


def model_of(node, *constants, rank=2):
    graph = helper.make_graph(
        [node], "one", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.parametrize("biased", [True, False])
def test_layer_normalization_is_the_kernels_own(kernel, biased):
    where, family = kernel
    draw = np.random.default_rng(0)
    shapes = [(41, length) for length in (*range(1, 26), 31, 32, 40, 96, 257, 768)]
    jobs, arguments_of = [], []
    for shape in shapes:
        x = draw.normal(0.5, 2, shape).astype(np.float32)
        scale, bias = (draw.normal(mean, 0.3, shape[1:]).astype(np.float32) for mean in (1, 0))
        held = [("s", scale), *([("b", bias)] if biased else [])]
        node = helper.make_node("LayerNormalization", ["x", *(name for name, _ in held)], ["y"], epsilon=1e-6)
        jobs.append(Job(model_of(node, *held), {"x": x}))
        arguments_of.append([torch.from_numpy(value) for value in (x, scale, bias)][: 2 + biased])
    inexact = 0
    for arguments, result in zip(arguments_of, run(where, jobs), strict=True):
        mine = layer_normalization(*arguments, epsilon=1e-6, family=family).numpy()
        np.testing.assert_array_equal(mine, result.outputs["y"], err_msg=str(arguments[0].shape))
        x, scale, *bias = (value.double() for value in arguments)
        inexact += int((mine != F.layer_norm(x, x.shape[1:], scale, *bias, eps=1e-6).float().numpy()).sum())
    assert inexact > 1000  # the order matters


def test_instance_normalization_is_the_kernels_own(kernel):
    where, family = kernel
    draw = np.random.default_rng(4)
    shapes = [(2, 37, 7, 7), (1, 8, 1, 1), (3, 5, 13, 5), (2, 4, 32, 32), *((3, 21, length) for length in range(1, 26))]
    jobs, arguments_of = [], []
    for shape in shapes:
        x, scale, bias = (draw.normal(0.5, 2, size).astype(np.float32) for size in (shape, shape[1], shape[1]))
        node = helper.make_node("InstanceNormalization", ["x", "s", "b"], ["y"], epsilon=1e-3)
        jobs.append(Job(model_of(node, ("s", scale), ("b", bias), rank=len(shape)), {"x": x}))
        arguments_of.append([torch.from_numpy(value) for value in (x, scale, bias)])
    inexact = 0
    for arguments, result in zip(arguments_of, run(where, jobs), strict=True):
        mine = instance_normalization(*arguments, epsilon=1e-3, family=family).numpy()
        np.testing.assert_array_equal(mine, result.outputs["y"], err_msg=str(arguments[0].shape))
        x, scale, bias = (value.double() for value in arguments)
        inexact += int((mine != torch.instance_norm(x, scale, bias, None, None, True, 0.0, 1e-3, False).float().numpy()).sum())
    assert inexact > 1000  # the order matters


def test_layer_normalization_over_several_axes(kernel):
    where, family = kernel
    draw = np.random.default_rng(1)
    x, scale, bias = (draw.normal(size=size).astype(np.float32) for size in ((3, 5, 4, 6), (4, 6), (4, 6)))
    node = helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"], axis=2)
    (result,) = run(where, [Job(model_of(node, ("s", scale), ("b", bias), rank=4), {"x": x})])
    for axis in (2, -2):
        found = layer_normalization(*map(torch.from_numpy, (x, scale, bias)), axis=axis, family=family)
        np.testing.assert_array_equal(found.numpy(), result.outputs["y"])


@pytest.mark.parametrize("family", KERNELS.values(), ids=str)
def test_gradients_are_the_true_functions(family):
    x = torch.randn(3, 4, 9, requires_grad=True)
    scale, bias = torch.rand(9), torch.rand(9)
    for mine, true in [
        (layer_normalization(x, scale, bias, family=family), F.layer_norm(x, [9], scale, bias)),
        (instance_normalization(x, scale[:4], bias[:4], family=family), F.instance_norm(x, None, None, scale[:4], bias[:4])),
        (hard_sigmoid(x, family=family), torch.clamp(0.2 * x + 0.5, 0, 1)),
        (gelu(x, family=family), F.gelu(x)),
        (tanh(x, family=family), torch.tanh(x)),
        (power(x.abs(), torch.tensor(1.5), family=family), x.abs().pow(1.5)),
        (reciprocal(x.abs() + 1, family=family), 1 / (x.abs() + 1)),
        (global_average_pool(x, family=family), x.mean(2, keepdim=True)),
        (
            resize(x[None], None, None, torch.tensor([1, 3, 8, 18]), mode="linear", family=family),
            F.interpolate(x[None], scale_factor=2, mode="bilinear"),
        ),
    ]:
        (found,), (wanted,) = (torch.autograd.grad(value.square().sum(), x, retain_graph=True) for value in (mine, true))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_statistics_of_other_types_are_refused():
    with pytest.raises(UnsupportedGraphError, match="LayerNormalization with stash_type 16 is not supported"):
        layer_normalization(torch.zeros(2, 9), torch.ones(9), stash_type=16, family=KERNELS["vnni"])


@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 0.5), (1 / 6, 0.5), (0.31, 0.47)])
def test_hard_sigmoid_is_the_kernels_own(kernel, alpha, beta):
    where, family = kernel
    x = np.random.default_rng(2).normal(0, 2, (31, 197)).astype(np.float32)
    (result,) = run(where, [Job(model_of(helper.make_node("HardSigmoid", ["x"], ["y"], alpha=alpha, beta=beta)), {"x": x})])
    found = hard_sigmoid(torch.from_numpy(x), alpha=alpha, beta=beta, family=family)
    np.testing.assert_array_equal(found.numpy(), result.outputs["y"])


@pytest.mark.parametrize(
    ("operator", "domain", "attributes"),
    [("Gelu", "", {}), ("Gelu", "com.microsoft", {}), ("Erf", "", {}), ("Tanh", "", {}), ("Exp", "", {})],
)
def test_functions_of_one_value_are_the_same_on_every_family_and_at_every_place(kernel, operator, domain, attributes):
    where, family = kernel
    values = np.concatenate([
        np.random.default_rng(3).normal(0, 3, 4000).astype(np.float32), np.float32([0, -0.0, 88, -88, 1e-30, -1e-30, 200, -200])
    ])  # fmt: skip
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    jobs = [Job(model_of(node), {"x": values[None, start:stop]}) for start, stop in ((0, None), (3, 64), (5, 6), (1, 1000))]
    for job, result in zip(jobs, run(where, jobs), strict=True):
        found = FUNCTIONS[operator](torch.from_numpy(job.inputs["x"]), **attributes, family=family)
        np.testing.assert_array_equal(found.numpy(), result.outputs["y"])


def test_powers_are_the_same_on_every_family(kernel):
    where, family = kernel
    draw = np.random.default_rng(5)
    positive = np.float32(10.0) ** draw.uniform(-6, 6, (701, 3)).astype(np.float32)
    signed = positive * draw.choice(np.float32([-1, 1]), positive.shape)
    exponents = [*(np.float32(each) for each in (2, 0.5, -1, -0.5, 1.7, 0, (2.0, 3.0, 0.3))), np.int64(3)]
    inputs = [signed if each.ndim == 0 and each in (2, 3) else positive for each in exponents]
    node = helper.make_node("Pow", ["x", "e"], ["y"])
    jobs = [Job(model_of(node, ("e", each)), {"x": x}) for each, x in zip(exponents, inputs, strict=True)]
    for each, x, result in zip(exponents, inputs, run(where, jobs), strict=True):
        found = power(torch.from_numpy(x), torch.as_tensor(each), family=family)
        np.testing.assert_array_equal(found.numpy(), result.outputs["y"], err_msg=str(each))


def test_reciprocals_are_the_kernels_own_in_the_last_vector_too(kernel):
    where, family = kernel
    draw = np.random.default_rng(6)
    x = (10.0 ** draw.uniform(-37, 37, 20003) * draw.choice([-1, 1], 20003)).astype(np.float32)
    x[8:12] = 0, -0.0, np.inf, -(2.0**127)
    node = helper.make_node("Reciprocal", ["x"], ["y"])
    jobs = [Job(model_of(node), {"x": x[None, :count]}) for count in (None, 1, 6, 7)]
    for job, result in zip(jobs, run(where, jobs), strict=True):
        found = reciprocal(torch.from_numpy(job.inputs["x"]), family=family)
        np.testing.assert_array_equal(found.numpy(), result.outputs["y"])


def test_pooled_means_are_the_kernels_own(kernel):
    where, family = kernel
    draw = np.random.default_rng(7)
    cases = [
        ("GlobalAveragePool", (2, 13, *size), {})
        for size in [(1, 1), (2, 3), (5, 9), (7, 7), (14, 14), (3, 1), (56, 56), (5,), (27,)]
    ]
    for size in (3, 7, 8, 13, 20):
        for window, stride, pad in [(2, 2, 0), (3, 1, 1), (3, 2, 1), (3, 3, 0)]:
            for include, ceil in [(0, 0), (1, 0), (0, 1), (1, 1)]:
                told = {"strides": [stride] * 2, "pads": [pad] * 4, "count_include_pad": include, "ceil_mode": ceil}
                cases.append(("AveragePool", (2, 3, size, size + 1), {"kernel_shape": [window] * 2, **told}))
        cases.append(("AveragePool", (2, 3, size), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}))
    inputs = [draw.normal(0.3, 2, shape).astype(np.float32) for _, shape, _ in cases]
    jobs = [
        Job(model_of(helper.make_node(operator, ["x"], ["y"], **told), rank=x.ndim), {"x": x})
        for (operator, _, told), x in zip(cases, inputs, strict=True)
    ]
    for (operator, _, told), x, result in zip(cases, inputs, run(where, jobs), strict=True):
        function = global_average_pool if operator == "GlobalAveragePool" else average_pool
        found = function(torch.from_numpy(x), **told, family=family)
        np.testing.assert_array_equal(found.numpy(), result.outputs["y"], err_msg=f"{operator} {x.shape} {told}")


#: Shapes before and behind a linear Resize: both axes, one alone, a single position, channels last, a matrix.
RESIZED = [
    ((2, 3, 7, 9), (2, 3, 14, 18)), ((2, 3, 7, 9), (2, 3, 13, 5)), ((2, 3, 7, 9), (2, 3, 7, 18)), ((2, 3, 7, 9), (2, 3, 14, 9)),
    ((1, 8, 14, 14), (1, 8, 28, 28)), ((2, 3, 1, 1), (2, 3, 4, 3)), ((2, 3, 7, 1), (2, 3, 14, 3)),
    ((2, 7, 9, 6), (2, 14, 18, 6)), ((2, 7, 9, 33), (2, 5, 18, 33)), ((2, 7, 9, 5), (2, 14, 9, 5)), ((7, 9), (14, 18)),
    ((2, 5, 23, 23), (2, 5, 46, 41)),
]  # fmt: skip


def test_images_are_resized_as_the_kernels_resize_them(kernel):
    where, family = kernel
    draw = np.random.default_rng(8)
    cases, jobs = [], []
    for mode in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
        told = {"mode": "linear", "coordinate_transformation_mode": mode}
        node = helper.make_node("Resize", ["x", "", "", "z"], ["y"], **told)
        for before, behind in RESIZED:
            x = draw.normal(0.3, 2, before).astype(np.float32)
            jobs.append(Job(model_of(node, ("z", np.array(behind)), rank=x.ndim), {"x": x}))
            cases.append((x, behind, told))
    for (x, behind, told), result in zip(cases, run(where, jobs), strict=True):
        found = resize(torch.from_numpy(x), None, None, torch.tensor(behind), **told, family=family)
        np.testing.assert_array_equal(found.numpy(), result.outputs["y"], err_msg=f"{x.shape} {behind} {told}")


@given(st.data())
@settings(deadline=None, max_examples=80)
def test_maps_of_any_size_are_computed_as_the_kernels_here_compute_them(data):
    size = st.integers(1, 20)
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 6), size, size))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    x, scale, bias = (draw.normal(0.3, 2, each).astype(np.float32) for each in (shape, shape[1], shape[1]))
    behind = (*shape[:2], data.draw(size), data.draw(size))
    factors = data.draw(st.tuples(*[st.floats(0.5, 3, width=32)] * 2))
    mode = data.draw(st.sampled_from(["half_pixel", "align_corners", "asymmetric"]))
    told = {"mode": "linear", "coordinate_transformation_mode": mode}
    sizes, scales = np.array(behind), np.float32([1, 1, *factors])
    image, family = torch.from_numpy(x), here()
    for node, held, found in [
        (
            helper.make_node("InstanceNormalization", ["x", "s", "b"], ["y"]), [("s", scale), ("b", bias)],
            lambda: instance_normalization(image, torch.from_numpy(scale), torch.from_numpy(bias), family=family),
        ),
        (helper.make_node("GlobalAveragePool", ["x"], ["y"]), [], lambda: global_average_pool(image, family=family)),
        (
            helper.make_node("Resize", ["x", "", "", "z"], ["y"], **told), [("z", sizes)],
            lambda: resize(image, None, None, torch.from_numpy(sizes), **told, family=family),
        ),
        (
            helper.make_node("Resize", ["x", "", "f"], ["y"], **told), [("f", scales)],
            lambda: resize(image, None, torch.from_numpy(scales), **told, family=family),
        ),
    ]:  # fmt: skip
        session = onnxruntime.InferenceSession(model_of(node, *held, rank=4), providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(found().numpy(), session.run(None, {"x": x})[0], err_msg=node.op_type)


def test_what_differs_between_families_is_not_called_exact():
    for approximate, exact in (("none", True), ("tanh", False)):
        node = helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)
        assert resolve(node, {"": 21}, KERNELS["vnni"]).exact == exact


def test_layouts_and_empty_tensors_are_kept():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    found = gelu(x, family=KERNELS["vnni"])
    assert found.stride() == x.stride()
    assert torch.equal(found, gelu(x.contiguous(), family=KERNELS["vnni"]))
    assert torch.equal(gelu(x.permute(3, 0, 1, 2), family=KERNELS["vnni"]), found.permute(3, 0, 1, 2))
    assert gelu(torch.zeros(0, 3), family=KERNELS["vnni"]).shape == (0, 3)
