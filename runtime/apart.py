"""Which graphs take each image of a batch for itself, so that a batch can be cut between its images.

Most networks do; nothing in ONNX says so. Each operator is asked: does axis 0 of its result stand for the images, and is what
stands there made of that image alone? Where this cannot be told, the answer is no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

import onnx
from onnx import ModelProto, NodeProto, helper

from qcam.runtime.graph import Graph, attribute

#: Numbers of images at which shapes are told: what is right at two of them is no chance.
_COUNTS = (2, 3)
#: Constants with more values than this are not looked into, only at their shapes.
_LARGE = 1024

_EACH_VALUE = frozenset(
    {
        "Abs", "Add", "Cast", "Ceil", "Clip", "Cos", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp",
        "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Not",
        "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sin", "Softplus", "Sqrt", "Sub", "Tanh",
        "Where",
    }
)  # fmt: skip
#: By their definition: axis 0 of the first input is the images.
_EACH_IMAGE = frozenset(
    {
        "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool",
        "GroupNormalization", "InstanceNormalization", "MaxPool",
    }
)  # fmt: skip
#: Values stay in their order: where axis 0 is the images before and behind, an image's values are its own.
_NEW_SHAPE = frozenset({"Expand", "Flatten", "Reshape", "Squeeze", "Tile", "Unsqueeze"})
#: Operators along one axis, and its default.
_ALONG = {"Gather": 0, "LayerNormalization": -1, "Softmax": -1, "Split": 0}
_REDUCING = frozenset({"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"})
#: Operator → the first of its inputs that only say how large the result is.
_SIZES_FROM = {"Expand": 1, "Reshape": 1, "Resize": 2, "Tile": 1}

_Shape = tuple[int, ...]


def takes_images_apart(model: ModelProto, wanted: Iterable[str]) -> bool:
    """Tell whether results for a batch are those of its images, one after the other, as far as that can be told.

    Args:
        model: The graph, its nodes in an order in which they can run.
        wanted: The results.
    """
    graph = Graph(model)
    shapes = [shapes_at(graph, count) for count in _COUNTS]
    if None in shapes:
        return False
    reading = _Reading(graph, {name: _pair(shapes, name) for name in {*(shapes[0] or {}), *(shapes[1] or {})}})
    needed = graph.upstream(wanted)
    reading.images.add(graph.image_input)
    for node in model.graph.node:
        if needed.intersection(node.output) and not reading.pass_on(node):
            return False
    return reading.images.issuperset(wanted)


@dataclass
class _Batched:
    """A tensor at `_COUNTS` images."""

    few: _Shape
    many: _Shape

    @property
    def by_image(self) -> bool:
        """Tell whether axis 0 is as long as there are images, and no other depends on them."""
        return bool(self.few) and (self.few[0], self.many[0]) == _COUNTS and self.few[1:] == self.many[1:]


class _Reading:
    """What is known of the tensors so far.

    Attributes:
        images: Tensors of which axis 0 is the images, each made of its own image.
        sizes: Tensors made of the number of images and of constants, and of nothing else.
    """

    def __init__(self, graph: Graph, shapes: dict[str, _Batched | None]) -> None:
        self._graph = graph
        self._shapes = shapes
        self.images: set[str] = set()
        self.sizes: set[str] = set()

    def pass_on(self, node: NodeProto) -> bool:
        """Note what a node makes; False if it may mix images."""
        images = [name for name in node.input if name in self.images]
        sizes = [name for name in node.input if name in self.sizes]
        made = [name for name in node.output if name]
        if not images and not sizes:
            return True
        if not images or node.op_type in ("Shape", "Size"):
            self.sizes.update(made)
            return True
        if set(sizes) - set(node.input[_SIZES_FROM.get(node.op_type, len(node.input)) :]):
            return False
        if node.input[0] not in self.images and node.op_type not in _EACH_VALUE | {"MatMul"}:
            return False
        if not self._keeps_apart(node) or not all(self._by_image(name) for name in made):
            return False
        self.images.update(made)
        return True

    def _keeps_apart(self, node: NodeProto) -> bool:
        kind = node.op_type
        others = [name for name in node.input[1:] if name in self.images]
        if kind in _EACH_VALUE:
            return self._broadcast(node, node.input)
        if kind == "Concat":
            return self._axis(node, -1) and self.images.issuperset(node.input)
        if kind == "MatMul":
            return self._product(node)
        if others:
            return False
        if kind == "Squeeze" and not attribute(node, "axes") and len(node.input) < 2:
            return False  # of one image it takes away that axis, too
        if kind in _EACH_IMAGE | _NEW_SHAPE:
            return True
        if kind in _ALONG:
            operands = node.input[1:] if kind == "LayerNormalization" else ()
            return self._axis(node, _ALONG[kind]) and self._broadcast(node, operands)
        if kind in _REDUCING:
            return self._without_first(node, attribute(node, "axes") or self._values(node, 1))
        rules: dict[str, Callable[[NodeProto], bool]] = {
            "QuantizeLinear": self._quantizer, "DequantizeLinear": self._quantizer,
            "Gemm": self._gemm, "Pad": self._pad, "Resize": self._resize,
            "Slice": lambda node: self._without_first(node, attribute(node, "axes") or self._values(node, 3)),
            "CumSum": lambda node: self._without_first(node, self._values(node, 1)),
            "Transpose": lambda node: next(iter(attribute(node, "perm") or [1])) == 0,  # type: ignore[call-overload]
        }  # fmt: skip
        return kind in rules and rules[kind](node)

    def _by_image(self, name: str) -> bool:
        shape = self._shapes.get(name)
        return shape is not None and shape.by_image

    def _rank(self, name: str) -> int | None:
        shape = self._shapes.get(name)
        return None if shape is None else len(shape.few)

    def _values(self, node: NodeProto, place: int) -> list[int] | None:
        """Return an input's values, None if it is no small constant."""
        name = node.input[place] if place < len(node.input) else ""
        tensor = self._graph.initializers.get(name)
        if not name or (tensor is not None and prod(tensor.dims) > _LARGE):
            return None
        value = self._graph.constant(name)
        return None if value is None else [int(each) for each in value.ravel()]

    def _axis(self, node: NodeProto, default: int) -> bool:
        axis, rank = attribute(node, "axis", default), self._rank(node.input[0])
        if node.op_type == "Softmax" and self._graph.opset() < 13:
            axis = attribute(node, "axis", 1)
        return isinstance(axis, int) and rank is not None and axis % rank != 0

    def _without_first(self, node: NodeProto, axes: object) -> bool:
        rank = self._rank(node.input[0])
        return bool(axes) and rank is not None and all(axis % rank != 0 for axis in axes)  # type: ignore[attr-defined]

    def _broadcast(self, node: NodeProto, names: Iterable[str]) -> bool:
        """Tell whether operands meet images on axis 0: they have images there, or one value for all, or no such axis."""
        rank = self._rank(node.output[0])
        for name in filter(None, names):
            shape = self._shapes.get(name)
            if shape is None or rank is None:
                return False
            if name in self.images:
                if len(shape.few) != rank:
                    return False
            elif len(shape.few) > rank or (len(shape.few) == rank and shape.few[0] != 1):
                return False
        return True

    def _product(self, node: NodeProto) -> bool:
        left, right = (self._shapes.get(name) for name in node.input[:2])
        if left is None or right is None:
            return False
        ranks = len(left.few), len(right.few)
        if node.input[0] in self.images and node.input[1] in self.images:
            return ranks[0] == ranks[1] >= 3
        images, fixed = (left, right) if node.input[0] in self.images else (right, left)
        if len(images.few) < (2 if images is left else 3):
            return False
        return len(fixed.few) == 2 or (len(fixed.few) == len(images.few) and fixed.few[0] == 1)

    def _quantizer(self, node: NodeProto) -> bool:
        scale = self._shapes.get(node.input[1])
        if scale is None:
            return False
        return prod(scale.few) == 1 or (len(scale.few) == 1 and self._axis(node, 1))

    def _gemm(self, node: NodeProto) -> bool:
        return not attribute(node, "transA", 0) and self._broadcast(node, node.input[2:])

    def _pad(self, node: NodeProto) -> bool:
        pads = attribute(node, "pads") or self._values(node, 1)
        if len(node.input) > 3 and node.input[3]:
            return self._without_first(node, self._values(node, 3))
        rank = self._rank(node.input[0])
        return isinstance(pads, list) and rank is not None and len(pads) == 2 * rank and not pads[0] and not pads[rank]

    def _resize(self, node: NodeProto) -> bool:
        if axes := attribute(node, "axes"):
            return self._without_first(node, axes)
        if len(node.input) > 3 and node.input[3]:
            return True  # a size that is the number of images changes nothing
        scales = self._graph.constant(node.input[2 if len(node.input) > 2 else 1])
        return scales is not None and bool(scales.ravel()[0] == 1)


def _pair(shapes: list[dict[str, _Shape] | None], name: str) -> _Batched | None:
    few, many = ((each or {}).get(name) for each in shapes)
    return None if few is None or many is None else _Batched(few, many)


def shapes_at(graph: Graph, count: int | None) -> dict[str, _Shape] | None:
    """Return tensor → shape for so many images, of those whose shape can be told; None if there is no telling.

    Args:
        graph: The graph.
        count: How many; None for as many as the graph itself says.
    """
    asked = ModelProto()
    asked.ir_version = graph.model.ir_version
    asked.opset_import.extend(graph.model.opset_import)
    told = asked.graph
    told.node.extend(graph.model.graph.node)
    for node in told.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = ""  # their shapes are those of ONNX's own
    for value in graph.model.graph.input:
        if value.name == graph.image_input:
            told.input.append(value)
            dimensions = told.input[-1].type.tensor_type.shape.dim
            if count is None:
                continue
            if not dimensions or dimensions[0].HasField("dim_value"):
                return None
            dimensions[0].dim_value = count
    known: dict[str, _Shape] = {}
    for name, tensor in graph.initializers.items():
        known[name] = tuple(tensor.dims)
        if prod(tensor.dims) > _LARGE:
            told.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        else:
            told.initializer.append(tensor)
    made = any(node.op_type in ("ConstantOfShape", "Range") for node in told.node)  # inference would make each of their values
    try:
        found = onnx.shape_inference.infer_shapes(asked, data_prop=not made, strict_mode=True).graph
    except Exception:  # whatever it does not like: nothing is known, then
        return None
    for value in (*found.value_info, *found.output, *found.input):
        if value.type.tensor_type.HasField("shape"):
            dimensions = value.type.tensor_type.shape.dim
            if all(dimension.HasField("dim_value") for dimension in dimensions):
                known[value.name] = tuple(dimension.dim_value for dimension in dimensions)
    return known
