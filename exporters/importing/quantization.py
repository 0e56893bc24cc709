"""How a foreign file is quantized, as its manifest tells it: read off the normalised graph, nothing assumed."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto

from qcam.common.vocabulary import PRECISIONS
from qcam.runtime.described import Quantization
from qcam.runtime.graph import Graph
from qcam.runtime.tables import CODE_BITS, QUANTIZERS, WEIGHT_WAY, is_integer_kernel


def described(graph: Graph, file: ModelProto, logits: str) -> Quantization:
    """Tell how a file is quantized.

    Args:
        graph: The normalised graph.
        file: The file itself.
        logits: What became of the class scores, in words.

    Returns:
        Nothing for a float file; types of activations and weights, each as often as there are several, otherwise.
    """
    activations, weights = set(), set()
    symmetric, per_channel = True, False
    for node in graph.model.graph.node:
        if node.op_type not in QUANTIZERS or len(node.input) < 3:
            continue
        zero_point = graph.constant(node.input[2])
        kind = "" if zero_point is None else str(zero_point.dtype)
        if kind not in CODE_BITS or zero_point is None:
            continue
        if _is_weight(graph, str(node.input[0])):
            weights.add(kind)
            per_channel |= zero_point.size > 1
        else:
            activations.add(kind)
            symmetric &= not zero_point.any() and kind.startswith("int")
    if not activations and not weights:
        return Quantization()
    kernels = any(is_integer_kernel(node.op_type) for node in file.graph.node)
    return Quantization(
        format="QOperator" if kernels else "QDQ",
        activation=_words(activations),
        activation_symmetric=symmetric if activations else None,
        weight=_words(weights),
        weight_per_channel=per_channel if weights else None,
        logits=logits,
    )


def codes_of(how: Quantization) -> set[int]:
    """Return the bits of the codes that activations have."""
    kinds = (how.activation or "").lower().split(" + ")
    return {CODE_BITS[kind] for kind in kinds if kind in CODE_BITS}


def name_for(how: Quantization) -> str:
    """Return the name of a precision that nobody named: by the bits of activations, else of weights alone."""
    bits = codes_of(how)
    if bits:
        return "int8" if 8 in bits else "int16"
    return "f32" if not how.weight else "weights-only"


def nearest(how: Quantization) -> str:
    """Return which of qcam's own precisions a file is nearest to, for what is accepted of its mirror."""
    known = name_for(how)
    return known if known in PRECISIONS else "int8"


def _words(kinds: Iterable[str]) -> str | None:
    return " + ".join(sorted(kind.upper() for kind in kinds)) or None


def _is_weight(graph: Graph, tensor: str) -> bool:
    """Tell whether a tensor is a constant, or one that was quantized, turned or reshaped."""
    seen = set()
    while tensor not in seen:
        seen.add(tensor)
        if tensor in graph.fixed:
            return True
        node = graph.producer.get(tensor)
        if node is None or node.op_type not in WEIGHT_WAY:
            return False
        tensor = str(node.input[0])
    return False


def producer_of(model: ModelProto) -> str:
    """Return which tool says that it wrote a file; empty if none does."""
    text = " ".join(part for part in (model.producer_name, model.producer_version) if part)
    return "".join(letter for letter in text if letter.isprintable())[:80]
