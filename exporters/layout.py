"""Which axis of a tensor holds channels: told by the operators around it, never by its sizes.

A convolution or a pooling has batch × channels × height × width; a matrix product or a LayerNormalization over the last axis
has its channels last; a mean over two axes tells which are height and width. Operators that work value by value pass on what
is known of their operands of the same shape, and a Transpose says what became of it. The nearest such operator decides; where
the nearest ones disagree, or there is none, the layout is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast

import onnx

from qcam.runtime.graph import Graph, attribute
from qcam.runtime.tables import CHANNELS_FIRST_OPERATORS

Layout = Literal["first", "last"]

_FIRST = CHANNELS_FIRST_OPERATORS | {"GlobalAveragePool", "GlobalMaxPool", "LpPool", "GroupNormalization", "LRN"}
_MEANS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax"})
#: Operators whose result means another thing at every place, or has its axes elsewhere: nothing is passed on.
_OPAQUE = frozenset({"Reshape", "Gather", "Einsum", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Softmax", "Slice", "Split"})
#: Orders of axes that put the channels of a map first, or last.
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def layout_of(graph: Graph, tensor: str) -> Layout | None:
    """Return whether a tensor of four dimensions has its channels first or last, None if that cannot be told.

    Args:
        graph: The float graph.
        tensor: The tensor.
    """
    seen: set[str] = set()
    # Each with whether its layout is the other one than the tensor's.
    level = [(tensor, False)]
    while level:
        found: set[Layout] = set()
        further: list[tuple[str, bool]] = []
        for name, swapped in level:
            if name in seen:
                continue
            seen.add(name)
            found |= {_other(kind) if swapped else kind for kind in _evidence(graph, name)}
            further += [(other, swapped != turned) for other, turned in _neighbours(graph, name)]
        if found:
            return found.pop() if len(found) == 1 else None
        level = further
    return None


def is_map_with_channels_last(graph: Graph, tensor: str) -> bool:
    """Tell whether a tensor of four dimensions surely is batch × height × width × channels.

    A matrix product only says that the last axis holds channels: attention has tensors of heads × tokens × channels, too. What
    is asked for is a mean over the two axes between, or a Transpose from or to what a convolution or a pooling makes or reads.
    """
    seen: set[str] = set()
    todo = [(tensor, False)]
    while todo:
        name, swapped = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        makers = [graph.producer[name]] if name in graph.producer else []
        readers = [node for node in graph.consumers.get(name, []) if node.input[0] == name]
        if swapped and any(node.op_type in _FIRST for node in (*makers, *readers)):
            return True
        means = [_axes(graph, node) for node in readers if node.op_type in _MEANS]
        if any(axes == ({2, 3} if swapped else {1, 2}) for axes in means):
            return True
        todo += [(other, swapped != turned) for other, turned in _neighbours(graph, name)]
    return False


def _other(layout: Layout) -> Layout:
    return "last" if layout == "first" else "first"


def _evidence(graph: Graph, tensor: str) -> Iterator[Layout]:
    """Yield what the operator that makes a tensor and those that read it say."""
    producer = graph.producer.get(tensor)
    if producer is not None:
        if producer.op_type in _FIRST:
            yield "first"
        elif producer.op_type in ("MatMul", "Gemm") or _normalises_last(graph, producer):
            yield "last"
    for node in graph.consumers.get(tensor, []):
        if not node.input or node.input[0] != tensor:
            continue
        if node.op_type in _FIRST:
            yield "first"
        elif node.op_type == "MatMul" or _normalises_last(graph, node):
            yield "last"
        elif node.op_type in _MEANS:
            axes = _axes(graph, node)
            if axes == {2, 3}:
                yield "first"
            elif axes == {1, 2}:
                yield "last"


def _normalises_last(graph: Graph, node: onnx.NodeProto) -> bool:
    return node.op_type == "LayerNormalization" and attribute(node, "axis", -1) in (-1, 3)


def _axes(graph: Graph, node: onnx.NodeProto) -> set[int]:
    given = attribute(node, "axes")
    if given is None and len(node.input) > 1:
        constant = graph.constant(node.input[1])
        given = [] if constant is None else constant.reshape(-1).tolist()
    return {int(axis) % 4 for axis in cast("list[int]", given or [])}


def _neighbours(graph: Graph, tensor: str) -> Iterator[tuple[str, bool]]:
    """Yield tensors whose layout follows from this one's, with whether it is the other."""
    shape = graph.shapes.get(tensor)
    producer = graph.producer.get(tensor)
    nodes = ([producer] if producer is not None else []) + graph.consumers.get(tensor, [])
    for node in nodes:
        turned = node.op_type == "Transpose"
        if turned:
            if tuple(cast("list[int]", attribute(node, "perm", []))) not in (TO_FIRST, TO_LAST):
                continue
            around = [node.input[0], node.output[0]]
        elif node.op_type in _OPAQUE or node.op_type in _FIRST or node.op_type in (*_MEANS, "MatMul", "Gemm"):
            continue
        else:
            around = [name for name in (*node.input, *node.output) if name and graph.shapes.get(name) == shape]
        for name in around:
            if name != tensor and name not in graph.initializers:
                yield name, turned
