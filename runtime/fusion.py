"""Fusion: which groups of a QDQ graph ONNX Runtime's CPU provider runs as one integer kernel.

A group is an operator whose inputs come out of DequantizeLinear nodes and whose one output goes into one QuantizeLinear. The
rules are those of ONNX Runtime's QDQ transformer (core/optimizer/qdq_transformer/selectors_actions), read off the graph; a
profile of the deployed session tells whether they were right (`disagreements`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from qcam.common.errors import QcamError
from qcam.runtime.graph import Graph, attribute

#: Operator → the kernel that its group becomes.
INTEGER_KERNEL_OF = {
    "Conv": "QLinearConv", "Gemm": "QGemm", "MatMul": "QLinearMatMul", "Add": "QLinearAdd", "Mul": "QLinearMul",
    "Concat": "QLinearConcat", "AveragePool": "QLinearAveragePool", "GlobalAveragePool": "QLinearGlobalAveragePool",
    "Sigmoid": "QLinearSigmoid", "LeakyRelu": "QLinearLeakyRelu", "Softmax": "QLinearSoftmax",
}  # fmt: skip
#: Operators that work on codes as they are, where scale and zero point are the same before and behind them.
PASSING_OPERATORS = frozenset(
    {"MaxPool", "Expand", "Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
#: Operators that may return float32 from integer operands: their kernels have an output without a scale.
_FLOAT_RESULT = {"Gemm": "QGemm", "MatMul": "MatMulIntegerToFloat"}
#: Integer kernels whose names do not begin with QLinear; the last two quantize float activations as they run.
_OTHER_INTEGER_KERNELS = frozenset(
    {"QGemm", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits"}
)
#: Operators across which ONNX Runtime moves DequantizeLinear forward and QuantizeLinear backward.
_PROPAGATING = frozenset({"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"})


@dataclass(frozen=True)
class Codes:
    """A tensor of integer codes, and what they stand for: (code - zero_point) · scale.

    Attributes:
        tensor: Its name.
        scale: float32; one value, or one for each index of `axis`.
        zero_point: Likewise, of the codes' own type.
        axis: The axis of a per-channel scale.
    """

    tensor: str
    scale: NDArray[np.float32]
    zero_point: NDArray[np.generic]
    axis: int

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Return the codes' type."""
        return self.zero_point.dtype

    def same_meaning(self, other: Codes) -> bool:
        """Tell whether a code stands for the same value in both."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


@dataclass(frozen=True)
class Group:
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


def find_groups(graph: Graph, *, bits: int = 8) -> tuple[Group, ...]:
    """Find the groups that run as integer kernels.

    Args:
        graph: A QDQ graph.
        bits: 8 for what ONNX Runtime fuses on CPUs; 16 for what an integer accelerator would run of a 16-bit graph.

    Returns:
        The groups in graph order.
    """
    fixed = graph.fixed
    found = (_group(graph, node, bits, fixed) for node in graph.model.graph.node)
    return tuple(group for group in found if group is not None)


def disagreements(groups: tuple[Group, ...], graph: Graph, kernels: Mapping[str, str]) -> list[str]:
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


def not_followed(graph: Graph) -> list[str]:
    """Name what ONNX Runtime rewrites when it loads a graph, where neither the groups nor the mirror follow it.

    Returns:
        One sentence for each operator; empty for what its own quantizer writes, where every operator's operands and result
        are quantized.
    """
    grouped = {id(group.node) for group in find_groups(graph)}
    found = []
    for node in graph.model.graph.node:
        reason = _rewritten(graph, node, id(node) in grouped)
        if reason:
            found.append(f"ONNX Runtime {reason}, at {node.op_type} {node.name or node.output[0]}")
    return found


def is_integer_kernel(name: str) -> bool:
    """Tell whether a kernel of a profile computes on codes."""
    return name.startswith("QLinear") or name in _OTHER_INTEGER_KERNELS


def quantized_tensors(graph: Graph) -> tuple[str, ...]:
    """Return the outputs of all QuantizeLinear nodes that depend on the input, in graph order."""
    live = graph.downstream(graph.input)
    quantizers = (node for node in graph.model.graph.node if node.op_type == "QuantizeLinear")
    return tuple(node.output[0] for node in quantizers if node.output[0] in live)


def source_label(graph: Graph, groups: Mapping[str, Group], tensor: str) -> str:
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


def _group(graph: Graph, node: onnx.NodeProto, bits: int, fixed: frozenset[str]) -> Group | None:
    kernel = INTEGER_KERNEL_OF.get(node.op_type) or (node.op_type if node.op_type in PASSING_OPERATORS else None)
    if kernel is None or node.domain not in ("", "ai.onnx") or len([name for name in node.output if name]) != 1:
        return None
    if node.output[0] in fixed:
        return None
    operands = _operands(graph, node, bits)
    if operands is None:
        return None
    inner = _way_to_quantizer(graph, node.output[0])
    if inner is None:
        if node.op_type not in _FLOAT_RESULT or not _returns_float(graph, node.output[0]):
            return None
        group = Group(_FLOAT_RESULT[node.op_type], node, operands, None, node.output[0], ())
    else:
        output = codes_of_quantizer(graph, inner[-1])
        if output is None:
            return None
        group = Group(kernel, node, operands, output, inner[-1].output[0], inner)
    return group if _is_fusable(graph, group, fixed) else None


def _operands(graph: Graph, node: onnx.NodeProto, bits: int) -> tuple[Codes | None, ...] | None:
    """Return what the operator reads as codes, or None if it reads something that has no codes."""
    operands: list[Codes | None] = []
    for index, name in enumerate(node.input):
        if not name:
            continue
        if index > 0 and node.op_type in PASSING_OPERATORS:  # shapes, axes, indices
            continue
        codes = codes_of_dequantized(graph, name)
        is_bias = index == 2 and node.op_type in ("Conv", "Gemm")
        if codes is None:
            # A float bias is quantized by ONNX Runtime when it loads the graph, with scale x_scale · w_scale.
            if not is_bias or not _is_quantizable_bias(graph, node, name):
                return None
        elif codes.dtype.itemsize * 8 != (32 if is_bias else bits):
            return None
        operands.append(codes)
    return tuple(operands) if operands else None


def _is_quantizable_bias(graph: Graph, node: onnx.NodeProto, name: str) -> bool:
    """Tell whether ONNX Runtime quantizes a float bias: a constant list, and the weight's scales run along the outputs."""
    value, weight = _constant(graph, name), codes_of_dequantized(graph, node.input[1])
    if value is None or weight is None or value.dtype != np.float32 or value.ndim != 1:
        return False
    axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1
    return weight.scale.size == 1 or (weight.scale.size == value.size and weight.axis == axis)


def _constant(graph: Graph, name: str) -> NDArray[np.generic] | None:
    """Return a tensor's value if the file holds it."""
    try:
        return graph.array(name)
    except QcamError:
        return None


def _is_fusable(graph: Graph, group: Group, fixed: frozenset[str]) -> bool:
    """Check types and parameters as ONNX Runtime's selectors do."""
    node, output, activations = group.node, group.output, [codes for codes in group.inputs if codes is not None]
    first = activations[0]
    if first.scale.size != 1 or (output is not None and (output.scale.size != 1 or output.dtype != first.dtype)):
        return False
    if node.op_type in PASSING_OPERATORS:
        if node.op_type == "MaxPool" and not (first.scale > 0 and _is_pool_of_codes(graph)):
            return False
        return output is not None and first.same_meaning(output)
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        weight = activations[1]
        if first.dtype.kind == "i" and weight.dtype != first.dtype:
            return False
        if node.op_type != "MatMul" and weight.tensor not in fixed:
            return False  # the mirror lays weights out once
        if group.inputs[-1] is None and output is None:
            return False  # a float bias is only quantized on the way to a QuantizeLinear
        biased = node.op_type == "Gemm" and len(group.inputs) > 2
        return not (biased and any(attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta")))
    return all(codes.dtype == first.dtype and codes.scale.size == 1 for codes in activations)


def _is_pool_of_codes(graph: Graph) -> bool:
    """Tell whether MaxPool has version 12, the only one that ONNX Runtime lets work on codes."""
    return 12 <= graph.opset() < 22


def _rewritten(graph: Graph, node: onnx.NodeProto, grouped: bool) -> str:
    """Return what ONNX Runtime does to an operator that is not followed, or an empty text."""
    operator = node.op_type
    if operator == "QuantizeLinear" and _is_second_pair(graph, node):
        return "removes the quantizer before it, where two with different scales follow each other"
    if _has_equal_quantizers(graph, node):
        return "merges the equal quantizers behind it"
    if operator in ("Conv", "Gemm") and _quantizes_weight(graph, node):
        return "quantizes the float weight to 8 bits by one scale (quantize it at export)"
    if operator in ("Gemm", "MatMul") and _quantizes_activations(graph, node):
        return "computes with the weight's codes and activations that it rounds to 8 bits block by block (MatMulNBits)"
    if operator == "MatMul" and _operands(graph, node, 8) is not None:
        readers = _edges(graph, node.output[0])
        if len(readers) == 1 and readers[0].op_type == "Add" and graph.fixed.intersection(readers[0].input):
            return "joins it and the addition behind it into one Gemm"
    if operator == "Where" and all(codes_of_dequantized(graph, name) for name in node.input[1:3]):
        return "computes on codes (QLinearWhere)" if _way_to_quantizer(graph, node.output[0]) else ""
    if operator in INTEGER_KERNEL_OF and not grouped and not graph.fixed.issuperset(node.output):
        operands = [codes_of_dequantized(graph, _before(graph, name)) for name in node.input if name]
        passed = any(_before(graph, name) != name for name in node.input)
        behind = _behind(graph, node.output[0])
        passed |= behind != node.output[0]
        to_codes = operator in _FLOAT_RESULT or _way_to_quantizer(graph, behind) is not None
        if passed and to_codes and all(codes is not None and codes.dtype.itemsize in (1, 4) for codes in operands):
            return "moves quantizers across the operators around it that only rearrange, and computes it on codes"
    return ""


def _is_second_pair(graph: Graph, quantizer: onnx.NodeProto) -> bool:
    """Tell whether a quantizer reads another one's codes, dequantized for nothing else, and means something else by them."""
    tensor = quantizer.input[0]
    between = graph.producer.get(tensor)
    if between is None or between.op_type != "DequantizeLinear" or tensor in graph.outputs:
        return False
    first, second = codes_of_dequantized(graph, tensor), codes_of_quantizer(graph, quantizer)
    before = graph.producer.get(between.input[0])
    if first is None or second is None or before is None or before.op_type != "QuantizeLinear":
        return False
    alone = all(len(_edges(graph, name)) == 1 for name in (tensor, first.tensor)) and first.tensor not in graph.outputs
    return alone and first.dtype == second.dtype and not first.same_meaning(second)


def _has_equal_quantizers(graph: Graph, node: onnx.NodeProto) -> bool:
    """Tell whether all readers of an integer operator's result quantize it alike, at most one of them exposed."""
    if node.op_type not in INTEGER_KERNEL_OF or node.output[0] in graph.outputs:
        return False
    readers = graph.consumers.get(node.output[0], [])
    if len(readers) < 2 or any(reader.op_type != "QuantizeLinear" for reader in readers):
        return False
    codes = [codes_of_quantizer(graph, reader) for reader in readers]
    first = codes[0]
    alike = first is not None and all(other is not None and first.same_meaning(other) for other in codes)
    return alike and sum(reader.output[0] in graph.outputs for reader in readers) < 2


def _quantizes_weight(graph: Graph, node: onnx.NodeProto) -> bool:
    """Tell whether a float weight lies between quantized activations: a constant, the result on its way to a quantizer."""
    x, weight = codes_of_dequantized(graph, node.input[0]), _constant(graph, node.input[1])
    if x is None or x.scale.size != 1 or weight is None or weight.dtype != np.float32:
        return False
    if len(node.input) > 2 and node.input[2]:
        bias = _constant(graph, node.input[2])
        if bias is None or bias.ndim != 1:
            return False
    tensor = node.output[0]
    while True:
        readers = graph.consumers.get(tensor, [])
        if len(readers) != 1:
            return False
        if readers[0].op_type not in ("Relu", "Clip"):
            return readers[0].op_type == "QuantizeLinear"
        tensor = readers[0].output[0]


def _quantizes_activations(graph: Graph, node: onnx.NodeProto) -> bool:
    """Tell whether float activations meet an 8-bit matrix laid out as inputs × outputs, and the result stays float."""
    codes = codes_of_dequantized(graph, node.input[1])
    matrix = None if codes is None else _constant(graph, codes.tensor)
    if codes is None or matrix is None or matrix.ndim != 2 or codes.dtype.itemsize != 1:
        return False
    if codes_of_dequantized(graph, node.input[0]) is not None or not _returns_float(graph, node.output[0]):
        return False
    if attribute(node, "transA", 0) or attribute(node, "transB", 0) or attribute(node, "alpha", 1.0) != 1.0:
        return False
    return len(_edges(graph, node.input[1])) == 1 and (codes.scale.size == 1 or codes.axis % 2 == 1)


def _before(graph: Graph, tensor: str) -> str:
    """Return the tensor from which a quantizer's codes would reach this one through operators that only rearrange."""
    node = graph.producer.get(tensor)
    while node is not None and node.op_type in _PROPAGATING and tensor not in graph.outputs:
        if node.op_type == "MaxPool" and not _is_pool_of_codes(graph):
            break
        tensor = node.input[0]
        node = graph.producer.get(tensor)
    return tensor


def _behind(graph: Graph, tensor: str) -> str:
    """Return the tensor behind the operators that only rearrange this one, each the only reader of the one before."""
    readers = _edges(graph, tensor)
    while len(readers) == 1 and readers[0].op_type in _PROPAGATING and tensor not in graph.outputs:
        if readers[0].op_type == "MaxPool" and not _is_pool_of_codes(graph):
            break
        tensor = readers[0].output[0]
        readers = _edges(graph, tensor)
    return tensor


def _way_to_quantizer(graph: Graph, tensor: str) -> tuple[onnx.NodeProto, ...] | None:
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
        if reader.op_type not in ("Relu", "Clip"):
            return None
        tensor = reader.output[0]


def _returns_float(graph: Graph, tensor: str) -> bool:
    """Tell whether a tensor that no fusion quantizes may leave an integer kernel as float32.

    Not where a Relu or Clip stands alone between it and one more operator: ONNX Runtime takes that for a quantizer's, and
    gives the whole group up when it is not.
    """
    readers = graph.consumers.get(tensor, [])
    if any(node.op_type == "QuantizeLinear" for node in readers):
        return False
    if len(readers) != 1 or tensor in graph.outputs or readers[0].op_type not in ("Relu", "Clip"):
        return True
    clipped = readers[0].output[0]
    return clipped in graph.outputs or len(_edges(graph, clipped)) != 1


def _edges(graph: Graph, tensor: str) -> list[onnx.NodeProto]:
    """Return a tensor's readers, each as often as it reads it."""
    return [node for node in graph.consumers.get(tensor, []) for name in node.input if name == tensor]


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
    except QcamError:  # a limit that is computed
        return False
    steps = np.rint(np.array([low, high], np.float32) / np.float32(codes.scale))
    return bool(plain and steps[0] <= limits.min - zero and steps[1] >= limits.max - zero)


def codes_of_dequantized(graph: Graph, tensor: str) -> Codes | None:
    """Return what the codes behind a dequantized tensor mean; None if it is none, or its scale is not a constant."""
    node = graph.producer.get(tensor)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    return _codes(graph, node, node.input[0])


def codes_of_quantizer(graph: Graph, node: onnx.NodeProto) -> Codes | None:
    """Return what the codes of a QuantizeLinear mean; None if its scale is not a constant."""
    return _codes(graph, node, node.output[0])


def _codes(graph: Graph, node: onnx.NodeProto, tensor: str) -> Codes | None:
    if attribute(node, "block_size", 0):
        return None
    try:
        scale = graph.array(node.input[1]).astype(np.float32, copy=False)
        if len(node.input) > 2 and node.input[2]:
            zero_point = graph.array(node.input[2])
        elif tensor in graph.initializers:
            zero_point = np.zeros((), graph.array(tensor).dtype)
        else:
            zero_point = np.zeros((), np.uint8)
    except QcamError:  # scales that are computed while the graph runs
        return None
    if zero_point.dtype.kind not in "iu":
        return None
    if scale.size == 1:
        scale, zero_point = scale.reshape(()), zero_point.reshape(-1)[:1].reshape(())
    return Codes(tensor, scale, zero_point, int(attribute(node, "axis", 1)))  # type: ignore[call-overload]
