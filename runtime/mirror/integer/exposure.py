"""What a file risks on CPUs other than this one, read off its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from qcam.runtime.graph import Graph, attribute
from qcam.runtime.grouping import KernelGroup
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror.integer.saturation import saturable_pairs

#: Float operators whose kernels multiply and add, and those that add over axes.
_FUSED = (
    "BatchNormalization",
    "HardSigmoid",
    "InstanceNormalization",
    "LayerNormalization",
    "Reciprocal",
    "ReduceL2",
    "Resize",
)
_SUMMED = ("GlobalAveragePool", "InstanceNormalization", "ReduceMean", "ReduceSum")


@dataclass(frozen=True)
class Exposure:
    """Weights that other kernels may treat otherwise.

    Attributes:
        saturable: Pairs of weights whose products can leave 16 bits on x86 CPUs with AVX2 but without VNNI.
        pairs: Pairs of weights in all that such kernels add.
        lowest: Weights of -128, which overflow on ARM CPUs without dot-product instructions.
        fixed_point: Integer additions, which ARM64 kernels compute in fixed point.
        fused: Integer multiplications, and float operators that multiply and add, which ARM64 kernels round once less.
        summed: Float means and sums over axes, which ARM64 kernels add in another order.
    """

    saturable: int
    pairs: int
    lowest: int
    fixed_point: int
    fused: int
    summed: int
    normalised: int

    def differs(self, one: KernelFamily, other: KernelFamily) -> bool:
        """Tell whether two families may compute different codes; weights of -128 aside, which depend on the processor."""
        reach = {
            "name": 0, "wraps_lowest_weight": 0, "pairs_saturate": self.saturable, "fixed_point_add": self.fixed_point,
            "fused_batch_norm": self.fused, "adds_neighbours": self.summed, "adds_in_fours": self.summed,
            "normalises_eight": self.normalised,
        }  # fmt: skip
        ways = (way.name for way in fields(KernelFamily) if getattr(one, way.name) != getattr(other, way.name))
        return any(reach.get(way, 1) for way in ways)  # a way of differing that is new here may reach anything


def exposure(graph: Graph, groups: Iterable[KernelGroup]) -> Exposure:
    """Count what other kernels may treat otherwise.

    Args:
        graph: The graph.
        groups: Its integer groups.
    """
    saturable = pairs = lowest = additions = 0
    groups = tuple(groups)
    inside = {id(node) for group in groups for node in (group.node, *group.inner)}
    operators = Counter(
        node.op_type
        for node in graph.model.graph.node
        if id(node) not in inside and (node.op_type != "Resize" or attribute(node, "mode") == b"linear")
    )
    normalised = operators["LayerNormalization"]
    summed = sum(operators[name] for name in _SUMMED)
    fused = sum(operators[name] for name in _FUSED)
    for group in groups:
        additions += group.kernel == "QLinearAdd"
        fused += group.kernel == "QLinearMul"
        weight = group.inputs[1] if group.node.op_type in ("Conv", "Gemm", "MatMul") and len(group.inputs) > 1 else None
        if weight is None or weight.dtype != np.int8 or weight.tensor not in graph.initializers:
            continue
        raw = graph.array(weight.tensor).astype(np.int16)
        lowest += int((raw == -128).sum())
        groups_of_node = int(attribute(group.node, "group", 1))  # type: ignore[call-overload]
        if group.node.op_type == "Conv":
            raw = raw[:, :, None] if raw.ndim == 3 else raw
            if raw.ndim != 4 or (groups_of_node > 1 and raw.shape[1] == 1 and raw.shape[0] == groups_of_node):
                continue
        elif raw.ndim == 2:
            raw = (raw if attribute(group.node, "transB", 0) else raw.T)[:, :, None, None]
        else:
            continue
        if group.inputs[0] is not None and group.inputs[0].dtype != np.uint8:
            continue  # kernels for signed activations widen to 16 bits first
        saturable += len(saturable_pairs(raw, groups_of_node))
        pairs += raw.shape[0] * (raw[0].size // 2)
    return Exposure(saturable, pairs, lowest, additions, fused, summed, normalised)
