"""Questions about an ONNX graph: who makes a tensor, who reads it, what lies between a tap and the logits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from qcam.common.errors import BundleError, UnsupportedGraphError


class Graph:
    """An index over an ONNX graph; the graph must not be changed while it is in use.

    Attributes:
        model: The ONNX model.
        producer: Tensor name → node that makes it.
        consumers: Tensor name → nodes that read it, in graph order.
        initializers: Tensor name → constant.
        outputs: Names of the graph's outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.producer = {output: node for node in model.graph.node for output in node.output if output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                if name:
                    self.consumers.setdefault(name, []).append(node)
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = [output.name for output in model.graph.output]

    @property
    def image_input(self) -> str:
        """Return the name of the graph's one image input.

        Raises:
            UnsupportedGraphError: If there is not exactly one.
        """
        names = [value.name for value in self.model.graph.input if value.name not in self.initializers]
        if len(names) != 1:
            raise UnsupportedGraphError(
                f"the graph has {len(names)} inputs ({', '.join(names)}); qcam needs exactly one: the images"
            )
        return str(names[0])

    @cached_property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Return tensor name → shape as far as the file tells, None for a dimension that is not fixed."""
        known = {}
        for value in [*self.model.graph.value_info, *self.model.graph.output, *self.model.graph.input]:
            if value.type.tensor_type.HasField("shape"):
                dimensions = value.type.tensor_type.shape.dim
                known[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dimensions)
        return known

    def opset(self, domain: str = "") -> int:
        """Return the version of an operator set that the model imports, 0 if it does not."""
        for imported in self.model.opset_import:
            if imported.domain == domain or (domain == "" and imported.domain == "ai.onnx"):
                return int(imported.version)
        return 0

    def array(self, name: str) -> NDArray[np.generic]:
        """Return a constant's value.

        Raises:
            UnsupportedGraphError: If the tensor is not a constant of the file.
        """
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.producer.get(name)
        if node is not None and node.op_type == "Constant":
            return numpy_helper.to_array(cast(onnx.TensorProto, attribute(node, "value")))
        raise UnsupportedGraphError(f"tensor {name} is not a constant of the ONNX file")

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """Return a tensor's value if the file holds it, else None."""
        try:
            return self.array(name)
        except UnsupportedGraphError:
            return None

    def readings(self, tensor: str) -> list[onnx.NodeProto]:
        """Return a tensor's readers, each as often as it reads it."""
        return [node for node in self.consumers.get(tensor, []) for name in node.input if name == tensor]

    def is_spatial(self, tensor: str) -> bool:
        """Tell whether a tensor can be a feature map: batch × channels × height × width, more than one row and column."""
        shape = self.shapes.get(tensor, ())
        return len(shape) == 4 and None not in shape[2:] and int(shape[2] or 0) > 1 and int(shape[3] or 0) > 1

    def quantize_of(self, tensor: str) -> onnx.NodeProto | None:
        """Return the QuantizeLinear node that quantizes a tensor, if there is one."""
        for node in self.consumers.get(tensor, []):
            if node.op_type == "QuantizeLinear" and node.input[0] == tensor:
                return node
        return None

    def upstream(self, tensors: Iterable[str], stop: Iterable[str] = ()) -> set[str]:
        """Return the tensors that the given ones are computed from, themselves included, not looking past `stop`."""
        stopped, seen, todo = set(stop), set(), list(tensors)
        while todo:
            name = todo.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            if name not in stopped and name in self.producer:
                todo.extend(self.producer[name].input)
        return seen

    def downstream(self, tensor: str) -> set[str]:
        """Return the tensors that are computed from the given one, itself not included."""
        seen: set[str] = set()
        todo = [tensor]
        while todo:
            for node in self.consumers.get(todo.pop(), []):
                for output in node.output:
                    if output and output not in seen:
                        seen.add(output)
                        todo.append(output)
        return seen

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Return the tensors whose value does not depend on the graph's input."""
        return frozenset({*self.initializers, *self.producer} - self.downstream(self.image_input))

    def tail(self, tap: str, logits: str) -> GraphTail:
        """Cut the graph at a tap.

        Args:
            tap: Tensor to cut at: for a quantized graph a QuantizeLinear output.
            logits: The tensor the tail ends in.

        Returns:
            The nodes from the tap to the logits, and what else they read.

        Raises:
            BundleError: If the logits do not depend on the tap.
        """
        after = self.downstream(tap)
        if logits not in after:
            raise BundleError(f"the logits do not depend on tensor {tap}; choose another CAM layer")
        needed = self.upstream([logits], stop=[tap]) & after
        constants = self.fixed
        nodes = [node for node in self.model.graph.node if any(output in needed for output in node.output)]
        others: dict[str, str] = {}
        for node in nodes:
            for name in node.input:
                if name and name != tap and name not in needed and name not in constants:
                    others[name] = self._code_source(name)
        return GraphTail(tuple(nodes), others)

    def _code_source(self, tensor: str) -> str:
        """Return the integer codes a dequantized tensor comes from, so that the deployed graph need not be cut open."""
        node = self.producer.get(tensor)
        return str(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else tensor


@dataclass(frozen=True)
class GraphTail:
    """The part of a graph from a tap to the logits.

    Attributes:
        nodes: Its nodes in graph order.
        skips: Further tensors it reads that the tap does not determine (the other end of a skip connection), each
            with the tensor to expose for it: the integer codes where it is dequantized from some, else itself.
    """

    nodes: tuple[onnx.NodeProto, ...]
    skips: dict[str, str]


def alone(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node of its own: one of a model keeps the whole model in memory, all of its weights with it."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def gives_codes_as_they_are(node: onnx.NodeProto) -> bool:
    """Tell whether a node of `PASSING_OPERATORS` returns some of the values that it was given: a Resize may also mix them."""
    return node.op_type != "Resize" or attribute(node, "mode", b"nearest") == b"nearest"


def unused(model: onnx.ModelProto, name: str) -> str:
    """Return a name that no tensor has, of the graph or of its subgraphs: the one given, or one like it."""
    taken, todo = set(), [model.graph]
    while todo:
        graph = todo.pop()
        taken |= {each.name for each in (*graph.initializer, *graph.input, *graph.output)}
        for node in graph.node:
            taken |= {*node.input, *node.output}
            for item in node.attribute:
                todo += [*([item.g] if item.HasField("g") else []), *item.graphs]
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}/{count}"
    return found


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Return a node's attribute as a Python value, or `default` if it is not there."""
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default


def type_name(number: int) -> str:
    """Return ONNX's name of a type of elements in lower case; of a number that is none of them, the number."""
    try:
        return str(onnx.TensorProto.DataType.Name(number)).lower()
    except ValueError:
        return f"type {number}"
