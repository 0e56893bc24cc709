"""Graphs without bounds are refused before a session opens: loops, choices, circles, tensors or work beyond all measure.

What ONNX Runtime is given it computes, some of it while it loads the file, whatever memory and time it takes. Everything here
is read off the graph: nothing is computed, and no values of weights are needed. Shapes that depend on the values of a picture
cannot be told, and are not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, inliner, numpy_helper

from qcam.common.errors import BundleError, first_line
from qcam.runtime.shape_values import computed_numbers

#: Operators that let a picture, or a constant of any size, decide what is computed, or how often.
_FLOW = {"Loop": "may run for ever", "Scan": "may run for ever", "If": "computes one thing or another"}
#: Domains in which they are these.
_DOMAINS = ("", "ai.onnx")
#: Most elements of one tensor (1 GiB of float32), and of all that a graph computes for one image.
LARGEST_TENSOR, LARGEST_SUM = 1 << 28, 1 << 36
#: Most multiplications for one image: a hundred times those of the largest networks.
MOST_PRODUCTS = 10**14
#: Most nodes of a graph with its local functions put in place.
MOST_NODES = 1_000_000
#: Most values of a constant that inference of shapes may look at.
_SMALL = 1024
#: Operators that make much of little, and most whole numbers that one may make in a list: inference of shapes passes on each.
_MAKERS, MOST_NUMBERS = frozenset({"ConstantOfShape", "Range", "Expand", "Tile", "OneHot", "Pad", "Resize"}), 1 << 18
#: Operators whose operands behind the first say a shape, and most axes of one.
_BY_SHAPE, _LONGEST_SHAPE = frozenset({"Reshape", "Expand"}), 64
_ANEW = "export the network again"

_Shape = tuple[int, ...]
_Name = tuple[str, str]


def refuse_unbounded(model: ModelProto, where: str, image: Sequence[int] | None = None) -> None:
    """Refuse a graph that may run for ever, or takes memory or time beyond all measure for one image.

    Args:
        model: The graph; weights may be left out.
        where: What messages call it.
        image: Shape of one image as the graph takes it, for sizes that the graph leaves open; None: what it says itself.

    Raises:
        BundleError: If it holds control flow at any depth, a node or a local function that depends on itself, more nodes than
            `MOST_NODES`, or needs more than the other bounds; names the node.
    """
    for node in _below(node for held in (model.graph, *model.functions) for node in held.node):
        if node.op_type in _FLOW and node.domain in _DOMAINS:
            operator = f"{'an' if node.op_type == 'If' else 'a'} {node.op_type} ({node.name or 'without a name'})"
            raise BundleError(f"{where} holds {operator}, which {_FLOW[node.op_type]}; export the network without control flow")
    circle = _circle(model.graph)
    if circle:
        raise BundleError(f"{where} holds a circle: {circle} depends on itself; {_ANEW}")
    if _nodes_in_place(model, where) > MOST_NODES:
        raise BundleError(f"{where} has more than {MOST_NODES:,} nodes with its local functions in place; {_ANEW}")
    _refuse_large(model, where, image)


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
    waits = _waits(graph)
    order = _ordered(waits)
    if len(order) == len(waits):
        return ""
    stuck = graph.node[min(set(range(len(waits))) - set(order))]
    name: str = next(filter(None, stuck.output), stuck.op_type)
    return name


def _waits(graph: GraphProto) -> list[set[int]]:
    """Return for each node the places of those that it reads from."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    return [{makers[name] for name in node.input if name in makers} for node in graph.node]


def _ordered(waits: Sequence[set[int]]) -> list[int]:
    """Return places in an order in which each stands behind those that it waits for, less those of circles and behind them."""
    readers: dict[int, list[int]] = {}
    left = [len(sources) for sources in waits]
    for place, sources in enumerate(waits):
        for source in sources:
            readers.setdefault(source, []).append(place)
    ready = [place for place, count in enumerate(left) if not count]
    order = []
    while ready:
        order.append(ready.pop())
        for reader in readers.get(order[-1], ()):
            left[reader] -= 1
            if not left[reader]:
                ready.append(reader)
    return order


def _nodes_in_place(model: ModelProto, where: str) -> int:
    """Return how many nodes the graph has when each call of a local function is what the function holds.

    Raises:
        BundleError: If a function calls itself, by others or at once.
    """
    functions: list[FunctionProto] = list(model.functions)
    places: dict[_Name, int] = {(each.domain, each.name): place for place, each in enumerate(functions)}
    called = [[places.get((node.domain, node.op_type)) for node in _below(each.node)] for each in functions]
    order = _ordered([{place for place in calls if place is not None} for calls in called])
    if len(order) != len(functions):
        stuck = functions[min(set(range(len(functions))) - set(order))]
        raise BundleError(f"{where} holds a circle: local function {stuck.name} calls itself; {_ANEW}")
    sizes: dict[int, int] = {}
    for place in order:
        sizes[place] = sum(1 if inner is None else sizes[inner] for inner in called[place])
    calls = (places.get((node.domain, node.op_type)) for node in _below(model.graph.node))
    return sum(1 if place is None else sizes[place] for place in calls)


def _refuse_large(model: ModelProto, where: str, image: Sequence[int] | None) -> None:
    """Refuse tensors, their sum and the products of a graph that are beyond the bounds, as far as shapes can be told."""
    _refuse_sparse(model.graph, where)
    nodes = _in_place(model, where)
    known = _Known(model, image)
    total = products = 0
    for node in nodes:
        lengths = [known.shape(name) for name in node.input[1:]] if node.op_type in _BY_SHAPE else []
        if any(shape is not None and prod(shape) > _LONGEST_SHAPE for shape in lengths):
            raise BundleError(f"{where}: {_label(node)} makes a tensor of more than {_LONGEST_SHAPE} axes; {_ANEW}")
        known.pass_on(node)
        for name in filter(None, node.output):
            shape = known.shape(name) or ()
            most = MOST_NUMBERS if node.op_type in _MAKERS and known.is_list(name) else LARGEST_TENSOR
            if prod(shape) > most:
                raise BundleError(
                    f"{where}: {_label(node)} makes a tensor of {' × '.join(map(str, shape))} for one image, more than "
                    f"{most:,} values; {_ANEW}"
                )
            total += prod(shape)
        products += _products(node, known)
        if total > LARGEST_SUM or products > MOST_PRODUCTS:
            found = f"{total:.2g} values" if total > LARGEST_SUM else f"{products:.2g} multiplications"
            most = LARGEST_SUM if total > LARGEST_SUM else MOST_PRODUCTS
            raise BundleError(f"{where} computes {found} for one image up to {_label(node)}, more than {most:.2g}; {_ANEW}")


class _Known:
    """What is known of a graph's tensors, node by node: nothing is passed on before it was looked at."""

    def __init__(self, model: ModelProto, image: Sequence[int] | None) -> None:
        self._opsets = list(model.opset_import)
        self._versions = {"" if each.domain == "ai.onnx" else each.domain: each.version for each in self._opsets}
        self._types: dict[str, TypeProto] = {}
        self._values: dict[str, NDArray[np.generic]] = {}
        self._small: dict[str, TensorProto] = {}
        for value in model.graph.input:
            self._types[value.name] = _of_one_image(value, image)
        for tensor in model.graph.initializer:
            self._hold(tensor.name, tensor)

    def shape(self, name: str) -> _Shape | None:
        """Return a tensor's shape; None if it cannot be told."""
        told = self._types.get(name)
        if told is None or not told.tensor_type.HasField("shape"):
            return None
        sizes = tuple(each.dim_value if each.HasField("dim_value") else -1 for each in told.tensor_type.shape.dim)
        return None if any(size < 0 for size in sizes) else sizes

    def is_list(self, name: str) -> bool:
        """Tell whether a tensor is known to be a list of whole numbers, as sizes are."""
        if name not in self._types:
            return False
        told = self._types[name].tensor_type
        return len(told.shape.dim) <= 1 and told.elem_type in (TensorProto.INT32, TensorProto.INT64)

    def pass_on(self, node: NodeProto) -> None:
        """Find out what can be told of a node's results."""
        held = next((found.t for found in node.attribute if found.name == "value" and found.HasField("t")), None)
        if node.op_type == "Constant" and held is not None and node.output:
            self._hold(node.output[0], held)
            return
        # Quantizers of ONNX Runtime's own make shapes as ONNX's do.
        domain = "" if node.domain == "ai.onnx" or node.op_type in ("QuantizeLinear", "DequantizeLinear") else node.domain
        inputs = [name for name in node.input if name]
        if not all(name in self._types for name in inputs):
            return
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions.get(domain, 0), domain)
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, {name: self._types[name] for name in inputs},
                {name: self._small[name] for name in inputs if name in self._small}, opset_imports=self._opsets,
            )  # fmt: skip
        except Exception:  # what it does not know or like others refuse, or nothing is known of it
            return
        self._types.update(found)
        self._work_out(node, inputs)

    def _work_out(self, node: NodeProto, inputs: Sequence[str]) -> None:
        value: NDArray[np.generic] | None = None
        if node.op_type == "Shape" and not node.attribute and inputs:
            shape = self.shape(inputs[0])
            value = None if shape is None else np.array(shape, np.int64)
        elif inputs and all(name in self._values for name in inputs):
            given = {name: self._values[name] for name in inputs}
            value = computed_numbers(node, given, self._versions.get("", 0))
        if value is not None:
            self._hold(node.output[0], numpy_helper.from_array(value, node.output[0]))

    def _hold(self, name: str, tensor: TensorProto) -> None:
        self._types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        if prod(tensor.dims) > _SMALL or tensor.data_location == TensorProto.EXTERNAL:
            return
        self._small[name] = tensor
        if tensor.data_type in (TensorProto.INT32, TensorProto.INT64):
            try:
                self._values[name] = numpy_helper.to_array(tensor)
            except Exception:  # cut short: its reader refuses it
                return


def _in_place(model: ModelProto, where: str) -> list[NodeProto]:
    """Return the graph's nodes in an order in which they can run, with what local functions hold in their place."""
    graph = model.graph
    if model.functions:
        held = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
        held.graph.name = graph.name or "graph"
        held.graph.node.extend(graph.node)
        held.graph.input.extend(graph.input)
        held.graph.output.extend(graph.output)
        try:
            graph = inliner.inline_local_functions(held).graph
        except Exception as error:  # the inliner raises many kinds
            raise BundleError(f"{where}: a local function cannot be put in place: {first_line(error)}; {_ANEW}") from error
    return [graph.node[place] for place in _ordered(_waits(graph))]


def _products(node: NodeProto, known: _Known) -> int:
    """Return the multiplications of a matrix product or a convolution; 0 for other operators and unknown shapes."""
    if node.op_type not in ("Conv", "ConvInteger", "ConvTranspose", "MatMul", "MatMulInteger", "Gemm"):
        return 0
    first, second, made = (known.shape(name) or (0,) for name in (*node.input[:2], node.output[0]))
    if node.op_type in ("Conv", "ConvInteger"):
        return prod(made) * prod(second[1:])
    if node.op_type == "ConvTranspose":
        return prod(first) * prod(second[1:])
    turned = node.op_type == "Gemm" and any(found.name == "transA" and found.i for found in node.attribute)
    return prod(made) * first[0 if turned else -1]


def _refuse_sparse(graph: GraphProto, where: str) -> None:
    """Refuse sparse constants that are without bounds when they are written out."""
    attributes = (found for node in _below(graph.node) for found in node.attribute)
    held = chain.from_iterable((found.sparse_tensor, *found.sparse_tensors) for found in attributes)
    for sparse in chain(graph.sparse_initializer, held):
        if prod(sparse.dims) > LARGEST_TENSOR:
            raise BundleError(
                f"{where}: sparse constant {sparse.values.name} of shape {list(sparse.dims)} has more than "
                f"{LARGEST_TENSOR:,} values; {_ANEW}"
            )


def _of_one_image(value: onnx.ValueInfoProto, image: Sequence[int] | None) -> TypeProto:
    """Return the type of an input with the sizes that it leaves open set: one image, of the shape that is given."""
    copied = TypeProto()
    copied.CopyFrom(value.type)
    dimensions = copied.tensor_type.shape.dim
    wanted = (1, *(image or ()))
    for place, dimension in enumerate(dimensions):
        if not dimension.HasField("dim_value") and (place == 0 or len(wanted) == len(dimensions)):
            dimension.dim_value = wanted[place]
    return copied


def _label(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or next(filter(None, node.output), '')}".strip()
