"""Which nodes become one integer kernel: foretold from the graph, and held against what ONNX Runtime here really runs."""

import numpy as np
import pytest
from integer_cases import here, run_mirror, run_runtime
from integer_operators import S8, U8
from onnx import helper, numpy_helper
from plain_graphs import Build, limits

from qcam.runtime.codes import quantized_tensors
from qcam.runtime.graph import Graph
from qcam.runtime.grouping import disagreements, find_groups, source_label
from qcam.runtime.rewrites import not_followed
from qcam.runtime.tables import is_integer_kernel


def clipped(low, high, zero=0):
    def make(build):
        build.add("Clip", "r", build.conv(), *limits(build, low, high))
        return build.done("r", zero=zero)

    return make


def relu(zero):
    def make(build):
        build.add("Relu", "r", build.conv())
        return build.done("r", zero=zero)

    return make


def chain(*operators):
    def make(build):
        tensor = build.conv()
        for operator in operators:
            extra = limits(build, -50, 50) if operator == "Clip" else []
            tensor = build.add(operator, f"after_{tensor}", tensor, *extra)
        return build.done(tensor, zero=0)

    return make


def gemm(*, bias=None, floats=False, between=None, axis=None, **attributes):
    def make(build):
        operands = [build.first, build.weight((6, 6), axis=axis)]
        operands += [] if bias is None else [build.floats("b", 6) if bias == "float" else build.bias(6)]
        build.add("Gemm", "y" if floats and not between else "g", *operands, **attributes)
        if between:
            extra = limits(build, 0, 6) if between == "Clip" else []
            build.add(between, "y" if floats else "r", "g", *extra)
        return build.done(None if floats else "r" if between else "g")

    make.shape = (6, 6)
    return make


def matmul(end):
    def make(build):
        build.add("MatMul", "y" if end == "float" else "m", build.first, build.weight((6, 6)))
        if end == "Relu":
            build.add("Relu", "r", "m")
        return build.done({"float": None, "Relu": "r", "codes": "m"}[end])

    make.shape = (6, 6)
    return make


def two_readers(build):
    build.conv()
    result = build.q("c")
    build.add("Add", "y", result, build.add("Sigmoid", "s", "c"))
    return build.done()


def an_output_between(build):
    build.conv()
    build.quantized.append("c")  # a graph output
    return build.done("c")


def other_type_behind(build):
    return build.done(build.conv(), dtype=S8)


def mixed_operands(build):
    second = build.quantize("x", 1 / 8, -3, name="second", dtype=S8).name
    build.add("Add", "a", build.first, second)
    return build.done("a")


def signed_by_unsigned(build):
    return build.done(build.conv(dtype=U8))


def dequantized_twice(build):
    build.conv(name="c")
    build.conv(name="d")
    build.add("Add", "a", build.q("c", name="c"), build.q("d", name="d"))
    return build.done("a")


def dequantized_and_exposed(build):
    build.conv(name="c")
    between = build.q("c", name="c")
    build.quantized.append(between)
    build.add("Sigmoid", "s", between)
    return build.done("s")


def bias_by_a_constant_node(build):
    value = numpy_helper.from_array(build.numbers.normal(size=3).astype(np.float32))
    build.nodes.append(helper.make_node("Constant", [], ["b"], name="b", value=value))
    build.add("Conv", "c", build.first, build.weight(), "b")
    return build.done("c")


def float_bias(build):
    build.add("Conv", "c", build.first, build.weight(axis=0), build.floats("b", 3))
    return build.done("c")


def sixteen_bits(build):
    return build.done(build.conv())


def pool(build):
    build.add("MaxPool", "p", build.first, kernel_shape=[2, 2])
    return build.done("p", zero=120, scale=1 / 32)


def other_meaning_behind(build):
    build.add("Reshape", "r", build.first, build.constant("shape", np.array([2, -1], np.int64)))
    return build.done("r")


def lists_of_one(operator):
    def make(build):
        build.add(operator, "r", build.conv(), *(limits(build, 0, 16) if operator == "Clip" else []))
        values = {"one_s": np.full(1, 1 / 16, np.float32), "one_z": np.full(1, build.low, build.dtype)}
        parameters = [build.constant(*pair) for pair in values.items()]
        build.quantized.append(build.add("QuantizeLinear", "result_codes", "r", *parameters))
        return build.case(build.add("DequantizeLinear", "v", "result_codes", *parameters), None)

    return make


BYTES = (U8, S8)
#: What: how to make it, kernel of each node that fuses, types of activations, opsets.
CASES = {
    "a convolution": (lambda build: build.done(build.conv()), ["QLinearConv"], BYTES, (13, 17, 21, 23)),
    "weights by channel": (lambda build: build.done(build.conv(axis=0)), ["QLinearConv"], BYTES, (13, 21)),
    "a float bias": (float_bias, ["QLinearConv"], BYTES, (13, 21)),
    "a bias by a Constant node": (bias_by_a_constant_node, ["QLinearConv"], BYTES, (13, 21)),
    "Relu at the lowest code": (relu(0), ["QLinearConv"], BYTES, (13, 19, 21)),
    "Relu above the lowest code": (relu(1), [], BYTES, (13, 19, 21)),
    "Clip as wide as the codes": (clipped(0, 255 / 16), ["QLinearConv"], BYTES, (13, 19, 21)),
    "Clip less than half a code inside": (clipped(0.03, 255 / 16 - 0.03), ["QLinearConv"], BYTES, (13, 19, 21)),
    "Clip more than half a code inside, low": (clipped(0.04, 16), [], BYTES, (13, 19, 21)),
    "Clip more than half a code inside, high": (clipped(0, 255 / 16 - 0.04), [], BYTES, (13, 19, 21)),
    "Clip without an upper limit": (clipped(0, None), ["QLinearConv"], BYTES, (13, 21)),
    "Clip without a lower limit": (clipped(None, 16), ["QLinearConv"], BYTES, (13, 21)),
    "Clip at 0 above the lowest code": (clipped(0, None, zero=9), [], BYTES, (13, 21)),
    "Relu, Clip": (chain("Relu", "Clip"), ["QLinearConv"], BYTES, (13, 21)),
    "Clip, Relu": (chain("Clip", "Relu"), ["QLinearConv"], BYTES, (13, 21)),
    "Relu, Relu": (chain("Relu", "Relu"), ["QLinearConv"], BYTES, (13, 21)),
    "Relu before a scale in a list": (lists_of_one("Relu"), ["QLinearConv"], BYTES, (13, 21)),
    "Clip before a scale in a list": (lists_of_one("Clip"), [], BYTES, (13, 21)),
    "two readers": (two_readers, [], BYTES, (21,)),
    "a graph output in between": (an_output_between, [], BYTES, (21,)),
    "another type behind": (other_type_behind, [], (U8,), (21,)),
    "operands of two types": (mixed_operands, [], (U8,), (21,)),
    "unsigned activations, unsigned weights": (signed_by_unsigned, ["QLinearConv"], (U8,), (21,)),
    "signed activations, unsigned weights": (signed_by_unsigned, [], (S8,), (21,)),
    "dequantized for two": (dequantized_twice, ["QLinearConv", "QLinearConv", "QLinearAdd"], BYTES, (21,)),
    "dequantized for two, one of them outside": (dequantized_and_exposed, ["QLinearConv", "QLinearSigmoid"], BYTES, (21,)),
    "16 bits": (sixteen_bits, [], (np.uint16, np.int16), (21,)),
    "MaxPool before version 12": (pool, [], (U8,), (11,)),
    "MaxPool version 12": (pool, ["MaxPool"], BYTES, (12, 21)),
    "MaxPool version 22": (pool, [], BYTES, (22,)),
    "Reshape to other codes": (other_meaning_behind, [], BYTES, (21,)),
    "Gemm": (gemm(), ["QGemm"], BYTES, (13, 21)),
    "Gemm, biased": (gemm(bias="codes"), ["QGemm"], BYTES, (13, 21)),
    "Gemm, float bias": (gemm(bias="float"), ["QGemm"], BYTES, (21,)),
    "Gemm, float bias, scales along the inputs": (gemm(bias="float", axis=0), [], BYTES, (21,)),
    "Gemm, float bias, scales along the outputs": (gemm(bias="float", axis=0, transB=1), ["QGemm"], BYTES, (21,)),
    "Gemm, float result": (gemm(floats=True), ["QGemm"], BYTES, (13, 21)),
    "Gemm, float result, biased": (gemm(bias="codes", floats=True), ["QGemm"], BYTES, (13, 21)),
    "Gemm, float result, float bias": (gemm(bias="float", floats=True), [], BYTES, (21,)),
    "Gemm, transposed": (gemm(transA=1, transB=1, bias="codes"), ["QGemm"], BYTES, (21,)),
    "Gemm, alpha": (gemm(alpha=0.3), ["QGemm"], BYTES, (21,)),
    "Gemm, alpha, float result": (gemm(alpha=0.3, floats=True), ["QGemm"], BYTES, (21,)),
    "Gemm, alpha, biased": (gemm(alpha=0.5, bias="codes"), [], BYTES, (21,)),
    "Gemm, beta, biased": (gemm(beta=0.5, bias="codes"), [], BYTES, (21,)),
    "Gemm, beta of nothing": (gemm(beta=0.5), ["QGemm"], BYTES, (21,)),
    "Gemm, Relu at the end": (gemm(floats=True, between="Relu"), ["QGemm"], BYTES, (21,)),
    "Gemm, Relu that takes something away": (gemm(between="Relu"), [], BYTES, (21,)),
    "Gemm, Clip that takes something away": (gemm(between="Clip"), [], BYTES, (21,)),
    "Gemm, Sigmoid": (gemm(between="Sigmoid"), ["QGemm"], BYTES, (21,)),
    "MatMul": (matmul("codes"), ["QLinearMatMul"], BYTES, (13, 21)),
    "MatMul, float result": (matmul("float"), ["MatMulIntegerToFloat"], BYTES, (13, 21)),
    "MatMul, Relu that takes something away": (matmul("Relu"), [], BYTES, (21,)),
}
EACH = [
    pytest.param(make, kernels, dtype, opset, id=f"{name}-{np.dtype(dtype).name}-opset{opset}")
    for name, (make, kernels, dtypes, opsets) in CASES.items()
    for dtype in dtypes
    for opset in opsets
]


@pytest.mark.parametrize(("make", "kernels", "dtype", "opset"), EACH)
def test_the_kernels_are_foretold(make, kernels, dtype, opset):
    case = make(Build(getattr(make, "shape", (2, 4, 5, 5)), dtype, opset))
    graph = Graph(case.model)
    groups = find_groups(graph)
    assert [group.kernel for group in groups] == kernels
    assert not_followed(graph) == []
    theirs, ran = run_runtime(case)
    assert disagreements(groups, graph, ran) == []
    assert [kernel for kernel in ran.values() if is_integer_kernel(kernel)] == [name for name in kernels if name != "MaxPool"]
    if opset >= 12:  # what Relu and Clip leave to be rounded is exact, so floats cannot differ but by the last bit
        for name, values in run_mirror(case, here()).items():
            if name in quantized_tensors(graph):
                np.testing.assert_array_equal(values, theirs[name])


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_an_accelerator_would_fuse_16_bits(dtype):
    build = Build(dtype=dtype)
    build.add("Add", "a", build.first, build.first)
    (group,) = find_groups(Graph(build.done("a").model), bits=16)
    assert group.kernel == "QLinearAdd"


# --- holding it against a profile ---------------------------------------------------------------------------------------


def small():
    build = Build()
    build.add("Relu", "r", build.conv())
    middle = build.q("r", zero=0, name="middle")
    build.add("Sigmoid", "s", middle)
    build.add("Softmax", "y", build.q("s", name="s"))
    return build.done()


RAN = {"Conv_c": "QLinearConv", "Sigmoid_s": "QLinearSigmoid", "Softmax_y": "Softmax"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, None),
        ({"Conv_c": "FusedConv"}, "Conv Conv_c: expected as QLinearConv, ran as FusedConv"),
        ({"Conv_c": None}, "Conv Conv_c: expected as QLinearConv, not in the profile at all"),
        ({"Softmax_y": "QLinearSoftmax"}, "Softmax Softmax_y: expected as a float operator, ran as QLinearSoftmax"),
        ({"Softmax_y": "MatMulNBits"}, "Softmax Softmax_y: expected as a float operator, ran as MatMulNBits"),
        ({"Softmax_y": None}, None),  # float operators may have been joined with others
        ({"Softmax_y": "FusedSoftmax"}, None),
        ({"other": "QLinearAdd"}, None),
    ],
)
def test_a_wrong_prediction_is_found(change, sentence):
    graph = Graph(small().model)
    groups = find_groups(graph)
    assert [group.kernel for group in groups] == ["QLinearConv", "QLinearSigmoid"]
    kernels = {name: kernel for name, kernel in {**RAN, **change}.items() if kernel}
    assert disagreements(groups, graph, kernels) == ([sentence] if sentence else [])


def test_a_profile_of_nothing_says_nothing():
    graph = Graph(small().model)
    assert disagreements(find_groups(graph), graph, {}) == []


def test_operators_on_codes_may_run_under_any_name():
    graph = Graph(pool(Build()).model)
    (group,) = find_groups(graph)
    for kernels in ({"MaxPool_p": "NhwcMaxPool"}, {"MaxPool_p": "MaxPool"}, {"other": "Transpose"}):
        assert disagreements((group,), graph, kernels) == []


def test_nodes_without_names_fuse_but_cannot_be_held_against_a_profile():
    case = small()
    for node in case.model.graph.node:
        node.name = ""
    graph = Graph(case.model)
    groups = find_groups(graph)
    assert [group.label for group in groups] == ["Conv middle_codes", "Sigmoid s_codes"]
    assert disagreements(groups, graph, {"": "Conv", "Conv_c": "Conv"}) == []
    theirs, _ = run_runtime(case)
    for name, values in run_mirror(case, here()).items():
        if name != "y":
            np.testing.assert_array_equal(values, theirs[name])


def test_labels_of_what_tensors_come_from():
    build = Build()
    build.add("Relu", "r", build.conv())
    middle = build.q("r", zero=0, name="middle")
    build.add("Sigmoid", "s", build.add("Neg", "n", middle))
    build.add("Softmax", "y", build.q("s", name="last"))
    graph = Graph(build.done().model)
    groups = {group.result: group for group in find_groups(graph)}
    assert source_label(graph, groups, "middle_codes") == "Conv Conv_c"
    assert source_label(graph, groups, "x_codes") == "QuantizeLinear QuantizeLinear_x_codes"
    assert source_label(graph, groups, "last_codes") == "Sigmoid+Neg Sigmoid_s (float)"
    assert source_label(graph, groups, "y") == "Softmax Softmax_y (float)"
    assert source_label(graph, groups, "x") == "x"


def test_the_inner_nodes_of_a_group():
    graph = Graph(small().model)
    first, second = find_groups(graph)
    assert [node.op_type for node in first.inner] == ["Relu", "QuantizeLinear"]
    assert [node.op_type for node in second.inner] == ["QuantizeLinear"]
    assert (first.result, second.result) == ("middle_codes", "s_codes")
    assert quantized_tensors(graph) == ("x_codes", "middle_codes", "s_codes")
