"""One file on its way to a precision: everything in it is found, and nothing of it runs."""

from __future__ import annotations

from dataclasses import dataclass

from qcam.common.errors import QcamError
from qcam.exporters.importing.copies import hand_out_scores, hand_out_taps, tensors_of
from qcam.exporters.importing.decisions import Decisions
from qcam.exporters.importing.inputs import Asked, find_input
from qcam.exporters.importing.ordering import ImportOrder
from qcam.exporters.importing.outputs import find_scores
from qcam.exporters.importing.quantization import codes_of, described, name_for
from qcam.exporters.importing.reading import ForeignFile, analysed
from qcam.exporters.importing.taps import find_taps, map_size
from qcam.runtime.bundle import Bundle, PrecisionEntry
from qcam.runtime.graph import Graph
from qcam.runtime.manifest import BITWISE

#: Bits of the codes that a precision of this name computes with.
_BITS = {"int8": 8, "int16": 16}


@dataclass
class Part:
    """One file on its way to a precision.

    Attributes:
        name: What the precision is called; empty until that is known.
        file: The file.
        graph: Its normalised graph.
        entry: What the manifest says of it, as far as it is known.
        scores: The tensor of the scores, in the normalised graph.
        returned: The output that carries the scores; empty where it is another tensor.
        classes: How many classes it has.
        noted: What was decided.
    """

    name: str
    file: ForeignFile
    graph: Graph
    entry: PrecisionEntry
    scores: str
    returned: str
    classes: int
    noted: Decisions


def read_part(order: ImportOrder, file: ForeignFile, like: Bundle | None, name: str, cam_layer: str | None) -> Part:
    """Find everything in a file, whose graph gets the scores and the CAM layer as outputs; nothing runs.

    Args:
        order: What it is imported with.
        file: The file.
        like: A bundle of the same network.
        name: What the precision is called; empty: by what is in the file.
        cam_layer: The tensor that carries the CAM layer; None for the last map before pooling.

    Raises:
        QcamError: If something cannot be told, or is not what was asked for; names the option.
    """
    noted = Decisions()
    size = order.size if like is None else like.preprocessing.crop
    # A float file beside it may take other values than the quantized one; what is told is of the quantized one.
    own = file.path == order.file
    asked = Asked(size, order.layout if own else None, order.values if own else None, order.mean is not None)
    graph = analysed(file.model, file, size, asked.layout)
    taken = find_input(graph, asked, file.where, noted)
    classes = _count(order, like)
    logits = order.logits if own or (order.logits is not None and order.logits in graph.producer) else None
    scores = find_scores(graph, logits, classes, file.where, noted)
    how = described(graph, file.model, "as the file has them")
    found = name or name_for(how)
    if own and order.float_file is not None and found == "f32":
        raise QcamError(f"{file.where} is a float file, and so is {{float}}; give the quantized file in its place")
    bits = codes_of(how)
    if found in _BITS and _BITS[found] not in bits:
        raise QcamError(
            f"{file.where}: its activations are {how.activation or 'floats'}, so it is no {found}; leave {{precision}} out, or "
            "give a name of its own"
        )
    if found == "f32" and (how.activation or how.weight):
        raise QcamError(
            f"{file.where} is quantized ({how.activation or how.weight}), so it is no f32; give another {{precision}}"
        )
    copy = file.model
    before = {output.name for output in copy.graph.output}
    output = hand_out_scores(copy, graph, scores, file.where)
    graph = analysed(copy, file, size, asked.layout)
    tap, skips = find_taps(graph, tensors_of(copy), cam_layer, output, file.where, noted)
    hand_out_taps(copy, graph, (tap, *skips))
    changed = file.inlined or before != {output.name for output in copy.graph.output}
    what = " × ".join(filter(None, (how.activation, how.weight))) or "float"
    noted.note("precision", f"{found}: {what}", "{precision}" if name and name != "f32" else "the file")
    entry = PrecisionEntry(
        found, "", "", output, tap, skips, how, input=taken, session=dict(order.session), proof=BITWISE if changed else ""
    )
    return Part(found, file, graph, entry, scores.tensor, scores.returned, scores.classes, noted)


def _count(order: ImportOrder, like: Bundle | None) -> int | None:
    """Return how many classes there are, where that is told."""
    if like is not None:
        return len(like.classes)
    return order.classes if isinstance(order.classes, int) else None if order.classes is None else len(order.classes)


def refuse_unlike(parts: list[Part]) -> None:
    """Refuse a float file that is another network than the quantized one.

    Args:
        parts: The quantized file, and the float one where there is one.

    Raises:
        QcamError: If the two differ in what one network has; names the option.
    """
    if len(parts) < 2:
        return
    one, other = parts
    for what, option, first, second in (
        ("classes", "{logits}", one.classes, other.classes),
        ("an input of", "{float}", one.entry.input.size, other.entry.input.size),
        ("channels", "{float}", one.entry.input.channels, other.entry.input.channels),
        ("a CAM layer of", "{float_cam_layer}", map_size(one.graph, one.entry.tap), map_size(other.graph, other.entry.tap)),
    ):
        if first != second:
            raise QcamError(
                f"{one.file.path.name} has {what} {plain(first)}, {other.file.path.name} {plain(second)}: they are not one "
                f"network seen at one place; correct {option}"
            )


def plain(value: object) -> str:
    """Return a size in words: numbers with × between them.

    Args:
        value: Some numbers, or one.
    """
    return " × ".join(map(str, value)) if isinstance(value, tuple) else str(value)
