"""Where a foreign file carries the CAM layer: the last map before pooling, its codes where it has some."""

from __future__ import annotations

import difflib

import numpy as np

from qcam.common.errors import QcamError
from qcam.exporters.importing.decisions import Decisions
from qcam.exporters.layout import layout_of
from qcam.runtime.graph import Graph
from qcam.runtime.manifest import Tap
from qcam.runtime.tables import CHANNELS_FIRST_OPERATORS, CODE_BITS, QUANTIZERS

#: Operators that only make a map smaller.
_POOLING = frozenset({"MaxPool", "AveragePool", "LpPool"})
#: Operators that make a map larger, or put a border around it.
_SIZING = frozenset({"Pad", "Resize", "Upsample"})
_NAMED = 6


def find_taps(
    graph: Graph, there: set[str], asked: str | None, logits: str, where: str, noted: Decisions
) -> tuple[Tap, tuple[Tap, ...]]:
    """Find the CAM layer, and what else the tail from it to the logits reads.

    Args:
        graph: The normalised graph of the file with its logits.
        there: Tensors of the file itself, of which each can be handed out.
        asked: A tensor of the file, its activation or its codes; None: the last map before pooling.
        logits: The logits.
        where: What messages call the file.
        noted: Takes what was decided.

    Returns:
        The tap, and the skip tensors.

    Raises:
        QcamError: If there is no map, what was asked for is none, or the logits do not depend on it.
    """
    needed = graph.upstream([logits])
    if asked is None:
        tensor, because = _last_map(graph, needed, where), "the last map before pooling"
    else:
        tensor, because = _asked(graph, needed, asked, where), "{cam_layer}"
    output, why = _handed_out(graph, tensor, needed, there)
    because += why
    if output not in there:
        raise QcamError(f"{where}: the map {tensor} is no tensor of the file itself; name another with {{cam_layer}}")
    tail = graph.tail(output, logits)
    tap = _described(graph, output, there)
    skips = tuple(_described(graph, source, there) for source in dict.fromkeys(tail.skips.values()))
    for skip in skips:
        if skip.output not in there:
            raise QcamError(
                f"{where}: behind {tensor}, the logits also need {skip.output}, which the file itself does not hold; name "
                "another tensor with {cam_layer}"
            )
    _, channels, height, width = graph.shapes[tensor]
    what = tap.tensor if tap.dtype == "float32" else f"{tap.tensor}, {tap.dtype} codes {tap.output}"
    noted.note("CAM layer", f"{what}, {channels} × {height} × {width}", because)
    return tap, skips


def _handed_out(graph: Graph, tensor: str, needed: set[str], there: set[str]) -> tuple[str, str]:
    """Return the codes of a map where they are all that is read of it, else the map itself, and why."""
    readers = [node for node in graph.consumers.get(tensor, []) if needed.intersection(node.output)]
    quantizers = [node for node in readers if node.op_type == "QuantizeLinear" and node.input[0] == tensor]
    if not quantizers:
        quantized = any(node.op_type in QUANTIZERS for node in graph.model.graph.node)
        return tensor, "; float, for nothing quantizes it" if quantized else ""
    if len(readers) > 1:  # the gradient would miss what the others read
        return tensor, f"; float, for {len(readers)} operators read it"
    scale, zero_point = (graph.constant(name) for name in quantizers[0].input[1:3])
    if scale is None or zero_point is None or scale.size != 1 or str(zero_point.dtype) not in CODE_BITS:
        return tensor, "; float, for its quantizer has no single scale"
    codes = str(quantizers[0].output[0])
    return (codes, "") if codes in there else (tensor, "; float, for its codes are no tensor of the file itself")


def map_size(graph: Graph, tap: Tap) -> tuple[int | None, ...]:
    """Return channels, height and width of a tap."""
    return tuple(graph.shapes.get(tap.output, graph.shapes.get(tap.tensor, ()))[1:])


def _described(graph: Graph, output: str, there: set[str]) -> Tap:
    node = graph.producer.get(output)
    if node is None or node.op_type != "QuantizeLinear":
        return Tap(output, output, "float32")
    scale, zero_point = (np.asarray(graph.array(name)) for name in node.input[1:3])
    if scale.size != 1:
        raise QcamError(f"tensor {node.input[0]} is quantized per channel; a tap needs one scale")
    tensor = str(node.input[0])
    return Tap(tensor if tensor in there else output, output, str(zero_point.dtype), float(scale), int(zero_point))


def _last_map(graph: Graph, needed: set[str], where: str) -> str:
    """Return the last map that the logits depend on, before what pools it, as the activation in front of its quantizer."""
    last = next((node.output[0] for node in reversed(graph.model.graph.node) if _is_map(graph, node.output[0], needed)), None)
    if last is None:
        raise QcamError(
            f"{where}: no map with height and width leads to the logits (is it a transformer, or are the shapes not known?); "
            "name one with {cam_layer}"
        )
    _require_sizes(graph, str(last), needed, where)
    tensor = str(last)
    while (node := graph.producer.get(tensor)) is not None and node.op_type in (*QUANTIZERS, *_POOLING):
        if not _is_map(graph, str(node.input[0]), needed):
            break
        tensor = str(node.input[0])
    _require_channels_first(graph, tensor, where)
    return tensor


def _require_sizes(graph: Graph, last: str, needed: set[str], where: str) -> None:
    """Refuse to take a map for the last one where the sizes of others behind it cannot be told."""
    nodes = list(graph.model.graph.node)
    behind = nodes[nodes.index(graph.producer[last]) + 1 :]
    for node in behind:
        shape = graph.shapes.get(node.output[0])
        unknown = node.op_type in CHANNELS_FIRST_OPERATORS if shape is None else len(shape) == 4 and None in shape[2:]
        if unknown and node.op_type in CHANNELS_FIRST_OPERATORS | _SIZING and needed.intersection(node.output):
            raise QcamError(
                f"{where}: the height and width of {node.output[0]} ({node.op_type}) cannot be told from the file, so that the "
                "last map cannot either; save the file with sizes that are constants, or name a map of known size with "
                "{cam_layer}"
            )


def _asked(graph: Graph, needed: set[str], asked: str, where: str) -> str:
    """Return the activation that was asked for; by the name of its codes, the activation in front of them."""
    if asked not in graph.producer:
        maps = [name for name in graph.producer if _is_map(graph, name, needed)]
        near = difflib.get_close_matches(asked, maps, n=_NAMED, cutoff=0.0)
        raise QcamError(
            f"{where} has no tensor {asked} for {{cam_layer}}; maps with similar names: {', '.join(near) or 'none'}"
        )
    tensor = asked
    while (node := graph.producer.get(tensor)) is not None and node.op_type in QUANTIZERS:
        tensor = str(node.input[0])
    if not graph.is_spatial(tensor):
        shape = "×".join("batch" if size is None else str(size) for size in graph.shapes.get(tensor, ())) or "unknown"
        raise QcamError(
            f"{where}: {{cam_layer}} {asked} is no map (shape {shape}); the last one is {_last_map(graph, needed, where)}"
        )
    if tensor not in needed:
        raise QcamError(f"{where}: the logits do not depend on {{cam_layer}} {asked}; leave it out, or name another")
    _require_channels_first(graph, tensor, where)
    return tensor


def _require_channels_first(graph: Graph, tensor: str, where: str) -> None:
    layout = layout_of(graph, tensor)
    if layout != "first":
        what = "has its channels last" if layout else "has axes of which the channels' cannot be told (a transformer?)"
        raise QcamError(
            f"{where}: the map {tensor} {what}; name a tensor of batch × channels × height × width with {{cam_layer}}"
        )


def _is_map(graph: Graph, tensor: str, needed: set[str]) -> bool:
    return tensor in needed and tensor in graph.producer and tensor not in graph.fixed and graph.is_spatial(tensor)
