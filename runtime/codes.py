"""What the integer codes of a QDQ graph stand for: scale and zero point of quantizers and dequantizers, read off the graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.graph import Graph, attribute


@dataclass(frozen=True)
class Codes:
    """A tensor of integer codes, and what they stand for: (code - zero_point) · scale.

    Attributes:
        tensor: Its name.
        scale: float32; one value, or one for each index of `axis`.
        zero_point: Likewise, of the codes' own type.
        axis: The axis of a per-channel scale.
    """

    tensor: str
    scale: NDArray[np.float32]
    zero_point: NDArray[np.generic]
    axis: int

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Return the codes' type."""
        return self.zero_point.dtype

    def same_meaning(self, other: Codes) -> bool:
        """Tell whether a code stands for the same value in both."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


def codes_of_dequantized(graph: Graph, tensor: str) -> Codes | None:
    """Return what the codes behind a dequantized tensor mean; None if it is none, or its scale is not a constant."""
    node = graph.producer.get(tensor)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    return _codes(graph, node, node.input[0])


def codes_of_quantizer(graph: Graph, node: onnx.NodeProto) -> Codes | None:
    """Return what the codes of a QuantizeLinear mean; None if its scale is not a constant."""
    return _codes(graph, node, node.output[0])


def _codes(graph: Graph, node: onnx.NodeProto, tensor: str) -> Codes | None:
    if attribute(node, "block_size", 0):
        return None
    try:
        scale = graph.array(node.input[1]).astype(np.float32, copy=False)
        if len(node.input) > 2 and node.input[2]:
            zero_point = graph.array(node.input[2])
        elif tensor in graph.initializers:
            zero_point = np.zeros((), graph.array(tensor).dtype)
        else:
            zero_point = np.zeros((), np.uint8)
    except UnsupportedGraphError:  # scales that are computed while the graph runs
        return None
    if zero_point.dtype.kind not in "iu":
        return None
    if scale.size == 1:
        scale, zero_point = scale.reshape(()), zero_point.reshape(-1)[:1].reshape(())
    return Codes(tensor, scale, zero_point, int(attribute(node, "axis", 1)))  # type: ignore[call-overload]


def quantized_tensors(graph: Graph) -> tuple[str, ...]:
    """Return the outputs of all QuantizeLinear nodes that depend on the input, in graph order."""
    live = graph.downstream(graph.image_input)
    quantizers = (node for node in graph.model.graph.node if node.op_type == "QuantizeLinear")
    return tuple(node.output[0] for node in quantizers if node.output[0] in live)
