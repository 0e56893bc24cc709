"""The tap: the CAM layer's activation as an extra graph output, in a QDQ graph the integer codes."""

from __future__ import annotations

import numpy as np
import onnx

from qcam.common.errors import QcamError
from qcam.runtime.bundle import Tap
from qcam.runtime.graph import Graph


def expose_tap(model: onnx.ModelProto, tensor: str, precision: str) -> tuple[Tap, tuple[Tap, ...]]:
    """Make the CAM layer, and what else the tail from it to the logits reads, outputs of the graph.

    In a QDQ graph the output is the QuantizeLinear result. Exposing the float tensor in front of it instead would break
    fusions and could change the logits; exposing the codes costs no integer kernel.

    Args:
        model: The graph; the outputs are added to it.
        tensor: Name of the CAM layer's float tensor.
        precision: The graph's precision, for the error.

    Returns:
        The tap, and the skip tensors of the tail (none in most networks).

    Raises:
        QcamError: If the tensor vanished when the graph was quantized, or the logits do not depend on it.
    """
    graph = Graph(model)
    if precision == "f32":
        tap_output = tensor
    else:
        quantizer = graph.quantize_of(tensor)
        if quantizer is None:
            raise QcamError(f"CAM layer tensor {tensor} {_why_not_quantized(graph, tensor, precision)}")
        tap_output = quantizer.output[0]
    tail = graph.tail(tap_output, graph.outputs[0])
    tap = _describe(graph, tap_output)
    skips = tuple(_describe(graph, source) for source in dict.fromkeys(tail.skips.values()))
    for entry in (tap, *skips):
        if entry.output not in graph.outputs:
            element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(entry.dtype))
            shape = graph.shapes.get(entry.tensor)
            dimensions = None if shape is None else ["batch" if size is None else size for size in shape]
            model.graph.output.append(onnx.helper.make_tensor_value_info(entry.output, element, dimensions))
    return tap, skips


def _describe(graph: Graph, output: str) -> Tap:
    node = graph.producer.get(output)
    if node is None or node.op_type != "QuantizeLinear":
        return Tap(output, output, "float32")
    scale = graph.array(node.input[1])
    zero_point = graph.array(node.input[2])
    if scale.size != 1:
        raise QcamError(f"tensor {node.input[0]} is quantized per channel; a tap needs one scale")
    return Tap(node.input[0], output, str(zero_point.dtype), float(scale), int(zero_point))


def _why_not_quantized(graph: Graph, tensor: str, precision: str) -> str:
    quantized = [
        node.input[0] for node in graph.model.graph.node if node.op_type == "QuantizeLinear" and graph.is_spatial(node.input[0])
    ]
    if tensor in graph.producer:
        why = f"carries no integer codes in {precision}"
    else:
        why = f"vanished by fusion in {precision} (the quantizer merged it with the activation behind it)"
    return f"{why}; tensors that carry codes, last ones first: {', '.join(reversed(quantized[-6:])) or 'none'}"
