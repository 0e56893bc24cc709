"""Means, sums and norms over any axes, bit for bit: on this machine's kernels and on emulated ones."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from emulation import NATIVE, Job, run, why_not
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_cases import here
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.deployed.probe import probe_kernels
from qcam.runtime.kernels import KERNELS
from qcam.runtime.loaded.means import ordered_axes
from qcam.runtime.mirror.integer.degree import Deployment
from qcam.runtime.mirror.integer.reductions import reduce_l2, reduce_mean, reduce_sum

EMULATED = [pytest.param(kernel, marks=pytest.mark.slow) for kernel in ("avx2", "arm64")]
FUNCTIONS = {"ReduceMean": reduce_mean, "ReduceSum": reduce_sum, "ReduceL2": reduce_l2}
#: Shapes, and axes of which the order is known: the last ones, ones inside, and some that lie apart.
CASES = [
    ((37, 11), [1]), ((5, 768), [1]), ((2, 7, 7, 24), [3]), ((2, 7, 7, 24), [2, 3]), ((2, 9, 5, 6), [1, 2, 3]), ((1, 65), [1]),
    ((5, 7, 9), [1]), ((2, 7, 7, 24), [1, 2]), ((1, 7, 7, 24), [1, 2]), ((9, 40), [0]), ((7, 9, 3), [0, 1]), ((2, 9, 1), [1]),
    ((2, 3, 50, 4), [1, 3]), ((3, 5, 4, 6), [0, 2]), ((3, 1, 5, 2), [0, 2]), ((2, 6, 1, 14), [1, 3]), ((3, 9, 1, 11), [1, 3]),
]  # fmt: skip


def model_of(operator, shape, axes, keepdims=0):
    node = helper.make_node(operator, ["x", "axes"], ["y"], keepdims=keepdims)
    graph = helper.make_graph(
        [node],
        "reduced",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * len(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(axes), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


@pytest.mark.parametrize("kernel", [NATIVE, *EMULATED])
@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceL2"])
def test_results_are_the_kernels_own_bit_for_bit(kernel, operator):
    if reason := why_not(kernel):
        pytest.skip(reason)
    family = KERNELS[probe_kernels().name if kernel == NATIVE else kernel]
    draw = np.random.default_rng(0)
    inputs = [draw.normal(0.3, 2, shape).astype(np.float32) for shape, _ in CASES]
    jobs = [Job(model_of(operator, x.shape, axes), {"x": x}) for x, (_, axes) in zip(inputs, CASES, strict=True)]
    inexact = 0
    for x, (_, axes), result in zip(inputs, CASES, run(kernel, jobs, threads=2), strict=True):
        found = FUNCTIONS[operator](
            torch.from_numpy(x), axes=axes, keepdims=0, deployment=Deployment(2, len(x)), family=family
        ).numpy()
        np.testing.assert_array_equal(found, result.outputs["y"], err_msg=f"{x.shape} {axes}")
        wide = x.astype(np.float64)
        true = wide.sum(tuple(axes)) if operator == "ReduceSum" else np.sqrt((wide * wide).sum(tuple(axes)))
        inexact += int((found != true.astype(np.float32)).sum())
    assert inexact > 100  # the order matters


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_axes_of_any_shape_are_added_as_the_kernels_here_add_them(data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    rank = len(shape)
    axes = data.draw(st.sets(st.integers(0, rank - 1), min_size=1).filter(lambda each: ordered_axes(sorted(each), rank)))
    operator, keepdims = data.draw(st.sampled_from(sorted(FUNCTIONS))), data.draw(st.integers(0, 1))
    x = np.random.default_rng(data.draw(st.integers(0, 2**16))).normal(0, 3, shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = model_of(operator, shape, sorted(axes), keepdims)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    told = {"keepdims": keepdims, "deployment": Deployment(1, shape[0]), "family": here()}
    found = FUNCTIONS[operator](torch.from_numpy(x), torch.tensor(sorted(axes)), **told)
    np.testing.assert_array_equal(found.numpy(), session.run(None, {"x": x})[0])


@pytest.mark.parametrize("operator", sorted(FUNCTIONS))
@pytest.mark.parametrize("family", KERNELS.values(), ids=str)
def test_gradients_are_the_true_functions(operator, family):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    x.data[0, 0] = 0
    true = {"ReduceMean": x.mean((1, 3)), "ReduceSum": x.sum((1, 3)), "ReduceL2": torch.linalg.vector_norm(x, dim=(1, 3))}
    found = FUNCTIONS[operator](x, axes=[1, 3], keepdims=0, family=family)
    torch.testing.assert_close(found, true[operator])
    mine, wanted = (torch.autograd.grad(value.square().sum(), x)[0] for value in (found, true[operator]))
    torch.testing.assert_close(mine, wanted)


def test_where_no_axes_mean_none_values_stay_and_norms_are_without_sign():
    x = torch.tensor([[-1.0, 2.0]])
    told = {"noop_with_empty_axes": 1, "family": KERNELS["vnni"]}
    assert torch.equal(reduce_sum(x, **told), x)
    assert torch.equal(reduce_mean(x, **told), x)
    assert torch.equal(reduce_l2(x, **told), x.abs())
