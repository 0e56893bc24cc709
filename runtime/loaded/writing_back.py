"""The optimized graph of ONNX Runtime, with its integer operators written back as DequantizeLinear → operator → QuantizeLinear.

That is what each of them computes; how it rounds is the integer kernels' (qcam.runtime.mirror.integer). The quantizers of a
file need not be next to its operators, and some of them ONNX Runtime takes away or adds: after this, the groups stand in the
graph itself, and nothing has to be guessed from the rules by which ONNX Runtime found them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.codes import codes_of_dequantized, codes_of_quantizer
from qcam.runtime.graph import Graph, gives_codes_as_they_are
from qcam.runtime.grouping import KernelGroup
from qcam.runtime.kernel_form import OPERATOR_OF, kernel_form
from qcam.runtime.loaded.means import Means
from qcam.runtime.tables import PASSING_OPERATORS, QUANTIZERS, is_integer_kernel

#: Kernels of codes that are written back: those that the mirror's integer arithmetic has.
_KERNELS = OPERATOR_OF.keys() - {"QLinearReduceMean"}
#: Further operators that ONNX Runtime lets work on codes: what they return are some of the codes that they were given, so that
#: dequantizing in front of them and quantizing behind them, by the same scale, changes nothing.
_CHOOSING = PASSING_OPERATORS | {
    "DepthToSpace", "GatherElements", "GatherND", "Pad", "ReduceMax", "ReduceMin", "SpaceToDepth", "Split",
}  # fmt: skip
#: Operators that only look at the shape of codes.
_LOOKING = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class LoadedGraph:
    """A file's graph as ONNX Runtime loads it.

    Attributes:
        model: The graph; all of its integer operators are DequantizeLinear → operator → QuantizeLinear.
        groups: What runs as one integer kernel each, in graph order.
        kernels: Node name → operator, as ONNX Runtime wrote it; of nodes that have a name.
        blocked: Tensors that float kernels in blocked layout write when a session runs here; none of another kind of processor.
        means: How the kernels of its means have their operands.
        wide: Whether it is the file's own graph, computed as an integer accelerator for 16 bits would.
    """

    model: onnx.ModelProto
    groups: tuple[KernelGroup, ...]
    kernels: dict[str, str] = field(default_factory=dict)
    blocked: frozenset[str] = frozenset()
    means: Means = field(default_factory=lambda: Means({}))
    wide: bool = False

    def differing(self, ran: Mapping[str, str]) -> list[str]:
        """Hold the graph against what a session really ran.

        Args:
            ran: Node name → kernel, from the session's profile.

        Returns:
            One sentence for each node that is an integer kernel in one of them and not, or another one, in the other.
        """
        wrong = []
        for name, kernel in self.kernels.items():
            other = ran.get(name, kernel)
            if other != kernel and (is_integer_kernel(kernel) or is_integer_kernel(other)):
                wrong.append(f"{name}: {kernel} in ONNX Runtime's own graph, ran as {other}")
        return wrong


@dataclass(frozen=True)
class _Meaning:
    """What the codes of a tensor mean: the names of the constants that say so, empty where the file says nothing."""

    scale: str
    zero_point: str


@dataclass
class _Writing:
    """A graph that is being written back."""

    initializers: dict[str, TensorProto]
    kinds: dict[str, int] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    marked: list[tuple[int, str, int]] = field(default_factory=list)
    meaning: dict[str, _Meaning] = field(default_factory=dict)
    added: int = 0

    def name(self, base: str) -> str:
        """Return a name that no tensor and no node of the file has."""
        self.added += 1
        return f"{base}/loaded {self.added}"

    def constant(self, base: str, value: NDArray[Any]) -> str:
        name = self.name(base)
        self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def array(self, name: str, what: str) -> NDArray[Any]:
        if name not in self.initializers:
            raise UnsupportedGraphError(f"the mirror needs constant scales and zero points: {name} of {what} is computed")
        return numpy_helper.to_array(self.initializers[name])

    def kind(self, tensor: str) -> int:
        """Return the type of a tensor of codes."""
        if tensor in self.initializers:
            return int(self.initializers[tensor].data_type)
        return self.kinds.get(tensor) or int(TensorProto.UINT8)

    def zero_point(self, name: str, kind: int) -> str:
        """Return the name of a zero point, made where the file leaves it out."""
        return name or self.constant("zero", np.zeros((), helper.tensor_dtype_to_np_dtype(kind)))

    def dequantize(self, tensor: str, scale: str, zero_point: str, axis: int | None = None) -> str:
        result = self.name(tensor)
        zero_point = self.zero_point(zero_point, self.kind(tensor))
        node = helper.make_node("DequantizeLinear", [tensor, scale, zero_point], [result], name=result)
        if axis is not None and self.array(scale, tensor).size > 1:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
        return result

    def quantize(self, values: str, result: str, scale: str, zero_point: str, kind: int) -> None:
        zero_point = self.zero_point(zero_point, kind)
        self.nodes.append(helper.make_node("QuantizeLinear", [values, scale, zero_point], [result], name=self.name(result)))
        self.understood(result, scale, zero_point)

    def understood(self, tensor: str, scale: str, zero_point: str) -> None:
        """Remember what a tensor's codes mean, and their type."""
        self.meaning[tensor] = _Meaning(scale, zero_point)
        if zero_point in self.initializers:
            self.kinds[tensor] = int(self.initializers[zero_point].data_type)

    def operator(self, node: NodeProto, kind: str, inputs: Sequence[str], output: str, attributes: Sequence[Any]) -> None:
        """Add the operator itself, under the node's own name: profiles know it by that."""
        plain = helper.make_node(kind, inputs, [output], name=node.name)
        plain.attribute.extend(attributes)
        self.nodes.append(plain)

    def mark(self, kernel: str, at: int, behind: int) -> None:
        """Mark the operator at a place as one integer kernel, with the nodes behind it up to another place."""
        self.marked.append((at, kernel, behind))


def write_back(model: onnx.ModelProto) -> LoadedGraph:
    """Write the integer operators of an optimized graph back.

    Args:
        model: What ONNX Runtime wrote (`asking.optimized`); its nodes are sorted, its weights are in it.

    Returns:
        The graph, with its groups.

    Raises:
        UnsupportedGraphError: If it has an integer operator that is not known here, or scales that are computed.
    """
    graph = model.graph
    writing = _Writing({tensor.name: tensor for tensor in graph.initializer})
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            writing.initializers[tensor.name] = tensor
    for value in [*graph.value_info, *graph.output, *graph.input]:
        writing.kinds.setdefault(value.name, value.type.tensor_type.elem_type)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in writing.initializers:
            continue
        if node.op_type in _KERNELS:
            _kernel(writing, node)
        elif is_integer_kernel(node.op_type):
            raise UnsupportedGraphError(
                f"ONNX Runtime runs {node.op_type} at {node.name or node.output[0]}, of which the mirror has no integer "
                "arithmetic; choose 'fake_quant'"
            )
        elif not _passing(writing, node):
            if node.op_type == "QuantizeLinear":
                _quantizer(writing, node)
            else:
                writing.nodes.append(node)
    # Operators of codes that ONNX Runtime writes with the version of its own operator sets are ONNX's own here.
    known = {imported.domain: imported.version for imported in model.opset_import}
    written = helper.make_model(
        helper.make_graph(writing.nodes, "loaded", graph.input, graph.output, list(writing.initializers.values())),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in known.items()],
        ir_version=model.ir_version,
    )
    written.graph.value_info.extend(graph.value_info)
    return LoadedGraph(written, _groups(written, writing.marked), named_kernels(model))


def named_kernels(model: onnx.ModelProto) -> dict[str, str]:
    """Return node name → operator of an optimized graph; of nodes that have a name and are no quantizers."""
    return {node.name: node.op_type for node in model.graph.node if node.name and node.op_type not in QUANTIZERS}


def _groups(model: onnx.ModelProto, marked: Sequence[tuple[int, str, int]]) -> tuple[KernelGroup, ...]:
    """Make the groups of the marked operators."""
    graph, nodes = Graph(model), model.graph.node
    groups = []
    for at, kernel, behind in marked:
        node = nodes[at]
        names = node.input[:1] if node.op_type in PASSING_OPERATORS else [name for name in node.input if name]
        inputs = tuple(codes_of_dequantized(graph, name) for name in names)
        inner = tuple(nodes[place] for place in range(at + 1, behind + 1))
        output = codes_of_quantizer(graph, inner[-1]) if inner else None
        if any(codes is None for codes in inputs) or (inner and output is None):
            raise UnsupportedGraphError(f"the mirror needs constant scales and zero points, at {node.op_type} {node.name}")
        groups.append(KernelGroup(kernel, node, inputs, output, inner[-1].output[0] if inner else node.output[0], inner))
    return tuple(groups)


def _given(node: NodeProto, index: int) -> str:
    return str(node.input[index]) if len(node.input) > index else ""


def _kernel(writing: _Writing, node: NodeProto) -> None:
    """Write a kernel as the operator between dequantizers and, where its result has codes, a quantizer; mark both."""
    form, label = kernel_form(node, writing.initializers), f"{node.op_type} {node.name or node.output[0]}"
    if form.unknown:
        raise UnsupportedGraphError(
            f"the mirror's {node.op_type} does not know {form.unknown} of node {node.name or node.output[0]}"
        )
    operands = [*form.further]
    operands += [writing.dequantize(each.codes, each.scale, each.zero_point, each.axis) for each in form.operands]
    if form.bias:
        if node.op_type == "MatMulIntegerToFloat":
            raise UnsupportedGraphError(f"the mirror's MatMulIntegerToFloat knows no bias, at {node.name or node.output[0]}")
        if form.bias not in writing.initializers:
            raise UnsupportedGraphError(f"the mirror needs a constant bias, at {label}")
        first, second = (writing.array(each.scale, node.op_type) for each in form.operands)
        scale = writing.constant(f"{form.bias} scale", form.bias_scale(first, second))
        operands.append(writing.dequantize(form.bias, scale, "", form.bias_axis))
    at, output = len(writing.nodes), node.output[0]
    if form.result is None:
        writing.operator(node, form.operator, operands, output, form.attributes)
        writing.mark(node.op_type, at, at)
        return
    values = writing.name(output)
    writing.operator(node, form.operator, operands, values, form.attributes)
    writing.quantize(values, output, *form.result, writing.kind(form.operands[0].codes))
    if form.operator != "Where":  # both choices are brought to the result's scale one by one: no kernel of its own is needed
        writing.mark(node.op_type, at, at + 1)


def _quantizer(writing: _Writing, node: NodeProto) -> None:
    """Take a quantizer that stays one, and remember what its codes mean."""
    kind = next((int(each.i) for each in node.attribute if each.name == "output_dtype" and each.i), int(TensorProto.UINT8))
    zero_point = writing.zero_point(_given(node, 2), kind)
    kept = NodeProto()
    kept.CopyFrom(node)
    del kept.input[:], kept.attribute[:]
    kept.input.extend([node.input[0], node.input[1], zero_point])
    kept.attribute.extend(each for each in node.attribute if each.name != "output_dtype")
    writing.nodes.append(kept)
    writing.understood(node.output[0], node.input[1], zero_point)


def _passing(writing: _Writing, node: NodeProto) -> bool:
    """Write an operator that rearranges codes as one of floats between quantizers of one meaning; tell whether it is one."""
    if node.op_type in QUANTIZERS or not node.input or node.input[0] not in writing.meaning:
        return False
    if node.op_type in _LOOKING:
        return False
    meaning = writing.meaning[node.input[0]]
    if node.op_type == "Concat":
        return _joined_codes(writing, node)
    if node.op_type not in _CHOOSING or not gives_codes_as_they_are(node):
        raise UnsupportedGraphError(
            f"ONNX Runtime runs {node.op_type} {node.name or node.output[0]} on codes, which the mirror does not know; choose "
            "'fake_quant'"
        )
    values = writing.dequantize(node.input[0], meaning.scale, meaning.zero_point)
    at = len(writing.nodes)
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.input[0] = values
    if node.op_type == "Pad":
        _pad_with_codes(writing, plain, meaning)
    writing.nodes.append(plain)
    for place, result in enumerate(node.output):
        if result:
            plain.output[place] = writing.name(result)
            writing.quantize(plain.output[place], result, meaning.scale, meaning.zero_point, writing.kind(node.input[0]))
    if node.op_type in PASSING_OPERATORS and len(node.output) == 1:
        writing.mark(node.op_type, at, at + 1)
    return True


def _pad_with_codes(writing: _Writing, pad: NodeProto, meaning: _Meaning) -> None:
    """Say which value the border has: codes are padded with a code, 0 where none is said, which need not stand for 0."""
    if next((each.s for each in pad.attribute if each.name == "mode"), b"constant") != b"constant":
        return
    code = writing.array(_given(pad, 2), "Pad") if _given(pad, 2) else np.zeros((), np.int64)
    zero = writing.array(meaning.zero_point, "Pad") if meaning.zero_point else np.zeros((), np.int64)
    scale = writing.array(meaning.scale, "Pad")
    if scale.size != 1:
        raise UnsupportedGraphError(f"the mirror pads codes of one scale alone, at Pad {pad.name or pad.output[0]}")
    value = (code.astype(np.int64).reshape(()) - zero.astype(np.int64).reshape(())) * scale.astype(np.float64).reshape(())
    while len(pad.input) < 3:
        pad.input.append("")
    pad.input[2] = writing.constant("border", np.asarray(value, np.float32))


def _joined_codes(writing: _Writing, node: NodeProto) -> bool:
    """Write a Concat of codes that all mean the same."""
    meanings = [writing.meaning.get(name) for name in node.input]
    told = [
        None if each is None else (writing.array(each.scale, "Concat"), writing.array(each.zero_point, "Concat"))
        for each in meanings
    ]
    first = told[0]
    if first is None or any(each is None or any(map(np.any, map(np.not_equal, each, first))) for each in told):
        raise UnsupportedGraphError(
            f"ONNX Runtime joins codes of different meanings at Concat {node.name or node.output[0]}, which the mirror does "
            "not know; choose 'fake_quant'"
        )
    meaning = writing.meaning[node.input[0]]
    values = [writing.dequantize(name, meaning.scale, meaning.zero_point) for name in node.input]
    joined = writing.name(node.output[0])
    writing.operator(node, "Concat", values, joined, node.attribute)
    writing.quantize(joined, node.output[0], meaning.scale, meaning.zero_point, writing.kind(node.input[0]))
    return True
