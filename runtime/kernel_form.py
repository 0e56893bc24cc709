"""What the inputs of kernels of codes (QLinearConv, QGemm …) are, and which operator each is with codes.

What each computes is DequantizeLinear → operator → QuantizeLinear. Files hold such kernels (`qoperators`), and so do the graphs
that ONNX Runtime makes of files (`loaded.writing_back`): both are written back from what stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from qcam.runtime.graph import attribute
from qcam.runtime.tables import INTEGER_KERNEL_OF, RESULT_PARAMETERS

#: Kernel → the operator that it is with codes.
OPERATOR_OF = {kernel: operator for operator, kernel in INTEGER_KERNEL_OF.items()} | {
    "MatMulIntegerToFloat": "MatMul", "QLinearReduceMean": "ReduceMean", "QLinearWhere": "Where",
}  # fmt: skip
#: Attributes that only a kernel has, with what each has to say for the operator to compute the same; None: anything.
_OWN_ATTRIBUTES: dict[str, int | None] = {"channels_last": 0, "opset": None}
#: Positions of codes, scale and zero point of what most kernels read.
_ONE: tuple[tuple[int, int, int], ...] = ((0, 1, 2),)
_TWO: tuple[tuple[int, int, int], ...] = ((0, 1, 2), (3, 4, 5))
#: Kernel → positions of codes, scale and zero point of each operand, where that is not the first or the first two.
_OPERANDS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "MatMulIntegerToFloat": ((0, 2, 4), (1, 3, 5)),
    "QLinearWhere": ((1, 2, 3), (4, 5, 6)),
}
#: Kernels of one operand.
_SINGLE = frozenset(kernel for kernel, place in RESULT_PARAMETERS.items() if place == (3, 4))
#: Kernel → position of the bias; int32 codes, but for MatMulIntegerToFloat, whose bias is float.
_BIAS = {"QLinearConv": 8, "QGemm": 6, "MatMulIntegerToFloat": 6}


@dataclass(frozen=True)
class Operand:
    """What a kernel reads as codes.

    Attributes:
        codes: The tensor.
        scale: Its scale.
        zero_point: Its zero point; empty where none is said.
        axis: The axis along which there may be several scales; None where there is one alone, or the axis is not known.
    """

    codes: str
    scale: str
    zero_point: str
    axis: int | None = None


@dataclass(frozen=True)
class KernelForm:
    """One kernel of codes, read.

    Attributes:
        operator: The operator that it is with codes.
        further: Inputs in front of the operands that are no codes.
        operands: What it reads as codes.
        bias: The bias; empty where there is none.
        bias_axis: The axis along which the scales of the bias run; None if it is not known.
        factor: What the product of the operands is multiplied by.
        result: Scale and zero point (empty where none is said) of what it writes; None if that is float.
        unknown: The attribute of the kernel's own that says something else than the operator computes; empty where none does.
        attributes: Those of the operator.
    """

    operator: str
    further: tuple[str, ...]
    operands: tuple[Operand, ...]
    bias: str
    bias_axis: int | None
    factor: float
    result: tuple[str, str] | None
    unknown: str
    attributes: tuple[Any, ...]

    def bias_scale(self, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scale of an int32 bias: that of the products, in the kernel's own order of multiplications.

        Args:
            first: Scale of the first operand.
            second: Scale or scales of the second one.
        """
        left, right = (np.asarray(scale, np.float32).reshape(-1) for scale in (first, second))
        product = ((np.float32(self.factor) * left) * right).astype(np.float32)
        return product.reshape(()) if product.size == 1 else product


def kernel_form(node: NodeProto, constants: Mapping[str, TensorProto]) -> KernelForm:
    """Read a kernel.

    Args:
        node: A node of one of `OPERATOR_OF`.
        constants: Name → constant of its graph.
    """
    kind = str(node.op_type)
    operator = OPERATOR_OF[kind]
    positions = _OPERANDS.get(kind, _ONE if kind in _SINGLE else _TWO)
    if operator == "Concat":
        positions = tuple((first, first + 1, first + 2) for first in range(2, len(node.input), 3))
    operands = [Operand(_input(node, codes), _input(node, scale), _input(node, zero)) for codes, scale, zero in positions]
    if operator in ("Conv", "Gemm", "MatMul"):
        second = operands[1]
        axis = 0 if operator == "Conv" or attribute(node, "transB", 0) else _last_axis(constants.get(second.codes))
        operands[1] = Operand(second.codes, second.scale, second.zero_point, axis)
    bias = _input(node, _BIAS[kind]) if kind in _BIAS else ""
    factor = attribute(node, "alpha", 1.0) if operator == "Gemm" else 1.0
    scale, zero_point = (_input(node, position) for position in RESULT_PARAMETERS.get(kind, (len(node.input),) * 2))
    own = {found.name: helper.get_attribute_value(found) for found in node.attribute if found.name in _OWN_ATTRIBUTES}
    return KernelForm(
        operator=operator,
        further=tuple(node.input[:1]) if operator == "Where" else (),
        operands=tuple(operands),
        bias=bias,
        bias_axis=_last_axis(constants.get(bias)),
        factor=factor if isinstance(factor, float) else 1.0,
        result=(scale, zero_point) if scale else None,
        unknown=next((name for name, said in own.items() if _OWN_ATTRIBUTES[name] not in (None, said)), ""),
        attributes=tuple(found for found in node.attribute if found.name not in _OWN_ATTRIBUTES),
    )


def _input(node: NodeProto, position: int) -> str:
    return str(node.input[position]) if len(node.input) > position else ""


def _last_axis(tensor: TensorProto | None) -> int | None:
    """Return the last axis of a constant; None of what is computed."""
    return None if tensor is None else max(len(tensor.dims) - 1, 0)
