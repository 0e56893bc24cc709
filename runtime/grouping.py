"""Grouping: which nodes of a QDQ graph ONNX Runtime's CPU provider runs together as one integer kernel.

A group is an operator whose inputs come out of DequantizeLinear nodes and whose one output goes into one QuantizeLinear. The
rules are those of ONNX Runtime's QDQ transformer (core/optimizer/qdq_transformer/selectors_actions), read off the graph; a
profile of the deployed session tells whether they were right (`disagreements`). What ONNX Runtime changes in a graph before it
groups is in qcam.runtime.rewrites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.codes import Codes, codes_of_dequantized, codes_of_quantizer
from qcam.runtime.graph import Graph, alone, attribute, gives_codes_as_they_are
from qcam.runtime.tables import (
    BIASED_OPERATORS,
    CLIPPING_OPERATORS,
    FLOAT_RESULT_KERNEL_OF,
    INTEGER_KERNEL_OF,
    PASSING_OPERATORS,
    is_integer_kernel,
)


@dataclass(frozen=True)
class KernelGroup:
    """An operator that runs as one integer kernel.

    Attributes:
        kernel: The kernel's name.
        node: The operator.
        inputs: What it reads, in the operator's order; None where the operator takes a float constant (a bias).
        output: What it writes; None for float32.
        result: Name of the tensor that holds the result: the codes, or the float tensor.
        inner: Nodes between its operands and its result besides itself: a redundant Relu or Clip, the QuantizeLinear.
    """

    kernel: str
    node: onnx.NodeProto
    inputs: tuple[Codes | None, ...]
    output: Codes | None
    result: str
    inner: tuple[onnx.NodeProto, ...]

    @property
    def label(self) -> str:
        """Return operator and name, for messages."""
        return f"{self.node.op_type} {self.node.name or self.result}"

    def alone(self) -> KernelGroup:
        """Return the group with nodes of its own, which keep no model in memory."""
        return replace(self, node=alone(self.node), inner=tuple(alone(node) for node in self.inner))


def find_groups(graph: Graph, *, bits: int = 8) -> tuple[KernelGroup, ...]:
    """Find the groups that run as integer kernels.

    Args:
        graph: A QDQ graph.
        bits: 8 for what ONNX Runtime fuses on CPUs; 16 for what an integer accelerator would run of a 16-bit graph.

    Returns:
        The groups in graph order.
    """
    found = (group_of(graph, node, bits) for node in graph.model.graph.node)
    return tuple(group for group in found if group is not None)


def disagreements(groups: tuple[KernelGroup, ...], graph: Graph, kernels: Mapping[str, str]) -> list[str]:
    """Hold the groups against what a session really ran.

    Args:
        groups: From `find_groups`.
        graph: The graph they were found in.
        kernels: Node name → kernel, from the session's profile.

    Returns:
        One sentence for each node where the two differ; empty if they agree.
    """
    expected = {group.node.name: group.kernel for group in groups if group.node.name}
    wrong = []
    for node in graph.model.graph.node:
        ran = kernels.get(node.name)
        if not node.name or ran is None:
            if node.name in expected and expected[node.name] not in PASSING_OPERATORS and kernels:
                wrong.append(f"{node.op_type} {node.name}: expected as {expected[node.name]}, not in the profile at all")
            continue
        wanted = expected.get(node.name)
        if wanted in PASSING_OPERATORS or (wanted is None and not is_integer_kernel(ran)):
            continue
        if ran != wanted:
            wrong.append(f"{node.op_type} {node.name}: expected as {wanted or 'a float operator'}, ran as {ran}")
    return wrong


def source_label(graph: Graph, groups: Mapping[str, KernelGroup], tensor: str) -> str:
    """Name the operator that a tensor of codes comes from.

    Args:
        graph: The graph.
        groups: Result → group.
        tensor: A QuantizeLinear's output, or a float result.

    Returns:
        Operator and node name; for a float island all its operators, the last one first.
    """
    if tensor in groups:
        return groups[tensor].label
    island: list[onnx.NodeProto] = []
    seen: set[str] = set()
    todo = [tensor]
    while todo:
        node = graph.producer.get(todo.pop())
        if node is None or node.op_type == "DequantizeLinear" or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        island.append(node)
        todo += [name for name in node.input if name]
    float_nodes = [node for node in island if node.op_type not in ("QuantizeLinear", "Constant")]
    if not float_nodes:
        return f"QuantizeLinear {island[0].name or tensor}" if island else tensor
    operators = "+".join(dict.fromkeys(node.op_type for node in float_nodes))
    return f"{operators} {float_nodes[0].name or float_nodes[0].output[0]} (float)"


def group_of(graph: Graph, node: onnx.NodeProto, bits: int = 8) -> KernelGroup | None:
    """Return the group of an operator; None if it does not run as an integer kernel. Arguments as in `find_groups`."""
    kernel = INTEGER_KERNEL_OF.get(node.op_type) or (node.op_type if node.op_type in PASSING_OPERATORS else None)
    if kernel is None or node.domain not in ("", "ai.onnx") or len([name for name in node.output if name]) != 1:
        return None
    if node.output[0] in graph.fixed:
        return None
    operands = operands_of(graph, node, bits)
    if operands is None:
        return None
    inner = way_to_quantizer(graph, node.output[0])
    if inner is None:
        if node.op_type not in FLOAT_RESULT_KERNEL_OF or not returns_float(graph, node.output[0]):
            return None
        group = KernelGroup(FLOAT_RESULT_KERNEL_OF[node.op_type], node, operands, None, node.output[0], ())
    else:
        output = codes_of_quantizer(graph, inner[-1])
        if output is None:
            return None
        group = KernelGroup(kernel, node, operands, output, inner[-1].output[0], inner)
    return group if _is_fusable(graph, group) else None


def operands_of(graph: Graph, node: onnx.NodeProto, bits: int) -> tuple[Codes | None, ...] | None:
    """Return what the operator reads as codes, or None if it reads something that has no codes."""
    operands: list[Codes | None] = []
    for index, name in enumerate(node.input):
        if not name:
            continue
        if index > 0 and node.op_type in PASSING_OPERATORS:  # shapes, axes, indices
            continue
        codes = codes_of_dequantized(graph, name)
        is_bias = index == 2 and node.op_type in BIASED_OPERATORS
        if codes is None:
            # A float bias is quantized by ONNX Runtime when it loads the graph, with scale x_scale · w_scale.
            if not is_bias or not _is_quantizable_bias(graph, node, name):
                return None
        elif codes.dtype.itemsize * 8 != (32 if is_bias else bits):
            return None
        operands.append(codes)
    return tuple(operands) if operands else None


def way_to_quantizer(graph: Graph, tensor: str) -> tuple[onnx.NodeProto, ...] | None:
    """Return the nodes from a tensor to the one QuantizeLinear that reads it, redundant Relu and Clip included."""
    way: list[onnx.NodeProto] = []
    while True:
        readers = graph.consumers.get(tensor, [])
        if len(readers) != 1 or tensor in graph.outputs or list(readers[0].input).count(tensor) != 1:
            return None
        reader = readers[0]
        way.append(reader)
        if reader.op_type == "QuantizeLinear":
            clips = way[:-1]
            return tuple(way) if all(_is_redundant(graph, clip, reader) for clip in clips) else None
        if reader.op_type not in CLIPPING_OPERATORS:
            return None
        tensor = reader.output[0]


def returns_float(graph: Graph, tensor: str) -> bool:
    """Tell whether a tensor that no fusion quantizes may leave an integer kernel as float32.

    Not where a Relu or Clip stands alone between it and one more operator: ONNX Runtime takes that for a quantizer's, and
    gives the whole group up when it is not.
    """
    readers = graph.consumers.get(tensor, [])
    if any(node.op_type == "QuantizeLinear" for node in readers):
        return False
    if len(readers) != 1 or tensor in graph.outputs or readers[0].op_type not in CLIPPING_OPERATORS:
        return True
    clipped = readers[0].output[0]
    return clipped in graph.outputs or len(graph.readings(clipped)) != 1


def is_pool_of_codes(graph: Graph) -> bool:
    """Tell whether MaxPool has version 12, the only one that ONNX Runtime lets work on codes."""
    return 12 <= graph.opset() < 22


def _is_quantizable_bias(graph: Graph, node: onnx.NodeProto, name: str) -> bool:
    """Tell whether ONNX Runtime quantizes a float bias: a constant list, and the weight's scales run along the outputs."""
    value, weight = graph.constant(name), codes_of_dequantized(graph, node.input[1])
    if value is None or weight is None or value.dtype != np.float32 or value.ndim != 1:
        return False
    axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1
    return weight.scale.size == 1 or (weight.scale.size == value.size and weight.axis == axis)


def _is_fusable(graph: Graph, group: KernelGroup) -> bool:
    """Check types and parameters as ONNX Runtime's selectors do."""
    node, output, activations = group.node, group.output, [codes for codes in group.inputs if codes is not None]
    first = activations[0]
    if first.scale.size != 1 or (output is not None and (output.scale.size != 1 or output.dtype != first.dtype)):
        return False
    if node.op_type in PASSING_OPERATORS:
        if node.op_type == "MaxPool" and not (first.scale > 0 and is_pool_of_codes(graph)):
            return False
        return output is not None and first.same_meaning(output) and gives_codes_as_they_are(node)
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        weight = activations[1]
        if first.dtype.kind == "i" and weight.dtype != first.dtype:
            return False
        if node.op_type != "MatMul" and weight.tensor not in graph.fixed:
            return False  # the mirror lays weights out once
        if group.inputs[-1] is None and output is None:
            return False  # a float bias is only quantized on the way to a QuantizeLinear
        biased = node.op_type == "Gemm" and len(group.inputs) > 2
        return not (biased and any(attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta")))
    return all(codes.dtype == first.dtype and codes.scale.size == 1 for codes in activations)


def _is_redundant(graph: Graph, clip: onnx.NodeProto, quantizer: onnx.NodeProto) -> bool:
    """Tell whether a quantizer's own range already does what a Relu or Clip in front of it does, limits rounded to codes."""
    codes = codes_of_quantizer(graph, quantizer)
    if codes is None or codes.scale.size != 1:
        return False
    limits = np.iinfo(codes.dtype.name)
    zero = int(codes.zero_point)
    # ONNX Runtime looks no further where scale or zero point are lists of one, except at a Relu.
    plain = all(graph.array(name).ndim == 0 for name in quantizer.input[1:3] if name)
    if clip.op_type == "Relu":
        return zero == limits.min and (plain or (len(quantizer.input) > 2 and codes.dtype.itemsize == 1))
    low, high = -np.inf, np.inf
    try:
        if len(clip.input) > 1 and clip.input[1]:
            low = float(graph.array(clip.input[1]))
        if len(clip.input) > 2 and clip.input[2]:
            high = float(graph.array(clip.input[2]))
    except UnsupportedGraphError:  # a limit that is computed
        return False
    steps = np.rint(np.array([low, high], np.float32) / np.float32(codes.scale))
    return bool(plain and steps[0] <= limits.min - zero and steps[1] >= limits.max - zero)
