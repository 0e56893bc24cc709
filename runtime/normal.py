"""A normalised copy of an ONNX file: the same computation, written in the one way that the mirror reads.

Quantizers write the same thing in many ways: a zero point said or left out, a scale as a number or as a list of one, in an
initializer, in a Constant node or behind an Identity, nodes in any order, in local functions, without names or shapes. ONNX
Runtime takes them all. The copy is made in memory and is never stored: what runs is the file.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from qcam.common.errors import UnsupportedGraphError, first_line
from qcam.runtime.graph import attribute
from qcam.runtime.qoperators import written_back
from qcam.runtime.shape_values import whole_numbers
from qcam.runtime.tables import PASSING_OPERATORS, QUANTIZERS, RESULT_PARAMETERS

#: Tensors of more bytes are weights: they are copied once, at the end, and nobody asks for their values here.
_LARGE = 1 << 16
#: Type of elements → bytes of one; others have one byte or less, or are not numbers.
_BYTES = {
    kind: onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    for kind in (
        TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16,
        TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64,
    )
}  # fmt: skip
#: Domain of ONNX Runtime's own operators.
_MICROSOFT = "com.microsoft"
#: Attributes in which a Constant node can hold its value, with what makes an array of it.
_VALUES: dict[str, Callable[[object], np.ndarray]] = {
    "value_float": lambda value: np.array(value, np.float32),
    "value_floats": lambda value: np.array(value, np.float32),
    "value_int": lambda value: np.array(value, np.int64),
    "value_ints": lambda value: np.array(value, np.int64),
}


def normalised(model: ModelProto) -> ModelProto:
    """Return a copy of a model that computes the same and is written in one way.

    Nodes are in an order in which they can run and have names; local functions are inlined; Constant nodes are initializers,
    and so are whole numbers that follow from constants; Identity and Dropout are gone; kernels of codes (QLinearConv …) are
    DequantizeLinear, the operator, QuantizeLinear; scales and zero points of one element are scalars; zero points and (where
    the rank is known) axes from the front are said; shapes are inferred. Tensors keep their names, as far as they still are
    there, and outputs of the graph are all there.

    Args:
        model: The model, its small tensors with their values inside; it is not changed.

    Returns:
        The copy; the model itself where there is nothing to do.

    Raises:
        UnsupportedGraphError: If the nodes go in a circle, or a local function cannot be inlined.
    """
    copy = _Copy(model)
    for step in (
        _inline, _hold_constants, _sort, _drop_identities, _hold_numbers, _write_back, _make_scalars, _say_zero_points,
        _infer_shapes, _say_axes, _name_nodes,
    ):  # fmt: skip
        copy.changed |= step(copy)
    return copy.finished() if copy.changed else model


class _Copy:
    """A model without its large tensors, which steps change.

    Attributes:
        source: The model that it is of.
        model: The copy.
        large: The large tensors, where they are.
        changed: Whether anything was.
    """

    def __init__(self, source: ModelProto) -> None:
        self.source = source
        self.changed = False
        self.model = ModelProto()
        for field, value in source.ListFields():
            if field.name == "graph":
                continue
            if isinstance(value, (int, str, bytes, float)):
                setattr(self.model, field.name, value)
            else:
                getattr(self.model, field.name).extend(value)
        graph, own = source.graph, self.model.graph
        own.name = graph.name
        own.doc_string = graph.doc_string
        for name in ("input", "output", "value_info", "sparse_initializer", "quantization_annotation"):
            getattr(own, name).extend(getattr(graph, name))
        self.large: list[tuple[str, TensorProto]] = []
        outputs = self.outputs()
        for tensor in graph.initializer:
            self.hold(tensor.name, tensor)
        for node in graph.node:
            value = _constant_tensor(node)
            if value is not None and _is_large(value) and node.output[0] not in outputs:  # not copied twice
                self.large.append((node.output[0], value))
                self.changed = True
            else:
                own.node.append(node)

    def hold(self, name: str, tensor: TensorProto) -> None:
        """Take a tensor as an initializer of a name."""
        if _is_large(tensor):
            self.large.append((name, tensor))
            return
        self.model.graph.initializer.append(tensor)
        self.model.graph.initializer[-1].name = name

    def finished(self) -> ModelProto:
        """Return the copy with its large tensors; each is copied now."""
        for name, tensor in self.large:
            self.model.graph.initializer.append(tensor)
            self.model.graph.initializer[-1].name = name
        return self.model

    def values(self) -> dict[str, TensorProto]:
        """Return name → initializer, the large ones too."""
        return dict(self.large) | {tensor.name: tensor for tensor in self.model.graph.initializer}

    def opset(self) -> int:
        """Return the version of ONNX's operators."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    def outputs(self) -> set[str]:
        """Return the names of the graph's outputs."""
        return {output.name for output in self.model.graph.output}

    def replace_nodes(self, nodes: Sequence[NodeProto]) -> None:
        """Put other nodes in the place of all."""
        kept = [_copied(node) for node in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)


def _is_large(tensor: TensorProto) -> bool:
    """Tell whether a tensor is a weight, by its shape: to ask protobuf for its size is to write it out once."""
    return bool(prod(tensor.dims) * _BYTES.get(TensorProto.DataType.ValueType(tensor.data_type), 1) > _LARGE)


def _copied(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _constant_tensor(node: NodeProto) -> TensorProto | None:
    """Return the tensor that a Constant node holds; None if it holds its value in another way."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return next((found.t for found in node.attribute if found.name == "value" and found.HasField("t")), None)


def _captured(nodes: Iterable[NodeProto]) -> Iterator[tuple[NodeProto, str]]:
    """Yield the names that subgraphs of nodes may read from the graph around them, with the node."""
    for node in nodes:
        for found in node.attribute:
            for inner in (*([found.g] if found.HasField("g") else []), *found.graphs):
                for inside in inner.node:
                    yield from ((node, name) for name in inside.input)
                yield from ((node, name) for _, name in _captured(inner.node))
                yield from ((node, output.name) for output in inner.output)


def _inline(copy: _Copy) -> bool:
    """Put local functions in the place of the nodes that call them."""
    model = copy.model
    if not model.functions:
        return False
    from onnx import inliner

    called = {(function.domain, function.name) for function in model.functions}
    try:
        copy.model = inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises many kinds
        raise UnsupportedGraphError(f"a local function of the graph cannot be inlined: {first_line(error)}") from error
    left = [node for node in copy.model.graph.node if (node.domain, node.op_type) in called]
    if left:
        raise UnsupportedGraphError(
            f"local function {left[0].op_type} (domain {left[0].domain}) is of another operator set than the graph, and cannot "
            "be inlined; save the file without functions"
        )
    del copy.model.functions[:]
    return True


def _hold_constants(copy: _Copy) -> bool:
    """Make initializers of Constant nodes; one that is an output of the graph stays."""
    outputs, kept, found = copy.outputs(), [], []
    for node in copy.model.graph.node:
        value = None if node.output and node.output[0] in outputs else _value_of(node)
        if value is None:
            kept.append(node)
        else:
            found.append((str(node.output[0]), value))
    if not found:
        return False
    for name, value in found:
        copy.hold(name, value)
    copy.replace_nodes(kept)
    return True


def _value_of(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    held = _constant_tensor(node)
    if held is not None:
        return held
    found = node.attribute[0]
    make = _VALUES.get(found.name)
    return None if make is None else numpy_helper.from_array(make(onnx.helper.get_attribute_value(found)))


def _drop_identities(copy: _Copy) -> bool:
    """Take Identity, and Dropout that drops nothing, out of the way; tensors that are outputs of the graph keep their names."""
    graph = copy.model.graph
    values, outputs = copy.values(), copy.outputs()
    inputs = {value.name for value in graph.input}
    fixed = outputs | {name for _, name in _captured(graph.node)}
    read = {name for node in graph.node for name in node.input} | fixed
    renamed: dict[str, str] = {}

    def final(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    kept = []
    for node in graph.node:
        if not _passes(node, values, read):
            kept.append(node)
            continue
        before, after = final(str(node.input[0])), str(node.output[0])
        if after not in fixed:
            renamed[after] = before
        elif before not in fixed and before not in inputs and before not in values:
            renamed[before] = after  # what makes it writes the output itself
        else:
            kept.append(node)
    if not renamed:
        return False
    copy.replace_nodes(kept)
    for node in copy.model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in renamed:
                    names[index] = final(name)
    for told in [told for told in copy.model.graph.value_info if told.name in renamed]:
        copy.model.graph.value_info.remove(told)
    return True


def _hold_numbers(copy: _Copy) -> bool:
    """Make initializers of whole numbers that follow from constants (`shape_values`); an output of the graph stays computed."""
    nodes, outputs = list(copy.model.graph.node), copy.outputs()
    found = whole_numbers([node for node in nodes if not outputs.intersection(node.output)], copy.values(), copy.opset())
    if not found:
        return False
    for name, value in found.items():
        copy.hold(name, value)
    copy.replace_nodes([node for node in nodes if node.output[0] not in found])
    return True


def _passes(node: NodeProto, values: dict[str, TensorProto], read: set[str]) -> bool:
    """Tell whether a node returns its operand as it is."""
    if node.domain not in ("", "ai.onnx") or not node.input or not node.input[0]:
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type != "Dropout" or any(name in read for name in node.output[1:] if name):
        return False
    training = node.input[2] if len(node.input) > 2 else ""
    held = values.get(training)
    return not training or (held is not None and not bool(numpy_helper.to_array(held).any()))


def _sort(copy: _Copy) -> bool:
    """Put nodes into an order in which they can run: that of the file, as far as it can."""
    nodes = list(copy.model.graph.node)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    inside: dict[int, list[str]] = {}
    for node, name in _captured(nodes):
        inside.setdefault(id(node), []).append(name)
    needs = [
        {maker[name] for name in (*node.input, *inside.get(id(node), ())) if name in maker} - {index}
        for index, node in enumerate(nodes)
    ]
    if all(not before or max(before) < index for index, before in enumerate(needs)):
        return False
    readers: dict[int, list[int]] = {}
    for index, before in enumerate(needs):
        for other in before:
            readers.setdefault(other, []).append(index)
    missing = [len(before) for before in needs]
    ready = [index for index, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        node = nodes[next(index for index, count in enumerate(missing) if count)]
        raise UnsupportedGraphError(f"the nodes of the graph go in a circle, at {node.op_type} {node.name or node.output[0]}")
    copy.replace_nodes([nodes[index] for index in order])
    return True


def _write_back(copy: _Copy) -> bool:
    """Write kernels of codes back as DequantizeLinear, operator, QuantizeLinear (`qoperators`)."""
    graph = copy.model.graph
    nodes, constants = written_back(list(graph.node), copy.values(), {value.name for value in graph.input}, copy.opset())
    if nodes is None:
        return False
    for tensor in constants:
        copy.hold(tensor.name, tensor)
    copy.replace_nodes(nodes)
    return True


def _make_scalars(copy: _Copy) -> bool:
    """Make scalars of scales and zero points that are lists of one."""
    graph = copy.model.graph
    lists = {tensor.name: tensor for tensor in graph.initializer if tensor.dims and prod(tensor.dims) == 1}
    if not lists:
        return False
    elsewhere = {output.name for output in graph.output} | {name for _, name in _captured(graph.node)}
    for node in graph.node:
        parameters = _is_quantizer(node)
        elsewhere.update(name for index, name in enumerate(node.input) if not (parameters and index in (1, 2)))
    made: dict[str, str] = {}
    for node in graph.node:
        if not _is_quantizer(node) or attribute(node, "block_size", 0):
            continue
        for index, name in enumerate(node.input):
            if index in (1, 2) and name in lists:
                if name not in made:
                    made[name] = _unused(f"{name}/scalar", copy) if name in elsewhere else name
                node.input[index] = made[name]
    overridable = {value.name: value for value in graph.input}
    for name, scalar in made.items():
        tensor = lists[name]
        if scalar != name:
            other = TensorProto()
            other.CopyFrom(tensor)
            other.name = scalar
            graph.initializer.append(other)
            tensor = graph.initializer[-1]
        elif name in overridable:
            overridable[name].type.tensor_type.ClearField("shape")
            overridable[name].type.tensor_type.shape.SetInParent()
        del tensor.dims[:]
        for told in [told for told in graph.value_info if told.name == scalar]:
            graph.value_info.remove(told)
    return bool(made)


def _is_quantizer(node: NodeProto) -> bool:
    return node.op_type in QUANTIZERS and node.domain in ("", "ai.onnx", _MICROSOFT)


def _unused(name: str, copy: _Copy) -> str:
    """Return a name that no tensor has yet: the one given, or one like it."""
    graph = copy.model.graph
    taken = {*copy.values(), *(output for node in graph.node for output in node.output), *(value.name for value in graph.input)}
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}{count}"
    return found


def _say_zero_points(copy: _Copy) -> bool:
    """Give quantizers the zero point that they leave out: 0, of the type of their codes."""
    graph = copy.model.graph
    missing = [
        node
        for node in graph.node
        if _is_quantizer(node) and (len(node.input) < 3 or not node.input[2]) and not attribute(node, "block_size", 0)
    ]
    changed = False
    values = copy.values()
    types = _types_of_codes(copy, values)
    zeros: dict[tuple[int, tuple[int, ...]], str] = {}
    for node in missing:
        kind = types.get(node.output[0] if node.op_type == "QuantizeLinear" else node.input[0])
        scale = values.get(node.input[1])
        if kind is None or scale is None:
            continue
        key = (kind, tuple(scale.dims))
        if key not in zeros:
            name = _unused(f"zero_{TensorProto.DataType.Name(kind).lower()}{''.join(f'_{size}' for size in key[1])}", copy)
            array = np.zeros(key[1], onnx.helper.tensor_dtype_to_np_dtype(kind))
            graph.initializer.append(numpy_helper.from_array(array, name))
            zeros[key] = name
        del node.input[2:]
        node.input.append(zeros[key])
        changed = True
    for node in graph.node:  # what the zero point says now
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2]:
            said = [found for found in node.attribute if found.name == "output_dtype"]
            for found in said:
                node.attribute.remove(found)
                changed = True
    return changed


def _types_of_codes(copy: _Copy, values: dict[str, TensorProto]) -> dict[str, int]:
    """Return tensor → type of its codes, as far as the operators in front of it tell."""
    types = {name: tensor.data_type for name, tensor in values.items()}
    for told in (*copy.model.graph.value_info, *copy.model.graph.input):
        if told.type.tensor_type.elem_type:
            types.setdefault(told.name, told.type.tensor_type.elem_type)
    for node in copy.model.graph.node:
        if node.op_type == "QuantizeLinear" and (len(node.input) < 3 or not node.input[2]):
            kind = attribute(node, "output_dtype", 0)
            types[node.output[0]] = kind if isinstance(kind, int) and kind else TensorProto.UINT8
        elif node.op_type in RESULT_PARAMETERS:
            position = RESULT_PARAMETERS[node.op_type][1]
            zero_point = values.get(node.input[position]) if len(node.input) > position else None
            if zero_point is not None:
                types[node.output[0]] = zero_point.data_type
        elif node.op_type in PASSING_OPERATORS and node.input[0] in types:
            types.setdefault(node.output[0], types[node.input[0]])
    return types


def _infer_shapes(copy: _Copy) -> bool:
    """Say the shapes that follow from the input's."""
    graph = copy.model.graph
    asked = ModelProto()
    asked.CopyFrom(copy.model)
    listed = {value.name for value in graph.input}
    for name, tensor in copy.large:
        if name not in listed:
            asked.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    for node in asked.graph.node:  # their shapes are those of ONNX's own
        if _is_quantizer(node):
            node.domain = ""
    inferred = None
    for propagate in (True, False):
        try:
            inferred = onnx.shape_inference.infer_shapes(asked, data_prop=propagate).graph
            break
        except Exception:  # a graph whose shapes cannot be told still has what it says
            continue
    if inferred is None:
        return False
    said: dict[str, ValueInfoProto] = {value.name: value for value in (*graph.value_info, *graph.output)}
    changed = False
    for found in (*inferred.value_info, *inferred.output):
        tensor = found.type.tensor_type
        if not tensor.HasField("shape") or not tensor.elem_type:
            continue
        before = said.get(found.name)
        if before is not None and _known(before) >= _known(found):
            continue
        if before is None:
            graph.value_info.append(found)
            before = graph.value_info[-1]
        elif found.type.tensor_type.elem_type and before.type.tensor_type.elem_type in (0, tensor.elem_type):
            before.type.CopyFrom(found.type)
        else:
            continue
        for dimension in before.type.tensor_type.shape.dim:
            if dimension.dim_param.startswith("unk__"):  # a name that inference made up
                dimension.ClearField("dim_param")
        changed = True
    return changed


def _known(told: ValueInfoProto) -> int:
    """Return how much is known of a shape: -1 if nothing, else how many dimensions have a number."""
    tensor = told.type.tensor_type
    return sum(size.HasField("dim_value") for size in tensor.shape.dim) if tensor.HasField("shape") else -1


def _say_axes(copy: _Copy) -> bool:
    """Count the axes of quantizers from the front."""
    graph = copy.model.graph
    ranks = {name: len(tensor.dims) for name, tensor in copy.values().items()}
    for told in (*graph.value_info, *graph.output, *graph.input):
        if told.type.tensor_type.HasField("shape"):
            ranks[told.name] = len(told.type.tensor_type.shape.dim)
    changed = False
    for node in graph.node:
        rank = ranks.get(node.input[0], ranks.get(node.output[0])) if _is_quantizer(node) else None
        for found in node.attribute if rank else ():
            if found.name == "axis" and found.type == AttributeProto.INT and found.i < 0:
                found.i += rank or 0
                changed = True
    return changed


def _name_nodes(copy: _Copy) -> bool:
    """Give names to nodes that have none."""
    nodes = copy.model.graph.node
    taken = {node.name for node in nodes}
    changed = False
    for node in nodes:
        if node.name:
            continue
        name = base = f"{node.op_type}/{next((output for output in node.output if output), 'none')}"
        count = 1
        while name in taken:
            count += 1
            name = f"{base}/{count}"
        node.name = name
        taken.add(name)
        changed = True
    return changed
