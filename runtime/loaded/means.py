"""In which layout ONNX Runtime's kernels add: where it keeps maps with their channels last, a mean or sum runs over other axes.

Which values are added in which order follows from that. It is read off ONNX Runtime's own two graphs of a file, before and
after it changes layouts: what a mean's axes became tells how its operand is turned, where one turn alone explains it. Here, a
mean is whatever adds over axes: ReduceMean, ReduceSum, ReduceL2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from qcam.runtime.apart import shapes_at
from qcam.runtime.graph import Graph, attribute

MEANS = frozenset({"ReduceMean", "ReduceSum", "ReduceL2"})
RESIZE = "Resize"
#: How a kernel may have a map, if not as it is: its axis i is the graph's axis order[i]. Channels last, or first again.
_TURNS = ((0, 2, 3, 1), (0, 3, 1, 2))


@dataclass(frozen=True)
class Means:
    """What is known of the means of a graph as loaded, by the names of their results.

    Attributes:
        turned: Mean → how its kernel has the map, if otherwise than the graph: its axis i is the graph's axis turned[i].
        unordered: Means whose additions the mirror does not order (`ordered_axes`), and Resizes of what are no images.
        unknown: Means of which it cannot be told how their kernels have their operands.
    """

    turned: Mapping[str, tuple[int, ...]]
    unordered: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()


def ordered_axes(axes: Sequence[int], rank: int) -> bool:
    """Tell whether the order of additions over axes is known: over all but those that the first and the last are among."""
    return len(axes) > 0 and not {0, rank - 1} <= set(axes)


def means_of(model: onnx.ModelProto, before: onnx.ModelProto, behind: onnx.ModelProto) -> Means:
    """Find out how kernels average.

    Args:
        model: A graph with the tensors of the next one, whose operators are ONNX's own: that written back.
        before: ONNX Runtime's graph of the file before layouts are changed.
        behind: After that; nodes keep their names, and nodes without one their results'.
    """
    graph, laid_out, own = Graph(before), Graph(behind), Graph(model)
    shapes = shapes_at(own, 2) or shapes_at(own, None) or {}
    after = {_key(node): node for node in behind.graph.node if node.op_type in MEANS}
    moved = _transposes(before) != _transposes(behind)  # no map is turned without one
    turned: dict[str, tuple[int, ...]] = {}
    unordered, unknown = set(), set()
    for node in before.graph.node:
        if node.op_type == RESIZE and not graph.fixed.issuperset(node.output):
            if not _images_resized(node, shapes, moved=moved):
                unordered.add(node.output[0])
            continue
        if node.op_type not in MEANS or graph.fixed.issuperset(node.output):
            continue
        name = node.output[0]
        # A result that keeps its axes has as many as there were.
        told = (node.input[0], *([name] if attribute(node, "keepdims", 1) else []))
        rank = next((len(shapes[tensor]) for tensor in told if tensor in shapes), None)
        axes = None if rank is None else _axes(graph, node, rank)
        if rank is None or axes is None:
            unknown.add(name)
            continue
        as_it_is = tuple(range(rank))
        orders = [as_it_is]
        if moved:
            kernel = None if _key(node) not in after else _axes(laid_out, after[_key(node)], rank)
            possible = [as_it_is, *(_TURNS if rank == len(_TURNS[0]) else ())]
            orders = [order for order in possible if sorted(map(order.index, axes)) == kernel]
        if len(orders) != 1:
            unknown.add(name)
        elif not ordered_axes(list(map(orders[0].index, axes)), rank):
            unordered.add(name)
        elif orders[0] != as_it_is:
            turned[name] = orders[0]
    return Means(turned, frozenset(unordered), frozenset(unknown))


def _images_resized(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], *, moved: bool) -> bool:
    """Tell whether a Resize interpolates nothing, or in images whose two axes can be told."""
    if attribute(node, "mode", b"nearest") != b"linear":
        return True
    before, behind = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if len(before) not in (2, 4) or len(behind) != len(before):
        return False
    # Where a map may be turned, kernels take an axis that keeps its size for the channels.
    return not moved or sum(one != other for one, other in zip(before, behind, strict=True)) in (0, 2)


def _key(node: onnx.NodeProto) -> str:
    return f"node {node.name}" if node.name else f"result {node.output[0]}"


def _transposes(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Transpose" for node in model.graph.node)


def _axes(graph: Graph, node: onnx.NodeProto, rank: int) -> list[int] | None:
    """Return the axes of a mean, from 0 and sorted; None if they are computed."""
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in graph.initializers:
            return None
        given = graph.array(node.input[1])
    else:
        given = np.asarray(attribute(node, "axes", ()))
    axes = sorted({int(axis) % rank for axis in given.ravel()})
    return axes or (None if attribute(node, "noop_with_empty_axes", 0) else list(range(rank)))
