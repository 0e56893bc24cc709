"""Files that cannot be imported, refused by name before any session is opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto, ModelProto, NodeProto, numpy_helper

from qcam.common.errors import UnsupportedGraphError, first_line
from qcam.runtime.external import every_tensor
from qcam.runtime.graph import Graph, attribute, type_name
from qcam.runtime.tables import CODE_BITS, QUANTIZERS

#: Most bytes of an ONNX file with all that it keeps beside it, and most nodes in it.
LARGEST_FILE, MOST_NODES = 4 * 2**30, 100_000
#: Versions of ONNX's operators that are taken.
OPSETS = range(13, 25)
#: Domains whose operators are known: ONNX's own, ONNX Runtime's.
_DOMAINS = ("", "ai.onnx", "com.microsoft")
#: Operator → why a file with it is refused.
_OPERATORS = {
    **dict.fromkeys(("If", "Loop", "Scan"), "control flow: what runs would depend on the picture"),
    **dict.fromkeys(
        ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "ConvInteger", "MatMulInteger",
         "MatMulIntegerToFloat"),
        "activations quantized anew for each picture: their codes mean nothing that two pictures share",
    ),
    **dict.fromkeys(
        ("MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized", "QMoE"), "weights packed in blocks of few bits"
    ),
}  # fmt: skip
#: Types of tensors that are refused, with what to say of them.
_TYPES = {
    **dict.fromkeys(("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1"), "codes of 4 bits or fewer"),
    **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), "floats of 8 bits"),
    **dict.fromkeys(("FLOAT16", "BFLOAT16"), "floats of 16 bits between the others"),
}  # fmt: skip
#: Types of tensors that say nothing of arithmetic: scales of a quantizer may have them.
_SCALES = ("FLOAT16",)
_NEXT = "quantize the network to 8 or 16 bits without it"


def refuse_large(path: Path) -> None:
    """Refuse a file that there is none, or that is larger than the budget, before it is read.

    Args:
        path: The file.

    Raises:
        UnsupportedGraphError: If there is no such file, or it is too large.
    """
    try:
        if not path.is_file():
            raise UnsupportedGraphError(f"{path} is no file; give the ONNX file to import")
        size = path.stat().st_size
    except OSError as error:
        raise UnsupportedGraphError(f"cannot read {path}: {first_line(error)}") from error
    if size > LARGEST_FILE:
        raise UnsupportedGraphError(f"{path} has {size / 1e9:.1f} GB; at most {LARGEST_FILE / 1e9:.1f} GB are imported")


def refuse_unsupported(model: ModelProto, where: str) -> None:
    """Refuse what no mirror can follow, by the name of what is in the file.

    Args:
        model: The model; of its weights no value is looked at.
        where: What messages call the file.

    Raises:
        UnsupportedGraphError: If there is a type, an operator, a domain, an input or an output that is not supported.
    """
    nodes = list(_nodes(model.graph.node)) + [node for function in model.functions for node in _nodes(function.node)]
    if len(nodes) > MOST_NODES:
        raise UnsupportedGraphError(f"{where} has {len(nodes):,} nodes; at most {MOST_NODES:,} are imported")
    _refuse_opset(model, where)
    called = {(function.domain, function.name) for function in model.functions}
    for node in nodes:
        if (node.domain, node.op_type) not in called:
            _refuse_operator(node, where)
    _refuse_types(model, nodes, where)
    for value in model.graph.output:
        kind = value.type.WhichOneof("value")
        if kind not in ("tensor_type", None):
            raise UnsupportedGraphError(
                f"{where}: output {value.name} is a {str(kind).removesuffix('_type')}, not a tensor; save the network without "
                "what makes it (a ZipMap, say)"
            )
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in held]
    if len(inputs) != 1:
        raise UnsupportedGraphError(
            f"{where} has {len(inputs)} inputs ({', '.join(inputs) or 'none'}); a network of one picture has one, so give a "
            "file without the others"
        )


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, with those of subgraphs."""
    for node in nodes:
        yield node
        for found in node.attribute:
            for inner in (*([found.g] if found.HasField("g") else []), *found.graphs):
                yield from _nodes(inner.node)


def _refuse_opset(model: ModelProto, where: str) -> None:
    imported: list[ModelProto | FunctionProto] = [model, *model.functions]
    for each in imported:
        for entry in each.opset_import:
            if entry.domain in ("", "ai.onnx") and entry.version not in OPSETS:
                raise UnsupportedGraphError(
                    f"{where} has ONNX operator set {entry.version}; {OPSETS.start} to {OPSETS.stop - 1} are imported: convert "
                    "it (onnx.version_converter)"
                )


def _label(node: NodeProto) -> str:
    return f"{node.op_type} node {node.name or ', '.join(map(str, node.output))}"


def _refuse_operator(node: NodeProto, where: str) -> None:
    if node.domain not in _DOMAINS:
        raise UnsupportedGraphError(
            f"{where}: {_label(node)} is of domain {node.domain}, which qcam does not know; save the network with ONNX's own "
            "operators"
        )
    why = _OPERATORS.get(node.op_type, "")
    if node.op_type.startswith(("Sequence", "Optional")):
        why = "sequences and optional values"
    if why:
        raise UnsupportedGraphError(f"{where}: {_label(node)} is not supported ({why}); {_NEXT}")
    if node.op_type in QUANTIZERS and attribute(node, "block_size", 0):
        raise UnsupportedGraphError(f"{where}: {_label(node)} is not supported (a scale for each block); {_NEXT}")
    if node.op_type == "BatchNormalization" and attribute(node, "training_mode", 0):
        raise UnsupportedGraphError(f"{where}: {_label(node)} is in training mode; save the network in evaluation mode")
    for found in node.attribute:
        if found.name in ("to", "dtype", "output_dtype") and found.HasField("i"):
            _refuse_type(found.i, f"{_label(node)} makes", where)


def _refuse_type(kind: int, what: str, where: str) -> None:
    name = type_name(kind).upper()
    if name in _TYPES:
        raise UnsupportedGraphError(f"{where}: {what} {name.lower()} ({_TYPES[name]}), which is not supported; {_NEXT}")


def _refuse_types(model: ModelProto, nodes: list[NodeProto], where: str) -> None:
    """Refuse tensors of types that are not supported; scales of quantizers may be float16."""
    scales = {name for node in nodes if node.op_type in QUANTIZERS for name in node.input[1:2]}
    ways = {name: node for node in nodes if node.op_type in ("Identity", "Cast") for name in node.output}
    for name in list(scales):
        while name in ways and ways[name].input and ways[name].input[0] not in scales:  # nodes may go in a circle
            name = ways[name].input[0]
            scales.add(name)
    held = {f"of Constant node {node.name or ', '.join(map(str, node.output))}": str(node.output[0])
            for node in nodes if node.op_type == "Constant" and node.output}  # fmt: skip
    for label, tensor in every_tensor(model):
        if type_name(tensor.data_type).upper() in _SCALES and held.get(label, label) in scales:
            continue
        _refuse_type(tensor.data_type, f"constant {label} holds", where)
    for value in (*model.graph.input, *model.graph.output):
        _refuse_type(value.type.tensor_type.elem_type, f"{value.name} holds", where)


def refuse_codes(graph: Graph, where: str) -> None:
    """Refuse quantizers whose codes are neither of 8 nor of 16 bits, or whose scales lie along an axis that there is not.

    Args:
        graph: The normalised graph, in which zero points are said.
        where: What messages call the file.

    Raises:
        UnsupportedGraphError: If there is one.
    """
    for node in graph.model.graph.node:
        if node.op_type not in QUANTIZERS or len(node.input) < 3:
            continue
        scale, axis = graph.constant(node.input[1]), attribute(node, "axis", 1)
        held = graph.initializers.get(node.input[0])
        rank = len(graph.shapes.get(node.input[0], ()) if held is None else held.dims)
        if scale is not None and not _positive(scale):
            raise UnsupportedGraphError(f"{where}: {_label(node)} has a scale that is no number above 0; {_NEXT}")
        if scale is not None and scale.size > 1 and rank and not (isinstance(axis, int) and -rank <= axis < rank):
            raise UnsupportedGraphError(f"{where}: {_label(node)} has scales along axis {axis} of {rank}; {_NEXT}")
        if node.op_type == "DequantizeLinear":
            continue
        zero_point = graph.constant(node.input[2])
        if zero_point is not None and str(zero_point.dtype) not in CODE_BITS:
            raise UnsupportedGraphError(
                f"{where}: {_label(node)} makes codes of {zero_point.dtype}; codes of 8 and 16 bits are imported"
            )


def _positive(scale: NDArray[np.generic]) -> bool:
    """Tell whether all of a quantizer's steps are numbers above 0."""
    values = scale.astype(np.float64)
    return bool(np.all(np.isfinite(values) & (values > 0)))


def refuse_dropping(model: ModelProto, where: str) -> None:
    """Refuse a Dropout that drops: what a picture gives would be another thing every time.

    Args:
        model: The normalised model, in which Dropout of inference is gone.
        where: What messages call the file.

    Raises:
        UnsupportedGraphError: If there is one.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
            continue
        training = held.get(node.input[2])
        if training is None or bool(numpy_helper.to_array(training).any()):
            raise UnsupportedGraphError(f"{where}: {_label(node)} is in training mode; save the network in evaluation mode")
