"""Kernels of codes in a file (QLinearConv, QGemm …), written back as DequantizeLinear, the operator, QuantizeLinear.

That is what each of them computes; ONNX Runtime makes the same kernels of the groups again when it loads them. What a file's
kernel reads and writes keeps its name: the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from qcam.runtime.graph import attribute
from qcam.runtime.tables import PASSING_OPERATORS, RESULT_PARAMETERS

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
        make = _KERNELS.get(node.op_type)
        if make is not None and node.domain in ("", "ai.onnx", "com.microsoft"):
            made = make(work, node)
        elif node.op_type in PASSING_OPERATORS and node.domain in ("", "ai.onnx"):
            made = _passing(work, node)
        else:
            made = None
        if made is None:
            work.nodes.append(node)
        else:
            changed = True
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
        if scale >= 0 and _operand(node, scale):
            self.meaning[node.output[0]] = (_operand(node, scale), _operand(node, zero_point))

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

    def operator(self, kind: str, node: NodeProto, operands: Sequence[str], result: str, *, leave: Sequence[str] = ()) -> None:
        """Write the operator itself, with the kernel's attributes less those that are the kernel's own."""
        made = onnx.helper.make_node(kind, list(operands), [result], name=node.name or f"{node.output[0]}/{kind}")
        made.attribute.extend(found for found in node.attribute if found.name not in leave)
        self.nodes.append(made)

    def result(self, node: NodeProto, kind: str, operands: Sequence[str], **options: Sequence[str]) -> bool:
        """Write the operator and the quantizer of its result; no scale: the result is float."""
        scale, zero_point = (_operand(node, position) for position in RESULT_PARAMETERS[node.op_type])
        if not scale:
            self.operator(kind, node, operands, node.output[0], **options)
            return True
        between = self.name(f"{node.output[0]}/before")
        self.operator(kind, node, operands, between, **options)
        self.quantized(between, scale, zero_point, node.output[0])
        return True

    def elements(self, name: str) -> int | None:
        """Return how many elements a constant has; None if it is none."""
        held = self.constants.get(name)
        return None if held is None else int(np.prod(held.dims, dtype=np.int64))

    def bias(self, codes: str, first: str, second: str, factor: float = 1.0) -> str | None:
        """Write the dequantizer of an int32 bias, whose scale is that of the products; None if the scales are no constants."""
        scales = [self.constants.get(name) for name in (first, second)]
        if scales[0] is None or scales[1] is None:
            return None
        left, right = (numpy_helper.to_array(scale).astype(np.float32).reshape(-1) for scale in scales if scale is not None)
        product = (left * right * np.float32(factor)).astype(np.float32)
        if product.size == 1:
            product = product.reshape(())
        scale = self.name(f"{codes}/scale")
        self.made.append(numpy_helper.from_array(product, scale))
        return self.dequantized(codes, scale, "", 0 if product.ndim else None)


def _operand(node: NodeProto, position: int) -> str:
    return str(node.input[position]) if len(node.input) > position else ""


def _float(work: _Work, node: NodeProto, first: int) -> str:
    """Write the dequantizer of an operand whose codes, scale and zero point are inputs from a position on."""
    return work.dequantized(_operand(node, first), _operand(node, first + 1), _operand(node, first + 2))


def _several(work: _Work, scale: str, axis: int) -> int | None:
    """Return the axis of a scale of several elements, None for one of a single one."""
    return axis if (work.elements(scale) or 1) > 1 else None


def _convolution(work: _Work, node: NodeProto) -> bool | None:
    x, x_scale, x_zero, w, w_scale, w_zero = (_operand(node, position) for position in range(6))
    if work.elements(w_scale) is None or work.elements(x_scale) is None or attribute(node, "channels_last", 0):
        return None
    operands = [work.dequantized(x, x_scale, x_zero), work.dequantized(w, w_scale, w_zero, _several(work, w_scale, 0))]
    if _operand(node, 8):
        operands.append(work.bias(_operand(node, 8), x_scale, w_scale) or "")
    return work.result(node, "Conv", operands, leave=("channels_last",))


def _product(work: _Work, node: NodeProto) -> bool | None:
    a, a_scale, a_zero, b, b_scale, b_zero = (_operand(node, position) for position in range(6))
    weight = work.constants.get(b)
    several = _several(work, b_scale, 0) is not None
    if work.elements(b_scale) is None or (several and (weight is None or len(weight.dims) != 2)):
        return None
    return work.result(
        node, "MatMul", [work.dequantized(a, a_scale, a_zero), work.dequantized(b, b_scale, b_zero, 1 if several else None)]
    )


def _gemm(work: _Work, node: NodeProto) -> bool | None:
    a, a_scale, a_zero, b, b_scale, b_zero, bias = (_operand(node, position) for position in range(7))
    if work.elements(b_scale) is None or work.elements(a_scale) is None:
        return None
    axis = 0 if attribute(node, "transB", 0) else 1
    operands = [work.dequantized(a, a_scale, a_zero), work.dequantized(b, b_scale, b_zero, _several(work, b_scale, axis))]
    if bias:
        factor = attribute(node, "alpha", 1.0)
        operands.append(work.bias(bias, a_scale, b_scale, factor if isinstance(factor, float) else 1.0) or "")
    return work.result(node, "Gemm", operands)


def _pairwise(kind: str) -> Callable[[_Work, NodeProto], bool | None]:
    def write(work: _Work, node: NodeProto) -> bool | None:
        return work.result(node, kind, [_float(work, node, 0), _float(work, node, 3)])

    return write


def _single(kind: str, *leave: str) -> Callable[[_Work, NodeProto], bool | None]:
    def write(work: _Work, node: NodeProto) -> bool | None:
        if attribute(node, "channels_last", 0):
            return None
        return work.result(node, kind, [_float(work, node, 0)], leave=("channels_last", *leave))

    return write


def _concat(work: _Work, node: NodeProto) -> bool | None:
    return work.result(node, "Concat", [_float(work, node, first) for first in range(2, len(node.input), 3)])


def _choice(work: _Work, node: NodeProto) -> bool | None:
    return work.result(node, "Where", [_operand(node, 0), _float(work, node, 1), _float(work, node, 4)])


def _passing(work: _Work, node: NodeProto) -> bool | None:
    """Write an operator that passes codes on with a dequantizer in front of it and a quantizer behind it."""
    meaning = work.meaning.get(node.input[0])
    if meaning is None or len(node.output) != 1:
        return None
    scale, zero_point = meaning
    if work.elements(scale) != 1:
        return None
    between = work.name(f"{node.output[0]}/before")
    work.operator(node.op_type, node, [work.dequantized(node.input[0], scale, zero_point), *node.input[1:]], between)
    work.quantized(between, scale, zero_point, node.output[0])
    work.meaning[node.output[0]] = meaning
    return True


#: Kernel → what writes it back; None is returned, and nothing written, where the kernel stays as it is.
_KERNELS: dict[str, Callable[[_Work, NodeProto], bool | None]] = {
    "QLinearConv": _convolution,
    "QLinearMatMul": _product,
    "QGemm": _gemm,
    "QLinearAdd": _pairwise("Add"),
    "QLinearMul": _pairwise("Mul"),
    "QLinearConcat": _concat,
    "QLinearWhere": _choice,
    "QLinearAveragePool": _single("AveragePool"),
    "QLinearGlobalAveragePool": _single("GlobalAveragePool"),
    "QLinearReduceMean": _single("ReduceMean"),
    "QLinearSigmoid": _single("Sigmoid"),
    "QLinearLeakyRelu": _single("LeakyRelu"),
    "QLinearSoftmax": _single("Softmax", "opset"),
}
