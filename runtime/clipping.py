"""What each quantizer of a file can hold, and which values it cuts off as the activation function that it stands for.

ONNX Runtime's quantizer takes a Relu or a Clip out where the range of the quantizer behind it does the same. What such a
quantizer cuts off below 0, or above 6, is no loss: the float network cuts it off as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from qcam.runtime.codes import codes_of_quantizer
from qcam.runtime.graph import Graph
from qcam.runtime.positions import Limits, activation_limits

#: Of a ReLU6.
_SIX = 6.0


@dataclass(frozen=True)
class QuantizerRange:
    """The range of one QuantizeLinear with one scale, in the units of the tensor that it quantizes.

    Attributes:
        codes: Name of its output.
        lowest: The value that its lowest code stands for.
        highest: That of its highest code.
        step: Its scale, above 0.
        least: What the float network lets through at least: an activation function that the quantizer stands for cuts
            off what is below; minus infinity without one.
        most: What it lets through at most; infinity without such an activation function.
    """

    codes: str
    lowest: float
    highest: float
    step: float
    least: float = -np.inf
    most: float = np.inf

    @property
    def thresholds(self) -> tuple[float, float]:
        """Return below and above which value one is clipped: its nearest step has no code, and the float network kept it.

        A value that is up to half a step outside the range is rounded to the last code, which is as near as any.
        """
        half = self.step / 2
        low = -np.inf if self.least >= self.lowest - half else self.lowest - half
        high = np.inf if self.most <= self.highest + half else self.highest + half
        return low, high


def activations(model: onnx.ModelProto) -> dict[str, Limits]:
    """Return what the tensors of a float graph are limited to by the Relu or Clip that makes them; others are unlimited.

    Args:
        model: The graph; weights may be left out (`skim`).
    """
    graph = Graph(model)
    unlimited = (-np.inf, np.inf)
    return {name: activation_limits(graph, node) or unlimited for node in model.graph.node for name in node.output if name}


def quantizer_ranges(graph: Graph, floats: Mapping[str, Limits] | None = None) -> tuple[QuantizerRange, ...]:
    """Return the ranges of the quantizers of activations with one scale, in graph order.

    Which activation function a quantizer stands for is read from the float graph, where that has a tensor of the same name.
    Without it, a range that begins at 0 counts as that of a ReLU, and one from 0 to 6 (to half a step) as that of a ReLU6.

    Args:
        graph: A QDQ graph.
        floats: From `activations`, of the float graph that it was made of; None: there is none.
    """
    found = []
    live = graph.downstream(graph.image_input)
    for node in graph.model.graph.node:
        if node.op_type != "QuantizeLinear" or node.output[0] not in live:
            continue
        codes = codes_of_quantizer(graph, node)
        if codes is None or codes.scale.size != 1:
            continue
        ends, zero, step = np.iinfo(codes.dtype.name), int(codes.zero_point), float(codes.scale)
        lowest, highest = (ends.min - zero) * step, (ends.max - zero) * step
        if floats is not None and node.input[0] in floats:
            least, most = floats[node.input[0]]
        else:
            least = 0.0 if lowest == 0 else -np.inf
            most = _SIX if lowest == 0 and abs(highest - _SIX) <= step / 2 else np.inf
        found.append(QuantizerRange(node.output[0], lowest, highest, step, least, most))
    return tuple(found)
