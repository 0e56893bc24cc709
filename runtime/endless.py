"""Graphs that may run for ever are refused before a session opens: loops, and circles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import GraphProto, ModelProto, NodeProto

from qcam.common.errors import BundleError

#: Operators whose number of turns a picture, or a constant of any size, decides.
_LOOPS = ("Loop", "Scan")
#: Domains in which they are these.
_DOMAINS = ("", "ai.onnx")


def refuse_endless(model: ModelProto, where: str) -> None:
    """Refuse a graph with a loop at any depth, or with a node that reads what depends on it.

    Args:
        model: The graph; weights may be left out.
        where: What messages call it.

    Raises:
        BundleError: If it has either; names the node.
    """
    for node in _below(node for held in (model.graph, *model.functions) for node in held.node):
        if node.op_type in _LOOPS and node.domain in _DOMAINS:
            raise BundleError(
                f"{where} holds a {node.op_type} ({node.name or 'without a name'}), which may run for ever; "
                "export the network without loops"
            )
    circle = _circle(model.graph)
    if circle:
        raise BundleError(f"{where} holds a circle: {circle} depends on itself; export the network again")


def _below(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, and those of the graphs that they hold."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting += graph.node


def _circle(graph: GraphProto) -> str:
    """Return a tensor that depends on itself; empty if none does. Nodes may stand in any order."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    readers: dict[int, list[int]] = {}
    left = []
    for place, node in enumerate(graph.node):
        sources = {makers[name] for name in node.input if name in makers}
        left.append(len(sources))
        for source in sources:
            readers.setdefault(source, []).append(place)
    ready = [place for place, count in enumerate(left) if not count]
    done = 0
    while ready:
        done += 1
        for reader in readers.get(ready.pop(), ()):
            left[reader] -= 1
            if not left[reader]:
                ready.append(reader)
    if done == len(graph.node):
        return ""
    stuck = next(node for node, count in zip(graph.node, left, strict=True) if count)
    name: str = next(filter(None, stuck.output), stuck.op_type)
    return name
