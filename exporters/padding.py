"""Padding in front of a maximum that the maximum can do itself.

timm's pooling with TensorFlow's "same" padding puts minus infinity around a map in an operator of its own. No range holds that,
so nothing of the map could be quantized; and MaxPool's own padding means the same: what never wins.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import numpy as np
import onnx
from onnx import helper

from qcam.runtime.graph import Graph, attribute

#: Axes of a map, and which of them are padded: height and width.
_AXES, _PADDED = 4, (2, 3)


def pad_within_pools(model: onnx.ModelProto, keep: Collection[str] = ()) -> list[str]:
    """Give padding that never wins to the MaxPools that read it, where each of their windows holds some of the map.

    Args:
        model: A float graph; changed.
        keep: Tensors that have to stay, beside the graph's outputs.

    Returns:
        Names of the padded maps, which are no tensors of the graph any more.
    """
    graph = Graph(model)
    ends = {value.name for value in model.graph.output}.union(keep)
    gone = []
    for node in model.graph.node:
        pads = _lowest(graph, node)
        pools = graph.consumers.get(node.output[0], [])
        if pads is None or not pools or node.output[0] in ends or not all(_takes(pool, node, pads) for pool in pools):
            continue
        for pool in pools:
            together = [own + more for own, more in zip(_sizes(pool, "pads", [0] * 4), pads, strict=True)]
            kept = [each for each in pool.attribute if each.name != "pads"]
            del pool.attribute[:]
            pool.attribute.extend([*kept, helper.make_attribute("pads", together)])
            pool.input[0] = node.input[0]
        gone.append(node)
    for node in gone:
        model.graph.node.remove(node)
    return [node.output[0] for node in gone]


def _lowest(graph: Graph, node: onnx.NodeProto) -> list[int] | None:
    """Return top, left, bottom and right of a Pad of height and width with what is below every number; None if it is none."""
    inputs = [*node.input, "", "", ""][:4]
    constant = attribute(node, "mode", b"constant") == b"constant"
    if node.op_type != "Pad" or not constant or inputs[3] or not graph.initializers.keys() >= {inputs[1], inputs[2]}:
        return None
    pads, value = graph.array(inputs[1]).ravel().tolist(), graph.array(inputs[2])
    if value.dtype != np.float32 or value.size != 1 or not value.item() <= np.finfo(np.float32).min or len(pads) != 2 * _AXES:
        return None
    if min(pads) < 0 or any(pads[axis] or pads[axis + _AXES] for axis in range(_AXES) if axis not in _PADDED):
        return None
    return [pads[2], pads[3], pads[2 + _AXES], pads[3 + _AXES]]


def _takes(pool: onnx.NodeProto, pad: onnx.NodeProto, pads: list[int]) -> bool:
    """Tell whether a reader is a MaxPool of rounded-down size that no more padding than a window is wide comes to."""
    if pool.op_type != "MaxPool" or pool.input[0] != pad.output[0] or len(pool.output) > 1 or attribute(pool, "ceil_mode", 0):
        return False
    window, own = _sizes(pool, "kernel_shape", []), _sizes(pool, "pads", [0] * 4)
    apart = set(_sizes(pool, "dilations", [1])) != {1}  # such a window may step over all of the map
    if attribute(pool, "auto_pad", b"NOTSET") != b"NOTSET" or len(window) != 2 or len(own) != 4 or apart:
        return False
    return all(mine + more < side for mine, more, side in zip(own, pads, window + window, strict=True))


def _sizes(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return [int(size) for size in cast(Sequence[int], attribute(node, name, default))]
