"""C1: manifests whose fields are of other types, no numbers, too long, or too many."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hostile.harness import Attack, Case, Scene, Verdict, fell
from hostile.records import NOTHINGS, Steps, fields, linked_copy, matches, named, no_records, put, text_with, variants, without

_NAME = "bundle.json"
#: What a manifest need not say: null there is nothing said.
_UNSAID = [("model", "weights", "*"), ("cam_layer", "*"), ("calibration", "*"), ("precisions", "*", "quantization", "*")]
#: Where null has a meaning: any number of pictures, and to squash them.
_NULLS = [("precisions", "*", "input", "batch"), ("preprocessing", "resize")]
#: Texts of which nothing depends; with what names are shown by.
_TOLD = [*_UNSAID, ("precisions", "*", "tap", "tensor")]
_TOLD += [("model", "source"), ("versions", "*"), ("classes", "*"), ("calibration", "*", "*")]
_LONG = "n" * 5_000
_EVIL = "a\n\x1b[31mb\r\u202e"


def _good(scene: Scene) -> Any:
    """Return a manifest, the quantized precision first."""
    record = json.loads((scene.ground.bundle / _NAME).read_text(encoding="utf-8"))
    record["precisions"].sort(key=lambda entry: entry["name"] != "int8")
    return record


class _Bundles:
    """Bundles with other manifests, and the commands that open them."""

    def __init__(self, scene: Scene, command: str = "qcam-eval") -> None:
        self._scene = scene
        self._count = 0
        self._check = command == "qcam-check"

    def case(self, told: str, manifest: Any, *names: str, harmless: bool = False) -> Case:
        """Return a command on a bundle with this manifest: JSON-ready, text, or bytes."""
        self._count += 1
        folder = linked_copy(self._scene.ground.bundle, self._scene.work / f"b{self._count}", _NAME)
        data = manifest if isinstance(manifest, str | bytes) else json.dumps(manifest)
        (folder / _NAME).write_bytes(data if isinstance(data, bytes) else data.encode())
        return Case(told, (folder, *self._words(f"out{self._count}")), (_NAME, *names), harmless)

    def _words(self, output: str) -> tuple[object, ...]:
        images = ("--images", self._scene.ground.photographs, "--limit", 1, "--threads", 1, "--output", output)
        if self._check:
            return (*images, "--no-other-cpus")
        return (*images, "--no-fake-quant", "--no-report", "--grid-rows", 0, "--workers", 1, "--saliency", "spectral")


def _last(steps: Steps) -> str:
    """Return what the last field on the way is called."""
    return next(step for step in reversed(steps) if isinstance(step, str))


def _types(scene: Scene) -> Verdict:
    """Give every field other types."""
    good, bundles = _good(scene), _Bundles(scene)
    cases = [
        bundles.case(told, record, _last(steps))
        for told, steps, record in variants(good, lambda steps: steps[0] != "schema_version")
        if not (_at(record, steps) is None and matches(steps, *_UNSAID, *_NULLS))
    ]
    return scene.refused("qcam-eval", cases, "fields of other types")


def _at(record: Any, steps: Steps) -> Any:
    for step in steps:
        record = record[step]
    return record


def _unsaid(scene: Scene) -> Verdict:
    """Leave out whatever a manifest need not say, by null."""
    record = good = _good(scene)
    for steps, _ in fields(good):
        if matches(steps, *_UNSAID):
            record = put(record, steps, None)
    return scene.refused("qcam-eval", [_Bundles(scene).case("nulls", record, harmless=True)], "manifest of nulls")


def _missing(scene: Scene) -> Verdict:
    """Leave out each field that has to be said."""
    good, bundles = _good(scene), _Bundles(scene)
    free = [*_UNSAID, ("schema_version",), ("versions", "*"), ("precisions", "*", "session", "*")]
    defaults = ("scale", "zero_point")  # of a tap, which the file is held against
    cases = []
    for steps, _ in fields(good):
        if isinstance(steps[-1], str) and not matches(steps, *free):
            names = () if steps[-1] in defaults else (_last(steps),)
            harmless = steps[-1] == "zero_point"
            cases.append(bundles.case(f"no {named(steps)}", without(good, steps), *names, harmless=harmless))
    return scene.refused("qcam-eval", cases, "fields that are missing")


def _nothings(scene: Scene) -> Verdict:
    """Give every field a value that no record has."""
    good, bundles = _good(scene), _Bundles(scene)
    cases = [
        bundles.case(f"{named(steps)} is {told}", text_with(good, steps, text), *([_last(steps)] if told in _SEEN else []))
        for steps, value in fields(good)
        for told, text in NOTHINGS
        if not isinstance(value, dict | list)
    ]
    return scene.refused("qcam-eval", cases, "fields without a value", at_once=60)


#: Of what a parser sees, the field is named as well.
_SEEN = [told for told, _ in NOTHINGS if "5,000" not in told and "deep" not in told]


def _files(scene: Scene) -> Verdict:
    """Put what is no record in the manifest's place."""
    bundles = _Bundles(scene)
    text = (scene.ground.bundle / _NAME).read_text(encoding="utf-8")
    return scene.refused("qcam-eval", [bundles.case(told, data) for told, data in no_records(text)], "files")


def _texts(scene: Scene, *, text: str, what: str) -> Verdict:
    """Give every text on which something depends another one; all others at once."""
    good, bundles = _good(scene), _Bundles(scene)
    free, cases = good, []
    for steps, value in fields(good):
        if isinstance(value, str) and matches(steps, *_TOLD):
            free = put(free, steps, text)
        elif isinstance(value, str):
            # A name may be that long; whatever else has it is refused for what it is.
            long = matches(steps, ("model", "id"), ("precisions", "*", "session", "*")) and text == _LONG
            cases.append(bundles.case(f"{named(steps)} is {what}", put(good, steps, text), harmless=long))
    cases.append(bundles.case(f"every other text is {what}", free, harmless=True))
    return scene.refused("qcam-eval", _named_by_file(cases), f"texts: {what}")


def _named_by_file(cases: list[Case]) -> Iterator[Case]:
    """Let the ONNX file be named instead: it is what does not fit a name."""
    for case in cases:
        yield case._replace(names=())


def _values(scene: Scene, *, command: str) -> Verdict:
    """Give fields values of the right type that cannot be."""
    good, bundles = _good(scene), _Bundles(scene, command)
    changes: list[tuple[Steps, list[Any]]] = [
        (("schema_version",), [0, 3, 99, -1, True, 2.0, "2", None, 2**60, "v" * 5_000, "\x1b[31m", [2], {}]),
        (("precisions",), [[], good["precisions"] * 2]),
        (("classes",), [[], ["one"], good["classes"] * 2, ["same"] * len(good["classes"]) + ["more"]]),
        (("preprocessing", "crop"), [[0, 0], [-1, 32], [32], [32, 32, 32], [2**40, 2**40], [4097, 4097], [31, 33]]),
        (("preprocessing", "resize"), [0, -1, 2**60, [1, 1], [32], [2**40, 2**40]]),
        (("preprocessing", "mean"), [[], [0.5], [0.5] * 4, [0.5] * 1_000]),
        (("preprocessing", "std"), [[], [0.0] * 3, [0.5], [1, 1, 0]]),
        (("preprocessing", "interpolation"), ["", "nearest", "BILINEAR"]),
        (("precisions", 0, "name"), ["", "f32", "a/b", "n" * 41, "\u00e9"]),
        (("precisions", 0, "file"), ["", ".", "..", "/", "/etc/passwd", "int8.onnx/x", "../int8.onnx", "f32.onnx", "x/y"]),
        (("precisions", 0, "sha256"), ["", "0", "0" * 64, "g" * 64, "0" * 65, good["precisions"][0]["sha256"].upper()]),
        (("precisions", 0, "logits"), ["", "nothing"]),
        (("precisions", 0, "tap", "output"), ["", "nothing", good["precisions"][0]["logits"]]),
        (("precisions", 0, "tap", "dtype"), ["", "uint4", "float64", "object", "float32"]),
        (("precisions", 0, "tap", "scale"), [0, -1, 0.0, 5e-324, 1.7e308, 3]),
        (("precisions", 0, "tap", "zero_point"), [-1, 256, 2**62, -(2**62)]),
        (("precisions", 0, "skips"), [[good["precisions"][0]["tap"] | {"output": "nothing"}], [{}], [[]]]),
        (("precisions", 0, "input", "name"), ["", "nothing"]),
        (("precisions", 0, "input", "layout"), ["", "NCWH", "NHWC"]),
        (("precisions", 0, "input", "dtype"), ["", "float64", "uint8"]),
        (("precisions", 0, "input", "size"), [[0, 0], [-1, -1], [2**40, 2**40], [31, 33], []]),
        (("precisions", 0, "input", "channels"), [0, -3, 1, 4, 2**60]),
        (("precisions", 0, "input", "batch"), [0, -1, 2**60]),
        (("precisions", 0, "input", "values"), ["", "pixel"]),
    ]
    cases = []
    for steps, values in changes:
        if len(steps) > 3 and steps[2] not in good["precisions"][0]:
            continue  # a manifest of the first schema says nothing of inputs
        for value in values:
            case = bundles.case(f"{named(steps)} is {str(value)[:40]!r}", put(good, steps, value))
            cases.append(case)
    return scene.refused(command, _named_by_file(cases), "values that cannot be")


def _beside(scene: Scene, *, change: Callable[[Path], None]) -> Verdict:
    """Put something else where the manifest is."""
    folder = scene.copy(scene.ground.bundle, "bundle")
    change(folder)
    words = (folder, "--images", scene.ground.photographs, "--saliency", "none", "--output", scene.work / "out")
    outcome = scene.run("qcam-eval", *words, most=2_500)
    return fell("more than 2.5 GB of memory") if outcome.code is None else outcome.refused(_NAME)


def _folder(bundle: Path) -> None:
    (bundle / _NAME).unlink()
    (bundle / _NAME).mkdir()


def _loop(bundle: Path) -> None:
    (bundle / _NAME).unlink()
    (bundle / _NAME).symlink_to(_NAME)


def _device(bundle: Path) -> None:
    (bundle / _NAME).unlink()
    (bundle / _NAME).symlink_to("/dev/zero")


_RUNS: list[tuple[str, Callable[[Scene], Verdict]]] = [
    ("every field of another type", _types),
    ("every field that may be missing is null", _unsaid),
    ("every field missing", _missing),
    ("every field NaN, infinite, NUL, half of a pair, deep, of 5,000 digits", _nothings),
    ("no record: empty, cut, BOM, UTF-16, a key twice, deep …", _files),
    ("every text of 5,000 characters", partial(_texts, text=_LONG, what="5,000 characters")),
    ("every text with newline, ESC and a change of direction", partial(_texts, text=_EVIL, what="newline and ESC")),
    ("values that cannot be", partial(_values, command="qcam-eval")),
    ("values that cannot be, qcam-check", partial(_values, command="qcam-check")),
    ("the manifest is a folder", partial(_beside, change=_folder)),
    ("the manifest is a link to itself", partial(_beside, change=_loop)),
    ("the manifest is /dev/zero", partial(_beside, change=_device)),
]
ATTACKS = [Attack(f"C1.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
