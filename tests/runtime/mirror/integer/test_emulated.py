"""The same operators on other processors' kernels: seeded cases, all in one emulated process a family."""

import numpy as np
import pytest
from emulation import Job, run, why_not
from integer_cases import CONFIG, Choices, Nodes, by_node, compare, run_mirror
from integer_operators import OPERATORS, S8, U8

from qcam.runtime.kernels import KERNELS

pytestmark = pytest.mark.slow

CASES = 25
#: Emulated processor → the family whose arithmetic it has.
FAMILIES = {"avx2": "avx2", "sandybridge": "vnni", "arm64": "arm64"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    if reason := why_not(request.param):
        pytest.skip(reason)
    cases = {name: [make(Choices.seeded(seed)) for seed in range(CASES)] for name, make in OPERATORS.items()}
    results = iter(run(request.param, [job(case, profile=True) for group in cases.values() for case in group], threads=1))
    pairs = {name: [(case, next(results)) for case in group] for name, group in cases.items()}
    return KERNELS[FAMILIES[request.param]], pairs


def job(case, *, profile=False):
    return Job(case.model.SerializeToString(), {"x": case.x}, CONFIG, case.outputs(), profile=profile)


@pytest.mark.parametrize("operator", OPERATORS)
def test_codes_are_the_kernels(family, operator):
    kernels, pairs = family
    for case, result in pairs[operator]:
        compare(case, result.outputs, by_node(result.kernels), kernels)


def lowest(weight):
    """Return a convolution of codes 0 by one weight everywhere, which the exact sums of 16 products take to 200."""
    nodes = Nodes(Choices.seeded(0), U8, 21)
    nodes.x = np.full((1, 16, 2, 2), -128, np.float32)
    x = nodes.quantize("x", 1.0, 128, name="x")
    nodes.add("Conv", "c", x.name, nodes.held("w", np.full((8, 16, 1, 1), weight, S8), 1.0, 0))
    result = nodes.quantize("c", float(np.float32(-128 * weight * 16 / 200)), 0, name="result")
    return nodes.case(result.name, "QLinearConv")


def test_without_dot_product_weights_of_minus_128_wrap_around():
    """Two products of -128 · -128 do not fit 16 bits: KernelFamily.wraps_lowest_weight; the mirror does not follow it."""
    if reason := why_not("arm64-nodot"):
        pytest.skip(reason)
    assert KERNELS["arm64"].wraps_lowest_weight
    cases = [lowest(-127), lowest(-128)]
    held, wrapped = (result.outputs["result_codes"] for result in run("arm64-nodot", [job(case) for case in cases]))
    assert np.unique(held).tolist() == [200]
    assert np.unique(wrapped).tolist() == [0]
    for case in cases:
        assert np.unique(run_mirror(case, KERNELS["arm64"])["result_codes"]).tolist() == [200]
