"""A7: results that exist, and a new run in their place that cannot be; output folders that hold the input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hostile.graphs import change_graph, entry_of
from hostile.ground import OPTIONS
from hostile.harness import Attack, Scene, Verdict, changes, fell, held, snapshot

#: Makes the arguments of a run that cannot be, after `qcam-eval … --force --output out`.
_Make = Callable[[Scene], list[object]]


def _forced(make: _Make, *names: str) -> Callable[[Scene], Verdict]:
    """Replace results by those of a run that cannot be: the old ones stay, byte for byte."""

    def run(scene: Scene) -> Verdict:
        out = scene.copy(scene.ground.run)
        words = make(scene)
        before = snapshot(out)
        outcome = scene.run("qcam-eval", *OPTIONS, *words, "--force", "--output", out)
        after = snapshot(out)
        gone = [name for name in before if name not in after]
        if gone:
            return fell(f"the old results are lost ({len(gone)} of {len(before)} files)")
        if changes(before, after):
            return fell("the old results are changed")
        verdict = outcome.refused(*names)
        return held("refused, the old results stay") if verdict.held else verdict

    return run


def _after_probe(bundle: Path, *, forward: bool) -> Callable[[onnx.ModelProto], None]:
    """Return what adds Sin, which the mirror does not know, before the tap or behind it."""
    entry = entry_of(bundle, "int8")
    name = entry["tap"]["tensor"] if forward else entry["logits"]
    return lambda model: _insert(model, name, "Asin")


def _insert(model: onnx.ModelProto, name: str, operator: str, *inputs: str) -> None:
    """Let an operator compute a tensor from what has computed it so far."""
    place, maker = next((i, node) for i, node in enumerate(model.graph.node) if name in node.output)
    inner = f"{name}_inner"
    maker.output[list(maker.output).index(name)] = inner
    model.graph.node.insert(place + 1, helper.make_node(operator, [inner, *inputs], [name], name=f"{name}_more"))


def _unknown_operator(*, forward: bool, words: tuple[object, ...] = ()) -> _Make:
    def make(scene: Scene) -> list[object]:
        bundle = scene.copy(scene.ground.bundle, "bundle")
        change_graph(bundle, "int8", _after_probe(bundle, forward=forward))
        return [bundle, "--images", scene.ground.photographs, "--saliency", "none", *words]

    return make


def _one_at_a_time(scene: Scene) -> list[object]:
    """Give a graph that takes one image, though it says that it takes any number."""
    bundle = scene.copy(scene.ground.bundle, "bundle")
    logits = entry_of(bundle, "int8")["logits"]

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 10], np.int64), "one_by_ten"))
        _insert(model, logits, "Reshape", "one_by_ten")

    change_graph(bundle, "int8", change)
    return [bundle, "--images", scene.ground.photographs, "--saliency", "none"]


def _damaged_bundle(scene: Scene) -> list[object]:
    bundle = scene.copy(scene.ground.bundle, "bundle")
    path = bundle / entry_of(bundle, "int8")["file"]
    path.write_bytes(path.read_bytes()[:-100])
    return [bundle, "--images", scene.ground.photographs, "--saliency", "none"]


def _run(*words: object, images: str = "") -> _Make:
    """Return a run of the good bundle with other arguments."""

    def make(scene: Scene) -> list[object]:
        (scene.work / "empty").mkdir()
        (scene.work / "no.onnx").write_bytes(b"no network")
        (scene.work / "labels.csv").write_text("image,label\nanother.jpg,1\n")
        return [scene.ground.bundle, "--images", images or scene.ground.photographs, "--saliency", "none", *words]

    return make


_FORCED = [
    ("a provider that is missing", _forced(_run("--provider", "CUDA"), "CUDA")),
    ("a provider that nobody knows", _forced(_run("--provider", "Abacus"), "Abacus")),
    ("an image folder without images", _forced(_run(images="empty"), "empty")),
    ("an image folder that is not there", _forced(_run(images="nowhere"), "nowhere")),
    ("a saliency source that nobody knows", _forced(_run("--saliency", "oracle"), "oracle")),
    ("a saliency network that is not there", _forced(_run("--saliency", "onnx:nowhere.onnx"), "nowhere.onnx")),
    ("a saliency network that is none", _forced(_run("--saliency", "onnx:no.onnx"), "no.onnx")),
    ("a mask folder that is not there", _forced(_run("--saliency", "masks:nowhere"), "nowhere")),
    ("labels of no image", _forced(_run("--labels", "labels.csv"), "labels.csv")),
    ("labels that are not there", _forced(_run("--labels", "nowhere.csv"), "nowhere.csv")),
    ("a damaged bundle", _forced(_damaged_bundle, "int8.onnx")),
    (
        "an operator that the mirror does not know, behind the tap",
        _forced(_unknown_operator(forward=False), "int8.onnx", "Asin"),
    ),
    (
        "the same, with the simulation",
        _forced(_unknown_operator(forward=False, words=("--fake-quant",)), "int8.onnx", "Asin"),
    ),
    (
        "the same, two workers",
        _forced(_unknown_operator(forward=False, words=("--workers", 2)), "int8.onnx", "Asin"),
    ),
    (
        "an operator that the mirror does not know, before the tap, with the simulation",
        _forced(_unknown_operator(forward=True, words=("--fake-quant",)), "int8.onnx", "Asin"),
    ),
    ("a graph that fails on the first batch", _forced(_one_at_a_time, "int8.onnx")),
]


def _placed(command: str, place: str) -> Callable[[Scene], Verdict]:
    """Let results go where the input is: refused before anything is written."""

    def run(scene: Scene) -> Verdict:
        data = scene.work / "data"
        data.mkdir()
        for name, source in (
            ("images", scene.ground.photographs),
            ("masks", scene.ground.photographs),
            ("bundle", scene.ground.bundle),
        ):
            shutil.copytree(source, data / name)
        (scene.work / "link").symlink_to(data / "images")
        (scene.work / "upwards").symlink_to(scene.work)
        before = snapshot(scene.work)
        saliency = ("--saliency", "masks:data/masks") if command == "qcam-eval" else ()
        words = (*OPTIONS, *saliency) if command == "qcam-eval" else ("--threads", 1, "--no-other-cpus", "--precision", "f32")
        outcome = scene.run(
            command, "data/bundle", "--images", "data/images", *words, "--output", place.replace("WORK", str(scene.work))
        )
        changed = changes(before, snapshot(scene.work))
        if changed:
            return fell(f"{len(changed)} files written among the input" if not outcome.fault() else outcome.fault())
        return outcome.refused("--output")

    return run


def _exported(calibration: str, *words: object) -> Callable[[Scene], Verdict]:
    """Export to where the calibration photographs are."""

    def run(scene: Scene) -> Verdict:
        shutil.copytree(scene.ground.photographs, scene.work / calibration)
        (scene.work / "link").symlink_to(scene.work / calibration)
        before = snapshot(scene.work)
        network = ("squeezenet1_1", "--weights", "random:0", "--precision", "int8", "--calibration-limit", 1)
        outcome = scene.run("qcam-export", *network, "--calibration", calibration, *words)
        gone = [name for name in before if name not in snapshot(scene.work)]
        if gone:
            return fell(f"{len(gone)} calibration photographs are lost")
        if changes(before, snapshot(scene.work)):
            return fell("the bundle is written among the calibration photographs" if not outcome.fault() else outcome.fault())
        return outcome.refused("--output", calibration)

    return run


_PLACES = [
    ("the image folder", "data/images"),
    ("the image folder, with a slash", "data/images/"),
    ("the image folder, absolute", "WORK/data/images"),
    ("the image folder by way of ..", "data/bundle/../images"),
    ("a link to the image folder", "link"),
    ("the image folder through a linked parent", "upwards/data/images"),
    ("above the image folder", "data"),
    ("two above the image folder", "."),
    ("inside the image folder", "data/images/out"),
    ("deep inside the image folder", "data/images/a/b/out"),
    ("inside a link to the image folder", "link/out"),
    ("the bundle's folder", "data/bundle"),
    ("inside the bundle's folder", "data/bundle/out"),
]
_MASKS = [
    ("the mask folder", "data/masks"),
    ("inside the mask folder", "data/masks/out"),
    ("the mask folder by way of ..", "data/images/../masks"),
]
_PLACED = [
    (f"--output is {kind}" if "inside" not in kind and "above" not in kind else f"--output {kind}", place)
    for kind, place in _PLACES
]
_EXPORTS = [
    ("qcam-export: the bundle's folder is the calibration folder", _exported("squeezenet1_1", "--output", ".")),
    ("qcam-export: the same, --force", _exported("squeezenet1_1", "--output", ".", "--force")),
    ("qcam-export: the bundle's folder lies in the calibration folder", _exported("photos", "--output", "photos")),
    ("qcam-export: the same, through a link", _exported("photos", "--output", "link")),
    ("qcam-export: the bundle's folder is above, --force", _exported("squeezenet1_1/photos", "--output", ".", "--force")),
]
_RUNS = [
    *((f"--force, {kind}", run) for kind, run in _FORCED),
    *((kind, _placed("qcam-eval", place)) for kind, place in _PLACED),
    *(
        (f"--output is {kind}" if "inside" not in kind else f"--output {kind}", _placed("qcam-eval", place))
        for kind, place in _MASKS
    ),
    *((f"qcam-check {kind}", _placed("qcam-check", place)) for kind, place in _PLACED),
    *_EXPORTS,
]
ATTACKS = [Attack(f"A7.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
