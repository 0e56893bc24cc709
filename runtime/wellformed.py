"""Whether an ONNX file says what it has to: refused here, so that everything behind it may rely on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from qcam.common.errors import UnsupportedGraphError, first_line
from qcam.runtime.external import every_tensor
from qcam.runtime.kernel_form import OPERATOR_OF, kernel_form
from qcam.runtime.tables import QUANTIZERS

#: Types of two numbers a value.
_PAIRS = frozenset({"COMPLEX64", "COMPLEX128"})
#: Types of less than a byte, and their bits.
_PACKED = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
#: Fewest operands of operators that are ONNX Runtime's own; ONNX's are held against ONNX's own definitions.
_OPERANDS = {
    "QuantizeLinear": 2, "DequantizeLinear": 2, "QLinearAdd": 7, "QLinearMul": 7, "QLinearSigmoid": 4, "QLinearLeakyRelu": 4,
    "QLinearSoftmax": 5, "QLinearAveragePool": 4, "QLinearGlobalAveragePool": 5, "QLinearReduceMean": 4, "QLinearConcat": 5,
    "QLinearWhere": 8, "QGemm": 6,
}  # fmt: skip
#: Largest version that onnx's checker takes.
_LARGEST = 2**31 - 1
_NEXT = "save the file anew with the tool that made it"


def refuse_damaged(model: ModelProto, where: str) -> None:
    """Refuse a file that says less than it has to, or what cannot be: all of what stands below.

    Args:
        model: The model; what it keeps in other files is not looked at, values inside have to be there.
        where: What messages call the file.

    Raises:
        UnsupportedGraphError: Names what is wrong.
    """
    refuse_no_text(model, where)
    refuse_malformed(model, where)
    refuse_no_scales(model, where)


def refuse_no_text(model: ModelProto, where: str) -> None:
    """Refuse names that are no text: of one that is none, some versions of protobuf give bytes, others an error of their own.

    Args:
        model: The model.
        where: What messages call the file.

    Raises:
        UnsupportedGraphError: If there is one.
    """
    try:
        text = all(isinstance(name, str) for name in _names(model))
    except UnicodeDecodeError:
        text = False
    if not text:
        raise UnsupportedGraphError(f"cannot read {where} as an ONNX file: a name in it is no text")


def _names(model: ModelProto) -> Iterator[object]:
    yield from (model.producer_name, model.producer_version, model.domain, model.doc_string)
    yield from (entry.domain for entry in model.opset_import)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
        yield from _names_of(function.node)
    yield from _names_of_graph(model.graph)


def _names_of_graph(graph: GraphProto) -> Iterator[object]:
    yield from (graph.name, graph.doc_string)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (size.dim_param for size in value.type.tensor_type.shape.dim)
    yield from _names_of(graph.node)


def _names_of(nodes: Iterable[NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
        for found in node.attribute:
            yield from (found.name, found.ref_attr_name)
            for inner in (*([found.g] if found.HasField("g") else []), *found.graphs):
                yield from _names_of_graph(inner)


def refuse_malformed(model: ModelProto, where: str) -> None:
    """Refuse impossible operator sets, nodes with other operands than their operators', what nothing makes, cut constants.

    Args:
        model: The model; what it keeps in other files is not looked at.
        where: What messages call the file.

    Raises:
        UnsupportedGraphError: Names what is wrong.
    """
    imported = [*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)]
    for entry in imported:
        if not 0 <= entry.version <= _LARGEST:
            raise UnsupportedGraphError(
                f"{where}: operator set {entry.version} of domain {entry.domain or 'ai.onnx'} is no version; {_NEXT}"
            )
    opsets = {("" if entry.domain == "ai.onnx" else entry.domain): entry.version for entry in model.opset_import}
    called = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        _refuse_node(node, model.ir_version, opsets, called, where)
    for function in model.functions:
        own = opsets | {("" if entry.domain == "ai.onnx" else entry.domain): entry.version for entry in function.opset_import}
        for node in function.node:
            _refuse_node(node, model.ir_version, own, called, where)
    _refuse_unmade(model, where)
    for label, tensor in every_tensor(model):
        _refuse_cut(label, tensor, where)


def refuse_no_scales(model: ModelProto, where: str) -> None:
    """Refuse quantizers and kernels of codes whose constant scales are no scales: infinite, NaN, negative, a quantizer's of 0.

    Args:
        model: The model; what it keeps in other files is not looked at.
        where: What messages call the file.

    Raises:
        UnsupportedGraphError: Names the node.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            held.update((node.output[0], found.t) for found in node.attribute if found.name == "value")
    for node in model.graph.node:
        if node.op_type in QUANTIZERS:
            scales = [node.input[1]]
        elif node.op_type in OPERATOR_OF:
            form = kernel_form(node, held)
            scales = [*(operand.scale for operand in form.operands), *(form.result or ())[:1]]
        else:
            continue
        for name in scales:
            tensor = held.get(name)
            if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
                continue
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            if not np.isfinite(values).all() or (values < 0).any() or (node.op_type == "QuantizeLinear" and not values.all()):
                label = f"{node.op_type} node {node.name or ', '.join(map(str, node.output))}"
                raise UnsupportedGraphError(f"{where}: {label} has a scale that is no number above 0; {_NEXT}")


def _refuse_node(node: NodeProto, version: int, opsets: dict[str, int], called: set[tuple[str, str]], where: str) -> None:
    label = f"{node.op_type} node {node.name or ', '.join(map(str, node.output))}"
    if not any(node.output):
        raise UnsupportedGraphError(f"{where}: {label} makes nothing; {_NEXT}")
    if (node.domain, node.op_type) in called:
        return
    if node.domain not in ("", "ai.onnx"):
        least = _OPERANDS.get(node.op_type, 0)
        if len(node.input) < least or not all(node.input[: min(least, 2)]):
            raise UnsupportedGraphError(f"{where}: {label} has {len(node.input)} operands, fewer than {least}; {_NEXT}")
        return
    if any(_is_beyond(found) for found in node.attribute):
        return
    context = onnx.checker.C.CheckerContext()
    context.ir_version = min(max(version, 3), _LARGEST)
    context.opset_imports = dict(opsets)
    try:
        onnx.checker.check_node(node, context)
    except Exception as error:  # onnx raises several kinds
        raise UnsupportedGraphError(f"{where}: {label} is not as ONNX defines it: {first_line(error)}; {_NEXT}") from error


def _is_beyond(found: onnx.AttributeProto) -> bool:
    """Tell whether the check of a node alone cannot judge an attribute: a graph that reads from outside, a value elsewhere."""
    sparse = [part for each in (found.sparse_tensor, *found.sparse_tensors) for part in (each.values, each.indices)]
    held = (found.t, *found.tensors, *sparse)
    return found.HasField("g") or bool(found.graphs) or any(of.data_location == TensorProto.EXTERNAL for of in held)


def _refuse_unmade(model: ModelProto, where: str) -> None:
    """Refuse tensors that are read and that nothing makes."""
    graph = model.graph
    there = {"", *(tensor.name for tensor in graph.initializer), *(value.name for value in graph.input)}
    there.update(sparse.values.name for sparse in graph.sparse_initializer)
    there.update(name for node in graph.node for name in node.output)
    for node in graph.node:
        for name in node.input:
            if name not in there:
                label = f"{node.op_type} node {node.name or ', '.join(map(str, node.output))}"
                raise UnsupportedGraphError(f"{where}: {label} reads {name}, which nothing makes; {_NEXT}")
    for output in graph.output:
        if output.name not in there:
            raise UnsupportedGraphError(f"{where}: nothing makes output {output.name}; {_NEXT}")


def _refuse_cut(label: str, tensor: TensorProto, where: str) -> None:
    """Refuse a constant whose values are not as many as its shape and type take."""
    try:
        kind = TensorProto.DataType.Name(tensor.data_type)
    except ValueError:
        kind = f"type {tensor.data_type}"
    if kind.startswith("type ") or kind == "UNDEFINED" or any(size < 0 for size in tensor.dims):
        raise UnsupportedGraphError(
            f"{where}: constant {label} of type {kind.lower()}, shape {list(tensor.dims)} cannot be; {_NEXT}"
        )
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    elements = prod(tensor.dims)
    if tensor.HasField("raw_data"):
        bits = _PACKED.get(kind) or onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
        found, wanted = len(tensor.raw_data), (elements * bits + 7) // 8
    else:
        found = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
        wanted = elements * (2 if kind in _PAIRS else 1)
        if kind in _PACKED:  # several in a number
            return
    if found != wanted:
        raise UnsupportedGraphError(
            f"{where}: constant {label} of shape {list(tensor.dims)} has other values than its shape and type take; {_NEXT}"
        )
