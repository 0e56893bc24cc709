"""A5: manifests whose digests are right and which say something else than the files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import onnx
from onnx import numpy_helper

from hostile.graphs import change_graph, largest_weight
from hostile.harness import Attack, Scene, Verdict, edit_json, fell


def _edited(edit: Callable[[dict[str, dict[str, Any]]], None], *precisions: str) -> Callable[[Scene], Verdict]:
    """Edit a manifest's entries, given by name; a manifest that lies is refused."""

    def run(scene: Scene) -> Verdict:
        bundle = scene.copy(scene.ground.bundle, "bundle")
        edit_json(bundle / "bundle.json", lambda manifest: edit({entry["name"]: entry for entry in manifest["precisions"]}))
        words = [word for precision in precisions for word in ("--precision", precision)]
        outcome = scene.ground.eval(bundle, "--images", scene.ground.photographs, *words, output=scene.work / "out")
        return outcome.refused("bundle.json", "int8.onnx", "f32.onnx", "int16.onnx")

    return run


def _swap(one: str, two: str, fields: tuple[str, ...], entries: dict[str, dict[str, Any]]) -> None:
    for name in fields:
        entries[one][name], entries[two][name] = entries[two][name], entries[one][name]


def _quantized_as_float(entries: dict[str, dict[str, Any]]) -> None:
    """Let f32 be the int8 file, with all that the manifest says of it."""
    entries["f32"].update({key: value for key, value in entries["int8"].items() if key != "name"})


def _float_as_quantized(entries: dict[str, dict[str, Any]]) -> None:
    entries["int8"].update({key: value for key, value in entries["f32"].items() if key not in ("name", "quantization")})


def _quantized_without_a_word(entries: dict[str, dict[str, Any]]) -> None:
    _quantized_as_float(entries)
    entries["f32"]["quantization"] = {}


def _other_scale(entries: dict[str, dict[str, Any]]) -> None:
    entries["int8"]["tap"]["scale"] *= 2


def _other_zero_point(entries: dict[str, dict[str, Any]]) -> None:
    entries["int8"]["tap"]["zero_point"] += 3


def _other_dtype(entries: dict[str, dict[str, Any]]) -> None:
    entries["int8"]["tap"]["dtype"] = "int8"


def _two_of_one_name(scene: Scene, *, precision: str, first: bool) -> Verdict:
    """Give a weight twice, with other values."""
    bundle = scene.copy(scene.ground.bundle, "bundle")

    def change(model: onnx.ModelProto) -> None:
        tensor = largest_weight(model)
        other = numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name)
        if first:
            model.graph.initializer.insert(0, other)
        else:
            model.graph.initializer.append(other)

    path = change_graph(bundle, precision, change)
    outcome = scene.ground.eval(bundle, "--images", scene.ground.photographs, output=scene.work / "out")
    if not outcome.fault() and outcome.code == 0:
        return fell("one of two weights is taken, exit 0")
    return outcome.refused(path.name)


#: All that an entry says of its file.
_ALL = ("file", "sha256", "tap", "skips", "logits")
_RUNS = [
    ("names of f32 and int8 swapped", _edited(partial(_swap, "f32", "int8", ("name",)))),
    ("names of int16 and int8 swapped", _edited(partial(_swap, "int16", "int8", ("name",)))),
    ("files of f32 and int8 swapped", _edited(partial(_swap, "f32", "int8", ("file", "sha256")))),
    ("files of int16 and int8 swapped", _edited(partial(_swap, "int16", "int8", ("file", "sha256")))),
    ("files and taps of f32 and int8 swapped", _edited(partial(_swap, "f32", "int8", _ALL))),
    ("files and taps of int16 and int8 swapped", _edited(partial(_swap, "int16", "int8", _ALL))),
    ("the int8 file under f32", _edited(_quantized_as_float)),
    ("the int8 file under f32, not a word of quantization", _edited(_quantized_without_a_word)),
    ("the int8 file under f32, f32 alone", _edited(_quantized_without_a_word, "f32")),
    ("the f32 file under int8", _edited(_float_as_quantized)),
    ("int8 tap: twice the scale", _edited(_other_scale)),
    ("int8 tap: another zero point", _edited(_other_zero_point)),
    ("int8 tap: another type", _edited(_other_dtype)),
    ("f32: two initializers of one name, the other last", partial(_two_of_one_name, precision="f32", first=False)),
    ("f32: two initializers of one name, the other first", partial(_two_of_one_name, precision="f32", first=True)),
    ("int8: two initializers of one name", partial(_two_of_one_name, precision="int8", first=False)),
]  # fmt: skip
ATTACKS = [Attack(f"A5.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
