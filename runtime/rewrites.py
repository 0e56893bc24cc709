"""Rewrites: what ONNX Runtime changes in a graph when it loads it, where neither the groups nor the mirror follow.

Each rewrite is an object: its docstring says what ONNX Runtime does, `reason` says it in messages, `matches` says whether it
does so at one operator, and why or why not. None of them touches what ONNX Runtime's own quantizer writes, where the operands
and the result of every operator are quantized.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from qcam.runtime.codes import codes_of_dequantized, codes_of_quantizer
from qcam.runtime.graph import Graph, attribute
from qcam.runtime.grouping import group_of, is_pool_of_codes, operands_of, returns_float, way_to_quantizer
from qcam.runtime.tables import (
    BIASED_OPERATORS,
    CLIPPING_OPERATORS,
    FLOAT_RESULT_KERNEL_OF,
    INTEGER_KERNEL_OF,
    PROPAGATING_OPERATORS,
)


@dataclass(frozen=True)
class Match:
    """Whether a rewrite applies at an operator; true or false as such.

    Attributes:
        applies: Whether it does.
        why: What was found there, or what is not as the rewrite needs it.
    """

    applies: bool
    why: str

    def __bool__(self) -> bool:
        return self.applies


class Rewrite(ABC):
    """Something that ONNX Runtime does at load time.

    Attributes:
        operators: The operators at which it can happen.
        reason: What it does, in messages: "ONNX Runtime …".
    """

    operators: ClassVar[frozenset[str]]
    reason: ClassVar[str]

    def matches(self, graph: Graph, node: onnx.NodeProto) -> Match:
        """Tell whether ONNX Runtime does this at an operator.

        Args:
            graph: The graph.
            node: One of its nodes.
        """
        if node.op_type not in self.operators:
            return Match(False, f"{node.op_type} is none of {', '.join(sorted(self.operators))}")
        return self._check(graph, node)

    @abstractmethod
    def _check(self, graph: Graph, node: onnx.NodeProto) -> Match:
        """Tell whether the pattern around an operator of the right type is there."""


class SecondPair(Rewrite):
    """Of two quantizers that follow each other with other scales, the first one and its dequantizer are removed.

    Only where nothing else reads the codes or the floats in between, and both have codes of one type (DoubleQDQPairsRemover).
    """

    operators = frozenset({"QuantizeLinear"})
    reason = "removes the quantizer before it, where two with different scales follow each other"

    def _check(self, graph: Graph, node: onnx.NodeProto) -> Match:
        tensor = node.input[0]
        between = graph.producer.get(tensor)
        if between is None or between.op_type != "DequantizeLinear" or tensor in graph.outputs:
            return Match(False, f"{tensor} is not dequantized for it")
        first, second = codes_of_dequantized(graph, tensor), codes_of_quantizer(graph, node)
        before = graph.producer.get(between.input[0])
        if first is None or second is None or before is None or before.op_type != "QuantizeLinear":
            return Match(False, f"{between.input[0]} does not come out of a quantizer with a constant scale")
        if first.tensor in graph.outputs or any(len(graph.readings(name)) != 1 for name in (tensor, first.tensor)):
            return Match(False, f"{first.tensor} or {tensor} is read by others")
        if first.dtype != second.dtype or first.same_meaning(second):
            return Match(False, "both mean the same by their codes, or the codes are of two types")
        return Match(True, f"{first.tensor} and {second.tensor} mean different values by the same codes")


class EqualQuantizers(Rewrite):
    """Equal quantizers behind one tensor are merged, so that its operator then has one reader and becomes an integer kernel.

    Common subexpressions are eliminated before anything is grouped; two results that are both outputs of the graph stay two.
    """

    operators = frozenset(INTEGER_KERNEL_OF)
    reason = "merges the equal quantizers behind it"

    def _check(self, graph: Graph, node: onnx.NodeProto) -> Match:
        tensor = node.output[0]
        readers = graph.consumers.get(tensor, [])
        if tensor in graph.outputs or len(readers) < 2 or any(reader.op_type != "QuantizeLinear" for reader in readers):
            return Match(False, f"{tensor} is not read by several quantizers alone")
        codes = [codes_of_quantizer(graph, reader) for reader in readers]
        first = codes[0]
        if first is None or any(other is None or not first.same_meaning(other) for other in codes):
            return Match(False, f"the quantizers of {tensor} differ")
        if sum(reader.output[0] in graph.outputs for reader in readers) > 1:
            return Match(False, f"more than one quantizer of {tensor} is an output of the graph")
        return Match(True, f"{len(readers)} quantizers of {tensor} are equal")


class FloatWeight(Rewrite):
    """A float weight between quantized activations is quantized to 8 bits by one scale (WeightBiasQuantization).

    Only where weight and bias are constants, and the result, clipped or not, goes to a quantizer alone.
    """

    operators = BIASED_OPERATORS
    reason = "quantizes the float weight to 8 bits by one scale (quantize it at export)"

    def _check(self, graph: Graph, node: onnx.NodeProto) -> Match:
        x, weight = codes_of_dequantized(graph, node.input[0]), graph.constant(node.input[1])
        if x is None or x.scale.size != 1:
            return Match(False, f"{node.input[0]} is not dequantized by one scale")
        if weight is None or weight.dtype != np.float32:
            return Match(False, f"{node.input[1]} is no constant of float32")
        if len(node.input) > 2 and node.input[2]:
            bias = graph.constant(node.input[2])
            if bias is None or bias.ndim != 1:
                return Match(False, f"bias {node.input[2]} is no constant list")
        tensor = node.output[0]
        while True:
            readers = graph.consumers.get(tensor, [])
            if len(readers) != 1:
                return Match(False, f"{tensor} is read by {len(readers)} nodes, not by one")
            if readers[0].op_type == "QuantizeLinear":
                return Match(True, f"{node.input[1]} is a float weight between quantized activations")
            if readers[0].op_type not in CLIPPING_OPERATORS:
                return Match(False, f"{tensor} is read by {readers[0].op_type}, not by a quantizer")
            tensor = readers[0].output[0]


class BlockwiseProduct(Rewrite):
    """Float activations that meet an 8-bit matrix are rounded block by block and multiplied as integers (MatMulNBits).

    The matrix is laid out as inputs × outputs and read by nothing else, its scales run along the outputs, the result stays
    float. The rounding is `session.qdq_matmulnbits_accuracy_level` 4, ONNX Runtime's own choice; below 4 it multiplies floats.
    """

    operators = frozenset(FLOAT_RESULT_KERNEL_OF)
    reason = "computes with the weight's codes and activations that it rounds to 8 bits block by block (MatMulNBits)"

    def _check(self, graph: Graph, node: onnx.NodeProto) -> Match:
        codes = codes_of_dequantized(graph, node.input[1])
        matrix = None if codes is None else graph.constant(codes.tensor)
        if codes is None or matrix is None or matrix.ndim != 2 or codes.dtype.itemsize != 1:
            return Match(False, f"{node.input[1]} is no constant matrix of 8-bit codes")
        if codes_of_dequantized(graph, node.input[0]) is not None:
            return Match(False, f"{node.input[0]} is dequantized itself")
        if not returns_float(graph, node.output[0]):
            return Match(False, f"{node.output[0]} does not stay float")
        if attribute(node, "transA", 0) or attribute(node, "transB", 0) or attribute(node, "alpha", 1.0) != 1.0:
            return Match(False, "an operand is transposed or scaled")
        if len(graph.readings(node.input[1])) != 1:
            return Match(False, f"{node.input[1]} is read by others")
        if codes.scale.size != 1 and codes.axis % 2 != 1:
            return Match(False, f"the scales of {node.input[1]} do not run along the outputs")
        return Match(True, f"{node.input[0]} is float, {node.input[1]} has codes of 8 bits")


class JoinedAddition(Rewrite):
    """A MatMul and the addition of a constant behind it become one Gemm, which is then grouped as one (MatMulAddFusion)."""

    operators = frozenset({"MatMul"})
    reason = "joins it and the addition behind it into one Gemm"

    def _check(self, graph: Graph, node: onnx.NodeProto) -> Match:
        if operands_of(graph, node, 8) is None:
            return Match(False, "its operands have no codes of 8 bits")
        readers = graph.readings(node.output[0])
        if len(readers) != 1 or readers[0].op_type != "Add" or not graph.fixed.intersection(readers[0].input):
            return Match(False, f"{node.output[0]} is not read by one addition of a constant alone")
        return Match(True, f"{readers[0].name or readers[0].output[0]} adds a constant")


class ChoiceOfCodes(Rewrite):
    """A Where between two dequantized tensors whose result is quantized becomes QLinearWhere."""

    operators = frozenset({"Where"})
    reason = "computes on codes (QLinearWhere)"

    def _check(self, graph: Graph, node: onnx.NodeProto) -> Match:
        if not all(codes_of_dequantized(graph, name) for name in node.input[1:3]):
            return Match(False, "not both choices are dequantized")
        if not way_to_quantizer(graph, node.output[0]):
            return Match(False, f"{node.output[0]} does not go to a quantizer alone")
        return Match(True, "both choices and the result are quantized")


class MovedQuantizers(Rewrite):
    """Dequantizers are moved forward, quantizers backward, across operators that only rearrange (QDQPropagation).

    So an operator that is not next to its quantizers in the file gets them, and becomes an integer kernel.
    """

    operators = frozenset(INTEGER_KERNEL_OF)
    reason = "moves quantizers across the operators around it that only rearrange, and computes it on codes"

    def _check(self, graph: Graph, node: onnx.NodeProto) -> Match:
        if graph.fixed.issuperset(node.output) or group_of(graph, node) is not None:
            return Match(False, "it is folded, or has its quantizers next to it")
        reads = [name for name in node.input if name]
        sources = [_before(graph, name) for name in reads]
        behind = _behind(graph, node.output[0])
        if sources == reads and behind == node.output[0]:
            return Match(False, "nothing around it only rearranges")
        if node.op_type not in FLOAT_RESULT_KERNEL_OF and way_to_quantizer(graph, behind) is None:
            return Match(False, f"{behind} does not go to a quantizer alone")
        operands = [codes_of_dequantized(graph, name) for name in sources]
        if any(codes is None or codes.dtype.itemsize not in (1, 4) for codes in operands):
            return Match(False, "not all of its operands have codes of 8 bits")
        return Match(True, "its operands and its result would be quantized next to it")


#: The rewrites, in the order in which they are asked for; the first one that applies is named.
REWRITES: tuple[Rewrite, ...] = (
    SecondPair(), EqualQuantizers(), FloatWeight(), BlockwiseProduct(), JoinedAddition(), ChoiceOfCodes(), MovedQuantizers(),
)  # fmt: skip


def not_followed(graph: Graph) -> list[str]:
    """Name what ONNX Runtime rewrites when it loads a graph, where neither the groups nor the mirror follow it.

    Returns:
        One sentence for each operator; empty for what its own quantizer writes, where every operator's operands and result
        are quantized.
    """
    found = []
    for node in graph.model.graph.node:
        rewrite = next((rewrite for rewrite in REWRITES if rewrite.matches(graph, node)), None)
        if rewrite is not None:
            found.append(f"ONNX Runtime {rewrite.reason}, at {node.op_type} {node.name or node.output[0]}")
    return found


def _before(graph: Graph, tensor: str) -> str:
    """Return the tensor from which a quantizer's codes would reach this one through operators that only rearrange."""
    node = graph.producer.get(tensor)
    while node is not None and _propagates(graph, node) and tensor not in graph.outputs:
        tensor = node.input[0]
        node = graph.producer.get(tensor)
    return tensor


def _behind(graph: Graph, tensor: str) -> str:
    """Return the tensor behind the operators that only rearrange this one, each the only reader of the one before."""
    readers = graph.readings(tensor)
    while len(readers) == 1 and _propagates(graph, readers[0]) and tensor not in graph.outputs:
        tensor = readers[0].output[0]
        readers = graph.readings(tensor)
    return tensor


def _propagates(graph: Graph, node: onnx.NodeProto) -> bool:
    """Tell whether quantizers are moved across an operator."""
    return node.op_type in PROPAGATING_OPERATORS and (node.op_type != "MaxPool" or is_pool_of_codes(graph))
