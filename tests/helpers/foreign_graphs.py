"""A small classifier as other tools write it: float, quantized by ONNX Runtime's own quantizer, and rewritten in other ways."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

#: Side of its pictures, and how many classes it has.
SIDE, CLASSES = 32, 5
#: The codes behind the last map.
CODES = "last_QuantizeLinear_Output"


def float_graph(*, opset: int = 17, batch: int | str = "batch", softmax: bool = False) -> ModelProto:
    """Two branches that are added, a last map, pooled; seeded weights."""
    numbers = np.random.default_rng(5)
    held: list[TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        held.append(numpy_helper.from_array((numbers.normal(size=shape) / np.sqrt(fan) * 1.6).astype(np.float32), name))
        return name

    def conv(x: str, name: str, inputs: int, outputs: int, stride: int) -> NodeProto:
        return helper.make_node(
            "Conv", [x, weight(f"{name}_w", outputs, inputs, 3, 3), weight(f"{name}_b", outputs)], [name], name=f"node_{name}",
            kernel_shape=[3, 3], pads=[1] * 4, strides=[stride] * 2,
        )  # fmt: skip

    nodes = [
        conv("image", "stem", 3, 8, 2),
        helper.make_node("Relu", ["stem"], ["stem_relu"], name="node_stem_relu"),
        conv("stem_relu", "branch", 8, 8, 1),
        helper.make_node("Add", ["stem_relu", "branch"], ["sum"], name="node_sum"),
        conv("sum", "head", 8, 16, 2),
        helper.make_node("Relu", ["head"], ["last"], name="node_last"),
        helper.make_node("GlobalAveragePool", ["last"], ["pooled"], name="node_pooled"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="node_flat"),
        helper.make_node(
            "Gemm", ["flat", weight("fc_w", CLASSES, 16), weight("fc_b", CLASSES)], ["scores"], name="node_fc", transB=1
        ),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], name="node_softmax", axis=-1))
    output = "probabilities" if softmax else "scores"
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, CLASSES])],
        held,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


class _Pictures(CalibrationDataReader):
    def __init__(self) -> None:
        self._given: Iterator[dict[str, np.ndarray]] = iter([{"image": image} for image in np.split(pictures(4), 4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._given, None)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Pictures as they come out of preprocessing with mean 0.5 and std 0.25, batch × 3 × height × width."""
    numbers = np.random.default_rng(seed)
    levels = numbers.integers(0, 256, (count, 3, SIDE, SIDE))
    return ((levels.astype(np.float32) / np.float32(255)) - np.float32(0.5)) / np.float32(0.25)


@functools.cache
def _quantized(form: str, activation: str, weight: str, opset: int, per_channel: bool, softmax: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        onnx.save(float_graph(opset=opset, softmax=softmax), before)
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                before, after, _Pictures(), quant_format=QuantFormat[form], activation_type=QuantType[activation],
                weight_type=QuantType[weight], per_channel=per_channel,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        return after.read_bytes()


def quantized(
    form: str = "QDQ", activation: str = "QUInt8", weight: str = "QInt8", *, opset: int = 17, per_channel: bool = True,
    softmax: bool = False,
) -> ModelProto:  # fmt: skip
    """The small classifier as ONNX Runtime's quantizer writes it."""
    return onnx.load_from_string(_quantized(form, activation, weight, opset, per_channel, softmax))


def tapped(model: ModelProto, *names: str) -> ModelProto:
    """Add outputs, as far as the graph has such tensors."""
    made = {name for node in model.graph.node for name in node.output}
    for name in names or (CODES,):
        if name in made:
            model.graph.output.append(helper.make_empty_tensor_value_info(name))
    return model


def quantizers(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]


def _initializers(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def without_zero_points(model: ModelProto) -> None:
    """Leave out the zero points that are 0 of the type that is meant without one."""
    held = _initializers(model)
    for node in quantizers(model):
        zero = held[node.input[2]]
        meant = node.op_type == "DequantizeLinear" or zero.data_type == TensorProto.UINT8
        if meant and not numpy_helper.to_array(zero).any():
            del node.input[2:]


def scales_as_lists(model: ModelProto) -> None:
    held = _initializers(model)
    for node in quantizers(model):
        for name in node.input[1:]:
            if not held[name].dims:
                held[name].dims.append(1)


def scales_as_constants(model: ModelProto) -> None:
    """Scales come out of Constant nodes, zero points besides through Identity."""
    held = _initializers(model)
    for name in dict.fromkeys(name for node in quantizers(model) for name in node.input[1:]):
        tensor = held[name]
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
    for node in quantizers(model):
        through = f"{node.name}_through"
        model.graph.node.append(helper.make_node("Identity", [node.input[2]], [f"{through}_1"]))
        model.graph.node.append(helper.make_node("Identity", [f"{through}_1"], [through]))
        node.input[2] = through
    model.graph.node.sort(key=lambda node: ["Constant", "Identity"].index(node.op_type) if not node.name else 2)


def axes_from_behind(model: ModelProto) -> None:
    held = _initializers(model)
    for node in quantizers(model):
        if node.input[0] in held and held[node.input[1]].dims:
            found = next((found for found in node.attribute if found.name == "axis"), None)
            if found is None:
                node.attribute.append(helper.make_attribute("axis", 1))
                found = node.attribute[-1]
            found.i -= len(held[node.input[0]].dims)


def nodes_in_any_order(model: ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def in_functions(model: ModelProto) -> None:
    """Every pair of quantizers is a call of a function."""
    after = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    readers = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.output[0] in after]
    opset = helper.make_opsetid("", model.opset_import[0].version)
    inside = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
    ]
    model.functions.append(helper.make_function("tool", "Simulate", ["x", "scale", "zero"], ["y"], inside, [opset]))
    model.opset_import.append(helper.make_opsetid("tool", 1))
    for first in readers:
        second = after[first.output[0]]
        name, result = first.name, second.output[0]
        first.CopyFrom(helper.make_node("Simulate", list(first.input), [result], name=name, domain="tool"))
        model.graph.node.remove(second)


def without_shapes(model: ModelProto) -> None:
    del model.graph.value_info[:]


def without_names(model: ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""


def of_microsoft(model: ModelProto) -> None:
    for node in quantizers(model):
        node.domain = "com.microsoft"
    if not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def constants_as_inputs(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def with_identities(model: ModelProto) -> None:
    """Chains of Identity inside the graph, in front of its output and behind its input; a Dropout that drops nothing."""
    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == "image":
                node.input[index] = "image_same"
    last = next(node for node in graph.node if "scores" in node.output)
    last.output[0] = "scores_first"
    flat = next(node for node in graph.node if node.op_type == "Flatten")
    graph.node.insert(0, helper.make_node("Identity", ["image"], ["image_same"], name="same"))
    graph.node.insert(
        list(graph.node).index(flat), helper.make_node("Dropout", [flat.input[0]], ["kept", "mask"], name="dropout")
    )
    flat.input[0] = "kept"
    graph.node.append(helper.make_node("Identity", ["scores_first"], ["scores_second"], name="one"))
    graph.node.append(helper.make_node("Identity", ["scores_second"], ["scores"], name="two"))


#: Structural variants of the QDQ file: all mean what it means.
VARIANTS: dict[str, Callable[[ModelProto], None]] = {
    "zero point left out": without_zero_points,
    "scale as a list of one": scales_as_lists,
    "scale as a Constant node, zero point through Identity": scales_as_constants,
    "axis from behind": axes_from_behind,
    "nodes in any order": nodes_in_any_order,
    "local functions": in_functions,
    "no value_info": without_shapes,
    "nodes without names": without_names,
    "com.microsoft's quantizers": of_microsoft,
    "initializers listed as inputs": constants_as_inputs,
    "chains of Identity, and a Dropout": with_identities,
}


def variant(name: str, **options: object) -> ModelProto:
    """The QDQ file written in another way."""
    model = quantized(**options)  # type: ignore[arg-type]
    VARIANTS[name](model)
    return model


def before_input(
    model: ModelProto, *nodes: NodeProto, held: dict[str, np.ndarray] | None = None, kind: int = TensorProto.FLOAT,
    shape: tuple[int | str | None, ...] = ("batch", 3, SIDE, SIDE),
) -> ModelProto:  # fmt: skip
    """Put operators in front of a graph's input: they read `picture`, the new input, and write `image`."""
    graph = model.graph
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in (held or {}).items())
    for node in reversed(nodes):
        graph.node.insert(0, node)
    del graph.input[0]
    graph.input.insert(0, helper.make_tensor_value_info("picture", kind, shape))
    return model


def operator(kind: str, inputs: list[str], output: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes)


def across_pictures(model: ModelProto) -> ModelProto:
    """Let what is pooled be the distance from the mean of all pictures of a batch."""
    at = next(place for place, node in enumerate(model.graph.node) if node.op_type == "GlobalAveragePool")
    read = model.graph.node[at].input[0]
    model.graph.node[at].input[0] = "apart"
    model.graph.node.insert(at, operator("Sub", [read, "mean of pictures"], "apart"))
    model.graph.node.insert(at, operator("ReduceMean", [read], "mean of pictures", axes=[0], keepdims=1))
    return model


def channelwise(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 3, 1, 1)


#: What normalises inside a graph → what its values are, the nodes, what they read, and the type of the input.
INSIDE: dict[str, tuple[str, list[NodeProto], dict[str, np.ndarray], int]] = {
    "pixels, Sub and Div": (
        "pixels", [operator("Sub", ["picture", "m"], "less"), operator("Div", ["less", "d"], "image")],
        {"m": channelwise(123.675, 116.28, 103.53), "d": channelwise(58.395, 57.12, 57.375)}, TensorProto.FLOAT,
    ),
    "pixels of uint8, Cast, Div, Sub and Div": (
        "pixels",
        [operator("Cast", ["picture"], "float", to=1), operator("Div", ["float", "f"], "unit"),
         operator("Sub", ["unit", "m"], "less"), operator("Div", ["less", "d"], "image")],
        {"f": np.float32(255), "m": channelwise(0.485, 0.456, 0.406), "d": channelwise(0.229, 0.224, 0.225)},
        TensorProto.UINT8,
    ),
    "pixels of uint8, dequantized": (
        "pixels", [operator("DequantizeLinear", ["picture", "f", "z"], "image")],
        {"f": np.float32(1 / 64), "z": np.uint8(128)}, TensorProto.UINT8,
    ),
    "pixels, BatchNormalization": (
        "pixels", [operator("BatchNormalization", ["picture", "g", "b", "m", "v"], "image")],
        {"g": np.ones(3, np.float32), "b": np.zeros(3, np.float32), "m": np.full(3, 127.5, np.float32),
         "v": np.full(3, 64.0**2, np.float32)}, TensorProto.FLOAT,
    ),
    "pixels, mean alone": ("pixels", [operator("Sub", ["picture", "m"], "image")], {"m": channelwise(123, 117, 104)},
                           TensorProto.FLOAT),
    "0..1, Sub and Mul": (
        "unit", [operator("Sub", ["picture", "m"], "less"), operator("Mul", ["less", "d"], "image")],
        {"m": channelwise(0.5, 0.5, 0.5), "d": channelwise(4, 4, 4)}, TensorProto.FLOAT,
    ),
}  # fmt: skip


def normalising(name: str, model: ModelProto | None = None) -> ModelProto:
    """The QDQ file with its normalisation inside."""
    _, nodes, held, kind = INSIDE[name]
    return before_input(model or quantized(), *nodes, held=held, kind=kind)


def with_outputs(model: ModelProto, *names: str, first: bool = False) -> ModelProto:
    """Add outputs, behind or in front of those there are."""
    before = list(model.graph.output)
    del model.graph.output[:]
    added = [helper.make_empty_tensor_value_info(name) for name in names]
    model.graph.output.extend([*added, *before] if first else [*before, *added])
    return model


def returning_codes(model: ModelProto, dtype: type = np.uint8) -> ModelProto:
    """The scores are quantized, and the codes are returned."""
    graph = model.graph
    zero = np.array(120 if dtype == np.uint8 else 0, dtype)
    graph.initializer.extend(
        [numpy_helper.from_array(np.float32(1 / 8), "out_scale"), numpy_helper.from_array(zero, "out_zero")]
    )
    graph.node.append(operator("QuantizeLinear", ["scores", "out_scale", "out_zero"], "scores_codes"))
    del graph.output[:]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph.output.append(helper.make_tensor_value_info("scores_codes", kind, ["batch", CLASSES]))
    return model


def with_softmax(model: ModelProto) -> ModelProto:
    model.graph.node.append(operator("Softmax", ["scores"], "probabilities", axis=-1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES]))
    return model


def fixed_batch(model: ModelProto, count: int) -> ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = count
    return model
