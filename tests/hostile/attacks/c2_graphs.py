"""C2: ONNX files that say things in another way, or that cannot be: read right, or refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from hostile.graphs import entry_of, largest_weight, sign_bundle
from hostile.ground import OPTIONS
from hostile.harness import Attack, Scene, Verdict, fell, held

#: Changes a graph in place; what it returns, if anything, is done to the file's bytes.
_Change = Callable[[onnx.ModelProto], Callable[[bytes], bytes] | None]
_FIGURES = ("image", "model", "precision", "comparison", "metric", "value", "status")


def _backwards(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _sparse(model: onnx.ModelProto) -> None:
    tensor = largest_weight(model)
    values = numpy_helper.to_array(tensor)
    places = np.arange(values.size, dtype=np.int64)
    flat = numpy_helper.from_array(values.reshape(-1), tensor.name)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(flat, numpy_helper.from_array(places), list(values.shape)))
    model.graph.initializer.remove(tensor)


def _node(model: onnx.ModelProto, operator: str, place: int = 0) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == operator][place]


def _constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _set(model: onnx.ModelProto, name: str, value: object) -> None:
    tensor = _constant(model, name)
    before = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, before.dtype), name))


def _in_front_of_logits(model: onnx.ModelProto, operator: str, inputs: list[str], **attributes: object) -> None:
    output = model.graph.output[0].name
    maker = next(node for node in model.graph.node if output in node.output)
    maker.output[list(maker.output).index(output)] = "before"
    model.graph.node.append(helper.make_node(operator, ["before", *inputs], [output], name="evil", **attributes))


def _axis(model: onnx.ModelProto) -> None:
    _in_front_of_logits(model, "Softmax", [], axis=99)


def _text(place: Callable[[onnx.ModelProto], object]) -> _Change:
    """Put four bytes that are no text where a name of four letters was."""

    def change(model: onnx.ModelProto) -> Callable[[bytes], bytes]:
        place(model)
        return lambda data: data.replace(b"QQQQ", b"\xff\xfe\xc0\x80")

    return change


def _scale(value: float) -> _Change:
    return lambda model: _set(model, _node(model, "QuantizeLinear").input[1], value)


def _weight(value: float) -> _Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = largest_weight(model)
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[0] = value
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change


def _nul_in_location(model: onnx.ModelProto) -> None:
    tensor = largest_weight(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="a\0b")


def _size(change: Callable[[bytes], bytes]) -> _Change:
    def cut(model: onnx.ModelProto) -> None:
        tensor = largest_weight(model)
        tensor.raw_data = change(tensor.raw_data)

    return cut


def _constant_node_cut(model: onnx.ModelProto) -> None:
    tensor = largest_weight(model)
    value = TensorProto()
    value.CopyFrom(tensor)
    value.raw_data = value.raw_data[:-4]
    model.graph.initializer.remove(tensor)
    model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], name="evil", value=value))


def _zero_points_left_out(model: onnx.ModelProto) -> None:
    """Leave out the zero points that are 0 and of the type that is meant without one."""
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3:
            held = {tensor.name: tensor for tensor in model.graph.initializer}
            if node.input[2] in held and not numpy_helper.to_array(held[node.input[2]]).any() and node.input[0] in held:
                del node.input[2]


def _scales_in_lists(model: onnx.ModelProto) -> None:
    quantizers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    names = {name for node in quantizers for name in node.input[1:]}
    for tensor in model.graph.initializer:
        if tensor.name in names and not tensor.dims:
            tensor.dims.append(1)


def _field(edit: Callable[[onnx.ModelProto], object]) -> _Change:
    def change(model: onnx.ModelProto) -> None:
        edit(model)

    return change


def _text_for_axis(node: onnx.NodeProto) -> None:
    node.attribute.add(name="axis", s=b"x", type=3)


def _dims(*dims: int) -> _Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = largest_weight(model)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


#: Told, precision, change; first those that say the same in another way.
_SAME: list[tuple[str, str, _Change]] = [
    ("nodes in no order", "f32", _backwards),
    ("nodes in no order, int8", "int8", _backwards),
    ("a weight as sparse initializer", "f32", _sparse),
    ("zero points of 0 left out", "int8", _zero_points_left_out),
    ("scales as lists of one", "int8", _scales_in_lists),
]
_WRONG: list[tuple[str, str, _Change]] = [
    ("an axis out of range", "f32", _axis),
    ("a node's name is no text", "f32", _text(lambda model: setattr(model.graph.node[0], "name", "QQQQ"))),
    ("an operator's name is no text", "f32", _text(lambda model: setattr(model.graph.node[0], "op_type", "QQQQ"))),
    ("the producer's name is no text", "f32", _text(lambda model: setattr(model, "producer_name", "QQQQ"))),
    ("a scale is NaN", "int8", _scale(float("nan"))),
    ("a scale is infinite", "int8", _scale(float("inf"))),
    ("a scale is 0", "int8", _scale(0)),
    ("a scale is negative", "int8", _scale(-0.1)),
    ("a weight is NaN", "f32", _weight(float("nan"))),
    ("a weight is infinite", "f32", _weight(float("inf"))),
    ("NUL in the location of a weight", "f32", _nul_in_location),
    ("a weight cut short", "f32", _size(lambda data: data[:-4])),
    ("a weight with values behind its end", "f32", _size(lambda data: data + b"\0" * 4)),
    ("a weight without values", "f32", _size(lambda data: b"")),
    ("a Constant cut short", "f32", _constant_node_cut),
    ("a weight of a negative size", "f32", _dims(-1, 3, 3, 3)),
    ("a weight of 10⁹ × 10⁹ without the values", "f32", _dims(10**9, 10**9)),
    ("a weight of a type that nobody knows", "f32", _field(lambda model: setattr(largest_weight(model), "data_type", 99))),
    ("a weight of no type", "f32", _field(lambda model: setattr(largest_weight(model), "data_type", 0))),
    ("no nodes", "f32", _field(lambda model: model.graph.ClearField("node"))),
    ("no outputs", "f32", _field(lambda model: model.graph.ClearField("output"))),
    ("no inputs", "f32", _field(lambda model: model.graph.ClearField("input"))),
    ("no opset", "f32", _field(lambda model: model.ClearField("opset_import"))),
    ("opset 10⁹", "f32", _field(lambda model: setattr(model.opset_import[0], "version", 10**9))),
    ("opset -5", "f32", _field(lambda model: setattr(model.opset_import[0], "version", -5))),
    ("IR version 10⁹", "f32", _field(lambda model: setattr(model, "ir_version", 10**9))),
    ("a node without operator", "f32", _field(lambda model: setattr(model.graph.node[0], "op_type", ""))),
    ("a node without outputs", "f32", _field(lambda model: model.graph.node[0].ClearField("output"))),
    ("a node without inputs", "f32", _field(lambda model: _node(model, "Conv").ClearField("input"))),
    ("an attribute of another type", "f32", _field(lambda model: _text_for_axis(model.graph.node[0]))),
    ("a tensor that nothing makes", "f32", _field(lambda model: model.graph.node[-1].input.__setitem__(0, "nobody"))),
]  # fmt: skip


def _attacked(precision: str, change: _Change, *, same: bool) -> Callable[[Scene], Verdict]:
    def run(scene: Scene) -> Verdict:
        bundle = scene.copy(scene.ground.bundle, "tiny")
        path = bundle / entry_of(bundle, precision)["file"]
        model = onnx.load(path)
        of_bytes = change(model)
        data = model.SerializeToString()
        path.write_bytes(data if of_bytes is None else of_bytes(data))
        sign_bundle(bundle, precision)
        words = ("--images", scene.ground.photographs, "--saliency", "spectral", *OPTIONS, "--output", scene.work / "out")
        outcome = scene.run("qcam-eval", bundle, *words)
        if outcome.fault() or outcome.code == 2:
            return outcome.refused(path.name, "bundle.json")
        if outcome.code != 0:
            return fell(f"exit {outcome.code}")
        folders = (scene.work / "out", scene.ground.run)
        found, good = (pq.read_table(folder / "results.parquet").to_pylist() for folder in folders)
        if same:
            names = [name for name in _FIGURES if name in good[0]]
            equal = [[row[name] for name in names] for row in found] == [[row[name] for name in names] for row in good]
            return held("read, the same figures") if equal else fell("exit 0, other figures")
        statuses = [row["status"] for row in found if row["precision"] == precision]
        told = statuses and "ok" not in statuses
        return held(f"told: {statuses[0]}") if told else fell("exit 0, as if nothing were wrong")

    return run


_RUNS = [(told, _attacked(precision, change, same=True)) for told, precision, change in _SAME]
_RUNS += [(told, _attacked(precision, change, same=False)) for told, precision, change in _WRONG]
ATTACKS = [Attack(f"C2.{number}", told, run) for number, (told, run) in enumerate(_RUNS, 1)]
