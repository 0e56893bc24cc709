"""In which layout ONNX Runtime's kernels average: where it keeps maps with their channels last, a mean runs over other axes.

Which values are added in which order follows from that. It is read off ONNX Runtime's own two graphs of a file, before and
after it changes layouts: what a mean's axes became tells how its operand is turned, where one turn alone explains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from qcam.runtime.apart import shapes_at
from qcam.runtime.graph import Graph, attribute

MEAN = "ReduceMean"
#: How a kernel may have a map, if not as it is: its axis i is the graph's axis order[i]. Channels last, or first again.
_TURNS = ((0, 2, 3, 1), (0, 3, 1, 2))


@dataclass(frozen=True)
class Means:
    """What is known of the means of a graph as loaded, by the names of their results.

    Attributes:
        turned: Mean → how its kernel has the map, if otherwise than the graph: its axis i is the graph's axis turned[i].
        unordered: Means whose additions the mirror does not order: over axes that do not lie side by side, or over all of them.
        unknown: Means of which it cannot be told how their kernels have their operands.
    """

    turned: Mapping[str, tuple[int, ...]]
    unordered: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()


def means_of(model: onnx.ModelProto, before: onnx.ModelProto, behind: onnx.ModelProto) -> Means:
    """Find out how kernels average.

    Args:
        model: The file, whose shapes are known.
        before: ONNX Runtime's graph of it before layouts are changed.
        behind: After that; nodes keep their names.
    """
    graph, laid_out, own = Graph(before), Graph(behind), Graph(model)
    shapes = shapes_at(own, 2) or shapes_at(own, None) or {}
    nodes = [node for node in model.graph.node if node.op_type == MEAN]
    ranks = {node.name: len(shapes[node.input[0]]) for node in nodes if node.input[0] in shapes}
    after = {node.name: node for node in behind.graph.node if node.op_type == MEAN}
    moved = _transposes(before) != _transposes(behind)  # no map is turned without one
    turned: dict[str, tuple[int, ...]] = {}
    unordered, unknown = set(), set()
    for node in before.graph.node:
        if node.op_type != MEAN or graph.fixed.issuperset(node.output):
            continue
        rank, name = ranks.get(node.name) if node.name else None, node.output[0]
        axes = None if rank is None else _axes(graph, node, rank)
        if rank is None or axes is None:
            unknown.add(name)
            continue
        as_it_is = tuple(range(rank))
        orders = [as_it_is]
        if moved:
            kernel = None if node.name not in after else _axes(laid_out, after[node.name], rank)
            possible = [as_it_is, *(_TURNS if rank == len(_TURNS[0]) else ())]
            orders = [order for order in possible if sorted(map(order.index, axes)) == kernel]
        if len(orders) != 1:
            unknown.add(name)
            continue
        places = sorted(map(orders[0].index, axes))
        if len(places) == rank or places != list(range(places[0], places[-1] + 1)):
            unordered.add(name)
        elif orders[0] != as_it_is:
            turned[name] = orders[0]
    return Means(turned, frozenset(unordered), frozenset(unknown))


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
