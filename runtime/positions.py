"""Where a tensor stands in a network, whatever its name: the operators on the way from the input to it.

Two files of one network, quantized by different tools, share no names and no order of nodes, and have quantizers in other
places. What they share is the way that a tensor is computed. A position is a hash of that way: the operator with what its
attributes and the shapes of its weights say, and the positions of what it reads. Left out is what a tool may add or take away:
quantizers, casts, operators that only reshape, and Relu and Clip, of which a quantizer's own range can be the better half.
What a Relu or Clip does is told from the ranges instead: a quantizer in front of it and one behind it stand elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from qcam.runtime.codes import Codes, codes_of_dequantized, codes_of_quantizer, quantized_tensors
from qcam.runtime.graph import Graph, attribute
from qcam.runtime.tables import CLIPPING_OPERATORS, QUANTIZERS, SHAPE_OPERATORS

#: Operators that keep the elements of a tensor in their order.
_RESHAPING = SHAPE_OPERATORS - {"Transpose"}
#: Operators that a way leaves out.
_PASSED = QUANTIZERS | _RESHAPING | {"Cast", "Dropout"}
#: Operators whose operands may be swapped.
_COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "Sum", "Mean"})
#: Operators into whose weights a BatchNormalization, or the addition of a constant, behind them can be folded.
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm"})
#: Operators whose weights are their second operand, and whose bias says nothing.
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "FusedConv"})
#: Attributes of windows that say nothing where all of their numbers are this one.
_NEUTRAL = {"strides": 1, "dilations": 1, "pads": 0}
#: Constants of at most so many integers tell operators apart: axes, starts, ends.
_FEW = 16
#: How many operators behind a tensor are looked at to tell it from others at its position.
_BEHIND = 6

#: Lowest and highest value that a Relu or Clip lets through.
Limits = tuple[float, float]


@dataclass(frozen=True)
class Quantized:
    """A tensor of codes in its place.

    Attributes:
        name: Its name.
        codes: What its codes mean; None if that is computed while the graph runs.
        root: The tensor that its operator returns, in float.
        clips: Limits of the Relu and Clip between that operator and its quantizer.
        before: Tensors of codes on the way from that operator to it, in order.
    """

    name: str
    codes: Codes | None
    root: str
    clips: tuple[Limits, ...]
    before: tuple[str, ...]


@dataclass(frozen=True)
class Matching:
    """Tensors of codes of two files of one network.

    Attributes:
        partners: Tensor of the first → tensor of the second at the same position.
        missing: Tensors of the first at whose position the second has none.
        others: Likewise of the second.
        ambiguous: Tensors of the first at whose position there are several that nothing tells apart.
    """

    partners: dict[str, str]
    missing: tuple[str, ...]
    others: tuple[str, ...]
    ambiguous: tuple[str, ...]


class Positions:
    """The positions of all tensors of a graph that depend on its input.

    Attributes:
        graph: The graph, normalised.
        roots: Tensor → the tensor that it is computed from by what a way leaves out; itself for the result of an operator.
        keys: Root → its position.
        quantized: Tensor of codes → what is known of it; of the tensors asked for.
    """

    def __init__(self, graph: Graph, tensors: Iterable[str] | None = None) -> None:
        """Find the positions.

        Args:
            graph: The graph, normalised.
            tensors: Tensors of codes to look at; None: all that depend on the input.
        """
        self.graph = graph
        source = graph.image_input
        self.roots: dict[str, str] = {source: source}
        self.keys: dict[str, str] = {source: "input"}
        self._clips: dict[str, tuple[Limits, ...]] = {source: ()}
        self._before: dict[str, tuple[str, ...]] = {source: ()}
        self._of_operator: dict[str, set[Limits]] = {}
        wanted = set(quantized_tensors(graph) if tensors is None else tensors)
        self.quantized: dict[str, Quantized] = {}
        for node in graph.model.graph.node:
            if node.output and not graph.fixed.issuperset(name for name in node.output if name):
                self._place(node, wanted)
        for tensor, root in self.roots.items():
            self._of_operator.setdefault(self.keys[root], set()).update(self._clips[tensor])

    def key(self, tensor: str) -> str | None:
        """Return the position of a tensor's operator; None if the tensor does not depend on the input."""
        root = self.roots.get(tensor)
        return None if root is None else self.keys[root]

    def limits(self, key: str) -> set[Limits]:
        """Return the limits of the Relu and Clip right behind an operator."""
        return self._of_operator.get(key, set())

    def at(self, key: str) -> list[str]:
        """Return the float tensors at a position, before anything is quantized: the operator's result, and that of its Relu."""
        found = []
        for tensor, root in self.roots.items():
            node = self.graph.producer.get(tensor)
            here = self.keys[root] == key and not self._before[tensor] and node is not None
            if here and (tensor == root or (node is not None and node.op_type in CLIPPING_OPERATORS)):
                found.append(tensor)
        return found

    def passed(self, tensor: str, limits: Iterable[Limits]) -> frozenset[Limits]:
        """Return those of some limits within which a float tensor lies, by the Relu and Clip in front of it."""
        return frozenset(limit for limit in limits if _clipped(limit, self._clips[tensor]))

    def quantized_within(self, name: str, limits: Iterable[Limits]) -> frozenset[Limits]:
        """Return those of some limits within which a tensor of codes lies, by Relu, Clip and what its codes reach."""
        found = self.quantized[name]
        chain = [self.quantized[other].codes for other in found.before if other in self.quantized]
        return frozenset(
            limit
            for limit in limits
            if _clipped(limit, found.clips) or any(_reaches_no_further(codes, limit) for codes in (found.codes, *chain))
        )

    def _place(self, node: onnx.NodeProto, wanted: set[str]) -> None:
        """Find the positions of what a node returns."""
        first, result = node.input[0] if node.input else "", node.output[0]
        limits = activation_limits(self.graph, node) if node.op_type in CLIPPING_OPERATORS else None
        if first in self.roots and (node.op_type in _PASSED or limits is not None):
            self.roots[result] = self.roots[first]
            self._clips[result] = (*self._clips[first], *([] if limits is None else [limits]))
            self._before[result] = self._before[first]
            if node.op_type == "QuantizeLinear":
                if result in wanted:
                    codes = codes_of_quantizer(self.graph, node)
                    self.quantized[result] = Quantized(
                        result, codes, self.roots[first], self._clips[first], self._before[first]
                    )
                self._before[result] += (result,)
            return
        key = self._folded(node) or _hash(self._words(node))
        names = [name for name in node.output if name]
        for index, name in enumerate(names):
            self.roots[name] = name
            self.keys[name] = key if len(names) == 1 else _hash([key, str(index)])
            self._clips[name] = _activation(node)
            self._before[name] = ()

    def _folded(self, node: onnx.NodeProto) -> str | None:
        """Return the position of the operator into whose weights a node can be folded; what is before it stands elsewhere."""
        read = [name for name in node.input if name in self.roots]
        if len(read) != 1 or node.op_type not in ("BatchNormalization", "Add"):
            return None
        root = self.roots[read[0]]
        maker = self.graph.producer.get(root)
        if maker is None or self._clips[read[0]] or not _is_linear(self.graph, maker):
            return None
        if any(reader is not node for reader, _ in self.readers([root])):
            return None
        key = self.keys[root]
        self.keys[root] = _hash(["before", key])
        return key

    def readers(self, tensors: Iterable[str]) -> Iterator[tuple[onnx.NodeProto, int]]:
        """Yield the operators that read tensors, through what a way leaves out, with the number of the operand."""
        todo, seen = list(tensors), set()
        while todo:
            tensor = todo.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            for node in self.graph.consumers.get(tensor, []):
                passes = node.op_type in _PASSED or activation_limits(self.graph, node) is not None
                if passes and node.input[0] == tensor:
                    todo.append(node.output[0])
                    continue
                for index, name in enumerate(node.input):
                    if name == tensor:
                        yield node, index

    def behind(self, tensors: Sequence[str], depth: int) -> Hashable:
        """Return what reads tensors, and what reads that, a number of operators deep."""
        if depth == 0:
            return ()
        found = set()
        for node, index in self.readers(tensors):
            outputs = [name for name in node.output if name in self.keys]
            slot = -1 if node.op_type in _COMMUTATIVE else index
            found.add((tuple(self.keys[name] for name in outputs), slot, self.behind(outputs, depth - 1)))
        return frozenset(found)

    def _words(self, node: onnx.NodeProto) -> list[str]:
        """Return what tells an operator from others."""
        graph = self.graph
        kind = _kind(graph, node)
        words = [kind, *([] if kind in ("GlobalAveragePool", "Gemm") else _attributes(graph, node))]
        operands = []
        for index, name in enumerate(node.input):
            if name in self.roots:
                operands.append(self.keys[self.roots[name]])
            elif kind == "GlobalAveragePool" or (index > 1 and node.op_type in _WEIGHTED):
                continue
            elif name:
                operands.append(_constant(graph, kind, name))
        return words + (sorted(operands) if node.op_type in _COMMUTATIVE else operands)


def match(first: Positions, second: Positions) -> Matching:
    """Find out which tensors of codes of two files stand at the same position.

    Where several do, what reads them tells them apart, then (of several quantizers of one tensor) what their codes mean, and at
    last their names. Quantizers that follow each other or stand side by side and write the same codes count as one.

    Args:
        first: A file's tensors.
        second: Another's.

    Returns:
        The matching.
    """
    ours, theirs = _Classes(first, second), _Classes(second, first)
    pairs: dict[str, str] = {}
    ambiguous: set[str] = set()
    unmatched: set[str] = set(theirs.members)
    for place, mine in ours.at.items():
        found = _pair(ours, theirs, mine, theirs.at.get(place, []))
        pairs |= found
        left = [name for name in theirs.at.get(place, []) if name not in found.values()]
        if left:
            ambiguous.update(name for name in mine if name not in found)
    partners: dict[str, str] = {}
    for head, names in ours.members.items():
        if head in pairs:  # codes of all of them are the same: each has one of its own where there are as many
            alike = theirs.members[pairs[head]]
            partners |= zip(names, alike if len(alike) == len(names) else alike[:1] * len(names), strict=True)
    unsure = {name for head in ambiguous for name in ours.members[head]}
    unmatched -= set(pairs.values())
    order = list(first.quantized)
    return Matching(
        partners={name: partners[name] for name in order if name in partners},
        missing=tuple(name for name in order if name not in partners and name not in unsure),
        others=tuple(name for name in second.quantized if name in unmatched),
        ambiguous=tuple(name for name in order if name in unsure),
    )


def partners_in_float(first: Positions, tensor: str, second: Positions) -> list[str]:
    """Return the float tensors of another file at the position of one of this, between the same Relu and Clip.

    Args:
        first: The file of the tensor.
        tensor: A float tensor.
        second: The other file.
    """
    key = first.key(tensor)
    if key is None:
        return []
    limits = first.limits(key) | second.limits(key)
    quantizer = first.graph.quantize_of(tensor)
    within = first.passed(tensor, limits)
    if quantizer is not None and quantizer.output[0] in first.quantized:  # a Relu that the quantizer has taken over
        within |= first.quantized_within(quantizer.output[0], limits)
    found = [name for name in second.at(key) if second.passed(name, limits) == within]
    named = [name for name in found if name == tensor]
    return named if len(found) > 1 and named else found


@dataclass
class _Classes:
    """The tensors of codes of a file, those that hold the same codes as one, by their position.

    Attributes:
        here: The file's positions.
        members: Tensor that stands for its like → all of them, in graph order.
        at: Position with limits and number → those that stand there.
    """

    here: Positions
    other: Positions
    members: dict[str, list[str]] = field(default_factory=dict)
    at: dict[Hashable, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Sort them."""
        heads: dict[str, str] = {}
        beside: dict[tuple[str, str], list[str]] = {}
        for name, found in self.here.quantized.items():
            head = self._same_before(name, heads)
            if head is None:
                alike = beside.setdefault((found.root, self.here.graph.producer[name].input[0]), [])
                head = next((other for other in alike if self._same(other, name)), name)
                alike.append(head)
            heads[name] = head
            self.members.setdefault(head, []).append(name)
        for head in self.members:
            self.at.setdefault(self._place(head, heads), []).append(head)

    def _place(self, head: str, heads: dict[str, str]) -> Hashable:
        found = self.here.quantized[head]
        key = self.here.keys[found.root]
        limits = self.here.limits(key) | self.other.limits(key)
        within = self.here.quantized_within(head, limits)
        earlier = {heads[name] for name in found.before if name in heads}
        number = sum(self.here.quantized_within(name, limits) == within for name in earlier)
        return key, within, number

    def _same_before(self, name: str, heads: dict[str, str]) -> str | None:
        """Return the tensor in front of a quantizer that holds the same codes; None if there is none."""
        graph = self.here.graph
        tensor = graph.producer[name].input[0]
        node = graph.producer.get(tensor)
        while node is not None and node.op_type in _RESHAPING:
            tensor = node.input[0]
            node = graph.producer.get(tensor)
        before, own = codes_of_dequantized(graph, tensor), self.here.quantized[name].codes
        if before is None or own is None or before.tensor not in heads:
            return None
        same = own.scale.size == 1 and own.same_meaning(before) and self._same(before.tensor, name)
        return heads[before.tensor] if same else None

    def _same(self, first: str, second: str) -> bool:
        one, other = self.here.quantized[first].codes, self.here.quantized[second].codes
        return one is not None and other is not None and one.same_meaning(other) and one.axis == other.axis


def _pair(ours: _Classes, theirs: _Classes, mine: list[str], their: list[str]) -> dict[str, str]:
    """Pair tensors at one position, as far as something tells them apart."""
    if len(mine) == len(their) == 1:
        return {mine[0]: their[0]}
    pairs: dict[str, str] = {}

    def apart(told: Callable[[_Classes, str], Hashable]) -> None:
        groups: dict[Hashable, tuple[list[str], list[str]]] = {}
        for side, (classes, names) in enumerate(((ours, mine), (theirs, their))):
            for name in names:
                if name not in (pairs if side == 0 else pairs.values()):
                    groups.setdefault(told(classes, name), ([], []))[side].append(name)
        pairs.update((one[0], other[0]) for one, other in groups.values() if len(one) == len(other) == 1)

    if mine and their:
        for depth in range(1, _BEHIND + 1):
            apart(lambda classes, name, depth=depth: classes.here.behind(classes.members[name], depth))  # type: ignore[misc]
        roots = [{classes.here.quantized[name].root for name in names} for classes, names in ((ours, mine), (theirs, their))]
        if all(len(of_one) == 1 for of_one in roots):  # several quantizers of one tensor
            apart(lambda classes, name: _meaning(classes.here.quantized[name].codes))
        apart(lambda _classes, name: name)
    return pairs


def _meaning(codes: Codes | None) -> Hashable:
    return None if codes is None else (codes.dtype.name, codes.scale.tobytes(), codes.zero_point.tobytes(), codes.scale.shape)


def _hash(words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:24]


def activation_limits(graph: Graph, node: onnx.NodeProto) -> Limits | None:
    """Return the limits of a Relu or Clip; None of other operators, and if they are computed.

    Args:
        graph: The graph.
        node: One of its nodes.
    """
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    low, high = attribute(node, "min", -np.inf), attribute(node, "max", np.inf)
    found = [float(low), float(high)]  # type: ignore[arg-type]
    for index in (1, 2):
        if len(node.input) > index and node.input[index]:
            value = _number(graph, node.input[index])
            if value is None:
                return None
            found[index - 1] = value
    return found[0], found[1]


def _number(graph: Graph, name: str) -> float | None:
    """Return a constant of one element, also behind casts and quantizers; None if it is none."""
    value = graph.constant(name)
    if value is not None:
        return float(value.reshape(())) if value.size == 1 else None
    node = graph.producer.get(name)
    if node is None or name not in graph.fixed or node.op_type not in _PASSED:
        return None
    number = _number(graph, node.input[0])
    if number is None or node.op_type not in QUANTIZERS:
        return number
    codes = codes_of_quantizer(graph, node)
    if codes is None or codes.scale.size != 1:
        return None
    scale, zero = float(codes.scale), float(codes.zero_point)
    if node.op_type == "DequantizeLinear":
        return (number - zero) * scale
    ends = np.iinfo(codes.dtype.name)
    return float(np.clip(np.rint(np.float32(number) / np.float32(scale)) + zero, ends.min, ends.max))


def _clipped(limit: Limits, clips: Iterable[Limits]) -> bool:
    return any(clip[0] >= limit[0] and clip[1] <= limit[1] for clip in clips)


def _reaches_no_further(codes: Codes | None, limit: Limits) -> bool:
    """Tell whether all codes stand for values within limits, the limits rounded to codes."""
    if codes is None:
        return False
    ends = np.iinfo(codes.dtype.name)
    zero = codes.zero_point.astype(np.int64)
    with np.errstate(all="ignore"):
        low, high = (np.rint(np.float64(end) / codes.scale.astype(np.float64)) for end in limit)
    return bool(np.all(low <= ends.min - zero) and np.all(high >= ends.max - zero))


def _activation(node: onnx.NodeProto) -> tuple[Limits, ...]:
    """Return the limits that a kernel of ONNX Runtime applies itself."""
    kind = attribute(node, "activation", b"") if node.op_type == "FusedConv" else b""
    return ((0.0, np.inf),) if kind == b"Relu" else ()


def _is_linear(graph: Graph, node: onnx.NodeProto) -> bool:
    return _kind(graph, node) in _LINEAR


def _kind(graph: Graph, node: onnx.NodeProto) -> str:
    """Return an operator's name, one for operators that are the same."""
    if node.op_type == "MatMul" and len(node.input) == 2 and node.input[1] in graph.fixed:
        return "Gemm"
    if node.op_type == "FusedConv" and attribute(node, "activation", b"") in (b"", b"Relu") and len(node.input) < 4:
        return "Conv"
    if node.op_type == "ReduceMean" and _axes(graph, node) in ((2, 3), (-2, -1)):
        return "GlobalAveragePool"
    if node.op_type == "AveragePool":
        window, shape = attribute(node, "kernel_shape"), graph.shapes.get(node.input[0], ())[2:]
        pads = attribute(node, "pads", [])
        if shape and isinstance(window, list) and tuple(window) == shape and isinstance(pads, list) and not any(pads):
            return "GlobalAveragePool"
    return str(node.op_type)


def _axes(graph: Graph, node: onnx.NodeProto) -> tuple[int, ...]:
    value: object = attribute(node, "axes")
    if value is None and len(node.input) > 1 and node.input[1]:
        held = graph.constant(node.input[1])
        value = None if held is None else held.reshape(-1).tolist()
    return tuple(sorted(value)) if isinstance(value, list) else ()


def _attributes(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """Return an operator's attributes as words, without those that say what is so anyhow."""
    found = []
    try:
        known = onnx.defs.get_schema(node.op_type, max(graph.opset(node.domain), 1), node.domain).attributes
    except Exception:  # an operator of another domain has no schema here
        known = {}
    for held in node.attribute:
        if held.type not in (
            onnx.AttributeProto.INT, onnx.AttributeProto.INTS, onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS,
            onnx.AttributeProto.STRING,
        ):  # fmt: skip
            continue
        value = onnx.helper.get_attribute_value(held)
        default = known[held.name].default_value if held.name in known else None
        if default is not None and default.type and onnx.helper.get_attribute_value(default) == value:
            continue
        if held.name in ("kernel_shape", "activation") and node.op_type in _WEIGHTED:  # said by the weights, and told as limits
            continue
        if held.name == "group" and value == 1:
            continue
        if held.name in _NEUTRAL and all(number == _NEUTRAL[held.name] for number in value):
            continue
        if held.name == "auto_pad" and value in (b"NOTSET", b"VALID"):
            continue
        found.append(f"{held.name}={value!r}")
    return sorted(found)


def _constant(graph: Graph, kind: str, name: str) -> str:
    """Return a constant operand as a word: its shape, or its values where they are few integers."""
    value: NDArray[np.generic] | None = graph.constant(name)
    if value is not None and value.dtype == np.int64 and value.size <= _FEW:
        return f"values {value.reshape(-1).tolist()}"
    node = graph.producer.get(name)
    while name not in graph.initializers and node is not None and node.input:
        name = node.input[0]
        node = graph.producer.get(name)
    held = graph.initializers.get(name)
    dims = [] if held is None else list(held.dims)
    if kind in ("Conv", "ConvTranspose"):
        return f"weight {dims}"
    return f"weight {sorted(dims)}" if kind == "Gemm" else f"constant {prod(dims)}"
