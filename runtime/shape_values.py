"""Whole numbers that a graph computes from its constants alone: the widths of borders, the sizes of a Reshape.

Some exporters write them as a few operators instead of a constant (PyTorch does for `torch.nn.functional.pad`). ONNX's
inference of shapes does not work all of them out, and of what stands behind such a border no shape would be known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qcam.runtime.graph import attribute

#: Operators that are worked out; none makes more numbers than it is given, but for what is refused below.
_OPERATORS = frozenset(
    {
        "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Gather", "Mul", "Reshape", "Slice", "Squeeze", "Sub", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
_WHOLE = (TensorProto.INT32, TensorProto.INT64)
#: Most numbers in a tensor, and most operators of a graph, that are worked out.
_LARGEST, _MOST = 1024, 1000


def whole_numbers(nodes: Sequence[NodeProto], constants: Mapping[str, TensorProto], opset: int) -> dict[str, TensorProto]:
    """Work out the whole numbers that follow from constants.

    Args:
        nodes: The nodes of a graph, in an order in which they can run.
        constants: Name → constant.
        opset: Version of ONNX's operators in the graph.

    Returns:
        Tensor name → its value, of each that a node computes; none where something is too large, or cannot be worked out.
    """
    known = {
        name: numpy_helper.to_array(tensor)
        for name, tensor in constants.items()
        if tensor.data_type in _WHOLE and prod(tensor.dims) <= _LARGEST and not tensor.external_data
    }
    found: dict[str, TensorProto] = {}
    for node in nodes:
        if len(found) == _MOST:
            break
        inputs = [name for name in node.input if name]
        if not inputs or not all(name in known for name in inputs):
            continue
        value = computed_numbers(node, {name: known[name] for name in inputs}, opset)
        if value is not None:
            known[node.output[0]] = value
            found[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    return found


def _count(shape: NDArray[np.generic]) -> int:
    """Return how many elements a tensor of a shape has; too many where the shape is none."""
    sizes = [int(size) for size in shape.reshape(-1).tolist()]
    return prod(sizes) if all(size >= 0 for size in sizes) else _LARGEST + 1


def computed_numbers(node: NodeProto, given: Mapping[str, NDArray[np.generic]], opset: int) -> NDArray[np.generic] | None:
    """Work out one node.

    Args:
        node: The node.
        given: Input name → its value, int32 or int64, of at most 1,024 numbers.
        opset: Version of ONNX's operators in the graph.

    Returns:
        Its result, int32 or int64; None if it is no small tensor of whole numbers, or cannot be computed.
    """
    if node.op_type not in _OPERATORS or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if node.op_type == "ConstantOfShape" and any(_count(value) > _LARGEST for value in given.values()):
        return None
    if node.op_type == "Cast" and attribute(node, "to") not in _WHOLE:
        return None
    if node.op_type == "Div" and any(not value.all() for value in given.values()):
        return None
    from onnx.reference import ReferenceEvaluator

    graph = helper.make_graph(
        [node], "one", [], [helper.make_empty_tensor_value_info(node.output[0])],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=onnx.IR_VERSION)
    try:
        (value,) = ReferenceEvaluator(model).run(None, {})
    except Exception:  # what is not as ONNX defines it stays as it is, for others to refuse
        return None
    if not isinstance(value, np.ndarray) or value.dtype not in (np.int32, np.int64) or value.size > _LARGEST:
        return None
    return value
