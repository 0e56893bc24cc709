"""D: names that become markup, lines or formulas; advice that does not help; and signals."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import shutil
import signal
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from hostile.graphs import change_graph, entry_of
from hostile.harness import Attack, Case, Outcome, Scene, Verdict, brief, edit_json, fell, held, sign_results
from hostile.records import Steps, fields, matches, put

#: Formula, line end, terminal sequence, HTML, LaTeX, Markdown, and a change of direction, all in one.
_EVIL = '=INJ("a")\nINJECTED\x1b[31m<b>INJ</b>\\INJ{x}|`y`[z](j:z)\u202e$\r\t'
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_TEXTS = ("*.html", "*.md", "*.tex", "*.csv", "*.xml", "*.svg")
_SHORT = ("--limit", 2, "--threads", 1)
#: A few images with all that is made of them.
_WHOLE = ("--workers", 1, "--threads", 1, "--batch-size", 4, "--saliency", "spectral", "--grid-rows", 2, "--no-fake-quant")
_QUICK = ("--threads", 1, "--batch-size", 4, "--saliency", "none", "--no-report", "--grid-rows", 0)


def _shown(outcome: Outcome, *folders: Path) -> str:
    """Say where a name is more than a name; nowhere: an empty text."""
    if outcome.fault():
        return outcome.fault()
    if any(line.startswith("INJECTED") for line in (outcome.out + outcome.err).splitlines()):
        return "a name ends a line on the terminal"
    if re.search(r"Warning:|warnings\.warn", outcome.err):
        return "another package's warning reaches the terminal"
    for path in (path for folder in folders for kind in _TEXTS for path in sorted(folder.rglob(kind))):
        wrong = _wrong_text(path)
        if wrong:
            return f"{path.suffix}: {wrong}"
    return ""


def _wrong_text(path: Path) -> str:
    text = path.read_bytes().decode("utf-8")
    kind = path.suffix
    if _CONTROL.search(text.replace("\t", "") if kind in (".html", ".svg") else text):
        return "control characters"
    if any(line.lstrip().startswith("INJECTED") for line in text.splitlines()):
        return "a name ends a line"
    if kind in (".html", ".md", ".svg") and re.search(r"<b>INJ|<script>INJ", text):
        return "a name is HTML"
    if kind == ".md" and re.search(r"(?<!\\)`y`|(?<!\\)\|`|\]\(j:", text):
        return "a name is Markdown"
    if kind == ".tex" and re.search(r"\\INJ", text):
        return "a name is a LaTeX command"
    if kind == ".csv":
        for row in csv.reader(io.StringIO(text, newline="")):
            for cell in row:
                if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") and not _is_number(cell):
                    return f"a cell begins with {cell[:1]!r}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _judged(outcome: Outcome, *folders: Path, names: tuple[str, ...] = ()) -> Verdict:
    """Judge a run whose names are hostile: refused by name, or shown as they are."""
    wrong = _shown(outcome, *folders)
    if wrong:
        return fell(wrong)
    return held("shown as it is") if outcome.code == 0 else outcome.refused(*names)


def _images(scene: Scene) -> Verdict:
    """Evaluate images of hostile names."""
    folder = scene.work / "photos"
    folder.mkdir()
    names = [_EVIL.replace("/", "\u2215") + ".jpg", "-1.jpg", "+1.jpg", "@x.jpg", "\t.jpg", "\r.jpg", " =x.jpg", "$\\frac$.jpg"]
    good = sorted(scene.ground.photographs.iterdir())
    for place, name in enumerate(names):
        shutil.copy(good[place % len(good)], folder / name)
    (folder / ("x" + _EVIL.replace("/", "\u2215") + ".png")).write_bytes(b"no picture")
    return _reported(scene, scene.ground.bundle, folder)


def _reported(scene: Scene, bundle: Path, images: Path) -> Verdict:
    """Evaluate with a report, then report again beside another run."""
    out = scene.work / "out"
    outcome = scene.run("qcam-eval", bundle, "--images", images, *_WHOLE, "--output", out)
    verdict = _judged(outcome, out, names=("bundle.json",))
    if not verdict.held or outcome.code:
        return verdict
    again = scene.work / "report"
    names = f"{_EVIL.replace(',', '')},-b"
    outcome = scene.run("qcam-report", out, scene.ground.run, "--names", names, "--pictures", 2, "--output", again)
    return _judged(outcome, again, names=("--names",))


def _name_classes(bundle: Path, name: str) -> None:
    """Give the classes of a bundle names that begin alike."""

    def edit(manifest: Any) -> None:
        manifest["classes"] = [f"{name}{place}" for place, _ in enumerate(manifest["classes"])]

    edit_json(bundle / "bundle.json", edit)


def _classes(scene: Scene) -> Verdict:
    bundle = scene.copy(scene.ground.bundle, "bundle")
    _name_classes(bundle, _EVIL)
    return _reported(scene, bundle, scene.ground.photographs)


def _model(scene: Scene, *, name: str) -> Verdict:
    bundle = scene.copy(scene.ground.bundle, "bundle")
    edit_json(bundle / "bundle.json", lambda manifest: manifest["model"].update(id=name))
    return _reported(scene, bundle, scene.ground.photographs)


def _bundle_folder(scene: Scene) -> Verdict:
    """Let the bundle's own folder have a hostile name."""
    return _reported(scene, scene.copy(scene.ground.bundle, _EVIL.replace("/", "\u2215")), scene.ground.photographs)


def _told_texts(file: str, steps: Steps) -> bool:
    """Tell whether a text of a record is shown, and is not looked for elsewhere."""
    keys = [("digest",), ("files", "*"), ("models", "*", "classes"), ("models", "*", "geometry"), ("plan", "**")]
    keys += [("*", "*", name) for name in ("model", "precision", "comparison", "metric", "reference", "first", "second")]
    return steps[0] != "plan" and not matches(steps, *keys)


def _records(scene: Scene, *, command: str) -> Verdict:
    """Let every text in the records of results be hostile, digests made right, and show them."""
    for file in ("run.json", "summary.json", "placement.json"):
        out = scene.copy(scene.ground.run, f"out-{file}")
        record = good = json.loads((out / file).read_text(encoding="utf-8"))
        for steps, value in fields(good):
            if isinstance(value, str) and _told_texts(file, steps):
                record = put(record, steps, _EVIL)
        if file == "summary.json":
            record["statuses"] = {model: {"ok": 3, _EVIL: 3} for model in record["statuses"]}
        if file == "run.json":
            record |= {"provider": _EVIL, "warnings": [_EVIL], "notes": [_EVIL]}
            record |= {"machine": {_EVIL: _EVIL}, "seconds": {_EVIL: 1.0}}
        (out / file).write_text(json.dumps(record), encoding="utf-8")
        sign_results(out)
        report = scene.work / f"report-{file}"
        if command == "qcam-report":
            outcome = scene.run(command, out, "--pictures", 2, "--output", report)
        else:
            outcome, report = scene.ground.eval(scene.ground.bundle, "--images", scene.ground.photographs, output=out), out
        verdict = _judged(outcome, report, names=(file, "run.json"))
        if not verdict.held:
            return fell(f"{file}: {verdict.told}")
    return held("three records: shown as they are, or refused")


def _tensors(scene: Scene) -> Verdict:
    """Give nodes and tensors of a graph hostile names, and check every tensor."""
    bundle = scene.copy(scene.ground.bundle, "bundle")
    taken = entry_of(bundle, "int8")
    kept = {taken["logits"], taken["tap"]["output"], taken["tap"]["tensor"], *(skip["output"] for skip in taken["skips"])}

    def change(model: onnx.ModelProto) -> None:
        kept.update(each.name for each in [*model.graph.input, *model.graph.initializer, *model.graph.output])
        for node in model.graph.node:
            node.name = f"{_EVIL}{node.name}"
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    names[place] = name if name in kept or not name else f"{_EVIL}{name}"
        del model.graph.value_info[:]

    change_graph(bundle, "int8", change)
    out = scene.work / "out"
    words = ("--images", scene.ground.photographs, *_SHORT, "--precision", "int8", "--every-tensor", "--no-other-cpus")
    return _judged(scene.run("qcam-check", bundle, *words, "--output", out), out, names=("int8.onnx",))


def _glyphs(scene: Scene) -> Verdict:
    """Evaluate images and models whose names no font of a chart has."""
    folder = scene.work / "photos"
    folder.mkdir()
    names = ["\u6f22\u5b57", "\U0001f600", "\u0627\u0644\u0639\u0631", "\u0928\u092e\u0938\u094d\u0924\u0947"]
    for name, good in zip(names, sorted(scene.ground.photographs.iterdir()), strict=False):
        shutil.copy(good, folder / f"{name}.jpg")
    bundle = scene.copy(scene.ground.bundle, "bundle")
    edit_json(bundle / "bundle.json", lambda manifest: manifest["model"].update(id="".join(names)))
    _name_classes(bundle, names[0])
    return _reported(scene, bundle, folder)


class _Code:
    """What a pickle makes of a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


def _weights(scene: Scene) -> Verdict:
    """Give files that torch refuses to load with its advice to trust them: that advice is never passed on."""
    network = torch.nn.Linear(2, 2)
    objects: dict[str, object] = {
        "a module": network, "a call": _Code(), "a call among weights": {"weight": torch.zeros(2), "x": _Code()},
        "a NumPy scalar": {"weight": np.float64(1.0)}, "a NumPy array": {"weight": np.zeros(3)}, "a path": {"x": Path("x")},
        "a class": {"x": OrderedDict}, "a complex number": {"x": 1j}, "a set": {"x": {1, 2}},
        "an optimizer": torch.optim.SGD(network.parameters()),
        "an exception": {"x": ValueError("x")}, "a pattern": {"x": re.compile("x")}, "bytes": {"x": bytearray(b"x")},
    }  # fmt: skip
    cases = []
    for number, (told, value) in enumerate(objects.items()):
        for old in (False, True):
            path = scene.work / f"w{number}{'old' if old else ''}.pth"
            torch.save(value, path, _use_new_zipfile_serialization=not old)
            cases.append((f"{told}{', the old format' if old else ''}", path))
    for protocol in range(6):
        path = scene.work / f"pickle{protocol}.pth"
        path.write_bytes(pickle.dumps({"weight": [1.0]}, protocol=protocol))
        cases.append((f"a pickle of protocol {protocol}", path))
    scripted = scene.work / "scripted.pth"
    torch.jit.script(network).save(str(scripted))
    cases.append(("a program", scripted))
    cases += list(_zips(scene))
    words = [("mobilenet_v2", "--weights", path, "--precision", "f32", "--output", "out") for _, path in cases]
    outcomes = scene.each("qcam-export", words)
    for (told, path), outcome in zip(cases, outcomes, strict=True):
        if re.search("weights_only|weights only|safe_globals|TORCH_FORCE", outcome.err, re.IGNORECASE):
            return fell(f"{told}: torch's advice is passed on")
        verdict = Case(told, (), (path.name,)).judge(outcome)
        if not verdict.held:
            return fell(f"{told}: {verdict.told}")
    return held(f"{len(cases)} files: each refused, no word of weights_only")


def _zips(scene: Scene) -> Iterator[tuple[str, Path]]:
    """Yield archives that are nearly what torch writes."""
    good = scene.work / "good.pth"
    torch.save({"weight": torch.zeros(2)}, good)
    with zipfile.ZipFile(good) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    changes: dict[str, bytes] = {
        "no pickle": b"", "an unknown opcode": b"\x80\x02\xff.", "a pickle cut short": records[name][:-5],
        "a persistent id that is none": b"\x80\x02K\x01Q.", "a stack that is empty": b"\x80\x02.",
        "a global that is not there": b"\x80\x02cnowhere\nnothing\n.", "NUL in a global": b"\x80\x02c\0\n\x1b[31m\n.",
    }  # fmt: skip
    for number, (told, data) in enumerate(changes.items()):
        path = scene.work / f"zip{number}.pth"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for each, held_data in records.items():
                archive.writestr(each, data if each == name else held_data)
        yield told, path


def _names_of_outputs(scene: Scene) -> Verdict:
    """Name outputs, taps and inputs that are not there: the name is told, and no smaller batch is advised."""
    cases: list[tuple[str, Steps]] = [
        ("logits", ("precisions", 0, "logits")), ("tap", ("precisions", 0, "tap", "output")),
        ("input", ("precisions", 0, "input", "name")),
    ]  # fmt: skip
    for told, steps in cases:
        bundle = scene.copy(scene.ground.bundle, told)
        manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
        if len(steps) == 4 and steps[2] not in manifest["precisions"][0]:
            continue
        (bundle / "bundle.json").write_text(json.dumps(put(manifest, steps, "out_of_memory")), encoding="utf-8")
        for command in ("qcam-eval", "qcam-check"):
            none = ("--saliency", "none") if command == "qcam-eval" else ()
            words = ("--images", scene.ground.photographs, *_SHORT, *none, "--output", f"{told}-{command}")
            outcome = scene.run(command, bundle, *words)
            if "batch" in outcome.err:
                return fell(f"{told}, {command}: {brief(outcome.errors[0] if outcome.errors else outcome.err)}")
            verdict = outcome.refused("out_of_memory", f"{manifest['precisions'][0]['file']}", "bundle.json")
            if not verdict.held:
                return fell(f"{told}, {command}: {verdict.told}")
    if "qcam-import" not in scene.tree.commands:
        return held("each named")
    good = scene.ground.bundle
    imported = (good / "int8.onnx", "--like", good, "--logits", "out_of_memory", "--output", "imported")
    outcome = scene.run("qcam-import", *imported)
    if "batch" in outcome.err:
        return fell(f"qcam-import: {brief(outcome.errors[0] if outcome.errors else outcome.err)}")
    return outcome.refused("out_of_memory")


def _output(scene: Scene, *, command: str) -> Verdict:
    """Write to a folder whose name is no UTF-8: all is there, or it is refused before anything is computed."""
    if command not in scene.tree.commands:
        return held("there is no such command")
    bundle, images = scene.ground.bundle, ("--images", scene.ground.photographs)
    name = "o\udcff\n\x1b[31m"
    words: dict[str, tuple[object, ...]] = {
        "qcam-eval": (bundle, *images, *_WHOLE),
        "qcam-check": (bundle, *images, *_SHORT, "--every-tensor", "--precision", "int8"),
        "qcam-report": (scene.ground.run, "--pictures", 1), "qcam-import": (bundle / "int8.onnx", "--like", bundle),
        "qcam-export": ("mobilenet_v2", "--weights", "random:0", "--precision", "f32", "--calibration-limit", 1),
    }  # fmt: skip
    outcome = scene.run(command, *words[command], "--output", name)
    if outcome.fault():
        return fell(outcome.fault())
    inside = [path for path in (scene.work / name).rglob("*") if path.is_file()]
    if outcome.code == 0:
        return held(f"exit 0, {len(inside)} files there") if len(inside) > 1 else fell("exit 0, and nothing is there")
    if inside:
        return fell(f"exit {outcome.code}, {len(inside)} files left")
    if "delete it" in outcome.err:
        return fell("refused at the end: delete it")
    return outcome.refused("o\\udcff")


def _signals(scene: Scene, *, signals: tuple[signal.Signals, ...], workers: int = 1, group: bool = True) -> Verdict:
    """Send signals to a run that is under way: the documented code, and the same command goes on."""
    out = scene.work / "out"
    words = (scene.ground.bundle, "--images", scene.ground.many, *_QUICK, "--workers", workers, "--output", out)
    outcome = scene.run(
        "qcam-eval", *words, until=lambda: any((out / "parts").glob("[!.]*.parquet")), signals=signals, group=group
    )
    return _went_on(scene, outcome, words, out)


def _went_on(scene: Scene, outcome: Outcome, words: tuple[object, ...], out: Path) -> Verdict:
    if "Traceback" in outcome.err:
        return fell("traceback")
    if outcome.code != 130:
        return fell(outcome.fault() or f"exit {outcome.code}")
    if (out / ".lock").exists():
        return fell("a lock is left")
    again = scene.run("qcam-eval", *words)
    if again.code != 0:
        return fell(f"the same command ends with {again.code}: {brief(again.err)}")
    return held("exit 130, no lock, the same command goes on")


def _others_signals(scene: Scene, *, command: str) -> Verdict:
    """Interrupt another command twice."""
    bundle, images = scene.ground.bundle, ("--images", scene.ground.photographs)
    words: dict[str, tuple[object, ...]] = {
        "qcam-check": (bundle, *images, "--threads", 1, "--every-tensor"), "qcam-report": (scene.ground.run, "--pictures", 6),
        "qcam-export": ("mobilenet_v2", "--weights", "random:0", "--calibration-limit", 4),
    }  # fmt: skip
    begun = scene.work / "begun"
    # A while after the command's own code began: imports are the interpreter's.
    prelude = f"import threading; threading.Timer(1.0, lambda: open({str(begun)!r}, 'w').close()).start()"
    two = (signal.SIGINT, signal.SIGINT)
    outcome = scene.run(command, *words[command], "--output", "out", prelude=prelude, until=begun.exists, signals=two)
    if outcome.code == 0:
        return held("done before")
    if "Traceback" in outcome.err:
        return fell("traceback")
    if outcome.code != 130:
        return fell(f"exit {outcome.code}")
    left = [path.name for path in scene.work.rglob("*") if ".part" in path.name or path.name == ".lock"]
    return fell(f"{left[0]} is left") if left else held("exit 130, nothing is left")


_INT, _TERM, _HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
_RUNS: list[tuple[str, Callable[[Scene], Verdict]]] = [
    ("names of images with newline, ESC, markup, formulas", _images),
    ("names of classes", _classes),
    ("model id with newline and ESC", partial(_model, name=_EVIL)),
    ("model id with markup and a formula", partial(_model, name='=INJ("a")<b>INJ</b>\\INJ{x}|`y`[z](j:z)$_%&#')),
    ("model id that begins with @", partial(_model, name="@INJ")),
    ("name of the bundle's folder", _bundle_folder),
    ("every text of the records, qcam-report", partial(_records, command="qcam-report")),
    ("every text of the records, qcam-eval again", partial(_records, command="qcam-eval")),
    ("names of nodes and tensors, qcam-check", _tensors),
    ("letters that no font has", _glyphs),
    ("weights of code: torch's advice to trust them", _weights),
    ("names of outputs that are not there", _names_of_outputs),
    ("qcam-eval --output that is no UTF-8", partial(_output, command="qcam-eval")),
    ("qcam-check --output that is no UTF-8", partial(_output, command="qcam-check")),
    ("qcam-report --output that is no UTF-8", partial(_output, command="qcam-report")),
    ("qcam-import --output that is no UTF-8", partial(_output, command="qcam-import")),
    ("qcam-export --output that is no UTF-8", partial(_output, command="qcam-export")),
    ("SIGINT", partial(_signals, signals=(_INT,))),
    ("SIGINT twice", partial(_signals, signals=(_INT, _INT))),
    ("SIGINT four times", partial(_signals, signals=(_INT,) * 4)),
    ("SIGTERM", partial(_signals, signals=(_TERM,))),
    ("SIGTERM, to the process alone", partial(_signals, signals=(_TERM, _TERM), group=False)),
    ("SIGHUP", partial(_signals, signals=(_HUP,))),
    ("SIGHUP, then SIGTERM", partial(_signals, signals=(_HUP, _TERM))),
    ("SIGINT twice, two workers", partial(_signals, signals=(_INT, _INT), workers=2)),
    ("SIGHUP, two workers", partial(_signals, signals=(_HUP,), workers=2)),
    ("SIGINT twice, qcam-check", partial(_others_signals, command="qcam-check")),
    ("SIGINT twice, qcam-report", partial(_others_signals, command="qcam-report")),
    ("SIGINT twice, qcam-export", partial(_others_signals, command="qcam-export")),
]
ATTACKS = [Attack(f"D.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
