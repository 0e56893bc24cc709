"""What ONNX Runtime rewrites when it loads a file, and the groups do not foresee: named, and mirrored all the same."""

import copy

import numpy as np
import pytest
from integer_cases import CONFIG, here, run_mirror, run_runtime
from plain_graphs import Build

from qcam.common.errors import QcamError
from qcam.runtime.graph import Graph
from qcam.runtime.grouping import disagreements, find_groups
from qcam.runtime.loaded import as_loaded
from qcam.runtime.rewrites import (
    REWRITES,
    BlockwiseProduct,
    ChoiceOfCodes,
    FloatWeight,
    JoinedAddition,
    MovedQuantizers,
    not_followed,
)


def float_weight(*between):
    def make(build):
        tensor = build.add("Conv", "c", build.first, build.floats("w", 3, 4, 1, 1))
        for operator in between:
            tensor = build.add(operator, f"after_{tensor}", tensor)
        return build.done(tensor)

    return make


def across(operator, *inputs, behind=False, **attributes):
    def make(build):
        extra = [build.constant(f"extra{index}", np.array(value, np.int64)) for index, value in enumerate(inputs)]
        if behind:
            return build.done(build.add(operator, "r", build.conv(), *extra, **attributes))
        build.add(operator, "r", build.first, *extra, **attributes)
        return build.done(build.add("Mul", "m", "r", "r"))

    return make


def matmul_and_addition(build):
    build.add("MatMul", "m", build.first, build.weight((5, 5)))
    return build.done(build.add("Add", "a", "m", build.floats("b", 5)))


def weight_only(build):
    build.add("Flatten", "f", build.first)
    build.add("Gemm", "y", "f", build.weight((100, 7)))
    return build.done()


def where(build):
    second = build.q("x", 9, 1 / 8, name="second")
    condition = build.constant("condition", np.array([True, False, True, False, True]))
    return build.done(build.add("Where", "w", condition, build.first, second))


REWRITTEN = {
    "float weight": (float_weight(), "quantizes the float weight to 8 bits", {"c": "QLinearConv"}),
    "float weight, Relu": (float_weight("Relu"), "quantizes the float weight to 8 bits", {"c": "FusedConv"}),
    "across Reshape": (across("Reshape", [2, -1, 5]), "moves quantizers", {"m": "QLinearMul"}),
    "across Transpose": (across("Transpose", perm=[0, 1, 3, 2]), "moves quantizers", {"m": "QLinearMul"}),
    "across MaxPool": (across("MaxPool", kernel_shape=[2, 2]), "moves quantizers", {"m": "QLinearMul"}),
    "back across Unsqueeze": (across("Unsqueeze", [1], behind=True), "moves quantizers", {"c": "QLinearConv"}),
    "back across Slice": (across("Slice", [0], [3], [2], behind=True), "moves quantizers", {"c": "QLinearConv"}),
    "MatMul and Add": (matmul_and_addition, "joins it and the addition", {"m/MatMulAddFusion": "QGemm"}),
    "weight only": (weight_only, "MatMulNBits", {"y": "MatMulNBits"}),
    "Where": (where, "computes on codes", {"w": "QLinearWhere"}),
}


@pytest.mark.parametrize("name", REWRITTEN)
@pytest.mark.parametrize("opset", [17, 21])
def test_what_the_groups_do_not_follow_is_named_and_the_mirror_follows_it(name, opset):
    make, reason, ran = REWRITTEN[name]
    case = make(Build(opset=opset))
    (found,) = not_followed(Graph(case.model))
    assert found.startswith("ONNX Runtime ")
    assert reason in found
    theirs, kernels = run_runtime(case)
    for tensor, kernel in ran.items():  # it does what is said
        assert [found for node, found in kernels.items() if node.endswith(f"_{tensor}")] == [kernel]
    if name == "weight only":
        with pytest.raises(QcamError, match=r"MatMulNBits at Gemm_y, of which the mirror has no integer arithmetic"):
            run_mirror(case, here())
        return
    mine = run_mirror(case, here(), float_kernels=True)
    assert set(mine) >= {"y", case.entry.tap.output}
    for tensor, values in mine.items():
        np.testing.assert_array_equal(values, theirs[tensor].astype(np.float32))
    assert as_loaded(case.model, CONFIG, here()).differing(kernels) == []


@pytest.mark.parametrize("operator", ["Flatten", "Sigmoid"])
def test_quantizers_move_across_no_other_operators(operator):
    case = across(operator)(Build())
    assert not_followed(Graph(case.model)) == []
    graph = Graph(case.model)
    _, ran = run_runtime(case)
    assert disagreements(find_groups(graph), graph, ran) == []


def hidden(case):
    """Return a case that shows nothing but its result."""
    model = copy.deepcopy(case.model)
    del model.graph.output[1:]
    return model


def test_a_second_quantizer_is_not_followed_unless_the_first_one_shows():
    build = Build()
    between = build.q(build.conv(), name="between")
    case = build.done(between, scale=1 / 13)
    assert not_followed(Graph(case.model)) == []
    (reason,) = not_followed(Graph(hidden(case)))
    assert "removes the quantizer before it" in reason


def test_equal_quantizers_are_not_followed_unless_both_show():
    build = Build()
    build.conv()
    build.add("Add", "y", build.q("c", name="one"), build.q("c", name="two"))
    case = build.done()
    assert not_followed(Graph(case.model)) == []
    (reason,) = not_followed(Graph(hidden(case)))
    assert reason == "ONNX Runtime merges the equal quantizers behind it, at Conv Conv_c"


# --- each rewrite says why --------------------------------------------------------------------------------------------


def node_of(graph, name):
    (found,) = [node for node in graph.model.graph.node if node.output[0] == name]
    return found


@pytest.mark.parametrize(
    ("rewrite", "make", "node", "why"),
    [
        (FloatWeight, float_weight(), "c", "w is a float weight between quantized activations"),
        (FloatWeight, float_weight("Sigmoid"), "c", "c is read by Sigmoid, not by a quantizer"),
        (FloatWeight, across("Reshape", [2, -1, 5], behind=True), "c", "c_w is no constant of float32"),
        (FloatWeight, where, "w", "Where is none of Conv, Gemm"),
        (JoinedAddition, matmul_and_addition, "m", "Add_a adds a constant"),
        (BlockwiseProduct, weight_only, "y", "f is float, w has codes of 8 bits"),
        (BlockwiseProduct, matmul_and_addition, "m", "x_value is dequantized itself"),
        (ChoiceOfCodes, where, "w", "both choices and the result are quantized"),
        (MovedQuantizers, across("Reshape", [2, -1, 5]), "m", "its operands and its result would be quantized next to it"),
        (MovedQuantizers, across("Sigmoid"), "m", "nothing around it only rearranges"),
    ],
)
def test_a_rewrite_says_why_it_applies_or_not(rewrite, make, node, why):
    graph = Graph(make(Build()).model)
    match = rewrite().matches(graph, node_of(graph, node))
    assert match.why == why
    assert bool(match) == (f"ONNX Runtime {rewrite.reason}" in "; ".join(not_followed(graph)))


def test_every_rewrite_says_in_its_docstring_and_its_reason_what_onnx_runtime_does():
    for rewrite in REWRITES:
        assert (type(rewrite).__doc__ or "").count(" ") > 8
        assert rewrite.reason.split()[0].endswith("s")  # ONNX Runtime does …
    assert len({rewrite.reason for rewrite in REWRITES}) == len(REWRITES)
