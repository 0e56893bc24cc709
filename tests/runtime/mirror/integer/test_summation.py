"""ReduceMean's own order of additions, bit for bit, on this machine's and on emulated kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from emulation import NATIVE, Job, run, why_not
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.deployed.probe import probe_kernels
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror.integer.degree import Deployment, least_tables
from qcam.runtime.mirror.integer.reductions import reduce_mean
from qcam.runtime.mirror.integer.summation import row_sums

SIZES = [
    (1, 1), (1, 2), (1, 3), (2, 2), (1, 5), (2, 3), (3, 3), (4, 4), (5, 5), (6, 7), (7, 7), (8, 8), (13, 13), (14, 14),
    (56, 56),
]  # fmt: skip
EMULATED = [pytest.param(kernel, marks=pytest.mark.slow) for kernel in ("avx2", "arm64")]


#: Shapes, and axes that are not the last ones.
INSIDE = [
    ((2, 7, 7, 24), [1, 2]), ((2, 2, 3, 70), [1, 2]), ((3, 5, 7, 33), [1, 2]), ((2, 12, 12, 96), [1, 2]),
    ((1, 12, 12, 96), [1, 2]), ((2, 49, 17), [1]), ((1, 50, 17), [1]), ((5, 3, 4, 6), [1]), ((2, 3, 50, 4), [2]),
    ((2, 30, 30, 1), [1, 2]), ((4, 21, 1), [1]), ((1, 3, 50, 4), [2]), ((9, 40), [0]), ((3, 5, 4), [0, 1]),
    ((2, 1, 43, 8), [1, 2]), ((2, 43, 1, 8), [1, 2]), ((1, 1, 43, 8), [2]), ((6, 1, 43, 8), [2]),
]  # fmt: skip


def mean_model(axes=(2, 3), dimensions=("n", "c", "h", "w")):
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    graph = helper.make_graph(
        [node],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dimensions)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(axes), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


@pytest.mark.parametrize("kernel", [NATIVE, *EMULATED])
def test_the_mean_of_a_map_is_the_kernels_own_bit_for_bit(kernel, with_loops):
    if reason := why_not(kernel):
        pytest.skip(reason)
    family = KERNELS[probe_kernels().name if kernel == NATIVE else kernel]
    draw = np.random.default_rng(0)
    inputs = [draw.random((2, 37, *size), dtype=np.float32) for size in SIZES]
    results = run(kernel, [Job(mean_model(), {"x": x}) for x in inputs])
    inexact = 0
    for x, result in zip(inputs, results, strict=True):
        for layout in (torch.contiguous_format, torch.channels_last):
            given = torch.from_numpy(x).contiguous(memory_format=layout)
            mine = reduce_mean(given, torch.tensor([2, 3]), keepdims=0, family=family).numpy()
            np.testing.assert_array_equal(mine, result.outputs["y"], err_msg=str(x.shape))
        inexact += int((mine != x.astype(np.float64).mean(axis=(2, 3)).astype(np.float32)).sum())
    assert inexact > 100  # the order matters: a correctly rounded mean is something else


@pytest.mark.parametrize("kernel", [NATIVE, *EMULATED])
def test_the_mean_over_other_axes_is_the_kernels_own_bit_for_bit(kernel, with_loops):
    if reason := why_not(kernel):
        pytest.skip(reason)
    family = KERNELS[probe_kernels().name if kernel == NATIVE else kernel]
    draw = np.random.default_rng(1)
    inputs = [draw.random(shape, dtype=np.float32) for shape, _ in INSIDE]
    jobs = [Job(mean_model(axes, [None] * x.ndim), {"x": x}) for x, (_, axes) in zip(inputs, INSIDE, strict=True)]
    deployment = Deployment(threads=2)
    inexact = 0
    for x, (_, axes), result in zip(inputs, INSIDE, run(kernel, jobs, threads=2), strict=True):
        told = {"keepdims": 0, "family": family, "deployment": replace(deployment, images=len(x))}
        mine = reduce_mean(torch.from_numpy(x), torch.tensor(axes), **told).numpy()
        np.testing.assert_array_equal(mine, result.outputs["y"], err_msg=f"{x.shape} {axes}")
        inexact += int((mine != x.astype(np.float64).mean(axis=tuple(axes)).astype(np.float32)).sum())
        if x.ndim == 4 and axes == [1, 2]:
            last = torch.from_numpy(x).permute(0, 3, 1, 2)
            found = reduce_mean(last, torch.tensor([2, 3]), layout=(0, 2, 3, 1), **told)
            np.testing.assert_array_equal(found.numpy(), mine)
    assert inexact > 100


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_from_as_many_tables_on_as_there_are_threads_columns_are_added_in_fours(threads):
    draw = np.random.default_rng(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(mean_model([1, 2], [None] * 4), options, providers=["CPUExecutionProvider"])
    family = KERNELS[probe_kernels().name]
    for count in range(1, 13):
        x = draw.random((count, 9, 7, 13), dtype=np.float32)
        deployment = Deployment(threads, count)
        mine = reduce_mean(torch.from_numpy(x), torch.tensor([1, 2]), keepdims=0, deployment=deployment, family=family)
        np.testing.assert_array_equal(mine.numpy(), session.run(None, {"x": x})[0], err_msg=str(count))
        part = reduce_mean(torch.from_numpy(x[:1]), torch.tensor([1, 2]), keepdims=0, deployment=deployment, family=family)
        assert torch.equal(part, mine[:1])  # a part of a batch is added up as the whole
    if family.adds_in_fours:
        assert least_tables(threads) >= max(2, threads)


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (2, 0, 3)])
def test_no_values_at_all(shape):
    x = torch.zeros(shape)
    assert reduce_mean(x, torch.tensor([1]), family=KERNELS["vnni"]).shape == x.mean(dim=1, keepdim=True).shape


def test_lanes_meet_as_their_family_has_them():
    x = torch.tensor([[1e8, 1.0, -1e8, 1.0]])
    assert row_sums(x, neighbours=False).tolist() == [2.0]
    assert row_sums(x, neighbours=True).tolist() == [0.0]


def test_the_gradient_is_the_means():
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    reduce_mean(x, torch.tensor([2, 3]), family=KERNELS["vnni"]).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 1 / 16))
