"""Valid graphs between quantizers, decided by bytes: chains of operators with odd attributes, shapes, scales and zero points.

Every node is computed by ONNX Runtime, by itself, as it is added: one that it refuses is left out again, and what it returns
gives the next one's shape and the range that is quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fuzz.reader import Reader

Array = NDArray[Any]
U8, S8, U16, S16 = np.uint8, np.int8, np.uint16, np.int16
#: Most values of a tensor, and most operators of a graph.
_MOST, _OPERATORS = 1 << 14, 7
onnxruntime.set_default_logger_severity(4)


@dataclass
class Growing:
    """A graph that grows.

    Attributes:
        reader: What decides.
        opset: Version of the operators.
        nodes: Its nodes so far.
        constants: Its initializers by name.
        values: Every tensor by name, for one batch of pictures.
        codes: Tensor that a DequantizeLinear returns → scale, zero point and type of its codes.
    """

    reader: Reader
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    codes: dict[str, tuple[float, int, Any]] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Add a node; return its first result, or nothing where ONNX Runtime refuses it or it is too large."""
        name = f"{operator}_{len(self.nodes)}"
        results = [name, *(f"{name}_{place}" for place in range(1, outputs))]
        if [] in attributes.values() or not all(name in self.values or name in self.constants or not name for name in inputs):
            return ""
        node = helper.make_node(operator, list(inputs), results, name=name, domain=domain, **attributes)
        found = self._computed(node)
        if found is None or any(value.size > _MOST or not value.size for value in found):
            return ""
        self.nodes.append(node)
        self.values |= dict(zip(results, found, strict=True))
        return name

    def constant(self, value: Any) -> str:
        """Add an initializer, return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def numbers(self) -> np.random.Generator:
        """Return a generator of the numbers of an array."""
        return np.random.default_rng(self.reader.integer(0, 255))

    def integers(self, *numbers: int) -> str:
        """Add shapes or axes as a constant."""
        return self.constant(np.array(numbers, np.int64))

    def array(self, *shape: int) -> Array:
        """Return float32 numbers around 0, or around a power of two of it."""
        return (self.numbers().normal(size=shape) * 2.0 ** self.reader.integer(-6, 3)).astype(np.float32)

    def quantized(self, tensor: str, dtype: Any) -> str:
        """Put QuantizeLinear and DequantizeLinear behind a tensor, mostly by a scale that fits its values."""
        reader, limits = self.reader, np.iinfo(dtype)
        way = reader.integer(0, 7)
        of = self.codes.get(next((name for node in self.nodes[-1:] for name in node.input if name in self.codes), ""))
        values = self.values[tensor]
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        low, high = (float(min(finite.min(), 0)), float(max(finite.max(), 0))) if finite.size else (0.0, 1.0)
        scale = (high - low or 1.0) / (int(limits.max) - int(limits.min))
        zero = int(np.clip(limits.min - np.rint(low / scale), limits.min, limits.max))
        if way == 1 and of is not None and of[2] == dtype:  # as its operand, which lets ONNX Runtime pass codes on
            scale, zero = of[0], of[1]
        elif way == 2:
            scale *= reader.pick(2.0, 0.5, 30.0, 1e-3, 1e3)
        elif way == 3:
            scale = 2.0 ** np.rint(np.log2(scale)) if np.isfinite(scale) and scale > 0 else 1.0
        elif way == 4:
            zero = int(reader.pick(limits.min, limits.max, (int(limits.min) + int(limits.max) + 1) // 2, 0, 1))
        elif way == 5:
            scale = float(reader.pick(1.0, 2.0**-8, 1e-30, 1e-42, 1e30, 0.1, 1 / 3, 2.0**-126))
        scale = float(np.float32(scale)) or 2.0**-149
        parameters = [self.constant(np.float32(scale)), self.constant(dtype(zero))]
        if zero == 0 and dtype is U8 and reader.yes():
            parameters.pop()
        codes = self.add("QuantizeLinear", tensor, *parameters)
        found = codes and self.add("DequantizeLinear", codes, *parameters)
        if not found:
            return ""
        self.codes[found] = (scale, zero, dtype)
        return found

    def weight(self, *shape: int, axis: int = 0) -> str:
        """Return a constant that is dequantized from codes of one scale or one a channel; sometimes one of floats."""
        reader, numbers = self.reader, self.numbers()
        kind = reader.integer(0, 7)
        if kind == 0:
            return self.constant(self.array(*shape))
        dtype = U8 if kind == 1 else S16 if kind == 2 and self.opset >= 21 else S8
        limits = np.iinfo(dtype)
        codes = numbers.integers(limits.min if kind == 3 else max(limits.min, -127), limits.max, shape, endpoint=True).astype(
            dtype
        )
        if kind == 4:
            codes[:] = reader.pick(limits.min, limits.max, 0, 1)
        channels = shape[axis] if reader.yes() else 0
        exponents = numbers.integers(-9, -3, channels) if channels else np.array(reader.integer(-9, -3))
        scales = np.ldexp(1.0 + numbers.integers(0, 2, exponents.shape) * numbers.random(exponents.shape), exponents).astype(
            np.float32
        )
        zeros = np.full(exponents.shape, reader.pick(0, 0, 0, 3) if dtype is not U8 else 128, dtype)
        attributes = {"axis": axis} if channels else {}
        return self.add("DequantizeLinear", *map(self.constant, (codes, scales, zeros)), **attributes)

    def bias(self, x: str, weight: str, channels: int) -> list[str]:
        """Return a bias as an operand: none, floats, or codes by the product of both scales."""
        kind = self.reader.integer(0, 3)
        if kind == 0:
            return []
        node = next((node for node in self.nodes if weight in node.output), None)
        if kind == 1 or node is None or x not in self.codes:
            return [self.constant(self.array(channels))]
        scales = np.float32(self.codes[x][0]) * self.constants[node.input[1]]
        codes = self.numbers().integers(-5000, 5000, channels).astype(np.int32)
        if kind == 3:
            codes[:] = self.reader.pick(2**31 - 1, -(2**31), 2**24 + 1)
        attributes = {"axis": 0} if scales.ndim else {}
        found = self.add(
            "DequantizeLinear", *map(self.constant, (codes, scales, np.zeros(scales.shape, np.int32))), **attributes
        )
        return [found] if found else []

    def model(self, shape: Sequence[int | str], outputs: Sequence[str]) -> onnx.ModelProto:
        """Return the graph as a file that takes `images`."""
        graph = helper.make_graph(
            self.nodes, "fuzz", [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(self.values[name].dtype),
            None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=self._opsets(), ir_version=10)

    def _opsets(self) -> list[onnx.OperatorSetIdProto]:
        return [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]

    def _computed(self, node: onnx.NodeProto) -> list[Array] | None:
        names = dict.fromkeys(name for name in node.input if name)
        feeds = {name: self.values[name] for name in names if name in self.values}
        held = [numpy_helper.from_array(self.constants[name], name) for name in names if name in self.constants]
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in feeds.items()
        ]
        graph = helper.make_graph(
            [node], "one", inputs, [helper.make_empty_tensor_value_info(name) for name in node.output], held
        )
        model = helper.make_model(graph, opset_imports=self._opsets(), ir_version=10)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        try:
            return list(
                onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
                    None, feeds
                )
            )
        except Exception:  # ONNX Runtime's exceptions share no base class: it has no such node
            return None


Maker = Callable[[Growing, str], str]
_LIKE = ("Relu", "Sigmoid", "Tanh", "HardSwish", "Elu", "Softplus", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs", "Reciprocal",
         "Round",
         "Floor", "Ceil", "Sin", "Cos", "Identity", "Mish", "Gelu", "HardSigmoid", "LeakyRelu", "GlobalAveragePool",
         "GlobalMaxPool",
         "Sign", "Not")  # fmt: skip


def _unary(grow: Growing, x: str) -> str:
    operator = grow.reader.pick(*_LIKE)
    attributes: dict[str, Any] = {}
    if operator in ("LeakyRelu", "Elu", "HardSigmoid") and grow.reader.yes():
        attributes["alpha"] = float(grow.reader.pick(0.0, 0.1, 1.7, -0.5, 1 / 6))
    if operator == "Gelu" and grow.reader.yes():
        attributes["approximate"] = "tanh"
    return grow.add(operator, x, **attributes)


def _clip(grow: Growing, x: str) -> str:
    low, high = (grow.constant(np.float32(value)) if grow.reader.integer(0, 3) else "" for value in (
        grow.reader.pick(0, -1, -0.3), grow.reader.pick(6, 1, 0.7, -2)))  # fmt: skip
    return grow.add("Clip", x, low, high)


def _softmax(grow: Growing, x: str) -> str:
    rank = grow.values[x].ndim
    return grow.add("Softmax", x, axis=grow.reader.integer(-rank, rank - 1))


def _window(grow: Growing, axes: int) -> dict[str, Any]:
    reader = grow.reader
    kernel = [reader.pick(3, 1, 2, 5) for _ in range(axes)]
    found: dict[str, Any] = {"kernel_shape": kernel, "strides": [reader.pick(1, 1, 2, 3) for _ in range(axes)]}
    automatic = reader.pick("", "", "", "SAME_UPPER", "SAME_LOWER", "VALID")
    if automatic:
        found["auto_pad"] = automatic
    else:
        found["pads"] = [
            min(reader.pick(1, 0, 0, 2), kernel[axis % axes] - 1 if reader.yes() else 2) for axis in range(2 * axes)
        ]
    return found


def _conv(grow: Growing, x: str) -> str:
    reader, shape = grow.reader, grow.values[x].shape
    if len(shape) < 3:
        return _matrix(grow, x)
    channels = shape[1]
    groups = reader.pick(1, 1, channels, 2 if channels % 2 == 0 else 1)
    each = reader.integer(1, 6)
    attributes = _window(grow, len(shape) - 2) | {"group": groups}
    if reader.integer(0, 3) == 0:
        attributes["dilations"] = [reader.integer(1, 2) for _ in shape[2:]]
    if reader.integer(0, 9) == 9:
        weight = grow.weight(channels, each, *attributes["kernel_shape"], axis=1)
        attributes.pop("dilations", None)
        return weight and grow.add("ConvTranspose", x, weight, *grow.bias(x, weight, each * groups), **attributes)
    weight = grow.weight(groups * each, channels // groups, *attributes["kernel_shape"])
    return weight and grow.add("Conv", x, weight, *grow.bias(x, weight, groups * each), **attributes)


def _pool(grow: Growing, x: str) -> str:
    attributes = _window(grow, max(grow.values[x].ndim - 2, 1))
    if grow.reader.yes():
        attributes["ceil_mode"] = 1
    if grow.reader.yes():
        return grow.add("MaxPool", x, **attributes)
    return grow.add("AveragePool", x, count_include_pad=grow.reader.integer(0, 1), **attributes)


def _other(grow: Growing, x: str) -> str:
    """Return a second operand: an earlier tensor of a fitting shape, or a constant."""
    reader, shape = grow.reader, grow.values[x].shape
    fitting = [name for name in grow.codes if grow.values[name].shape == shape]
    if fitting and reader.integer(0, 2):
        return reader.pick(*reversed(fitting))
    size = [length if reader.yes() else 1 for length in shape][reader.integer(0, len(shape)) if reader.yes() else 0 :]
    return grow.weight(*size) if size and reader.yes() else grow.constant(grow.array(*size))


def _binary(grow: Growing, x: str) -> str:
    operator = grow.reader.pick("Add", "Mul", "Sub", "Div", "Max", "Min", "Pow", "PRelu")
    other = _other(grow, x)
    operands = [other, x] if grow.reader.integer(0, 3) == 0 else [x, other]
    return other and grow.add(operator, *operands)


def _concat(grow: Growing, x: str) -> str:
    reader, rank = grow.reader, grow.values[x].ndim
    others = [name for name in grow.codes if grow.values[name].ndim == rank] or [x]
    return grow.add(
        "Concat",
        *(reader.pick(x, *reversed(others)) for _ in range(reader.integer(1, 3))),
        axis=reader.pick(1, -1, 0, rank - 1),
    )


def _matrix(grow: Growing, x: str) -> str:
    reader, shape = grow.reader, grow.values[x].shape
    if len(shape) == 2 and reader.yes():
        turned, outputs = reader.yes(), reader.integer(1, 6)
        weight = grow.weight(outputs, shape[1]) if turned else grow.weight(shape[1], outputs, axis=1)
        scalars = {"alpha": 0.5, "beta": 2.0} if reader.integer(0, 7) == 7 else {}
        return weight and grow.add("Gemm", x, weight, *grow.bias(x, weight, outputs), transB=int(turned), **scalars)
    if reader.integer(0, 3) == 0:
        turned_x = grow.add("Transpose", x, perm=[*range(len(shape) - 2), len(shape) - 1, len(shape) - 2])
        return turned_x and grow.add("MatMul", x, turned_x)
    weight = grow.weight(shape[-1], reader.integer(1, 6), axis=1)
    return weight and grow.add("MatMul", x, weight)


def _shape(grow: Growing, x: str) -> str:
    reader, shape = grow.reader, grow.values[x].shape
    rank = len(shape)
    axis = reader.integer(-rank, rank - 1)
    operator = reader.pick(
        "Reshape", "Flatten", "Transpose", "Slice", "Gather", "Split", "Expand", "Tile", "Pad", "Squeeze", "Unsqueeze", "Cast",
        "CumSum", "DepthToSpace", "SpaceToDepth", "Dropout",
    )  # fmt: skip
    if operator == "Reshape":
        return grow.add(
            operator,
            x,
            grow.integers(*reader.pick((0, -1), (0, 0, -1), (shape[0], 1, -1), (-1, 2), (0, -1, 1, 1), (0, 2, -1, 2))),
        )
    if operator == "Flatten":
        return grow.add(operator, x, axis=reader.pick(1, 1, axis))
    if operator == "Transpose":
        return grow.add(operator, x, perm=list(np.random.default_rng(reader.integer(0, 255)).permutation(rank)))
    if operator == "Slice":
        begin, end, step = reader.pick(0, 1, -2, 5), reader.pick(3, 2**31, -1, -(2**62)), reader.pick(1, 1, 2, -1)
        return grow.add(operator, x, *map(grow.integers, (begin, end, axis, step)))
    if operator == "Gather":
        return grow.add(operator, x, grow.integers(*reader.pick((0,), (1, 0), (-1, 0, 0), (0, 1, 1))), axis=axis)
    if operator == "Split":
        parts = {"num_outputs": 2} if grow.opset >= 18 else {}
        return grow.add(operator, x, outputs=2, axis=axis, **parts)
    if operator == "Expand":
        return grow.add(operator, x, grow.integers(*(length if length > 1 else reader.integer(1, 3) for length in shape)))
    if operator == "Tile":
        return grow.add(operator, x, grow.integers(*(1 if place == 0 else reader.pick(1, 1, 2) for place in range(rank))))
    if operator == "Pad":
        pads = [0 if place % rank == 0 else reader.pick(0, 1, 2, -1) for place in range(2 * rank)]
        mode = reader.pick("constant", "reflect", "edge")
        value = [grow.constant(np.float32(reader.pick(0.0, 0.3, -1e9)))] if mode == "constant" and reader.yes() else []
        return grow.add(operator, x, grow.integers(*pads), *value, mode=mode)
    if operator == "Squeeze":
        return grow.add(operator, x, grow.integers(next((place for place, length in enumerate(shape) if length == 1), 0)))
    if operator == "Unsqueeze":
        return grow.add(operator, x, grow.integers(axis))
    if operator == "Cast":
        other = grow.add(
            operator,
            x,
            to=int(
                reader.pick(TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL)
            ),
        )
        return other and grow.add(operator, other, to=int(TensorProto.FLOAT))
    if operator == "CumSum":
        return grow.add(
            operator, x, grow.constant(np.array(axis, np.int64)), exclusive=reader.integer(0, 1), reverse=reader.integer(0, 1)
        )
    if operator in ("DepthToSpace", "SpaceToDepth"):
        return grow.add(operator, x, blocksize=2)
    return grow.add(operator, x)


def _resize(grow: Growing, x: str) -> str:
    reader, shape = grow.reader, grow.values[x].shape
    attributes = {
        "mode": reader.pick("nearest", "linear", "cubic"),
        "coordinate_transformation_mode": reader.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"),
    }
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = reader.pick("round_prefer_floor", "floor", "ceil", "round_prefer_ceil")
    if reader.yes():
        scales = [1.0, 1.0, *(float(reader.pick(2, 0.5, 1.5, 1)) for _ in shape[2:])][: len(shape)]
        return grow.add("Resize", x, "", grow.constant(np.array(scales, np.float32)), **attributes)
    sizes = [*shape[:2], *(reader.integer(1, 9) for _ in shape[2:])][: len(shape)]
    return grow.add("Resize", x, "", "", grow.integers(*sizes), **attributes)


def _reduce(grow: Growing, x: str) -> str:
    reader, rank = grow.reader, grow.values[x].ndim
    operator = reader.pick("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")
    axes = reader.pick((2, 3), (-1, -2), (1,), (rank - 1,), (-1,), (2,))
    kept = reader.integer(0, 1)
    by_input = operator == "ReduceSum" or grow.opset >= 18
    if by_input and not (operator in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceL2") and grow.opset < 18):
        return grow.add(operator, x, grow.integers(*axes), keepdims=kept)
    return grow.add(operator, x, axes=list(axes), keepdims=kept)


def _normalise(grow: Growing, x: str) -> str:
    reader, shape = grow.reader, grow.values[x].shape
    channels = shape[1] if len(shape) > 1 else 1
    operator = reader.pick("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")
    if operator == "LayerNormalization":
        return grow.add(operator, x, grow.constant(grow.array(shape[-1])), grow.constant(grow.array(shape[-1])), axis=-1)
    factors = [grow.constant(grow.array(channels)) for _ in range(2)]
    if operator == "BatchNormalization":
        return grow.add(operator, x, *factors, grow.constant(grow.array(channels)), grow.constant(np.abs(grow.array(channels))))
    groups = {"num_groups": reader.pick(1, channels)} if operator == "GroupNormalization" else {}
    return grow.add(operator, x, *factors, **groups)


def _branch(grow: Growing, x: str) -> str:
    """Return two operators of one tensor, added: what skips around layers."""
    one, other = _conv(grow, x), grow.add(grow.reader.pick("Sigmoid", "Relu", "Identity", "HardSigmoid"), x)
    return one and other and grow.add(grow.reader.pick("Mul", "Add"), one, other)


_MAKERS: tuple[Maker, ...] = (
    _conv, _conv, _conv, _binary, _binary, _pool, _unary, _unary, _clip, _softmax, _concat, _matrix, _shape, _shape, _resize,
    _reduce,
    _normalise, _branch,
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A graph that bytes drew.

    Attributes:
        model: The file; its outputs are `codes` of the pictures, and the class scores `logits`.
        codes: Name of the first tensor of codes; its scale, zero point and type.
        logits: Name of the scores.
        classes: How many there are.
        side: Height and width of the pictures.
        batch: How many of them the file takes; None for any number.
    """

    model: onnx.ModelProto
    codes: str
    scale: float
    zero_point: int
    dtype: str
    logits: str
    classes: int
    side: tuple[int, int]
    batch: int | None


def drawn(reader: Reader, pictures: Array) -> Drawn | None:
    """Draw a graph.

    Args:
        reader: What decides.
        pictures: float32, batch × 3 × height × width: what ranges are taken of.

    Returns:
        The graph; None if the bytes draw none.
    """
    grow = Growing(reader, reader.pick(17, 13, 19, 21))
    dtype = reader.pick(U8, S8, U8, S8, U8, S8, *((U16, S16) if grow.opset >= 21 else ()))
    batch = reader.pick(None, None, len(pictures))
    grow.values["images"] = pictures
    x = first = grow.quantized("images", dtype)
    if not x:
        return None
    for _ in range(reader.integer(1, _OPERATORS)):
        source = reader.pick(x, x, x, x, *reversed(grow.codes))
        if not grow.values[source].ndim:
            break
        made = reader.pick(*_MAKERS)(grow, source)
        if made and grow.values[made].dtype == np.float32:
            x = (grow.quantized(made, dtype) if reader.integer(0, 7) else made) or made
    if grow.values[x].ndim != 2:
        x = grow.add("Flatten", x)
    if not x or len(grow.values[x]) != len(pictures) or grow.values[x].dtype != np.float32:
        return None
    scale, zero_point, kind = grow.codes[first]
    codes = next(node.input[0] for node in grow.nodes if first in node.output)
    shape: list[int | str] = ["batch" if batch is None else batch, *pictures.shape[1:]]
    model = grow.model(shape, [x, codes])
    side = (pictures.shape[2], pictures.shape[3])
    return Drawn(model, codes, scale, zero_point, np.dtype(kind).name, x, grow.values[x].shape[1], side, batch)
