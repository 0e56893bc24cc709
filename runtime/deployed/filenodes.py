"""The nodes of a file, found again under the names that ONNX Runtime's optimizers give to kernels.

A kernel keeps its node's name, or gets one made from it: `NAME_token_7` (another layout), `fused NAME`, `NAME/SomeFusion`; or
one made from the tensor it writes: `TENSOR_nchwc` (blocked layout), `TENSOR_bn_nchwc` (a BatchNormalization that became a
convolution). Files of other tools may leave nodes unnamed: only the last forms then lead back to a node.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from math import prod

import onnx

from qcam.runtime.graph import attribute
from qcam.runtime.tables import APPENDED_OPERATORS, COMPUTE_OPERATORS, WEIGHT_WAY_OF_KNOWN_SHAPE

#: What ONNX Runtime appends to the name of the tensor that a kernel in blocked layout writes.
_BLOCKED = "_nchwc"


@dataclass(frozen=True)
class FileNode:
    """What a placement needs of a node of the file.

    Attributes:
        name: Its name; may be empty.
        operator: Its type.
        channels: Output channels of a convolution, 0 otherwise.
        products: Multiply-accumulates for each element of the output (ConvTranspose: of the input); 0 if the node is neither
            Conv, Gemm nor MatMul, or its weight is not in the file.
    """

    name: str
    operator: str
    channels: int = 0
    products: int = 0


@dataclass(frozen=True)
class Found:
    """A node of the file behind a kernel.

    Attributes:
        node: The node.
        blocked: Whether the kernel works on channels in blocks, whose number is then rounded up.
    """

    node: FileNode
    blocked: bool = False


class FileNodes:
    """An index over the nodes of one file; keeps names and sizes, not the weights.

    Attributes:
        inputs: Input of the graph → its sizes, 0 where one is left open.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        nodes = list(model.graph.node)
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self.inputs = {
            value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            for value in model.graph.input
            if value.name not in shapes
        }
        producer = {output: node for node in nodes for output in node.output if output}
        self._readers = Counter(name for node in nodes for name in node.input if name)
        count = Counter(node.name for node in nodes)
        described = [_describe(node, shapes, producer) for node in nodes]
        self._by_name = {node.name: node for node in described if node.name and count[node.name] == 1}
        self._by_tensor = {
            output: (found, node.input[0] if node.input else "")
            for node, found in zip(nodes, described, strict=True)
            for output in node.output[:1]
        }

    def find(self, kernel: str) -> Found | None:
        """Return the node behind a kernel; None if the runtime added the kernel, or its node has no name of its own.

        Args:
            kernel: The name of the kernel's node in the optimized graph.
        """
        for name in (kernel, bare := re.sub(r"_token_\d+$", "", kernel)):
            if name in self._by_name:
                return Found(self._by_name[name])
        if bare.endswith(_BLOCKED):
            tensor = bare.removesuffix(_BLOCKED)
            node = self._writer(tensor)
            if node is None and (normalization := self._by_tensor.get(tensor.removesuffix("_bn"))):
                node = normalization[0]
            return None if node is None else Found(node, blocked=True)
        name = re.sub(r"/\w*Fusion/?$", "", bare.removeprefix("fused "))
        return Found(self._by_name[name]) if name in self._by_name else None

    def _writer(self, tensor: str) -> FileNode | None:
        """Return the node that makes a tensor: the convolution, where others were appended to it."""
        if tensor not in self._by_tensor:
            return None
        node, source = self._by_tensor[tensor]
        while node.operator in APPENDED_OPERATORS and source in self._by_tensor and self._readers[source] == 1:
            before, source = self._by_tensor[source]
            if before.operator in COMPUTE_OPERATORS:
                return before
            if before.operator not in APPENDED_OPERATORS:
                break
            if before.operator == "BatchNormalization":
                node = before  # what a kernel computes if there is no convolution before it
        return node


def _describe(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], producer: dict[str, onnx.NodeProto]) -> FileNode:
    if node.op_type not in COMPUTE_OPERATORS or len(node.input) < 2:
        return FileNode(node.name, node.op_type)
    weight = _weight_shape(node.input[1], shapes, producer)
    if not weight:
        return FileNode(node.name, node.op_type)
    if node.op_type == "Gemm":
        return FileNode(node.name, node.op_type, products=weight[1 if attribute(node, "transB", 0) else 0])
    if node.op_type == "MatMul":
        return FileNode(node.name, node.op_type, products=weight[-2] if len(weight) > 1 else weight[0])
    return FileNode(node.name, node.op_type, weight[0] if node.op_type == "Conv" else 0, prod(weight[1:]))


def _weight_shape(
    tensor: str, shapes: dict[str, tuple[int, ...]], producer: dict[str, onnx.NodeProto]
) -> tuple[int, ...] | None:
    """Return the shape of a constant operand, through its quantization; None if it is computed from the input."""
    if tensor in shapes:
        return shapes[tensor]
    node = producer.get(tensor)
    if node is None:
        return None
    if node.op_type == "Constant":
        value = attribute(node, "value")
        return tuple(value.dims) if isinstance(value, onnx.TensorProto) else None
    if node.op_type not in WEIGHT_WAY_OF_KNOWN_SHAPE:
        return None
    shape = _weight_shape(node.input[0], shapes, producer)
    if shape is None or node.op_type != "Transpose":
        return shape
    order = attribute(node, "perm", list(range(len(shape)))[::-1])
    return tuple(shape[int(axis)] for axis in order)  # type: ignore[attr-defined]
