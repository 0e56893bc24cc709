"""A4: weights that lie outside the file whose fingerprint is known."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hostile.graphs import change_graph, entry_of, move_out, other_weights, sign_bundle
from hostile.harness import Attack, Scene, Verdict, fell, held, sha256


def _changed(scene: Scene, *, constant: bool, declared: bool, again: bool) -> Verdict:
    """Evaluate, change the file outside, evaluate again.

    `declared`: the manifest knows the outside file's digest, where its format can say so; `again`: into the same folder.
    """
    bundle = scene.copy(scene.ground.bundle, "bundle")
    places: list[Path] = []
    change_graph(bundle, "int8", lambda model: places.append(move_out(model, bundle, "weights.bin", constant=constant)))
    if declared:
        sign_bundle(bundle, "int8", external={"weights.bin": sha256(places[0])})
    words = (bundle, "--images", scene.ground.photographs)
    first = scene.ground.eval(*words, output=scene.work / "first")
    if first.fault() or first.code != 0:
        verdict = first.refused("weights.bin", "int8.onnx")
        return held(f"{verdict.told} at once") if verdict.held else verdict
    other_weights(places[0])
    second = scene.ground.eval(*words, output=scene.work / ("first" if again else "second"))
    if not second.fault() and second.code == 0:
        return fell("old results pass for those of other weights" if again else "same fingerprint, other weights, exit 0")
    return second.refused("weights.bin", "int8.onnx")


def _location(scene: Scene, *, constant: bool, where: str) -> Verdict:
    """Let the graph read weights from outside its folder; the manifest declares them with the right digest."""
    bundle = scene.copy(scene.ground.bundle, "bundle")
    elsewhere = scene.work / "elsewhere"
    elsewhere.mkdir()
    location = {
        "..": "../elsewhere/w.bin", "deep": "x/../../elsewhere/w.bin", "absolute": str(elsewhere / "w.bin"), "link": "w.bin",
        "folder": "linked/w.bin", "device": "w.bin",
    }[where]  # fmt: skip
    if where == "deep":
        (bundle / "x").mkdir()
    if where == "folder":
        (bundle / "linked").symlink_to(elsewhere)
    places: list[Path] = []
    change_graph(bundle, "int8", lambda model: places.append(move_out(model, bundle, location, constant=constant)))
    path = places[0]
    digest = sha256(path)
    if where == "link":
        path.rename(elsewhere / "w.bin")
        path.symlink_to(elsewhere / "w.bin")
    if where == "device":
        path.unlink()
        os.mkfifo(path)
    sign_bundle(bundle, "int8", external={location: digest})
    outcome = scene.ground.eval(bundle, "--images", scene.ground.photographs, output=scene.work / "out")
    if not outcome.fault() and outcome.code == 0:
        return fell("weights from outside the bundle are read")
    return outcome.refused("int8.onnx", "bundle.json", "w.bin")


def _network(path: Path, *, constant: bool) -> Path:
    """Write a salient-object network of one convolution whose weights lie in a file beside it; return that file."""
    weights = np.random.default_rng(0).normal(size=(1, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Sigmoid", ["c"], ["y"])],
        "saliency",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 64, 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    file = move_out(model, path.parent, "net.bin", constant=constant)
    path.write_bytes(model.SerializeToString())
    onnx.load(path, load_external_data=False)
    return file


def _saliency(scene: Scene, *, constant: bool) -> Verdict:
    """Change a salient-object network's weights while its maps are in the cache."""
    file = _network(scene.work / "net.onnx", constant=constant)
    words = (scene.ground.bundle, "--images", scene.ground.photographs, "--precision", "f32")
    network, cache = f"onnx:{scene.work / 'net.onnx'}", scene.work / "maps"
    first = scene.ground.eval(*words, "--saliency-cache", cache, output=scene.work / "first", saliency=network)
    if first.fault() or first.code != 0:
        return first.refused("net.onnx", "net.bin")
    file.write_bytes((-np.frombuffer(file.read_bytes(), np.float32)).tobytes())
    second = scene.ground.eval(*words, "--saliency-cache", cache, output=scene.work / "second", saliency=network)
    if second.fault() or second.code != 0:
        return second.refused("net.onnx", "net.bin")
    third = scene.ground.eval(*words, "--saliency-cache", "none", output=scene.work / "third", saliency=network)
    if third.code != 0:
        return fell("the attack itself failed")
    cached, fresh = ((scene.work / name / "results.parquet").read_bytes() for name in ("second", "third"))
    return held("other weights, other maps") if cached == fresh else fell("the cache gives the old weights' maps")


def _network_outside(scene: Scene, *, constant: bool) -> Verdict:
    """Let a salient-object network read weights from outside its folder."""
    folder = scene.work / "network"
    folder.mkdir()
    file = _network(folder / "net.onnx", constant=constant)
    model = onnx.load(folder / "net.onnx", load_external_data=False)
    file.rename(scene.work / "net.bin")
    tensors = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"] + list(model.graph.initializer)
    for tensor in tensors:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = "../net.bin"
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    words = (scene.ground.bundle, "--images", scene.ground.photographs, "--precision", "f32", "--saliency-cache", "none")
    outcome = scene.ground.eval(*words, output=scene.work / "out", saliency=f"onnx:{folder / 'net.onnx'}")
    return outcome.refused("net.onnx")


def _deployed(scene: Scene, *, constant: bool) -> Verdict:
    """Give qcam-check a file of another tool that reads weights from outside its folder."""
    bundle = scene.copy(scene.ground.bundle, "bundle")
    folder = scene.work / "vendor"
    folder.mkdir()
    path = folder / "vendor.onnx"
    model = onnx.load(bundle / entry_of(bundle, "int8")["file"], load_external_data=False)
    move_out(model, folder, "../w.bin", constant=constant)
    path.write_bytes(model.SerializeToString())
    words = ("--images", scene.ground.photographs, "--limit", 2, "--precision", "int8", "--threads", 1, "--no-other-cpus")
    outcome = scene.run("qcam-check", scene.ground.bundle, *words, "--deployed", path, "--output", scene.work / "check")
    return outcome.refused("vendor.onnx")


def _named(constant: bool) -> str:
    return "Constant" if constant else "initializer"


def _further(declared: bool, again: bool) -> str:
    return ", digest in the manifest" * declared + ", same output" * again


_RUNS: list[tuple[str, Callable[[Scene], Verdict]]] = [
    (
        f"{_named(constant)}'s data changed{_further(declared, again)}",
        partial(_changed, constant=constant, declared=declared, again=again),
    )
    for constant in (True, False)
    for declared in (False, True)
    for again in (False, True)
]
_PLACES = {
    "..": "in ..", "deep": "in x/../..", "absolute": "at an absolute path", "link": "behind a link",
    "folder": "in a linked folder", "device": "in a pipe",
}  # fmt: skip
_RUNS += [
    (f"{_named(constant)}'s data {told}", partial(_location, constant=constant, where=where))
    for where, told in _PLACES.items()
    for constant in (True, False)
]
for _constant in (True, False):
    _RUNS += [
        (f"saliency network: {_named(_constant)}'s data changed, maps cached", partial(_saliency, constant=_constant)),
        (f"saliency network: {_named(_constant)}'s data in ..", partial(_network_outside, constant=_constant)),
        (f"qcam-check --deployed: {_named(_constant)}'s data in ..", partial(_deployed, constant=_constant)),
    ]
ATTACKS = [Attack(f"A4.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
