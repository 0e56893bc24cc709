"""A precision's file is held against what the manifest says of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import QcamError
from qcam.common.files import sha256_file
from qcam.runtime.agreement import check_agreement, refuse_duplicates
from qcam.runtime.bundle import MANIFEST, Bundle, PrecisionEntry, Tap, load_bundle, load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings

OPENERS = [load_onnx, lambda bundle, name: DeployedModel(bundle, name, SessionSettings())]


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle.folder, tmp_path / "copy")
    return tmp_path / "copy"


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Bundle:
    value = json.loads((folder / MANIFEST).read_text())
    change(value)
    (folder / MANIFEST).write_text(json.dumps(value))
    return load_bundle(folder)


def swapped(folder: Path, one: int, other: int) -> Bundle:
    """Let two precisions of a manifest change their names."""

    def swap(value: dict[str, Any]) -> None:
        entries = value["precisions"]
        entries[one]["name"], entries[other]["name"] = entries[other]["name"], entries[one]["name"]

    return edited(folder, swap)


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize(
    ("pair", "name", "message"),
    [
        ((0, 2), "f32", r"calls .*int8\.onnx f32, but it computes with codes of uint8 \(first: QuantizeLinear node images_Q"),
        ((0, 2), "int8", r"calls .*f32\.onnx int8, but no activation in it is quantized; give every precision its own file"),
        ((0, 1), "f32", r"calls .*int16\.onnx f32, but it computes with codes of uint16"),
        ((0, 1), "int16", r"calls .*f32\.onnx int16, but no activation in it is quantized"),
        ((1, 2), "int8", r"calls .*int16\.onnx int8, but its activations are codes of uint16 \(first: QuantizeLinear node"),
        ((1, 2), "int16", r"calls .*int8\.onnx int16, but its activations are codes of uint8"),
    ],
)
def test_precisions_under_each_others_names_are_refused(
    copy: Path, opened: Callable[[Bundle, str], object], pair: tuple[int, int], name: str, message: str
) -> None:
    with pytest.raises(QcamError, match=message):
        opened(swapped(copy, *pair), name)


@pytest.mark.parametrize("command", ["qcam.commands.eval", "qcam.commands.check"])
def test_commands_refuse_swapped_names(copy: Path, tmp_path: Path, command: str) -> None:
    import importlib

    from click.testing import CliRunner

    from qcam.images.embedded import evaluation_photographs

    swapped(copy, 0, 2)
    pictures = str(evaluation_photographs()[0].path.parent)
    done = CliRunner().invoke(
        importlib.import_module(command).main,
        [str(copy), "--images", pictures, "--limit", "1", "--output", str(tmp_path / "o")],
    )
    assert done.exit_code == 2
    assert "but it computes with codes of uint8" in " ".join(done.output.split())


def test_a_name_of_somebodys_own_is_not_judged(copy: Path) -> None:
    def rename(value: dict[str, Any]) -> None:
        value["precisions"][2]["name"] = "vendor"

    load_onnx(edited(copy, rename), "vendor")


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scale": 0.123},
            r"disagree on the tap .*: uint8 with scale 0\.123 .* in the manifest, uint8 with scale .* in the file",
        ),
        ({"zero_point": 77}, "disagree on the tap .* zero point 77 in the manifest, .* zero point 0 in the file"),
        ({"dtype": "int8"}, "disagree on the tap .*: int8 with"),
        ({"dtype": "float32"}, "disagree on the tap .*: float32 with"),
        ({"output": "nowhere"}, r"int8\.onnx has no output nowhere, which bundle\.json names for int8"),
        ({"output": "logits"}, r"codes of uint8, but no quantizer makes them"),
    ],
)
def test_a_tap_that_the_file_does_not_hand_out_so_is_refused(
    copy: Path, opened: Callable[[Bundle, str], object], change: dict[str, object], message: str
) -> None:
    bundle = edited(copy, lambda value: value["precisions"][2]["tap"].update(change))
    with pytest.raises(QcamError, match=message):
        opened(bundle, "int8")
    bundle = edited(
        copy, lambda value: value["precisions"][2].update(tap=tap_of(value, copy), skips=[tap_of(value, copy) | change])
    )
    with pytest.raises(QcamError, match=message):
        opened(bundle, "int8")


def tap_of(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the tap that the file hands out."""
    model = onnx.load(folder / "int8.onnx")
    output = model.graph.output[1].name
    (node,) = [node for node in model.graph.node if output in node.output]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scale, zero_point = constants[node.input[1]], constants[node.input[2]]
    return {
        "tensor": node.input[0], "output": output, "dtype": str(zero_point.dtype), "scale": float(scale),
        "zero_point": int(zero_point),
    }  # fmt: skip


@pytest.mark.parametrize("opened", OPENERS)
def test_f32_hands_out_floats(copy: Path, opened: Callable[[Bundle, str], object]) -> None:
    bundle = edited(copy, lambda value: value["precisions"][0]["tap"].update(dtype="uint8", scale=0.5))
    with pytest.raises(QcamError, match=r"bundle\.json says that f32 hands out .* as uint8, not as float32"):
        opened(bundle, "f32")


@pytest.mark.parametrize("opened", OPENERS)
def test_logits_that_are_no_output_are_refused(copy: Path, opened: Callable[[Bundle, str], object]) -> None:
    bundle = edited(copy, lambda value: value["precisions"][0].update(logits="scores"))
    with pytest.raises(QcamError, match=r"f32\.onnx has no output scores, which bundle\.json names for f32"):
        opened(bundle, "f32")


def changed(bundle: Bundle, precision: str, change: Callable[[onnx.ModelProto], object]) -> Bundle:
    """Change a file and its hash."""
    path = bundle.path(precision)
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())

    def rehash(value: dict[str, Any]) -> None:
        for entry in value["precisions"]:
            entry["sha256"] = sha256_file(bundle.folder / entry["file"])

    return edited(bundle.folder, rehash)


def second_initializer(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    other = numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name)
    model.graph.initializer.append(other)


def second_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[-1])


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            second_initializer,
            r"f32\.onnx has two initializers named .*: which one counts is not said; save the file with names",
        ),
        (second_node, r"f32\.onnx has two nodes that write "),
    ],
)
def test_a_name_for_two_things_is_refused(
    copy: Path, opened: Callable[[Bundle, str], object], change: Callable[[onnx.ModelProto], object], message: str
) -> None:
    """ONNX Runtime takes one of the initializers, the mirror would take the other."""
    bundle = changed(load_bundle(copy), "f32", change)
    with pytest.raises(QcamError, match=message):
        opened(bundle, "f32")


def test_codes_that_come_another_way_than_the_manifest_says_are_refused_as_they_run(copy: Path) -> None:
    """The file does not tell the type of what an Identity returns, the run does."""
    bundle = load_bundle(copy)
    output = bundle.precision("int8").tap.output

    def hand_out(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Identity", [output], ["copy"]))
        model.graph.output.append(helper.make_empty_tensor_value_info("copy"))

    changed(bundle, "int8", hand_out)
    bundle = edited(copy, lambda value: value["precisions"][2]["tap"].update(output="copy", dtype="float32"))
    with pytest.raises(
        QcamError, match=r"int8\.onnx returns copy as uint8, bundle\.json says float32; export the bundle again"
    ):
        DeployedModel(bundle, "int8", SessionSettings())
    bundle = edited(copy, lambda value: value["precisions"][2]["tap"].update(dtype="uint8"))
    with pytest.raises(QcamError, match=r"says that copy of .*int8\.onnx are codes of uint8, but no quantizer makes them"):
        DeployedModel(bundle, "int8", SessionSettings())


def test_a_foreign_file_keeps_its_rules_but_not_two_initializers_of_one_name(tiny_bundle: Bundle, tmp_path: Path) -> None:
    entry = tiny_bundle.precision("int8")
    foreign = replace(entry, tap=replace(entry.tap, scale=entry.tap.scale * 2))
    model = load_onnx(tiny_bundle, "int8")
    onnx.save(model, tmp_path / "vendor.onnx")
    DeployedModel(tiny_bundle, "int8", SessionSettings(), file=tmp_path / "vendor.onnx", entry=foreign)
    second_initializer(model)
    onnx.save(model, tmp_path / "vendor.onnx")
    with pytest.raises(QcamError, match=r"vendor\.onnx has two initializers named"):
        DeployedModel(tiny_bundle, "int8", SessionSettings(), file=tmp_path / "vendor.onnx", entry=foreign)


# ---- by hand


def constant(name: str, value: object) -> TensorProto:
    return numpy_helper.from_array(np.array(value), name)


def network(
    kind: str = "uint8", *, nodes: tuple[onnx.NodeProto, ...] | None = None, more: tuple[TensorProto, ...] = (), **quantize: Any
) -> onnx.ModelProto:
    """x → Q → q → DQ → y, with a constant w beside it."""
    made = nodes or (
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize", **quantize),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    )
    names = {output for node in made for output in node.output}
    graph = helper.make_graph(
        list(made),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "q") if name in names],
        [constant("s", np.float32(0.1)), constant("z", np.dtype(kind).type(3)), constant("w", np.ones(4, np.int8)), *more],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def described(name: str, dtype: str = "uint8", scale: float = float(np.float32(0.1)), zero_point: int = 3) -> PrecisionEntry:
    return PrecisionEntry(name, "m.onnx", "", "y", Tap("x", "q", dtype, scale, zero_point))


FLOAT = PrecisionEntry("f32", "m.onnx", "", "y", Tap("y", "y", "float32"))


@pytest.mark.parametrize(
    ("name", "kind"), [("int8", "uint8"), ("int8", "int8"), ("int16", "uint16"), ("int16", "int16"), ("own", "uint16")]
)
def test_codes_of_the_names_bits_agree(name: str, kind: str) -> None:
    check_agreement(network(kind), described(name, kind), "m.onnx")


@pytest.mark.parametrize("name", ["int8", "int16"])
def test_a_file_of_both_widths_may_have_either_name(name: str) -> None:
    nodes = (
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z16"], ["b"]),
        helper.make_node("DequantizeLinear", ["b", "s", "z16"], ["y"]),
    )
    check_agreement(network(nodes=nodes, more=(constant("z16", np.uint16(0)),)), described(name), "m.onnx")


WEIGHTS = (
    helper.make_node("Identity", ["w"], ["v"]),
    helper.make_node("DequantizeLinear", ["v", "s"], ["dw"]),
    helper.make_node("Add", ["x", "dw"], ["y"]),
)


def test_quantized_weights_alone_are_neither() -> None:
    with pytest.raises(QcamError, match=r"calls m\.onnx f32, but it computes with quantized weights \(first: DequantizeLinear"):
        check_agreement(network(nodes=WEIGHTS), FLOAT, "m.onnx")
    with pytest.raises(QcamError, match=r"calls m\.onnx int8, but no activation in it is quantized"):
        check_agreement(network(nodes=WEIGHTS), replace(FLOAT, name="int8"), "m.onnx")
    check_agreement(network(nodes=WEIGHTS), replace(FLOAT, name="weights8"), "m.onnx")


def test_an_operator_that_holds_weights_as_codes_has_quantized_weights() -> None:
    nodes = (helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft"),)
    with pytest.raises(QcamError, match=r"calls m\.onnx f32, but it computes with quantized weights \(first: MatMulNBits"):
        check_agreement(network(nodes=nodes), FLOAT, "m.onnx")
    with pytest.raises(QcamError, match=r"calls m\.onnx int8, but no activation in it is quantized"):
        check_agreement(network(nodes=nodes), replace(FLOAT, name="int8"), "m.onnx")


@pytest.mark.parametrize("operator", ["QLinearConv", "QGemm", "MatMulInteger", "DynamicQuantizeLinear"])
def test_operators_of_eight_bits_count_as_such(operator: str) -> None:
    nodes = (helper.make_node(operator, ["x", "s", "z"], ["a"]), helper.make_node("Cast", ["a"], ["y"], to=1))
    check_agreement(network(nodes=nodes), replace(FLOAT, name="int8"), "m.onnx")
    for name in ("f32", "int16"):
        with pytest.raises(QcamError, match=f"{name}, but .* codes of uint8"):
            check_agreement(network(nodes=nodes), replace(FLOAT, name=name), "m.onnx")


def test_without_a_zero_point_the_type_is_the_operators() -> None:
    nodes = (
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    )
    check_agreement(network(nodes=nodes), described("int8", zero_point=0), "m.onnx")
    nodes[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.INT16))
    check_agreement(network(nodes=nodes), described("int16", "int16", zero_point=0), "m.onnx")
    with pytest.raises(QcamError, match="int8, but its activations are codes of int16"):
        check_agreement(network(nodes=nodes), described("int8", zero_point=0), "m.onnx")


def test_an_operator_of_codes_has_its_own_scale() -> None:
    nodes = (
        helper.make_node("QLinearSigmoid", ["x", "o", "z", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    )
    model = network(nodes=nodes, more=(constant("o", np.float32(9)),))
    check_agreement(model, described("int8"), "m.onnx")
    with pytest.raises(QcamError, match="disagree on the tap q: uint8 with scale 9"):
        check_agreement(model, described("int8", scale=9), "m.onnx")


@pytest.mark.parametrize(
    "scale", [constant("s2", np.ones(4, np.float32)), TensorProto(name="s2", data_type=1, raw_data=b"\0"), None]
)
def test_a_scale_that_is_none_is_refused(scale: TensorProto | None) -> None:
    model = network(more=() if scale is None else (scale,))
    model.graph.node[0].input[1] = "s2"
    with pytest.raises(QcamError, match=r"no single constant; a tap needs one scale|cannot read constant s2"):
        check_agreement(model, described("int8"), "m.onnx")


def test_scales_in_constant_nodes_are_read() -> None:
    held = helper.make_node("Constant", [], ["s2"], value=constant("", np.float32(0.1)))
    model = network()
    model.graph.node.insert(0, held)
    model.graph.node[1].input[1] = "s2"
    check_agreement(model, described("int8"), "m.onnx")


def inner(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.NodeProto:
    branch = helper.make_graph(list(nodes), "branch", [], [helper.make_tensor_value_info("r", 1, None)], list(initializers))
    return helper.make_node("If", ["x"], ["r"], then_branch=branch, else_branch=branch)


ONE = constant("c", np.float32(1))
IDENTITY = helper.make_node("Identity", ["c"], ["r"])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((inner(IDENTITY, initializers=(ONE, ONE)),), "two initializers named c"),
        ((inner(IDENTITY, IDENTITY, initializers=(ONE,)),), "two nodes that write r"),
        (
            (inner(helper.make_node("Identity", ["s"], ["c"]), initializers=(ONE,)),),
            "an initializer and a node's result named c",
        ),
        ((inner(inner(IDENTITY, initializers=(ONE, ONE))),), "two initializers named c"),
        ((helper.make_node("Identity", ["x"], ["w"]),), "an initializer and a node's result named w"),
    ],
)
def test_names_for_two_things_are_found_in_subgraphs(nodes: tuple[onnx.NodeProto, ...], message: str) -> None:
    with pytest.raises(QcamError, match=f"m.onnx has {message}"):
        refuse_duplicates(network(nodes=nodes), "m.onnx")


def test_names_for_two_things_are_found_in_functions_and_among_sparse_initializers() -> None:
    model = network()
    model.functions.append(helper.make_function("d", "f", [], ["r"], [IDENTITY, IDENTITY], [helper.make_opsetid("", 21)]))
    with pytest.raises(QcamError, match="two nodes that write r"):
        refuse_duplicates(model, "m.onnx")
    model = network()
    model.graph.sparse_initializer.add().values.name = "w"
    with pytest.raises(QcamError, match="two initializers named w"):
        refuse_duplicates(model, "m.onnx")


def test_branches_may_use_the_same_names() -> None:
    refuse_duplicates(network(nodes=(inner(IDENTITY, initializers=(ONE,)),)), "m.onnx")


def test_quantizers_in_subgraphs_and_functions_count() -> None:
    quantize = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["r"])
    with pytest.raises(QcamError, match="f32, but it computes with codes of uint8"):
        check_agreement(network(nodes=(inner(quantize), helper.make_node("Identity", ["x"], ["y"]))), FLOAT, "m.onnx")
    model = network(nodes=(helper.make_node("f", ["x", "s", "z"], ["y"], domain="d"),))
    body = helper.make_node("QuantizeLinear", ["a", "b", "c"], ["r"])
    model.functions.append(helper.make_function("d", "f", ["a", "b", "c"], ["r"], [body], [helper.make_opsetid("", 21)]))
    with pytest.raises(QcamError, match="f32, but it computes with codes of an unknown type"):
        check_agreement(model, FLOAT, "m.onnx")
    check_agreement(model, replace(FLOAT, name="int8"), "m.onnx")


def test_an_operator_of_codes_without_a_zero_point_keeps_their_type() -> None:
    nodes = (
        helper.make_node("QLinearSigmoid", ["x", "s", "z", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    )
    check_agreement(network("int8", nodes=nodes), described("int8", "int8", zero_point=0), "m.onnx")
    with pytest.raises(QcamError, match="disagree on the tap q"):
        check_agreement(network("int8", nodes=nodes), described("int8", "int8", zero_point=3), "m.onnx")


def test_long_ways_and_circles_of_nodes_end() -> None:
    count = 20000
    way = [helper.make_node("DequantizeLinear", [f"t{i}", "s"], [f"t{i + 1}"]) for i in range(count)]
    circle = helper.make_node("DequantizeLinear", ["u", "s"], ["u"])
    model = network(nodes=(*way, circle, helper.make_node("Identity", ["x"], ["y"])))
    check_agreement(model, replace(FLOAT, name="int8"), "m.onnx")
