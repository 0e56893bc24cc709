"""A file that is damaged, or says less than it has to, is refused in one line: nothing behind the door trips over it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from foreign_graphs import VARIANTS, normalising, operator, quantized, variant, with_softmax
from onnx import ModelProto, TensorProto, helper

from qcam.common.errors import QcamError, UnsupportedGraphError
from qcam.exporters.importing.ordering import ImportOrder
from qcam.exporters.importing.parts import read_part
from qcam.exporters.importing.reading import read_foreign
from qcam.runtime.wellformed import refuse_malformed, refuse_no_text


def first(model: ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def no_scale(model: ModelProto) -> None:
    del first(model, "QuantizeLinear").input[1:]


def no_output(model: ModelProto) -> None:
    del first(model, "Flatten").output[:]


def no_operand(model: ModelProto) -> None:
    first(model, "QuantizeLinear").input[0] = ""


def unmade(model: ModelProto) -> None:
    first(model, "Flatten").input[0] = "nowhere"


def unmade_output(model: ModelProto) -> None:
    model.graph.output.append(helper.make_empty_tensor_value_info("nowhere"))


def attribute_of_another_type(model: ModelProto) -> None:
    first(model, "Conv").attribute.append(helper.make_attribute("group", "one"))


def cut_short(model: ModelProto) -> None:
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.raw_data = tensor.raw_data[:5]


def below_nothing(model: ModelProto) -> None:
    model.graph.initializer[0].dims.append(-1)


def of_no_type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = TensorProto.UNDEFINED


def short_kernel(model: ModelProto) -> None:
    model.graph.node.append(operator("QLinearAdd", ["last"], "sum_of_codes", domain="com.microsoft"))


def no_version(model: ModelProto) -> None:
    model.opset_import[0].version = 1 << 40


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_version, r"operator set 1099511627776 of domain ai\.onnx is no version"),
        (no_scale, r"QuantizeLinear node \S+ is not as ONNX defines it: .*input size 1"),
        (no_output, r"Flatten node \S+ makes nothing"),
        (no_operand, r"QuantizeLinear node \S+ is not as ONNX defines it: .*empty string"),
        (unmade, r"Flatten node \S+ reads nowhere, which nothing makes"),
        (unmade_output, r"nothing makes output nowhere"),
        (attribute_of_another_type, r"Conv node \S+ is not as ONNX defines it"),
        (cut_short, r"constant \S+ of shape .* has other values than its shape and type take"),
        (below_nothing, r"constant \S+ of type .*, shape .*-1\] cannot be"),
        (of_no_type, r"constant \S+ of type undefined"),
        (short_kernel, r"QLinearAdd node \S+ has 1 operands, fewer than 7"),
    ],
)
def test_what_is_missing_is_named(change: Callable[[ModelProto], None], said: str) -> None:
    model = quantized()
    change(model)
    with pytest.raises(UnsupportedGraphError, match=rf"^x\.onnx: {said}.*; save the file anew with the tool that made it"):
        refuse_malformed(model, "x.onnx")


def test_a_name_that_is_no_text_is_refused() -> None:
    data = quantized().SerializeToString().replace(b"stem_relu", b"stem\xff\xfe\xfd\xfc\xfb")
    with pytest.raises(UnsupportedGraphError, match=r"cannot read x\.onnx as an ONNX file: a name in it is no text"):
        refuse_no_text(ModelProto.FromString(data), "x.onnx")


@pytest.mark.parametrize("name", VARIANTS)
def test_ways_of_writing_that_mean_the_same_are_whole(name: str) -> None:
    refuse_malformed(variant(name), "x.onnx")
    refuse_no_text(variant(name), "x.onnx")


def damaged(data: bytes, numbers: random.Random) -> bytes:
    """Change a file as an accident would: some bytes, or some operands, attributes and sizes."""
    if numbers.random() < 0.25:
        changed = bytearray(data)
        for _ in range(numbers.randint(1, 4)):
            changed[numbers.randrange(len(changed))] = numbers.randrange(256)
        return bytes(changed)
    model = onnx.load_from_string(data)
    graph = model.graph
    for _ in range(numbers.randint(1, 3)):
        node, tensor = numbers.choice(graph.node), numbers.choice(graph.initializer)
        changes: list[Callable[[], object]] = [
            lambda node=node: node.input.pop() if node.input else None,
            lambda node=node: node.input.append(numbers.choice(["", "nowhere", "image"])),
            lambda node=node: setattr(node, "op_type", numbers.choice(graph.node).op_type),
            lambda node=node: node.attribute.append(helper.make_attribute("axis", numbers.choice([-9, 99, 1.5, "x"]))),
            lambda node=node: node.ClearField("attribute"),
            lambda tensor=tensor: tensor.dims.append(numbers.choice([0, 1, -1, 1 << 40])),
            lambda tensor=tensor: setattr(tensor, "data_type", numbers.randrange(25)),
            lambda tensor=tensor: setattr(tensor, "raw_data", tensor.raw_data[: numbers.randrange(5)]),
            lambda: setattr(graph.input[0].type.tensor_type.shape.dim[1], "dim_value", numbers.choice([0, -5, 7, 1 << 40])),
        ]
        numbers.choice(changes)()
    return bytes(model.SerializeToString())


def test_files_damaged_by_accident_are_read_or_refused_and_never_a_bug(tmp_path: Path) -> None:
    files = [
        quantized().SerializeToString(), quantized("QOperator").SerializeToString(),
        with_softmax(quantized()).SerializeToString(), variant("local functions").SerializeToString(),
        normalising("pixels of uint8, Cast, Div, Sub and Div").SerializeToString(),
    ]  # fmt: skip
    numbers = random.Random(7)
    path = tmp_path / "x.onnx"
    read = refused = 0
    for _ in range(300):
        path.write_bytes(damaged(numbers.choice(files), numbers))
        try:
            read_part(ImportOrder(file=path, mean=(0.5,), std=(0.25,)), read_foreign(path), None, "", None)
            read += 1
        except QcamError:
            refused += 1
    assert read > 10
    assert refused > 100
