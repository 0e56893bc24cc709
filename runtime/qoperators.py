"""Kernels of codes in a file (QLinearConv, QGemm …), written back as DequantizeLinear, the operator, QuantizeLinear.

That is what each of them computes; ONNX Runtime makes the same kernels of the groups again when it loads them. What a file's
kernel reads and writes keeps its name: the codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from qcam.runtime.graph import gives_codes_as_they_are
from qcam.runtime.kernel_form import OPERATOR_OF, KernelForm, Operand, kernel_form
from qcam.runtime.tables import BIASED_OPERATORS, PASSING_OPERATORS, RESULT_PARAMETERS

#: Kernels that are written back; what returns floats is no tool's to write, and stays for others to refuse.
_KERNELS = OPERATOR_OF.keys() - {"MatMulIntegerToFloat"}
#: From this version of ONNX's operators on QuantizeLinear has codes of 16 bits; before, ONNX Runtime's own has.
_WIDE = 21


def written_back(
    nodes: Sequence[NodeProto], constants: Mapping[str, TensorProto], taken: set[str], opset: int
) -> tuple[list[NodeProto] | None, list[TensorProto]]:
    """Write kernels of codes back.

    Args:
        nodes: The nodes of a graph, in an order in which they can run.
        constants: Name → initializer.
        taken: Further names that tensors have.
        opset: Version of ONNX's operators in the graph.

    Returns:
        The nodes in their place, None if there is no such kernel; and constants that they need besides.
    """
    work = _Work(constants, {*taken, *constants, *(name for node in nodes for name in node.output)}, opset)
    changed = False
    for node in nodes:
        work.note(node)
        if node.op_type in _KERNELS and node.domain in ("", "ai.onnx", "com.microsoft"):
            made = _kernel(work, node)
        elif node.op_type in PASSING_OPERATORS and node.domain in ("", "ai.onnx") and gives_codes_as_they_are(node):
            made = _passing(work, node)
        else:
            made = False
        if not made:
            work.nodes.append(node)
        changed |= made
    return (work.nodes if changed else None), work.made


@dataclass
class _Work:
    """What is being written.

    Attributes:
        constants: Name → initializer.
        taken: Names that tensors have.
        opset: Version of ONNX's operators; from 21 on they have codes of 16 bits.
        nodes: The nodes so far.
        made: Constants that were made.
        meaning: Tensor of codes → scale and zero point.
    """

    constants: Mapping[str, TensorProto]
    taken: set[str]
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    made: list[TensorProto] = field(default_factory=list)
    meaning: dict[str, tuple[str, str]] = field(default_factory=dict)

    def note(self, node: NodeProto) -> None:
        """Note what the codes mean that a node writes."""
        scale, zero_point = RESULT_PARAMETERS.get(node.op_type, (-1, -1))
        if 0 <= scale < len(node.input) and node.input[scale]:
            zero = str(node.input[zero_point]) if len(node.input) > zero_point else ""
            self.meaning[node.output[0]] = (str(node.input[scale]), zero)

    def name(self, wanted: str) -> str:
        """Return a name that no tensor has yet."""
        found, count = wanted, 1
        while found in self.taken:
            count += 1
            found = f"{wanted}/{count}"
        self.taken.add(found)
        return found

    def dequantized(self, codes: str, scale: str, zero_point: str, axis: int | None = None) -> str:
        """Write a DequantizeLinear; return its result."""
        result = self.name(f"{codes}/float")
        self._quantizer("DequantizeLinear", codes, scale, zero_point, result, axis)
        return result

    def quantized(self, tensor: str, scale: str, zero_point: str, result: str) -> None:
        """Write a QuantizeLinear."""
        self._quantizer("QuantizeLinear", tensor, scale, zero_point, result, None)

    def _quantizer(self, kind: str, tensor: str, scale: str, zero_point: str, result: str, axis: int | None) -> None:
        held = self.constants.get(zero_point)
        wide = held is not None and held.data_type in (TensorProto.UINT16, TensorProto.INT16)
        node = onnx.helper.make_node(
            kind, [tensor, scale, *([zero_point] if zero_point else [])], [result], name=f"{result}/{kind}",
            domain="com.microsoft" if wide and self.opset < _WIDE else "",
        )  # fmt: skip
        if axis is not None:
            node.attribute.append(onnx.helper.make_attribute("axis", axis))
        self.nodes.append(node)

    def elements(self, name: str) -> int | None:
        """Return how many elements a constant has; None if it is none."""
        held = self.constants.get(name)
        return None if held is None else prod(held.dims)

    def knows(self, form: KernelForm) -> bool:
        """Tell whether all is known that a kernel computes."""
        if form.unknown:
            return False
        if form.operator in BIASED_OPERATORS:
            return all(self.elements(operand.scale) is not None for operand in form.operands)
        if form.operator == "MatMul":
            second = form.operands[1]
            held = self.constants.get(second.codes)
            several = (self.elements(second.scale) or 1) > 1
            return self.elements(second.scale) is not None and (not several or (held is not None and len(held.dims) == 2))
        return True

    def operand(self, operand: Operand) -> str:
        """Write the dequantizer of what a kernel reads as codes."""
        several = (self.elements(operand.scale) or 1) > 1
        return self.dequantized(operand.codes, operand.scale, operand.zero_point, operand.axis if several else None)

    def bias(self, form: KernelForm) -> str:
        """Write the dequantizer of an int32 bias, whose scale is that of the products."""
        first, second = (numpy_helper.to_array(self.constants[operand.scale]) for operand in form.operands)
        product = form.bias_scale(first, second)
        scale = self.name(f"{form.bias}/scale")
        self.made.append(numpy_helper.from_array(product, scale))
        return self.dequantized(form.bias, scale, "", (form.bias_axis or 0) if product.ndim else None)

    def operator(self, kind: str, node: NodeProto, operands: Sequence[str], result: str, attributes: Sequence[Any]) -> None:
        """Write the operator itself."""
        made = onnx.helper.make_node(kind, list(operands), [result], name=node.name or f"{node.output[0]}/{kind}")
        made.attribute.extend(attributes)
        self.nodes.append(made)


def _kernel(work: _Work, node: NodeProto) -> bool:
    """Write a kernel back; tell whether it was: one of which something is not known stays as it is."""
    form = kernel_form(node, work.constants)
    if not work.knows(form):
        return False
    operands = [*form.further, *(work.operand(operand) for operand in form.operands)]
    if form.bias:
        operands.append(work.bias(form))
    if form.result is None:
        work.operator(form.operator, node, operands, node.output[0], form.attributes)
        return True
    between = work.name(f"{node.output[0]}/before")
    work.operator(form.operator, node, operands, between, form.attributes)
    work.quantized(between, *form.result, node.output[0])
    return True


def _passing(work: _Work, node: NodeProto) -> bool:
    """Write an operator that passes codes on with a dequantizer in front of it and a quantizer behind it."""
    meaning = work.meaning.get(node.input[0])
    if meaning is None or len(node.output) != 1:
        return False
    scale, zero_point = meaning
    if work.elements(scale) != 1:
        return False
    between = work.name(f"{node.output[0]}/before")
    operands = [work.dequantized(node.input[0], scale, zero_point), *node.input[1:]]
    work.operator(node.op_type, node, operands, between, node.attribute)
    work.quantized(between, scale, zero_point, node.output[0])
    work.meaning[node.output[0]] = meaning
    return True
