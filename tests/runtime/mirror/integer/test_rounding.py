"""Where rounding decides: sums next to half way between two codes, for every code, by biases that put them there."""

import numpy as np
import pytest
from emulation import Job, run, why_not
from integer_cases import CONFIG, Choices, Nodes, by_node, check, compare
from integer_operators import S8, U8

from qcam.runtime.kernels import KERNELS

#: Size of the sums: beyond 2^24 float32 rounds them before they are multiplied.
REACHES = (3e3, 1e6, 2e7, 1e9)


def near_ties(operator, dtype, seed, *, by_channel=False):
    """Return a case whose sums are biases alone, three around each point half way between two codes, and their numbers."""
    choices = Choices.seeded(seed)
    low = int(np.iinfo(dtype).min)
    zero, columns = low + choices.integer(0, 255), 256 * 3
    scales = np.array([choices.integer(2**12, 2**13) / 2**20 for _ in range(columns)], np.float32)
    scales = scales if by_channel else np.full(columns, scales[0])
    nodes = Nodes(choices, dtype, 21)
    step = float(np.float32(choices.integer(2**12, 2**13) / 2**18))
    nodes.x = np.zeros((2, 3) if operator == "Gemm" else (2, 3, 2, 2), np.float32)
    x = nodes.quantize("x", step, low + 7, name="x")
    unit = np.float32(step) * scales
    result = float(np.float32(unit[0] * REACHES[seed % 4] / 255))
    half_way = np.repeat(np.arange(256) - (zero - low) + 0.5, 3)
    multiplier = unit.astype(np.float64) / result
    bias = np.rint(half_way / multiplier) + np.tile([-1, 0, 1], 256)
    bias = np.clip(bias, -(2**31), 2**31 - 1).astype(np.int32)
    shape = (3, columns) if operator == "Gemm" else (columns, 3, 1, 1)
    axis = 1 if operator == "Gemm" else 0
    w = nodes.held("w", np.ones(shape, S8), scales if by_channel else scales[0], np.zeros(columns) if by_channel else 0,
                   axis if by_channel else None)  # fmt: skip
    b = nodes.held("b", bias, unit if by_channel else unit[0], np.zeros(columns) if by_channel else 0,
                   0 if by_channel else None)  # fmt: skip
    nodes.add(operator, "r", x.name, w, b)
    return nodes.case(nodes.quantize("r", result, zero, name="result").name, "QGemm" if operator == "Gemm" else "QLinearConv")


def pairs(operator, dtype, seed):
    """Return a case of every pair of codes."""
    choices = Choices.seeded(seed)
    low = int(np.iinfo(dtype).min)
    scales = [choices.integer(2**12, 2**14) / 2**17 for _ in range(3)]
    zeros = [low + choices.integer(0, 255) for _ in range(3)]
    nodes = Nodes(choices, dtype, 21)
    nodes.x = np.broadcast_to(scales[0] * (np.arange(256) + low - zeros[0])[:, None], (256, 256)).astype(np.float32)
    x = nodes.quantize("x", scales[0], zeros[0], name="x")
    nodes.add(operator, "r", x.name, nodes.held("w", (np.arange(256) + low).astype(dtype), scales[1], zeros[1]))
    step = float(np.float32(scales[2] * (2 if operator == "Add" else 12)))
    return nodes.case(nodes.quantize("r", step, zeros[2], name="result").name, f"QLinear{operator}")


BOTH = pytest.mark.parametrize("dtype", [U8, S8])


@BOTH
@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_sums_near_ties(operator, dtype, by_channel, seed):
    check(near_ties(operator, dtype, seed, by_channel=by_channel))


@BOTH
@pytest.mark.parametrize("operator", ["Add", "Mul"])
@pytest.mark.parametrize("seed", range(24))
def test_every_pair_of_codes(operator, dtype, seed):
    check(pairs(operator, dtype, seed))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["avx2", "arm64"])
def test_the_same_on_other_processors(kernel):
    if reason := why_not(kernel):
        pytest.skip(reason)
    cases = [near_ties(operator, dtype, seed) for operator in ("Conv", "Gemm") for dtype in (U8, S8) for seed in range(8)]
    cases += [pairs(operator, dtype, seed) for operator in ("Add", "Mul") for dtype in (U8, S8) for seed in range(12)]
    jobs = [Job(case.model.SerializeToString(), {"x": case.x}, CONFIG, case.outputs(), profile=True) for case in cases]
    for case, result in zip(cases, run(kernel, jobs, threads=1), strict=True):
        compare(case, result.outputs, by_node(result.kernels), KERNELS[kernel])
