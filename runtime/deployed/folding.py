"""A file's int32 biases as floats, for providers that have no kernel that dequantizes 32 bits.

A QDQ file holds a bias as int32 codes behind a DequantizeLinear node. The CPU provider's integer kernels add the codes; CUDA
dequantizes 8 bits only and convolves floats, so each bias would be dequantized on the CPU and copied for every batch. What
DequantizeLinear computes of a constant is a constant: float32(code) · float32(scale). It is put in its place in a copy in
memory; the file, which manifests hash, stays as it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from qcam.runtime.external import external_files, load_external, parse_onnx
from qcam.runtime.graph import attribute

#: Tells ONNX Runtime where the weights of a model lie that it is given as bytes.
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
#: Makes int32 codes of float biases again, whatever the provider; it must not run where biases were folded.
REQUANTIZER = "WeightBiasQuantization"
#: Most bytes of a tensor that is read from another file into the copy: biases, scales and shapes, hardly ever a weight.
_SMALL = 1 << 16
#: Domains in which DequantizeLinear means the same.
_DOMAINS = ("", "ai.onnx", "com.microsoft")


def folded_copy(path: Path) -> tuple[bytes, int] | None:
    """Return a file with its int32 biases folded, as ONNX Runtime takes it from memory.

    Weights in other files stay there: the session has to be told their folder (`EXTERNAL_FOLDER`).

    Args:
        path: The ONNX file.

    Returns:
        The copy and the number of nodes that were folded; None if there was nothing to fold.

    Raises:
        BundleError: If it is no ONNX file, or refers to files that it may not.
    """
    model = parse_onnx(path)
    if external_files(model, path.parent, str(path)):
        load_external(model, path.parent, str(path), largest=_SMALL)
    folded = fold_biases(model)
    return (model.SerializeToString(), folded) if folded else None


def fold_biases(model: ModelProto) -> int:
    """Replace DequantizeLinear nodes of int32 constants by their results.

    Args:
        model: The model; changed.

    Returns:
        How many were replaced. Left as they are: nodes whose constants lie in another file, graph inputs that a caller may
        override, scales in blocks or of another type than float32, and zero points that are not 0, which no 32-bit code has.
    """
    graph = model.graph
    constants = _constants(graph)
    folded: dict[str, TensorProto] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        values = _dequantized(node, constants)
        if values is None:
            kept.append(node)
        else:
            folded[node.output[0]] = numpy_helper.from_array(values, node.output[0])
    if not folded:
        return 0
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(folded.values())
    _drop_unread(graph)
    return len(folded)


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the values that a graph holds and nobody can override, by name."""
    inputs = {value.name for value in graph.input}
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs}
    for node in graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, TensorProto):
            constants[node.output[0]] = value
    return {name: tensor for name, tensor in constants.items() if tensor.data_location != TensorProto.EXTERNAL}


def _dequantized(node: NodeProto, constants: dict[str, TensorProto]) -> NDArray[np.float32] | None:
    """Return what a DequantizeLinear node makes of int32 constants, bit for bit; None if it is no such node."""
    if node.op_type != "DequantizeLinear" or node.domain not in _DOMAINS or len(node.input) < 2:
        return None
    codes, scale = (constants.get(name) for name in node.input[:2])
    if codes is None or scale is None or codes.data_type != TensorProto.INT32 or scale.data_type != TensorProto.FLOAT:
        return None
    if attribute(node, "block_size", 0) or attribute(node, "output_dtype", TensorProto.FLOAT) not in (0, TensorProto.FLOAT):
        return None
    if len(node.input) > 2 and node.input[2]:
        zero = constants.get(node.input[2])
        if zero is None or numpy_helper.to_array(zero).any():
            return None
    values, factors = numpy_helper.to_array(codes), numpy_helper.to_array(scale)
    if factors.size != 1:
        axis = int(attribute(node, "axis", 1))  # type: ignore[call-overload]
        axis += values.ndim if axis < 0 else 0
        if factors.ndim != 1 or not 0 <= axis < values.ndim or factors.shape[0] != values.shape[axis]:
            return None
        factors = factors.reshape([-1 if place == axis else 1 for place in range(values.ndim)])
    else:
        factors = factors.reshape(())
    return np.asarray(values.astype(np.float32) * factors, np.float32)


def _drop_unread(graph: GraphProto) -> None:
    """Take out constants that only folded nodes read."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    if any(item.g.node or item.graphs for node in graph.node for item in node.attribute):
        return  # a subgraph may read what is around it
    read |= {value.name for value in graph.input}
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in read:
            del graph.initializer[place]
