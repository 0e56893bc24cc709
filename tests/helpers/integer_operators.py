"""Draws a case of each operator. Every function returns a case of one kernel; shapes are small, patterns of codes are not."""

from __future__ import annotations

from typing import Any

import numpy as np
from integer_cases import Case, Choices, Codes, Nodes

U8, S8 = np.uint8, np.int8


def types(choices: Choices) -> tuple[Any, Any]:
    """Return the types of activations and weights."""
    return choices.pick((U8, S8), (U8, S8), (S8, S8), (U8, U8))


def finish(nodes: Nodes, tensor: str, kernel: str | None, *, clip: bool = False, unit: float = 0.0) -> Case:
    """Quantize a result, mostly by a scale and a zero point that fit its values, and put a redundant Relu or Clip before.

    Where there is a unit, of which all values are multiples, every other scale is an even multiple of it: ties are frequent.
    """
    choices, limits = nodes.choices, np.iinfo(nodes.dtype)
    values = nodes.values(tensor)
    lowest, highest = float(min(values.min(), 0)), float(max(values.max(), 0))
    # Global pools refuse to magnify.
    scale = (highest - lowest or 1.0) / 255 * choices.pick(1, 1, 1, 0.3, 4, 30, 1 if kernel and "Pool" in kernel else 1e-3)
    scale = float(np.float32(2.0 ** np.rint(np.log2(scale)) if choices.integer(0, 2) == 0 else scale))
    if unit and choices.yes():
        fitting = max(1, round((highest - lowest) / 255 / unit / 2))
        scale = float(np.float32(unit) * np.float32(2 * choices.pick(fitting, fitting, max(1, fitting // 3), 1, 3)))
    zero = int(np.clip(limits.min - np.rint(lowest / scale), limits.min, limits.max))
    if choices.integer(0, 3) == 0:
        zero = choices.zero_point(nodes.dtype)
    operator = choices.pick("", "Relu", "Clip") if clip else ""
    if operator == "Relu":
        zero = int(limits.min)
        tensor = nodes.add("Relu", "clipped", tensor)
    elif operator == "Clip":  # just as wide as the codes reach, or wider
        more = choices.pick(0, 1)
        low = nodes.constant("low", np.float32(scale) * np.float32(limits.min - zero - more))
        high = nodes.constant("high", np.float32(scale) * np.float32(limits.max - zero + more))
        tensor = nodes.add("Clip", "clipped", tensor, low, high)
    result = nodes.quantize(tensor, scale, zero, name="result")
    return nodes.case(result.name, kernel)


def weight(nodes: Nodes, shape: tuple[int, ...], dtype: Any, axis: int, channels: int) -> tuple[str, np.ndarray]:
    """Return a constant weight, by one scale or one a channel, and its scales."""
    choices = nodes.choices
    codes = choices.codes(dtype, shape)
    zero = choices.integer(0, 255) if dtype == U8 else choices.pick(0, 0, 0, -5)
    if choices.yes():
        scales = np.array([choices.scale(-9, -4) for _ in range(channels)], np.float32)
        return nodes.held("w", codes, scales, np.full(channels, zero), axis), scales
    scale = np.float32(choices.scale(-9, -4))
    return nodes.held("w", codes, scale, zero), np.full(channels, scale)


BIASES = ("none", "codes", "large", "float")


def bias(nodes: Nodes, x: Codes, scales: np.ndarray, *, kinds: tuple[str, ...] = BIASES) -> list[str]:
    """Return a bias as an operand: none, codes, codes near the end of 32 bits, or float values."""
    choices = nodes.choices
    kind = choices.pick(*kinds)
    if kind == "none":
        return []
    numbers = choices.numbers()
    steps = np.float32(x.scale) * scales
    if kind == "float":
        values = numbers.normal(size=len(scales)) * steps * choices.pick(1, 300, 1e6)
        if choices.yes():  # ties
            values = (numbers.integers(-50, 50, len(scales)) + 0.5) * steps
        return [nodes.constant("b", values.astype(np.float32))]
    reach = 2**31 - 1 if kind == "large" else 20_000
    codes = numbers.integers(-reach, reach, len(scales)).astype(np.int32)
    single = len(set(scales.tolist())) == 1 and choices.yes()
    return [nodes.held("b", codes, steps[0] if single else steps, 0 if single else np.zeros(len(codes)),
                       None if single else 0)]  # fmt: skip


def unit_of(x: Codes, scales: np.ndarray) -> float:
    """Return what one step of the accumulators is worth, 0 if that depends on the channel."""
    return float(np.float32(x.scale) * scales[0]) if len(set(scales.tolist())) == 1 else 0.0


def conv(choices: Choices) -> Case:
    kind = choices.pick("plain", "grouped", "depthwise", "multiplied")
    activations, weights = types(choices)
    nodes = Nodes(choices, activations)
    if kind == "plain":
        groups, inputs, outputs = 1, choices.integer(1, 20), choices.integer(1, 18)
    elif kind == "grouped":
        groups, inputs, each = choices.integer(2, 4), choices.integer(1, 6), choices.integer(1, 5)
        outputs = groups * each
    else:
        groups, inputs = choices.integer(2, 20), 1
        outputs = groups * (1 if kind == "depthwise" else choices.integer(2, 3))
    window = choices.pick([1, 1], [3, 3], [2, 3], [1, 5], [5, 2])
    dilations, strides = choices.pick([1, 1], [1, 1], [2, 1], [2, 3]), choices.pick([1, 1], [1, 1], [2, 2], [1, 3])
    extent = [(size - 1) * step + 1 for size, step in zip(window, dilations, strict=True)]
    size = [max(1, length + choices.integer(-1, 4)) for length in extent]
    pads = [choices.integer(0, 2) for _ in range(4)]
    short = [max(0, length - have - pads[axis] - pads[axis + 2])
             for axis, (length, have) in enumerate(zip(extent, size, strict=True))]  # fmt: skip
    pads = [pads[0] + short[0], pads[1] + short[1], *pads[2:]]
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups}
    auto = choices.pick("", "", "SAME_UPPER", "SAME_LOWER", "VALID")
    if auto.startswith("SAME"):  # ONNX Runtime refuses dilations with these
        attributes |= {"auto_pad": auto, "dilations": [1, 1]}
    elif auto and all(have >= length for have, length in zip(size, extent, strict=True)):
        attributes["auto_pad"] = auto
    else:
        attributes["pads"] = pads
    (x,) = nodes.inputs((choices.integer(1, 2), groups * inputs, *size))
    w, scales = weight(nodes, (outputs, inputs, *window), weights, 0, outputs)
    nodes.add("Conv", "c", x.name, w, *bias(nodes, x, scales), **attributes)
    return finish(nodes, "c", "QLinearConv", clip=True, unit=unit_of(x, scales))


def conv_of_a_row(choices: Choices) -> Case:
    """Along one axis, as eca's attention over channels."""
    activations, weights = types(choices)
    nodes = Nodes(choices, activations)
    groups = choices.pick(1, 1, 1, 3)
    inputs, each = choices.integer(1, 9), choices.integer(1, 4)
    window, step, stride = choices.integer(1, 5), choices.pick(1, 1, 2), choices.pick(1, 1, 2)
    extent = (window - 1) * step + 1
    begin, end = choices.integer(0, 2), choices.integer(0, 2)
    length = max(1, extent - begin - end) + choices.integer(0, 6)
    (x,) = nodes.inputs((choices.integer(1, 3), groups * inputs, length))
    w, scales = weight(nodes, (groups * each, inputs, window), weights, 0, groups * each)
    attributes = {"strides": [stride], "dilations": [step], "group": groups, "pads": [begin, end]}
    nodes.add("Conv", "c", x.name, w, *bias(nodes, x, scales), **attributes)
    return finish(nodes, "c", "QLinearConv", clip=True, unit=unit_of(x, scales))


def gemm(choices: Choices) -> Case:
    activations, weights = types(choices)
    nodes = Nodes(choices, activations)
    rows, depth, columns = choices.integer(1, 6), choices.pick(1, 3, 16, 33, 70, 300), choices.integer(1, 20)
    (x,) = nodes.inputs((rows, depth))
    transposed = choices.integer(0, 1)
    shape = (columns, depth) if transposed else (depth, columns)
    w, scales = weight(nodes, shape, weights, 0 if transposed else 1, columns)
    floats = choices.integer(0, 2) == 0
    operands = bias(nodes, x, scales, kinds=BIASES[:-1] if floats else BIASES)
    attributes = {"transB": transposed} if transposed or choices.yes() else {}
    nodes.add("Gemm", "y" if floats else "g", x.name, w, *operands, **attributes)
    if floats:
        return nodes.case("y", "QGemm")
    return finish(nodes, "g", "QGemm", clip=True, unit=unit_of(x, scales))


def matmul(choices: Choices) -> Case:
    """A constant operand on either side, or two activations."""
    activations, weights = types(choices)
    batch, rows, depth = choices.integer(1, 3), choices.integer(1, 4), choices.pick(1, 3, 16, 33, 70)
    columns = choices.integer(1, 20)
    shape = choices.pick((batch, depth), (batch, rows, depth), (batch, 2, rows, depth))
    kind = choices.pick("matrix", "matrix", "batch", "left", "two", "mixed")
    nodes = Nodes(choices, activations if kind != "two" else choices.pick(U8, S8))
    if kind == "matrix":
        (x,) = nodes.inputs(shape)
        operands = [x.name, weight(nodes, (depth, columns), weights, 1, columns)[0]]
    elif kind in ("batch", "left"):
        size = (batch, depth, columns) if kind == "batch" else (batch, rows, depth)
        held = nodes.held("w", choices.codes(weights if kind == "batch" else activations, size), choices.scale(-9, -4), 0)
        (x,) = nodes.inputs((batch, rows, depth) if kind == "batch" else (batch, depth, columns))
        operands = [x.name, held] if kind == "batch" else [held, x.name]
    else:
        types_of_two = None if kind == "two" else [activations, weights]
        operands = [x.name for x in nodes.inputs((batch, rows, depth), (batch, depth, columns), dtypes=types_of_two)]
    floats = choices.integer(0, 2) == 0
    nodes.add("MatMul", "y" if floats else "m", *operands)
    if floats:
        return nodes.case("y", "MatMulIntegerToFloat")
    return finish(nodes, "m", "QLinearMatMul", clip=True)


def binary(choices: Choices, operator: str) -> Case:
    """Two activations, one and a constant, or one tensor twice; shapes that broadcast."""
    nodes = Nodes(choices, choices.pick(U8, S8))
    batch, channels, height, width = 2, choices.integer(1, 20), choices.integer(1, 5), choices.integer(1, 5)
    full = (batch, channels, height, width)
    kind = choices.pick("two", "two", "constant", "twice")
    other = choices.pick(full, full, (batch, channels, 1, 1), (batch, 1, height, width))
    if kind == "twice":
        (a,) = nodes.inputs(full)
        operands = [a.name, a.name]
    elif kind == "two":
        shapes = [full, other]
        a, b = nodes.inputs(*(shapes if choices.yes() else shapes[::-1]))
        operands = [a.name, b.name]
    else:
        (a,) = nodes.inputs(full)
        shape = choices.pick((), (1,), (channels, 1, 1), (1, channels, 1, 1), (1, channels, height, width))
        held = nodes.held("w", choices.codes(nodes.dtype, shape), choices.scale(), choices.zero_point(nodes.dtype))
        operands = [a.name, held]
        if choices.yes():
            operands.reverse()
    nodes.add(operator, "r", *operands)
    return finish(nodes, "r", f"QLinear{operator}", clip=True, unit=a.scale if operator == "Add" else 0.0)


def add(choices: Choices) -> Case:
    return binary(choices, "Add")


def mul(choices: Choices) -> Case:
    return binary(choices, "Mul")


def concat(choices: Choices) -> Case:
    nodes = Nodes(choices, choices.pick(U8, S8))
    count = choices.integer(2, 4)
    shapes = [(2, choices.integer(1, 4), 3, 2) for _ in range(count)]
    operands = nodes.inputs(*shapes, scale=choices.scale() if choices.yes() else None)
    nodes.add("Concat", "r", *(operand.name for operand in operands), axis=choices.pick(1, -3))
    if choices.yes():  # as the first
        first = operands[0]
        result = nodes.quantize("r", first.scale, first.zero_point, name="result")
        return nodes.case(result.name, "QLinearConcat")
    return finish(nodes, "r", "QLinearConcat", clip=True, unit=operands[0].scale)


def average_pool(choices: Choices) -> Case:
    nodes = Nodes(choices, choices.pick(U8, S8))
    window, strides = choices.pick([2, 2], [3, 3], [1, 4], [3, 2]), choices.pick([1, 1], [2, 2], [2, 3])
    size = [length + choices.integer(0, 5) for length in window]
    attributes: dict[str, Any] = {"kernel_shape": window, "strides": strides, "ceil_mode": choices.integer(0, 1)}
    auto = choices.pick("", "", "", "SAME_UPPER", "SAME_LOWER", "VALID")
    if auto:
        attributes |= {"auto_pad": auto, "ceil_mode": 0, "strides": [1, 1]}
    else:
        attributes["pads"] = [choices.integer(0, length - 1) for length in (*window, *window)]
    attributes["count_include_pad"] = choices.integer(0, 1)
    (x,) = nodes.inputs((2, choices.integer(1, 18), *size))
    nodes.add("AveragePool", "p", x.name, **attributes)
    return finish(nodes, "p", "QLinearAveragePool", clip=True, unit=x.scale / 4)


def global_average_pool(choices: Choices) -> Case:
    nodes = Nodes(choices, choices.pick(U8, S8))
    size = choices.pick([1, 1], [7, 7], [3, 5], [16, 16], [300, 300])
    (x,) = nodes.inputs((2, choices.integer(1, 20), *size))
    nodes.add("GlobalAveragePool", "p", x.name)
    return finish(nodes, "p", "QLinearGlobalAveragePool", clip=True, unit=x.scale / 4)


def sigmoid(choices: Choices) -> Case:
    nodes = Nodes(choices, choices.pick(U8, S8))
    (x,) = nodes.inputs((2, 3, 4, 50))
    nodes.add("Sigmoid", "s", x.name)
    return finish(nodes, "s", "QLinearSigmoid", clip=True)


def leaky_relu(choices: Choices) -> Case:
    nodes = Nodes(choices, choices.pick(U8, S8))
    (x,) = nodes.inputs((2, 3, 4, 50))
    attributes = {"alpha": choices.pick(0.0, 0.1, 0.3, 1.7)} if choices.yes() else {}
    nodes.add("LeakyRelu", "s", x.name, **attributes)
    return finish(nodes, "s", "QLinearLeakyRelu", clip=True, unit=x.scale)


def softmax(choices: Choices) -> Case:
    nodes = Nodes(choices, choices.pick(U8, S8))
    shape = choices.pick((3, 10), (2, 1000), (2, 5, 7), (1, 4, 3, 6))
    (x,) = nodes.inputs(shape)
    attributes = {"axis": choices.integer(-len(shape), len(shape) - 1)} if choices.yes() else {}
    nodes.add("Softmax", "s", x.name, **attributes)
    scale, zero = choices.pick((1 / 256, 0), (1 / 255, 0), (0.01, 0), (0.02, 0), (0.003, None), (1 / 256, None), (1 / 64, None))
    zero = int(np.iinfo(nodes.dtype).min) if zero == 0 else choices.zero_point(nodes.dtype)
    result = nodes.quantize("s", float(np.float32(scale)), zero, name="result")
    return nodes.case(result.name, "QLinearSoftmax")


def unfused(choices: Choices) -> Case:
    """An operator in float, because a Relu or Clip in front of the quantizer takes something away."""
    nodes = Nodes(choices, choices.pick(U8, S8))
    limits = np.iinfo(nodes.dtype)
    middle = (int(limits.min) + int(limits.max) + 1) // 2
    # Powers of two and short sums: float arithmetic is exact, in whatever order.
    codes = choices.numbers().integers(middle - 60, middle + 60, (2, 3, 4, 4))
    nodes.x = ((codes - middle) / 8).astype(np.float32)
    x = nodes.quantize("x", 1 / 8, middle, name="x")
    operator = choices.pick("Conv", "Add", "Mul")
    if operator == "Conv":
        nodes.add("Conv", "r", x.name, nodes.held("w", choices.numbers().integers(-9, 9, (4, 3, 1, 1)).astype(S8), 1 / 4, 0))
    else:
        nodes.add(operator, "r", x.name, x.name)
    if choices.yes():
        nodes.add("Relu", "clipped", "r")
        result = nodes.quantize("clipped", 1 / 8, middle - choices.integer(0, 100), name="result")
    else:
        low, high = nodes.constant("low", np.float32(choices.pick(0, -1))), nodes.constant("high", np.float32(6))
        nodes.add("Clip", "clipped", "r", low, high)
        result = nodes.quantize("clipped", 1 / 16, int(limits.min) + 16, name="result")
    return nodes.case(result.name, None)


def passing(choices: Choices) -> Case:
    """An operator that works on codes as they are, its result quantized as its operand."""
    nodes = Nodes(choices, choices.pick(U8, S8))

    def ints(name: str, *values: int) -> str:
        return nodes.constant(name, np.array(values, np.int64))

    operator = choices.pick(
        "MaxPool", "Reshape", "Transpose", "Flatten", "Slice", "Unsqueeze", "Squeeze", "Gather", "Expand", "Resize"
    )
    shape = (1 if operator in ("Squeeze", "Expand") else 2, choices.integer(1, 18), 4, 6)
    (x,) = nodes.inputs(shape)
    if operator == "MaxPool":
        pads = [choices.integer(0, 1) for _ in range(4)]
        strides, ceil = choices.pick([1, 1], [2, 2]), choices.integer(0, 1)
        nodes.add("MaxPool", "r", x.name, kernel_shape=choices.pick([2, 2], [3, 3]), strides=strides, pads=pads, ceil_mode=ceil)
    elif operator == "Reshape":
        nodes.add("Reshape", "r", x.name, ints("shape", 2, -1, 3))
    elif operator == "Transpose":
        nodes.add("Transpose", "r", x.name, perm=choices.pick([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2]))
    elif operator == "Flatten":
        nodes.add("Flatten", "r", x.name)
    elif operator == "Slice":
        nodes.add("Slice", "r", x.name, ints("starts", 1), ints("ends", 4), ints("axes", 3))
    elif operator == "Unsqueeze":
        nodes.add("Unsqueeze", "r", x.name, ints("axes", 1))
    elif operator == "Squeeze":
        nodes.add("Squeeze", "r", x.name, ints("axes", 0))
    elif operator == "Gather":
        nodes.add("Gather", "r", x.name, ints("indices", 1, 0, 3), axis=2)
    elif operator == "Resize":
        scales = nodes.constant("scales", np.array([1, 1, choices.pick(2, 1.5, 0.5), choices.pick(3, 1)], np.float32))
        nearest, places = choices.pick("floor", "round_prefer_floor"), choices.pick("asymmetric", "half_pixel")
        nodes.add(
            "Resize", "r", x.name, "", scales, mode="nearest", nearest_mode=nearest, coordinate_transformation_mode=places
        )
    else:
        nodes.add("Expand", "r", x.name, ints("shape", 2, shape[1], 4, 6))
    result = nodes.quantize("r", x.scale, x.zero_point, name="result")
    return nodes.case(result.name, operator)


OPERATORS = {
    function.__name__: function
    for function in (
        conv, conv_of_a_row, gemm, matmul, add, mul, concat, average_pool, global_average_pool, sigmoid, leaky_relu, softmax,
        passing, unfused,
    )
}  # fmt: skip
