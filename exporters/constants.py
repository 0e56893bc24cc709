"""What constants alone decide becomes a constant: a standardized weight is then a weight, with one scale per channel.

Networks that standardize their weights (NFNet, BiT) compute each from a parameter in every run. Left in the graph, a weight is
an activation to the quantizer: one scale per tensor, calibrated, and no kernel that expects a constant takes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from qcam.common.errors import QcamError, first_line
from qcam.exporters.inferring import Inferred, size_of
from qcam.runtime.graph import Graph, unused

#: Operators whose result is another one each time.
_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"})
#: Results may take as much more, together, than the constants of the file: a small constant expanded to a large one is left.
_GROWTH, _SMALL = 2, 1 << 20


def fold_constants(model: onnx.ModelProto) -> list[str]:
    """Replace what does not depend on the graph's input by its value, as ONNX Runtime computes it.

    Args:
        model: A float graph without functions; changed.

    Returns:
        Names of the tensors that are constants now, in graph order. Left as they are: random values, operators with subgraphs,
        values of other types than tensors of numbers, and constants that would grow much. A constant that nothing reads any
        more goes, and with it an input of the graph that it was a default of.

    Raises:
        QcamError: If ONNX Runtime cannot compute them.
    """
    graph = Graph(model)
    told = Inferred(model)
    limit = _GROWTH * sum(map(size_of, model.graph.initializer)) + _SMALL
    fixed = graph.fixed - {
        output
        for node in model.graph.node
        if not foldable(node) or any(told.size(name) > limit for name in node.output)
        for output in node.output
    }
    nodes = []
    for node in model.graph.node:  # in graph order: what an operator that stays behind decides stays, too
        if node.output and set(node.output) <= fixed and all(name in fixed for name in node.input if name):
            nodes.append(node)
        else:
            fixed -= set(node.output)
    made = {name for node in nodes if node.op_type != "Constant" for name in node.output if name}
    ends = {value.name for value in model.graph.output}
    inside = {id(node) for node in nodes}
    read = {name for node in model.graph.node if id(node) not in inside for name in node.input}
    wanted = [name for node in nodes for name in node.output if name in made and name in read and name not in ends]
    wanted = _within(wanted, {name: told.size(name) for name in wanted}, limit)
    if not wanted:
        return []
    values = _computed(model, nodes, wanted)
    kept = _within(values, {name: value.nbytes for name, value in values.items()}, limit)
    values = {name: values[name] for name in kept}
    dead = unused(model, "computed")
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name in values:
                node.output[place] = f"{dead}.{name}"  # taken out below
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    _drop_dead(model)
    return [name for name in wanted if name in values]


def foldable(node: onnx.NodeProto) -> bool:
    """Tell whether a node gives the same each time, and what it gives depends on no more than its inputs."""
    training = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] != ""
    return _plain(node) and node.op_type not in _RANDOM and not training and node.domain in ("", "ai.onnx")


def _within(names: Iterable[str], sizes: Mapping[str, int], limit: int) -> list[str]:
    """Return those names, in order, whose tensors take no more than a limit together."""
    kept, total = [], 0
    for name in names:
        if total + sizes[name] <= limit:
            kept.append(name)
            total += sizes[name]
    return kept


def _plain(node: onnx.NodeProto) -> bool:
    """Tell whether a node has no subgraph."""
    return all(item.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in node.attribute)


def _computed(model: onnx.ModelProto, nodes: list[onnx.NodeProto], wanted: list[str]) -> dict[str, np.ndarray]:
    """Let ONNX Runtime compute tensors that need no input, each operator by itself."""
    needed = {name for node in nodes for name in node.input}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    part.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(wanted, {})
    except Exception as error:  # ONNX Runtime has exceptions of its own, by version
        raise QcamError(f"ONNX Runtime cannot compute the network's constants ({first_line(error)})") from error
    return {name: value for name, value in zip(wanted, values, strict=True) if isinstance(value, np.ndarray)}


def _drop_dead(model: onnx.ModelProto) -> None:
    """Take out nodes and constants that nothing reads any more."""
    graph = model.graph
    ends = {value.name for value in graph.output}
    alive = Graph(model).upstream(ends)
    if not all(_plain(node) for node in graph.node):
        return  # a subgraph may read what is around it
    gone_inputs = {tensor.name for tensor in graph.initializer if tensor.name not in alive}
    for field, dead in (
        (graph.input, [value.name in gone_inputs for value in graph.input]),
        (graph.node, [not any(name in alive for name in node.output) for node in graph.node]),
        (graph.initializer, [tensor.name not in alive for tensor in graph.initializer]),
        (graph.value_info, [value.name not in alive for value in graph.value_info]),
    ):
        for place in reversed([place for place, gone in enumerate(dead) if gone]):
            del field[place]
