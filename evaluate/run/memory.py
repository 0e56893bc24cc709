"""What a worker takes of memory, estimated from its bundles' files; and what of it is opened only when its turn comes.

A precision of a bundle is a session in ONNX Runtime and a mirror in PyTorch. Both hold its weights, as a rule in float32, and
take more while they are made than when they are done. Where all of them do not fit, some are kept, and the others are opened,
run over many images and closed again, one precision at a time. Figures do not depend on it.

The numbers here were measured (`benchmarks/workers.py`); docs/scale.md holds estimates against what workers really took.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from qcam.common.errors import QcamError
from qcam.common.vocabulary import CamMethod
from qcam.evaluate.run.perturbed import MASKING
from qcam.runtime.bundle import Bundle, PrecisionEntry
from qcam.runtime.graph import Graph
from qcam.runtime.skimmed import skim

if TYPE_CHECKING:
    from qcam.evaluate.run.options import StudyOptions

#: Libraries, decoding, tables, compiled loops: what a worker takes without any network.
BASE = 820 << 20
#: What a worker may take where several networks share it, or where memory is short.
ROOM = 3_000_000_000
#: A file of at least this part of its weights' size in float32 holds them as floats; of at least this part in 16 bits.
_FLOAT, _SIXTEEN = 0.75, 0.375
#: What a float session takes of its weights, some of which it keeps in two orders; and while the file is there as well.
_PACKED, _OPENING = 1.1, 2.1
#: What a session on the CPU takes while it also writes its packed weights down: of float weights, of a file of 8 bits.
_WRITING, _WRITING_CODES = 2.8, 3.5
#: The largest weight is there so many times while a mirror converts it.
_CONVERTED = 1.2
#: Layers of so many weights and more are multiplied as codes in an int8 mirror's tail (`runtime/mirror/products_of_codes.py`).
_AS_CODES = 1 << 22
#: Operators with weights; and what a second tail takes of those behind the tap: as floats, and as the codes of its kernels.
_WEIGHTED, _SECOND_TAIL = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}), 1.25
#: Activations alive at a time → memory of a session's arena, which grows by doubling, and of PyTorch.
_ARENA, _IN_PYTORCH = 2.0, 2.0


@dataclass(frozen=True)
class Shape:
    """What of a network decides on memory, in bytes of float32.

    Attributes:
        weights: All weights.
        tail: Those behind the tap.
        products: Those of them that an int8 mirror holds as codes, too.
        largest: The largest one.
        activations: What is alive at a time of one image's activations, at most.
        layers: How many layers behind the tap have weights, those among `products` left out.
    """

    weights: int
    tail: int
    products: int
    largest: int
    activations: int
    layers: int = 0


@dataclass(frozen=True)
class Part:
    """What one precision of a bundle takes, in bytes.

    Attributes:
        model: Model id.
        precision: Its name.
        kept: Session and mirror, at rest.
        running: What they take besides while they run: of the session, of the mirror.
        building: What building the mirror takes besides: the file is there until it is done.
        turn: The most that it takes at a time where session and mirror are opened one after the other.
    """

    model: str
    precision: str
    kept: int
    running: tuple[int, int]
    building: int
    turn: int


@dataclass(frozen=True)
class Arrangement:
    """What a worker keeps open.

    Attributes:
        all_bytes: What it takes at most, estimated.
        apart: (model id, precision) of what is opened only for its turn.
    """

    all_bytes: int
    apart: frozenset[tuple[str, str]] = frozenset()

    def apart_of(self, bundle: Bundle) -> frozenset[str]:
        """Return the precisions of a bundle that are opened only for their turn."""
        return frozenset(precision for model, precision in self.apart if model == bundle.model_id)


def arranged(parts: Sequence[Part], room: int | None) -> Arrangement:
    """Decide what is kept open: all where it fits, else what is smallest first.

    Args:
        parts: All precisions of all bundles.
        room: What a worker may take; None for as much as it needs. What one precision needs at its turn, it takes.
    """
    everything = Arrangement(_peak(parts, ()))
    if room is None or everything.all_bytes <= room:
        return everything
    apart = list(parts)
    for part in sorted(parts, key=lambda part: part.kept):
        others = [other for other in apart if other is not part]
        if _peak([other for other in parts if other not in others], others) <= room:
            apart = others
    names = frozenset((part.model, part.precision) for part in apart)
    return Arrangement(_peak([part for part in parts if part not in apart], apart), names)


def _peak(kept: Sequence[Part], apart: Sequence[Part]) -> int:
    """Return what a worker takes at most with some parts kept open, and the others opened one at a time."""
    arena = max((part.running[0] for part in kept), default=0)  # one for all that are kept
    running = arena + max((part.running[1] for part in kept), default=0)
    building = max((part.building for part in kept), default=0)
    turn = arena + max((part.turn for part in apart), default=0)
    return BASE + sum(part.kept for part in kept) + max(running, building, turn)


def parts_of(bundles: Iterable[Bundle], precisions: Iterable[Sequence[str]], options: StudyOptions) -> list[Part]:
    """Estimate what the precisions of bundles take.

    Args:
        bundles: The bundles.
        precisions: Those that are run of each.
        options: The batch size counts, and whether the simulation is run.
    """
    return [
        _part(bundle, bundle.precision(name), _shape_of(bundle), options)
        for bundle, names in zip(bundles, precisions, strict=True)
        for name in names
    ]


def _part(bundle: Bundle, entry: PrecisionEntry, shape: Shape, options: StudyOptions) -> Part:
    size, weights = _size(bundle, entry.file, entry.external), shape.weights
    activations = shape.activations * options.batch_size
    writes = options.settings.provider == "CPU"  # a copy that it is opened again from (`runtime/deployed/packed.py`)
    codes, codes_of_8_bits = 0, False
    if size >= _FLOAT * weights:
        session, opening = int(_PACKED * weights), int((_WRITING if writes else _OPENING) * weights)
        copied = 0
    elif size >= _SIXTEEN * weights:  # of 16 bits: ONNX Runtime dequantizes them when it loads the file, and keeps both
        session = opening = weights + size
        copied = size
    else:
        session, opening, copied = size, int((_WRITING_CODES if writes else 2) * size), size
        codes, codes_of_8_bits = shape.products // 4, True
    if entry.original is not None and not entry.promised:  # a second session, of the file that is deployed
        other = _size(bundle, entry.original.file, entry.original.external)
        session, opening = session + max(other, session), opening + max(other, session)
    if options.method == CamMethod.ABLATION:  # sessions of the tail, of which two hold its weights
        session += int(2 * _PACKED * shape.tail)
    held = shape.weights if options.fake_quant else shape.tail
    mirror = held + codes
    if codes_of_8_bits and options.settings.provider == "CPU" and shape.layers > 1:  # a second tail (`evaluate/run/tails.py`)
        mirror += int(_SECOND_TAIL * shape.tail)
    building = size + copied + int(_CONVERTED * min(shape.largest, held))
    arena = int(_ARENA * activations)
    computing = int(_IN_PYTORCH * activations) if options.fake_quant else 0
    turn = max(opening, session + arena, mirror + building, mirror + computing)
    if options.faithfulness or options.method in MASKING:
        turn = max(turn, session + mirror + max(arena, computing))
    return Part(bundle.model_id, entry.name, session + mirror, (arena, computing), building, turn)


def _size(bundle: Bundle, file: str, external: Iterable[str]) -> int:
    """Return the bytes of an ONNX file and of those that it keeps weights in."""
    places = [bundle.folder / file, *((bundle.folder / file).parent / name for name in external)]
    return sum(place.stat().st_size for place in places)


def _shape_of(bundle: Bundle) -> Shape:
    """Look at the float file of a bundle, or at its first; one that cannot be read is refused when it is opened, not here."""
    names = [entry.name for entry in bundle.precisions]
    entry = bundle.precision("f32" if "f32" in names else names[0])
    try:
        return _shape(bundle.path(entry.name), entry.tap.output, entry.logits)
    except QcamError:
        size = _size(bundle, entry.file, entry.external)
        return Shape(size, size, 0, size, 0)


@cache
def _shape(path: Path, tap: str, logits: str) -> Shape:
    model = skim(path)
    graph = Graph(model)
    if not any(value.type.tensor_type.HasField("shape") for value in model.graph.value_info):
        try:
            graph = Graph(onnx.shape_inference.infer_shapes(model))
        except Exception:  # it raises its own types; without shapes activations count as nothing
            graph = Graph(model)
    weights = {name: 4 * prod(tensor.dims) for name, tensor in graph.initializers.items()}
    try:
        nodes = graph.tail(tap, logits).nodes
        tail = sum(
            weights.get(name, 0) for name in graph.upstream({name for node in nodes for name in node.input} & graph.fixed)
        )
        large = [size for size in _products(graph, nodes, weights) if size >= 4 * _AS_CODES]
        layers = sum(node.op_type in _WEIGHTED for node in nodes) - len(large)
    except QcamError:  # a tap that nothing depends on is refused as well
        tail, large, layers = sum(weights.values()), [], 0
    return Shape(sum(weights.values()), tail, sum(large), max(weights.values(), default=0), _alive(graph), layers)


def _products(graph: Graph, nodes: Iterable[onnx.NodeProto], weights: Mapping[str, int]) -> Iterator[int]:
    """Return the sizes of the weights that nodes multiply matrices by."""
    for node in nodes:
        if node.op_type == "Gemm" and node.input[1] in graph.fixed:
            yield max(weights.get(name, 0) for name in graph.upstream([node.input[1]]))


def _alive(graph: Graph) -> int:
    """Return how many bytes of activations are alive at a time, at most, of one image in float32."""
    nodes = graph.model.graph.node
    last = {name: index for index, node in enumerate(nodes) for name in (*node.output, *node.input)}
    alive: dict[str, int] = {}
    most = 0
    for index, node in enumerate(nodes):
        for name in node.output:
            shape = graph.shapes.get(name, ())
            counted = name not in graph.fixed and node.op_type != "QuantizeLinear" and None not in shape[1:]
            alive[name] = 4 * prod(int(length or 0) for length in shape[1:]) if counted and len(shape) > 1 else 0
        most = max(most, sum(alive.values()))
        for name in (*node.input, *node.output):
            if last[name] <= index:
                alive.pop(name, None)
    return most
