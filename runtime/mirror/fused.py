"""Steps taken together where nothing looks at what lies between them: the same numbers in fewer passes over memory.

A forward pass of the mirror is bound by memory, not by arithmetic. Two things are taken together: QuantizeLinear with the
DequantizeLinear nodes that read it (`fake_quant`), and a table lookup with the table that its operand came from (`integer`;
QLinearMul of a tensor and its QLinearSigmoid is a function of one code).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch

from qcam.runtime.codes import Codes, codes_of_dequantized, codes_of_quantizer
from qcam.runtime.graph import Graph
from qcam.runtime.mirror import compiled
from qcam.runtime.mirror.clipped import ClippedTensor
from qcam.runtime.mirror.integer.elementwise import PairLookup
from qcam.runtime.mirror.integer.kernel import Lookup
from qcam.runtime.mirror.parallel import across, memory, parts_of
from qcam.runtime.mirror.steps import Step


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear and all DequantizeLinear nodes behind it, of one scale and zero point for the whole tensor.

    Attributes:
        quantizer: The QuantizeLinear.
        results: The outputs of the DequantizeLinear nodes: the same values each.
        codes: What the codes mean.
    """

    quantizer: onnx.NodeProto
    results: tuple[str, ...]
    codes: Codes


class FakeQuantize:
    """DequantizeLinear(QuantizeLinear(x)): rne(clamp(x / scale, lo - zp, hi - zp)) · scale.

    The zero point is not added and subtracted again; both are exact.
    """

    def __init__(self, codes: Codes, device: torch.device) -> None:
        """Take the parameters.

        Args:
            codes: What the codes mean; one scale.
            device: Where it computes.
        """
        information = np.iinfo(codes.dtype.name)
        zero = int(codes.zero_point)
        self._low, self._high = information.min - zero, information.max - zero
        # A tensor on the device: PyTorch multiplies by the reciprocal of a number, which rounds ties differently.
        self._number = np.float32(codes.scale)
        self._scale = torch.from_numpy(np.array(codes.scale)).to(device)

    def __call__(self, x: torch.Tensor, clipped: ClippedTensor | None = None) -> torch.Tensor:
        """Return the quantized values of x, float32; count what is clipped, if asked to."""
        result = torch.empty_like(x)
        self._write(x, result, clipped)
        return result

    def in_place(self, x: torch.Tensor, clipped: ClippedTensor | None = None) -> torch.Tensor:
        """Return them in the memory of x."""
        self._write(x, x, clipped)
        return x

    def _write(self, x: torch.Tensor, into: torch.Tensor, clipped: ClippedTensor | None) -> None:
        values, written, loops = memory(x), memory(into), compiled.loops()
        alike = x.device.type == "cpu" and x.dtype == torch.float32 and x.stride() == into.stride()
        if loops is None or values is None or written is None or not alike:
            if clipped is not None:
                clipped.count(x)
            into.copy_(self._rounded(x / self._scale))
            return

        def work(part: slice) -> None:
            if x is into:
                loops.fake_quantize(values[part].numpy(), self._number, self._low, self._high)
            else:
                loops.fake_quantized(values[part].numpy(), self._number, self._low, self._high, written[part].numpy())

        if clipped is None or not clipped.with_each(values.numpy(), work):
            if clipped is not None:
                clipped.count(x)
            across(parts_of(len(values), 1, values.device), work)

    def _rounded(self, steps: torch.Tensor) -> torch.Tensor:
        return steps.clamp_(self._low, self._high).round_().mul_(self._scale)


def find_pairs(graph: Graph, keep: Iterable[str]) -> list[Pair]:
    """Find quantizers whose codes nothing but DequantizeLinear reads.

    Args:
        graph: A QDQ graph.
        keep: Tensors that have to be computed as they are.
    """
    kept = graph.fixed.union(keep)
    pairs = []
    for node in graph.model.graph.node:
        if node.op_type != "QuantizeLinear" or node.output[0] in kept:
            continue
        codes = codes_of_quantizer(graph, node)
        results = tuple(reader.output[0] for reader in graph.consumers.get(node.output[0], []))
        if codes is None or codes.scale.size > 1 or not results or kept.intersection(results):
            continue
        meanings = [codes_of_dequantized(graph, result) for result in results]
        if all(meaning is not None and meaning.tensor == codes.tensor and codes.same_meaning(meaning) for meaning in meanings):
            pairs.append(Pair(node, results, codes))
    return pairs


def compose_lookups(steps: Iterable[Step]) -> list[Step]:
    """Make one table of two where both operands of a lookup are functions of one tensor of codes."""
    composed: list[Step] = []
    tables: dict[str, tuple[str, Lookup]] = {}
    for step in steps:
        found = step
        if isinstance(step.compute, PairLookup) and len(step.inputs) == 2:
            source = _common_source(*step.inputs, tables)
            if source is not None:
                name, left, right = source
                found = replace(step, compute=step.compute.of_one(left, right), inputs=(name,))
        elif isinstance(step.compute, Lookup):
            tables[step.outputs[0]] = (step.inputs[0], step.compute)
        composed.append(found)
    return composed


def _common_source(
    first: str, second: str, tables: Mapping[str, tuple[str, Lookup]]
) -> tuple[str, Lookup | None, Lookup | None] | None:
    """Return the tensor that two tensors are functions of, and the tables that make them of it; None for themselves."""
    lefts: list[tuple[str, Lookup | None]] = [(first, None), *([tables[first]] if first in tables else [])]
    rights: list[tuple[str, Lookup | None]] = [(second, None), *([tables[second]] if second in tables else [])]
    for name, left in lefts:
        for other, right in rights:
            if name == other:
                return name, left, right
    return None
