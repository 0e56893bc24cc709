"""A float graph and its activation ranges become a QDQ graph: int8 (A8W8) or int16 (A16W16), weights per channel."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import onnx

from qcam.calibration.ranges import quantizable_operators, quiet_quantizer
from qcam.common.errors import QcamError, first_line
from qcam.runtime.described import Quantization
from qcam.runtime.graph import Graph
from qcam.runtime.tables import SHAPE_OPERATORS

#: Activation and weight sign of the 8-bit schemes.
SCHEMES = ("u8s8", "s8s8")
#: Operators that scale, shift or join class scores behind the operator that computes them.
_SCORE_OPERATORS = frozenset({"Add", "Sub", "Mul", "Div"})


@dataclass(frozen=True)
class QuantizationOptions:
    """How a precision is quantized.

    Attributes:
        precision: int8 or int16.
        scheme: u8s8 (asymmetric activations, what x86 CPUs run as integers) or s8s8 (symmetric, zero point 0, what
            TensorRT accepts). int16 follows it: u16s16 or s16s16.
        per_channel: Whether each output channel of a weight has its own scale.
        reduce_range: Whether int8 weights keep to 7 bits, so that no pair of products can saturate on x86 CPUs with
            AVX2 but without VNNI.
    """

    precision: str
    scheme: str = "u8s8"
    per_channel: bool = True
    reduce_range: bool = False

    def described(self) -> Quantization:
        """Return what the manifest records."""
        bits = 8 if self.precision == "int8" else 16
        sign = "U" if self.scheme == "u8s8" else ""
        return Quantization(
            format="QDQ",
            scheme=self.scheme if bits == 8 else self.scheme.replace("8", "16"),
            activation=f"{sign}INT{bits}",
            activation_symmetric=self.scheme == "s8s8",
            weight=f"INT{bits}",
            weight_per_channel=self.per_channel,
            weight_reduced_range=self.reduce_range and bits == 8,
            logits="not quantized",
        )


def quantize(
    model: onnx.ModelProto, ranges: Any, options: QuantizationOptions, cam_tensor: str = "", *, consume: bool = False
) -> onnx.ModelProto:
    """Quantize a float graph to QDQ form with `onnxruntime.quantization`.

    The logits stay unquantized: a quantized logit saturates on a part of unseen images, and with it the gradient
    that Grad-CAM++ lives on vanishes.

    Args:
        model: Float graph; not changed unless `consume`.
        ranges: `TensorsData` of its activations.
        options: Precision and scheme.
        cam_tensor: Activation that shall carry codes even where no quantized operator reads it.
        consume: Whether the float graph may be used up instead of copied.

    Returns:
        The QDQ graph; the same inputs give the same bytes.

    Raises:
        QcamError: For an unknown precision or scheme, or if the quantizer cannot handle the graph.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    if options.precision not in ("int8", "int16") or options.scheme not in SCHEMES:
        raise QcamError(f"cannot quantize to {options.precision} with scheme {options.scheme}")
    eight = options.precision == "int8"
    unsigned = options.scheme == "u8s8"
    activation = (
        (QuantType.QUInt8 if unsigned else QuantType.QInt8) if eight else (QuantType.QUInt16 if unsigned else QuantType.QInt16)
    )
    weight = QuantType.QInt8 if eight else QuantType.QInt16
    source = model if consume else copy.deepcopy(model)
    try:
        with quiet_quantizer():
            quantizer = QDQQuantizer(
                source,
                options.per_channel,
                options.reduce_range and eight,
                weight,
                activation,
                ranges,
                [],
                [],
                quantizable_operators(),
                {
                    "ActivationSymmetric": not unsigned,
                    "WeightSymmetric": True,
                    # ONNX has 16-bit QuantizeLinear since opset 21; before, ONNX Runtime's own operators serve.
                    "UseQDQContribOps": not eight and Graph(source).opset() < 21,
                },
            )
            if cam_tensor:
                quantizer.quantize_activation_tensor(cam_tensor)
            quantizer.quantize_model()
    except (ValueError, TypeError, KeyError, AssertionError, NotImplementedError) as error:
        raise QcamError(
            f"onnxruntime.quantization cannot quantize this graph to {options.precision}: {first_line(error)}"
        ) from error
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _release_logits(quantized)
    _drop_unused_constants(quantized)
    return quantized


def _release_logits(model: onnx.ModelProto) -> None:
    """Take the QuantizeLinear/DequantizeLinear pairs off the logits, back to the operator that computes them.

    On the way back operators are crossed that rearrange values (a Flatten behind the last pooling), or that scale, shift
    or join scores (two heads). An integer Gemm may return float32 and stays one; a Conv that computes the logits itself
    becomes a float Conv. Class maps that are pooled into logits (SqueezeNet) keep their codes.
    """
    graph = Graph(model)
    fixed = graph.fixed
    pairs: list[tuple[onnx.NodeProto, onnx.NodeProto]] = []
    names = [graph.outputs[0]]
    while names:
        name = names.pop()
        node = graph.producer.get(name)
        if node is None or name in fixed or len(graph.consumers.get(name, [])) > 1:
            continue
        quantizer = graph.producer.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantizer is not None and quantizer.op_type == "QuantizeLinear":
            pairs.append((quantizer, node))
            names.append(quantizer.input[0])
        elif node.op_type in SHAPE_OPERATORS:
            names.append(node.input[0])
        elif node.op_type in _SCORE_OPERATORS:
            names += node.input
    for quantizer, dequantizer in pairs:
        before, after = quantizer.input[0], dequantizer.output[0]
        model.graph.node.remove(quantizer)
        model.graph.node.remove(dequantizer)
        # The graph's output keeps its name, so there the operator's own output is renamed; elsewhere its reader follows.
        old, new = (before, after) if after in graph.outputs else (after, before)
        for node in model.graph.node:
            for names in (node.input, node.output):
                for index, value in enumerate(names):
                    if value == old:
                        names[index] = new


def _drop_unused_constants(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    known = {output for node in model.graph.node for output in node.output}
    for value in [value for value in model.graph.value_info if value.name not in known]:
        model.graph.value_info.remove(value)
