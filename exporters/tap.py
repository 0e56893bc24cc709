"""The tap: the CAM layer's activation as an extra graph output, in a QDQ graph the integer codes."""

from __future__ import annotations

import numpy as np
import onnx

from qcam.common.errors import QcamError
from qcam.exporters.constants import foldable
from qcam.exporters.inferring import Inferred
from qcam.runtime.bundle import Tap
from qcam.runtime.graph import Graph, alone, attribute, type_name, unused


def repeat_sizes(model: onnx.ModelProto, tensor: str) -> list[str]:
    """Let sizes that are computed of the batch in front of the CAM layer be computed of the CAM layer for what is behind it.

    Exporters read the number of images once, at the input, and carry it through the graph as integers. A tail that begins at
    the CAM layer would have to be given them, whole numbers that say no more than how many images there are. Only what surely
    is this number is read at the CAM layer instead: of a tensor, and at a CAM layer, whose first axis is as long as there are
    images, as the file says or as follows from the images' shape.

    Args:
        model: The float graph; changed.
        tensor: The CAM layer's tensor.

    Returns:
        Names of the integers that are computed of the CAM layer now.
    """
    graph, told = Graph(model), Inferred(model)
    if not told.counts_images(tensor):
        return []
    after, fixed = graph.downstream(tensor), graph.fixed
    behind = [node for node in model.graph.node if after.intersection(node.output)]
    read = dict.fromkeys(name for node in behind for name in node.input if name and name not in after | fixed | {tensor})
    copies: dict[str, str] = {}
    made: dict[str, list[onnx.NodeProto]] = {}
    for name in read:
        made[name] = []
        for node in _of_the_batch(graph, told, name):
            if node.output[0] in copies:
                continue
            copy = alone(node)
            inputs = [tensor] if node.op_type == "Shape" else [copies.get(given, given) for given in node.input]
            copy.name = unused(model, f"{node.output[0]}.behind")
            del copy.input[:], copy.output[:]
            copy.input.extend(inputs)
            copy.output.append(copy.name)
            copies[node.output[0]] = copy.name
            made[name].append(copy)
    found = [name for name in read if name in copies]
    ordered: list[onnx.NodeProto] = []
    for node in model.graph.node:  # a copy stands in front of what reads it first, behind all that it reads
        if after.intersection(node.output):
            for place, name in enumerate(node.input):
                if name in found:
                    ordered += made[name]
                    made[name] = []
                    node.input[place] = copies[name]
        ordered.append(alone(node))
    if found:
        del model.graph.node[:]
        model.graph.node.extend(ordered)
    return found


def _of_the_batch(graph: Graph, told: Inferred, tensor: str) -> list[onnx.NodeProto]:
    """Return the nodes that make a tensor of the number of images and of constants, in order; none if more goes into it."""
    names = graph.upstream([tensor], stop=[node.output[0] for node in graph.model.graph.node if node.op_type == "Shape"])
    names -= graph.fixed
    chain = [node for node in graph.model.graph.node if names.intersection(node.output)]
    for node in chain:
        if node.op_type == "Shape":
            begin, end = attribute(node, "start", 0), attribute(node, "end")
            if (begin, end) != (0, 1) or not told.counts_images(node.input[0]):
                return []
            continue
        if not foldable(node) or len(node.output) != 1:
            return []
        if any(name not in names and name not in graph.fixed for name in node.input if name):
            return []
    return chain if graph.image_input not in names else []


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
        QcamError: If the tensor vanished when the graph was quantized, or the logits do not depend on it; or if the tail reads
            something else than activations beside it.
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
    told = Inferred(model) if tail.skips else None
    for source in tail.skips.values():
        if told is not None:
            _refuse_integers(graph, told, source, tensor)
    skips = tuple(_describe(graph, source) for source in dict.fromkeys(tail.skips.values()))
    for entry in (tap, *skips):
        if entry.output not in graph.outputs:
            element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(entry.dtype))
            shape = graph.shapes.get(entry.tensor)
            dimensions = None if shape is None else ["batch" if size is None else size for size in shape]
            model.graph.output.append(onnx.helper.make_tensor_value_info(entry.output, element, dimensions))
    return tap, skips


def _refuse_integers(graph: Graph, told: Inferred, tensor: str, layer: str) -> None:
    """Refuse what a tail reads beside the CAM layer if it is no activation, or if nothing tells what it is."""
    node = graph.producer.get(tensor)
    kind = told.kind(tensor)
    if kind != onnx.TensorProto.FLOAT and (node is None or node.op_type != "QuantizeLinear"):
        what = f"is no activation ({type_name(kind)})" if kind else "is of unknown type"
        raise QcamError(
            f"what follows CAM layer {layer} also reads {tensor}, which {what} and does not come from the layer; "
            "name another layer with {cam_layer}"
        )


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
