"""What a foreign file returns: which tensor holds the class scores, and what stands between it and them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from qcam.common.errors import QcamError
from qcam.exporters.importing.decisions import Decisions
from qcam.runtime.graph import Graph, attribute, type_name
from qcam.runtime.tables import CODE_BITS, QUANTIZERS

#: Operators that turn scores into shares, each with its default axis in the operator sets that are imported.
_SHARES = {"Softmax": -1, "LogSoftmax": -1}
#: Operators between scores and shares that change no value.
_ALONG = QUANTIZERS | {"Flatten", "Reshape", "Squeeze", "Identity"}
_NAMED = 8


@dataclass(frozen=True)
class Scores:
    """The class scores.

    Attributes:
        tensor: Their tensor in the normalised graph: float32 or codes, of two dimensions or of four with one place.
        classes: How many there are.
        returned: The output of the file that they are, or that is computed from them; empty where it is none.
        codes: Whether they are codes, which have to be dequantized.
        flat: Whether they are batch × classes.
    """

    tensor: str
    classes: int
    returned: str
    codes: bool
    flat: bool


def find_scores(graph: Graph, asked: str | None, classes: int | None, where: str, noted: Decisions) -> Scores:
    """Find the class scores.

    Args:
        graph: The normalised graph.
        asked: The tensor that was asked for; None: the one output of the shape of scores.
        classes: How many classes there are, where that is known.
        where: What messages call the file.
        noted: Takes what was decided.

    Returns:
        The scores; in front of a softmax where there is one.

    Raises:
        QcamError: If no output, or several, have the shape of scores, or what was asked for has another.
    """
    if asked is not None:
        name, count = asked, _classes(graph, asked)
        if name not in graph.producer:
            near = difflib.get_close_matches(name, list(graph.producer), n=4, cutoff=0.0)
            raise QcamError(f"{where} has no tensor {name} for {{logits}}; nearest: {', '.join(near)}")
        if count is None:
            raise QcamError(f"{where}: {{logits}} {name} has shape {_shape(graph, name)}; scores are batch × classes")
        because = "{logits}"
    else:
        name, count, because = _by_shape(graph, classes, where)
    if classes is not None and count != classes and not (count == 1 and classes == 2):
        raise QcamError(f"{where}: {name} has {count} classes, {classes} are asked for; name another output with {{logits}}")
    front = _before_softmax(graph, name)
    if asked is not None or front is None or _classes(graph, front) != count:
        tensor, told = name, because
        if front is not None:
            told = f"{because}; it is a softmax, as was asked for"
        elif _has_softmax(graph, name):
            told = f"{because}; a softmax is inside, and more than shapes behind it, so scores are what it returns"
    else:
        tensor, told = front, f"{because}: in front of the softmax that output {name} is"
    codes = _type(graph, tensor) in CODE_BITS
    flat = len(graph.shapes[tensor]) == 2
    how = [*(["dequantized outside of the file"] if codes else []), *([] if flat else ["made batch × classes"])]
    noted.note("logits", f"{tensor}, {count} classes", "; ".join([told, *how]))
    return Scores(tensor, count, name if name in graph.outputs else "", codes, flat)


def _by_shape(graph: Graph, classes: int | None, where: str) -> tuple[str, int, str]:
    """Return the one output that has the shape of scores, how many classes that are, and what tells it."""
    counts = {name: count for name in graph.outputs if (count := _classes(graph, name)) is not None}
    fitting = {name: count for name, count in counts.items() if classes in (None, count)}
    every = ", ".join(f"{name} ({_shape(graph, name)})" for name in graph.outputs[:_NAMED])
    if not counts:
        raise QcamError(
            f"{where}: no output has the shape of class scores, batch × classes: {every}; name the tensor of scores with "
            "{logits}"
        )
    if not fitting:
        raise QcamError(f"{where}: no output has {classes} classes: {every}; correct {{classes}}, or name one with {{logits}}")
    if len(fitting) > 1:
        raise QcamError(f"{where}: several outputs have the shape of class scores: {every}; name one with {{logits}}")
    name, count = next(iter(fitting.items()))
    if len(graph.outputs) == 1:
        return name, count, "the one output"
    return name, count, "the one output of that shape" if len(counts) == 1 else "the one output of so many classes"


def _classes(graph: Graph, tensor: str) -> int | None:
    """Return how many classes a tensor can hold the scores of; None if it cannot."""
    shape = graph.shapes.get(tensor)
    if shape is None or len(shape) not in (2, 4) or shape[1] is None or shape[1] < 1 or shape[2:] not in ((), (1, 1)):
        return None
    return shape[1] if _type(graph, tensor) in ("float32", *CODE_BITS) else None


def _shape(graph: Graph, tensor: str) -> str:
    shape = graph.shapes.get(tensor)
    return "unknown shape" if shape is None else "×".join("batch" if size is None else str(size) for size in shape)


def _type(graph: Graph, tensor: str) -> str:
    """Return the numpy name of a tensor's type, as the file or shape inference says it."""
    model = graph.model
    for value in (*model.graph.output, *model.graph.value_info):
        if value.name == tensor and value.type.tensor_type.elem_type:
            kind = type_name(value.type.tensor_type.elem_type)
            return "float32" if kind == "float" else kind
    return ""


def _before_softmax(graph: Graph, tensor: str) -> str | None:
    """Return the scores that a softmax over classes turns into a tensor; None where there is none right in front of it."""
    node = graph.producer.get(tensor)
    while node is not None and node.op_type in _ALONG and node.input:
        node = graph.producer.get(node.input[0])
    if node is None or node.op_type not in _SHARES:
        return None
    shape = graph.shapes.get(node.output[0], ())
    axis = attribute(node, "axis", _SHARES[node.op_type])
    if not isinstance(axis, int) or not shape or axis % len(shape) != 1:
        return None
    return str(node.input[0])


def _has_softmax(graph: Graph, tensor: str) -> bool:
    """Tell whether a softmax over classes lies in front of a tensor."""
    count = _classes(graph, tensor)
    return any(
        node.op_type in _SHARES and _classes(graph, node.output[0]) == count
        for name in graph.upstream([tensor])
        if (node := graph.producer.get(name)) is not None
    )
