"""B6 and B7: graphs that run for ever, or take memory or time without bounds, in bundles and as salient-object networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hostile.graphs import change_graph, entry_of
from hostile.ground import OPTIONS
from hostile.harness import Attack, Outcome, Scene, Verdict, fell

#: MB at which a command is killed, and seconds: far more than one of the tests' tiny network takes.
_KILLED, _PATIENCE = 4_000.0, 30.0
_FLOAT, _WHOLE = TensorProto.FLOAT, TensorProto.INT64
#: What an attack puts into a graph: nodes and constants; the last node makes `evil`, a float tensor of any shape.
_Part = tuple[list[onnx.NodeProto], list[onnx.TensorProto], list[onnx.FunctionProto]]


def _whole(name: str, value: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


def _float(name: str, value: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.float32), name)


def _loop() -> _Part:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["held"], ["kept"])],
        "body",
        [helper.make_tensor_value_info("turn", _WHOLE, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("held", _FLOAT, [1])],
        [helper.make_tensor_value_info("goes", TensorProto.BOOL, []), helper.make_tensor_value_info("kept", _FLOAT, [1])],
    )  # fmt: skip
    nodes = [helper.make_node("Loop", ["many", "", "one"], ["evil"], name="turns", body=body)]
    return nodes, [_whole("many", 10**15), _float("one", [1])], []


def _scan() -> _Part:
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "each"], ["next"]), helper.make_node("Identity", ["next"], ["out"])],
        "body",
        [helper.make_tensor_value_info("state", _FLOAT, [1]), helper.make_tensor_value_info("each", _FLOAT, [1])],
        [helper.make_tensor_value_info("next", _FLOAT, [1]), helper.make_tensor_value_info("out", _FLOAT, [1])],
    )
    nodes = [
        helper.make_node("Expand", ["one", "long"], ["sequence"]),
        helper.make_node("Scan", ["one", "sequence"], ["evil", "all"], name="turns", body=body, num_scan_inputs=1),
    ]
    return nodes, [_float("one", [1]), _whole("long", [200_000_000, 1])], []


def _choice() -> _Part:
    huge = helper.make_node("ConstantOfShape", ["sizes"], ["made"])
    branch = helper.make_graph([huge], "branch", [], [helper.make_tensor_value_info("made", _FLOAT, None)])
    nodes = [helper.make_node("If", ["yes"], ["evil"], name="choice", then_branch=branch, else_branch=branch)]
    return nodes, [numpy_helper.from_array(np.bool_(True), "yes"), _whole("sizes", [10**6, 10**6])], []


def _circle() -> _Part:
    nodes = [helper.make_node("Add", ["one", "other"], ["evil"]), helper.make_node("Relu", ["evil"], ["other"])]
    return nodes, [_float("one", [1])], []


def _one(operator: str, inputs: list[str], constants: list[onnx.TensorProto], **attributes: object) -> Callable[[], _Part]:
    return lambda: ([helper.make_node(operator, inputs, ["evil"], name="giant", **attributes)], constants, [])


def _range() -> _Part:
    nodes = [
        helper.make_node("Range", ["from", "to", "step"], ["counted"], name="giant"),
        helper.make_node("Cast", ["counted"], ["evil"], to=_FLOAT),
    ]
    return nodes, [_whole("from", 0), _whole("to", 10**12), _whole("step", 1)], []


def _chain() -> _Part:
    nodes = [
        helper.make_node("Shape", ["ten"], ["size"]),
        helper.make_node("Mul", ["size", "many"], ["more"]),
        helper.make_node("Mul", ["more", "more"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["evil"], name="giant"),
    ]
    return nodes, [_float("ten", [[1]] * 10), _whole("many", [100_000, 100_000])], []


def _axes() -> _Part:
    """Give a Reshape that makes as many axes as a list is long."""
    nodes = [
        helper.make_node("Expand", ["whole", "long"], ["sizes"]),
        helper.make_node("Reshape", ["one", "sizes"], ["evil"], name="giant"),
    ]
    return nodes, [_whole("whole", [1]), _whole("long", [10**7]), _float("one", [1])], []


def _products() -> _Part:
    side = 16_000
    nodes = [helper.make_node("Expand", ["one", "square"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{step}", f"m{step}"], [f"m{step + 1}"], name=f"p{step}") for step in range(100)]
    return [*nodes, helper.make_node("Identity", ["m100"], ["evil"])], [_float("one", 0), _whole("square", [side, side])], []


def _doubling() -> _Part:
    """Give local functions that call the one before twice: 2^40 nodes when they are put in place."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    functions = [helper.make_function("evil", "f0", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opset)]
    for level in range(1, 41):
        calls = [
            helper.make_node(f"f{level - 1}", ["x"], ["z"], domain="evil"),
            helper.make_node(f"f{level - 1}", ["z"], ["y"], domain="evil"),
        ]
        functions.append(helper.make_function("evil", f"f{level}", ["x"], ["y"], calls, opset))
    return [helper.make_node("f40", ["one"], ["evil"], domain="evil")], [_float("one", [1])], functions


def _calls_itself() -> _Part:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    again = helper.make_node("f", ["x"], ["y"], domain="evil")
    return (
        [helper.make_node("f", ["one"], ["evil"], domain="evil")], [_float("one", [1])],
        [helper.make_function("evil", "f", ["x"], ["y"], [again], opset)],
    )  # fmt: skip


def _sparse() -> _Part:
    values = numpy_helper.from_array(np.ones(1, np.float32), "few")
    sparse = helper.make_sparse_tensor(values, _whole("few_places", [0]), [10**6, 10**6])
    return [helper.make_node("Constant", [], ["evil"], name="giant", sparse_value=sparse)], [], []


_SIZES = [_whole("sizes", [10**6, 10**6])]
_SMALL = [_float("one", [[[[1]]]])]
_PARTS: list[tuple[str, str, Callable[[], _Part]]] = [
    ("B6", "a circle", _circle),
    ("B6", "a local function that calls itself", _calls_itself),
    ("B7", "a Loop of 10¹⁵ turns", _loop),
    ("B7", "a Scan over 200 million steps", _scan),
    ("B7", "an If of two huge tensors", _choice),
    ("B7", "40 local functions, each calling the one before twice", _doubling),
    ("B7", "ConstantOfShape 10⁶ × 10⁶", _one("ConstantOfShape", ["sizes"], _SIZES)),
    ("B7", "ConstantOfShape of sizes that are computed", _chain),
    ("B7", "Range of 10¹²", _range),
    ("B7", "Expand to 10⁶ × 10⁶", _one("Expand", ["one", "sizes"], [_float("one", [1]), *_SIZES])),
    ("B7", "Tile 10⁶ × 10⁶", _one("Tile", ["one", "sizes"], [_float("one", [[1]]), *_SIZES])),
    ("B7", "Pad by 10⁶", _one("Pad", ["one", "by"], [*_SMALL, _whole("by", [0, 0, 10**6, 10**6, 0, 0, 0, 0])])),
    ("B7", "Resize by 10⁶", _one("Resize", ["one", "", "by"], [*_SMALL, _float("by", [1, 1, 10**6, 10**6])])),
    ("B7", "AveragePool with borders of 10⁶", _one("AveragePool", ["one"], _SMALL, kernel_shape=[1, 1], pads=[10**6] * 4)),
    ("B7", "RandomNormal 10⁶ × 10⁶", _one("RandomNormal", [], [], shape=[10**6, 10**6])),
    ("B7", "a Reshape to 10⁷ axes", _axes),
    ("B7", "100 matrix products of 16,000 × 16,000", _products),
    ("B7", "a sparse constant of 10⁶ × 10⁶", _sparse),
]  # fmt: skip


def _put_in(model: onnx.ModelProto, part: _Part, output: str) -> None:
    """Let an output of a graph be what it was, plus nothing of what an attack makes."""
    nodes, constants, functions = part
    graph = model.graph
    maker = next(node for node in graph.node if output in node.output)
    maker.output[list(maker.output).index(output)] = "good"
    for node in graph.node:
        node.input[:] = ["good" if name == output else name for name in node.input]
    graph.node.extend(nodes)
    graph.node.append(helper.make_node("ReduceMax", ["evil"], ["most"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["most", "nothing"], ["no_more"]))
    graph.node.append(helper.make_node("Add", ["good", "no_more"], [output]))
    graph.initializer.extend([*constants, _float("nothing", 0)])
    if functions:
        model.functions.extend(functions)
        model.opset_import.append(helper.make_opsetid("evil", 1))


def _judged(outcome: Outcome, *names: str) -> Verdict:
    if outcome.code is None:
        return fell(f"it hangs, or took {outcome.peak / 1024:.1f} GiB")
    return outcome.refused(*names)


def _bundle(make: Callable[[], _Part]) -> Callable[[Scene], Verdict]:
    def run(scene: Scene) -> Verdict:
        bundle = scene.copy(scene.ground.bundle, "bundle")
        logits = entry_of(bundle, "f32")["logits"]
        change_graph(bundle, "f32", lambda model: _put_in(model, make(), logits))
        words = ("--images", scene.ground.photographs, "--saliency", "none", "--precision", "f32", *OPTIONS, "--output", "out")
        outcome = scene.run("qcam-eval", bundle, *words, most=_KILLED, patience=_PATIENCE)
        return _judged(outcome, "f32.onnx")

    return run


def _network(make: Callable[[], _Part]) -> Callable[[Scene], Verdict]:
    def run(scene: Scene) -> Verdict:
        path = scene.work / "net.onnx"
        path.write_bytes(_saliency_network(make()).SerializeToString())
        words = ("--images", scene.ground.photographs, "--saliency", f"onnx:{path}", "--precision", "f32", *OPTIONS)
        outcome = scene.run("qcam-eval", scene.ground.bundle, *words, "--output", "out", most=_KILLED, patience=_PATIENCE)
        return _judged(outcome, "net.onnx")

    return run


def _saliency_network(part: _Part) -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Sigmoid", ["grey"], ["map"]),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("image", _FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("map", _FLOAT, [1, 1, 64, 64])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    _put_in(model, part, "map")
    return model


def _deployed(make: Callable[[], _Part]) -> Callable[[Scene], Verdict]:
    def run(scene: Scene) -> Verdict:
        bundle = scene.ground.bundle
        model = onnx.load(bundle / Path(entry_of(bundle, "int8")["file"]))
        _put_in(model, make(), entry_of(bundle, "int8")["logits"])
        (scene.work / "vendor.onnx").write_bytes(model.SerializeToString())
        words = ("--images", scene.ground.photographs, "--limit", 2, "--precision", "int8", "--deployed", "int8=vendor.onnx")
        outcome = scene.run("qcam-check", bundle, *words, "--output", "out", most=_KILLED, patience=_PATIENCE)
        return _judged(outcome, "vendor.onnx")

    return run


def _numbered() -> list[Attack]:
    runs: list[tuple[str, str, Callable[[Scene], Verdict]]] = []
    for kind, told, make in _PARTS:
        runs.append((kind, told, _bundle(make)))
    for kind, told, make in _PARTS:
        runs.append((kind, f"salient-object network: {told}", _network(make)))
    for kind, told, make in _PARTS:
        if make in (_circle, _loop, _chain, _doubling):
            runs.append((kind, f"qcam-check --deployed: {told}", _deployed(make)))
    runs.sort(key=lambda each: each[0])
    counts: dict[str, int] = {}
    made = []
    for kind, told, run in runs:
        counts[kind] = counts.get(kind, 0) + 1
        made.append(Attack(f"{kind}.{counts[kind]}", told, run))
    return made


ATTACKS = _numbered()
