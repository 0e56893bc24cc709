"""Whether an ONNX file is what the manifest calls it: the precision's name, the outputs, the tap's codes.

All of it is read from the file: nothing runs, and nothing is parsed a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from qcam.common.errors import BundleError, first_line
from qcam.common.vocabulary import Layout
from qcam.runtime.feeding import Input
from qcam.runtime.graph import attribute, type_name
from qcam.runtime.manifest import PrecisionEntry, Tap
from qcam.runtime.tables import (
    CODE_BITS,
    QUANTIZERS,
    RESULT_PARAMETERS,
    WEIGHT_ONLY_KERNELS,
    WEIGHT_WAY,
    has_codes_of_activations,
)

#: Bits of the codes that a precision of this name computes with.
_BITS = {"int8": 8, "int16": 16}
_UNKNOWN = "an unknown type"
_WEIGHTS = "quantized weights"
_AMBIGUOUS = "which one counts is not said; save the file with names of their own"
_NEXT = "give every precision its own file, or export the bundle again with {force}"


@dataclass(frozen=True)
class _Part:
    """A graph, a subgraph or a local function.

    Attributes:
        nodes: Its nodes.
        constants: Tensor name → value: its initializers, and what its Constant nodes hold.
        producer: Tensor name → node that writes it.
        outer: The graph around it, whose tensors it can read.
        weights: What `is_weight` has found out already.
    """

    nodes: Sequence[NodeProto]
    constants: Mapping[str, TensorProto]
    producer: Mapping[str, NodeProto]
    outer: _Part | None
    weights: dict[str, bool] = field(default_factory=dict)

    def constant(self, name: str) -> TensorProto | None:
        """Return a constant by its name, also behind Identity; None if it is computed."""
        passed: set[str] = set()
        node = self.producer.get(name)
        while name not in passed and node is not None and node.op_type == "Identity" and node.input:
            passed.add(name)
            name = node.input[0]
            node = self.producer.get(name)
        found = self.constants.get(name)
        return found if found is not None or self.outer is None or name in self.producer else self.outer.constant(name)

    def is_weight(self, name: str) -> bool:
        """Tell whether a tensor is a constant, or one that was quantized, turned or reshaped."""
        way: list[str] = []
        while name not in self.weights:
            self.weights[name] = False  # until it is known; the answer too if nodes go in a circle
            way.append(name)
            node = self.producer.get(name)
            if self.constant(name) is not None:
                self.weights[name] = True
            elif node is None:
                self.weights[name] = self.outer is not None and self.outer.is_weight(name)
            elif node.op_type in WEIGHT_WAY and node.input:
                name = node.input[0]
        for passed in way:
            self.weights[passed] = self.weights[name]
        return self.weights[name]


def check_agreement(model: ModelProto, entry: PrecisionEntry, where: str) -> None:
    """Hold a precision's file against its manifest.

    Args:
        model: The file; its scales and zero points hold their values.
        entry: What the manifest says.
        where: What messages call the file.

    Raises:
        BundleError: If two constants or results share a name, the file is of another precision than its name says, it takes
            pictures otherwise, an output is missing, or the codes of tap or skip tensors mean something else.
    """
    parts = _parts(model, where)
    _check_name(parts, entry.name, where)
    _check_input(model, entry.input, where)
    taps = (entry.tap, *entry.skips)
    outputs = {output.name for output in model.graph.output}
    for name in (entry.logits, *(tap.output for tap in taps)):
        if name not in outputs:
            raise BundleError(f"{where} has no output {name}, which bundle.json names for {entry.name}; {_NEXT}")
    for tap in taps:
        if entry.name == "f32" and tap.dtype != "float32":
            raise BundleError(f"bundle.json says that f32 hands out {tap.output} as {tap.dtype}, not as float32; {_NEXT}")
        _check_codes(parts[0], tap, where)


def check_original(model: ModelProto, entry: PrecisionEntry, where: str) -> None:
    """Hold the original of a precision, which hands out no tap, against its manifest.

    Args:
        model: The original; its weights are not looked at.
        entry: What the manifest says.
        where: What messages call the file.

    Raises:
        BundleError: If a name in it means two things, it takes pictures otherwise than the copy, or lacks the logits.
    """
    refuse_duplicates(model, where)
    _check_input(model, entry.input, where)
    if entry.logits not in {output.name for output in model.graph.output}:
        raise BundleError(f"{where} has no output {entry.logits}, which bundle.json names for {entry.name}; {_NEXT}")


def refuse_duplicates(model: ModelProto, where: str) -> None:
    """Refuse a file in which a name stands for two constants, or for the results of two nodes.

    Args:
        model: The file.
        where: What messages call it.

    Raises:
        BundleError: If there is such a name in a graph, a subgraph or a local function.
    """
    _parts(model, where)


def _parts(model: ModelProto, where: str) -> list[_Part]:
    """Index the graph, which comes first, its subgraphs and the local functions; refuse names that mean two things."""
    graph = model.graph
    parts = [_part(graph.node, graph.initializer, [each.values.name for each in graph.sparse_initializer], None, where)]
    parts += [_part(function.node, (), (), None, where) for function in model.functions]
    for part in parts:  # grows meanwhile: subgraphs hold subgraphs
        for node in part.nodes:
            for found in node.attribute:
                for inner in (*([found.g] if found.HasField("g") else []), *found.graphs):
                    sparse = [each.values.name for each in inner.sparse_initializer]
                    parts.append(_part(inner.node, inner.initializer, sparse, part, where))
    return parts


def _part(
    nodes: Sequence[NodeProto], initializers: Iterable[TensorProto], sparse: Iterable[str], outer: _Part | None, where: str
) -> _Part:
    constants: dict[str, TensorProto] = {}
    producer: dict[str, NodeProto] = {}
    for tensor in initializers:
        if tensor.name in constants:
            raise BundleError(f"{where} has two initializers named {tensor.name}: {_AMBIGUOUS}")
        constants[tensor.name] = tensor
    names = set(constants)
    for name in sparse:
        if name in names:
            raise BundleError(f"{where} has two initializers named {name}: {_AMBIGUOUS}")
        names.add(name)
    for node in nodes:
        for name in node.output:
            if name and name in producer:
                raise BundleError(f"{where} has two nodes that write {name}: {_AMBIGUOUS}")
            if name and name in names:
                raise BundleError(f"{where} has an initializer and a node's result named {name}: {_AMBIGUOUS}")
            producer[name] = node
        if node.op_type == "Constant" and node.output:
            value = next((found.t for found in node.attribute if found.name == "value" and found.HasField("t")), None)
            if value is not None:
                constants[node.output[0]] = value
    return _Part(nodes, constants, producer, outer)


def _check_input(model: ModelProto, told: Input, where: str) -> None:
    """Hold the input of a file against the manifest, as far as the file tells; one of schema 1 does not name it."""
    if not told.name:
        return
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    if [value.name for value in inputs] != [told.name]:
        names = ", ".join(value.name for value in inputs) or "none"
        raise BundleError(f"{where} has the inputs {names}, bundle.json names {told.name} as the only one; {_NEXT}")
    tensor = inputs[0].type.tensor_type
    kind = _numpy_name(tensor.elem_type)
    if kind != told.dtype:
        raise BundleError(f"input {told.name} of {where} is {kind}, bundle.json says {told.dtype}; {_NEXT}")
    if not tensor.HasField("shape"):
        return
    sizes = [dimension.dim_value if dimension.HasField("dim_value") else None for dimension in tensor.shape.dim]
    image = (told.channels, *told.size) if told.layout == Layout.NCHW else (*told.size, told.channels)
    fits = len(sizes) == 1 + len(image) and all(size in (None, wanted) for size, wanted in zip(sizes[1:], image, strict=False))
    # A file that leaves the batch open may fix it inside: that one is the manifest's to say.
    if not fits or (sizes[0] is not None and sizes[0] != told.batch):
        shape = " × ".join("any" if size is None else str(size) for size in sizes)
        wanted = " × ".join(map(str, ("any" if told.batch is None else told.batch, *image)))
        raise BundleError(f"input {told.name} of {where} is {shape}, bundle.json says {wanted} ({told.layout}); {_NEXT}")


def _check_name(parts: Sequence[_Part], name: str, where: str) -> None:
    """Hold the name against the types of the codes that activations have."""
    if name != "f32" and name not in _BITS:
        return  # a name of somebody's own, which promises nothing
    first: dict[str, str] = {}
    for part in parts:
        for node in part.nodes:
            kind = _code_type(part, node)
            if kind and kind not in first:
                first[kind] = f"first: {node.op_type} node {node.name or ', '.join(map(str, node.output))}"
    if name == "f32":
        for kind, which in sorted(first.items(), key=lambda item: item[0] == _WEIGHTS):
            said = kind if kind == _WEIGHTS else f"codes of {kind}"
            raise BundleError(f"bundle.json calls {where} f32, but it computes with {said} ({which}); {_NEXT}")
        return
    first.pop(_WEIGHTS, None)
    if _UNKNOWN in first or _BITS[name] in {CODE_BITS.get(kind) for kind in first}:
        return
    for kind, which in first.items():
        raise BundleError(f"bundle.json calls {where} {name}, but its activations are codes of {kind} ({which}); {_NEXT}")
    raise BundleError(f"bundle.json calls {where} {name}, but no activation in it is quantized; {_NEXT}")


def _code_type(part: _Part, node: NodeProto) -> str:
    """Return the type of an activation's codes that a node makes or reads, `_WEIGHTS` for weights; empty if it has none."""
    if has_codes_of_activations(node.op_type):
        return "uint8"
    if node.op_type in WEIGHT_ONLY_KERNELS:
        return _WEIGHTS
    if node.op_type not in QUANTIZERS or not node.input:
        return ""
    if part.is_weight(node.input[0]):
        return _WEIGHTS
    if len(node.input) > 2 and node.input[2]:
        zero_point = part.constant(node.input[2])
        return _UNKNOWN if zero_point is None else type_name(zero_point.data_type)
    if node.op_type == "QuantizeLinear":
        return type_name(_default_type(node))
    before = part.producer.get(node.input[0])
    return "" if before is not None and before.op_type == "QuantizeLinear" else _UNKNOWN  # the quantizer tells


def _check_codes(part: _Part, tap: Tap, where: str) -> None:
    """Hold the type, scale and zero point of an output against the node that makes it."""
    said = (tap.dtype, float(tap.scale), tap.zero_point)
    node = part.producer.get(tap.output)
    scale_at, zero_point_at = RESULT_PARAMETERS.get(node.op_type, (0, 0)) if node is not None else (0, 0)
    if node is None or (scale_at, zero_point_at) == (0, 0) or not _operand(node, scale_at):
        if tap.dtype != "float32":
            raise BundleError(
                f"bundle.json says that {tap.output} of {where} are codes of {tap.dtype}, but no quantizer makes them; {_NEXT}"
            )
        return
    scale = _scalar(part, _operand(node, scale_at), tap, where)
    zero_point = _operand(node, zero_point_at)
    if zero_point:
        kind, value = type_name(_tensor(part, zero_point, tap, where).data_type), int(_scalar(part, zero_point, tap, where))
    else:  # an operator of codes keeps their type
        kind, value = type_name(_default_type(node)) if node.op_type == "QuantizeLinear" else tap.dtype, 0
    if said != (kind, scale, value):
        raise BundleError(
            f"bundle.json and {where} disagree on the tap {tap.output}: {_codes(*said)} in the manifest, "
            f"{_codes(kind, scale, value)} in the file; {_NEXT}"
        )


def _operand(node: NodeProto, position: int) -> str:
    return node.input[position] if len(node.input) > position else ""


def _tensor(part: _Part, name: str, tap: Tap, where: str) -> TensorProto:
    tensor = part.constant(name)
    if tensor is None or prod(tensor.dims) != 1:
        raise BundleError(f"{where} quantizes {tap.output} with {name}, which is no single constant; a tap needs one scale")
    return tensor


def _scalar(part: _Part, name: str, tap: Tap, where: str) -> float:
    tensor = _tensor(part, name, tap, where)
    try:
        return float(numpy_helper.to_array(tensor).reshape(()))
    except Exception as error:  # onnx raises many kinds for a tensor whose values do not fit its shape
        raise BundleError(f"cannot read constant {name} of {where}: {first_line(error)}") from error


def _default_type(node: NodeProto) -> int:
    """Return the type of a quantizer's codes where no zero point tells it."""
    found = attribute(node, "output_dtype", 0)
    return found if isinstance(found, int) and found else int(TensorProto.UINT8)


def _numpy_name(number: int) -> str:
    """Return what numpy calls a type; ONNX's own name where it has none."""
    name = type_name(number)
    return {"float": "float32", "double": "float64"}.get(name, name)


def _codes(dtype: str, scale: float, zero_point: float) -> str:
    return f"{dtype} with scale {scale!r} and zero point {zero_point!r}"
