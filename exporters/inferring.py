"""What ONNX's shape inference tells of a graph: types, shapes, and which axes are as long as there are images."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from qcam.runtime.graph import Graph

#: Name of the length that the first axis of the images has.
_IMAGES = "qcam.images"
#: Constants of more values decide no shape; inference gets their shape alone.
_LARGE = 1024
#: A row of more values is none of sizes.
_LONG = 1_000_000
#: Operators that ONNX Runtime has in its own domain too, with the same types and shapes.
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


class Inferred:
    """Types and shapes of a graph's tensors, as the file says them and as they follow from it.

    Args:
        model: The model; not changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        asked = _without_large(model)
        _name_the_images(asked, Graph(model).image_input)
        self._told = {tensor.name: _type_of(tensor).tensor_type for tensor in asked.graph.initializer} | _told(asked)
        try:
            self._told |= _told(onnx.shape_inference.infer_shapes(asked))
            if not any(map(_is_long, self._told.values())):
                asked = _without_makers(asked, self._told)
                self._told |= _told(onnx.shape_inference.infer_shapes(asked, data_prop=True))
        except Exception:  # what cannot be inferred still is as the file says it, or as it was found without values
            return

    def kind(self, tensor: str) -> int:
        """Return ONNX's number of a tensor's type, 0 if it is not known."""
        kind: int = self._told[tensor].elem_type if tensor in self._told else 0
        return kind

    def counts_images(self, tensor: str) -> bool:
        """Tell whether the first axis of a tensor surely is as long as there are images."""
        told = self._told.get(tensor)
        lengths = [] if told is None else told.shape.dim[:1]
        return [str(length.dim_param) for length in lengths] == [_IMAGES]

    def size(self, tensor: str) -> int:
        """Return how many bytes a tensor takes, 0 if it is not known."""
        told = self._told.get(tensor)
        if told is None or not told.elem_type or not told.HasField("shape"):
            return 0
        if not all(length.HasField("dim_value") for length in told.shape.dim):
            return 0
        return prod(int(length.dim_value) for length in told.shape.dim) * _item_size(told.elem_type)


def size_of(tensor: onnx.TensorProto) -> int:
    """Return how many bytes a constant takes."""
    return prod(map(int, tensor.dims)) * _item_size(tensor.data_type)


def _item_size(kind: int) -> int:
    return int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize)


def _type_of(tensor: onnx.TensorProto) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def _without_large(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large constants are inputs: inference copies the model once more, and protobuf has its limit."""
    small = [tensor for tensor in model.graph.initializer if prod(tensor.dims) <= _LARGE]
    large = [tensor for tensor in model.graph.initializer if prod(tensor.dims) > _LARGE]
    graph = model.graph
    inputs = {each.name: onnx.helper.make_value_info(each.name, _type_of(each)) for each in large}
    inputs |= {value.name: value for value in graph.input}
    copy = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    copy.graph.CopyFrom(
        onnx.helper.make_graph(graph.node, graph.name, [*inputs.values()], graph.output, small, value_info=graph.value_info)
    )
    for node in copy.graph.node:
        if node.op_type in _QUANTIZERS:
            node.domain = ""
    return copy


def _without_makers(model: onnx.ModelProto, told: dict[str, onnx.TypeProto.Tensor]) -> onnx.ModelProto:
    """Return a copy in which values that are made of their number are inputs: inference would make each of them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for node in model.graph.node:
        if node.op_type in ("ConstantOfShape", "Range"):
            kind = onnx.TypeProto(tensor_type=told[node.output[0]])
            copy.graph.input.append(onnx.helper.make_value_info(node.output[0], kind))
        else:
            copy.graph.node.append(node)
    return copy


def _is_long(told: onnx.TypeProto.Tensor) -> bool:
    """Tell whether a tensor is a row so long that inference must not follow its values: it takes 100 bytes for each."""
    return len(told.shape.dim) == 1 and told.shape.dim[0].dim_value > _LONG


def _told(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    graph = model.graph
    return {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}


def _name_the_images(model: onnx.ModelProto, name: str) -> None:
    """Give the number of images a name of its own, also where the file has one that means nothing else."""
    told = next(value.type.tensor_type.shape.dim for value in model.graph.input if value.name == name)
    if not told:
        return
    fixed, own = told[0].HasField("dim_value"), told[0].dim_param
    if sum(length.dim_param == own for length in told) > 1:
        own = ""
    told[0].dim_param = _IMAGES
    if fixed:  # a number in a shape does not say what it counts: the shapes have to follow
        for value in (*model.graph.value_info, *model.graph.output):
            value.type.tensor_type.ClearField("shape")
    for value in (*model.graph.value_info, *model.graph.output):
        for length in value.type.tensor_type.shape.dim:
            if own and length.dim_param == own:
                length.dim_param = _IMAGES
