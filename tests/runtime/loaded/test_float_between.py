"""Float operators between integer kernels, in a whole graph: its codes are those of this machine's and of emulated kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from emulation import NATIVE, Job, run, why_not
from integer_cases import here
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.kernels import KERNELS
from qcam.runtime.loaded import as_loaded
from qcam.runtime.mirror import Mirror

EMULATED = [pytest.param(kernel, marks=pytest.mark.slow) for kernel in ("avx2", "arm64")]
CHANNELS = 16


def network(*, rank: int = 4) -> tuple[onnx.ModelProto, PrecisionEntry]:
    """Convolutions with a float operator or two behind each, between quantizers; `rank` is that of what is resized."""
    draw = np.random.default_rng(0)
    nodes, held = [], {}

    def constant(name, value):
        held[name] = np.asarray(value)
        return name

    def add(operator, to, *inputs, **attributes):
        nodes.append(helper.make_node(operator, list(inputs), [to], to, **attributes))
        return to

    def coded(name, scale, zero=128):
        parameters = [constant(f"{name}_scale", np.float32(scale)), constant(f"{name}_zero", np.uint8(zero))]
        return add("DequantizeLinear", f"{name}_d", add("QuantizeLinear", f"{name}_q", name, *parameters), *parameters)

    def convolved(x, name, inputs, kernel=3):
        weight = draw.integers(-127, 128, (CHANNELS, inputs, kernel, kernel)).astype(np.int8)
        parameters = [constant(f"{name}_w", weight), constant(f"{name}_s", np.float32(0.01)), constant(f"{name}_z", np.int8(0))]
        weights = add("DequantizeLinear", f"{name}_w_d", *parameters)
        return coded(add("Conv", name, x, weights, pads=[kernel // 2] * 4), 0.05)

    factors = [constant(name, draw.normal(1, 0.3, CHANNELS).astype(np.float32)) for name in ("scale", "bias")]
    x = convolved(coded("images", 0.02), "first", 3)
    x = convolved(coded(add("GroupNormalization", "grouped", x, *factors, num_groups=4), 0.03), "second", CHANNELS)
    x = coded(add("InstanceNormalization", "normalised", x, *factors), 0.03)
    if rank == 4:
        sizes = constant("sizes", np.array([1.0, 1.0, 2.0, 2.0], np.float32))
        x = add("Resize", "resized", x, "", sizes, mode="linear")
    else:
        x = add("Reshape", "flat", x, constant("three", np.array([0, CHANNELS, 81])))
        x = add("Resize", "resized", x, "", constant("sizes", np.array([1.0, 1.0, 4.0], np.float32)), mode="linear")
        x = add("Reshape", "square", x, constant("four", np.array([0, CHANNELS, 18, 18])))
    x = convolved(coded(x, 0.03), "third", CHANNELS)
    root = add("Pow", "power", add("Abs", "size", x), constant("exponent", np.float32(0.7)))
    norm = add(
        "Add", "norm", add("ReduceL2", "length", root, constant("channels", np.array([1]))), constant("one", np.float32(1))
    )
    inverse = add("Reciprocal", "inverse", norm)
    total = add("ReduceSum", "total", add("Mul", "scaled", root, inverse), constant("rows", np.array([2])), keepdims=1)
    behind = convolved(coded(total, 0.1, 0), "behind", CHANNELS, 1)
    add("Flatten", "scores", add("GlobalAveragePool", "pooled", add("Sqrt", "rooted", add("Abs", "positive", behind))))
    outputs = [helper.make_tensor_value_info(name, kind, None)
               for name, kind in (("scores", TensorProto.FLOAT), ("third_q", TensorProto.UINT8))]  # fmt: skip
    graph = helper.make_graph(
        nodes, "between", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 9, 9])], outputs,
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    tap = Tap("third", "third_q", "uint8", 0.05, 128)
    return model, PrecisionEntry("int8", "", "", "scores", tap)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (count, 3, 9, 9)).astype(np.float32)


@pytest.mark.parametrize("kernel", [NATIVE, *EMULATED])
def test_codes_and_scores_are_those_that_ran(kernel):
    if reason := why_not(kernel):
        pytest.skip(reason)
    family = here() if kernel == NATIVE else KERNELS[kernel]
    model, entry = network()
    (result,) = run(kernel, [Job(model.SerializeToString(), {"images": pictures(3)})], threads=2)
    mirror = Mirror(model, entry, arithmetic="integer", family=family, threads=2)
    assert not mirror.unordered
    outputs = mirror.forward(pictures(3))
    np.testing.assert_array_equal(outputs.tap.numpy(), result.outputs["third_q"])
    np.testing.assert_array_equal(outputs.logits.numpy(), result.outputs["scores"])


@pytest.mark.parametrize("family", KERNELS.values(), ids=str)
def test_a_sequence_that_is_resized_is_promised_nothing(family):
    model, entry = network(rank=3)
    (name,) = as_loaded(model, family=family).means.unordered
    assert name.startswith("resized")
    mirror = Mirror(model, entry, arithmetic="integer", family=family)
    assert ["resized" in label for label in mirror.unordered] == [True]
