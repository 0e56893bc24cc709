"""C3: labels, places, networks and caches that are longer, deeper or larger than anything is."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from onnx import TensorProto, helper

from hostile.attacks.a3_parts import go_on, sign
from hostile.ground import parts_of
from hostile.harness import Attack, Case, Outcome, Scene, Verdict, fell, held
from hostile.records import NOTHINGS, no_records

#: Longer than a file name may be, than a path may be, and a name that is no UTF-8.
_LONG, _LONGER, _BYTES = "n" * 5_000, "d/" * 5_000 + "x", "a\udcffb"
_SHORT = ("--limit", 1, "--threads", 1)
_EVALUATED = (*_SHORT, "--workers", 1, "--no-fake-quant", "--no-report", "--grid-rows", 0)
#: Arguments that no run gets to: its refusal is what is looked for.
_OUTPUT = ("--output", "out")
#: What damaged entries of a cache may take more than none, in MB.
_ROOM = 500.0


def _labels(scene: Scene) -> Verdict:
    """Give labels that are no classes, in files that are no tables."""
    digits = "9" * 5_000
    files: dict[str, bytes] = {
        "5,000 digits": f"image,label\n000.jpg,{digits}\n".encode(),
        "5,000 digits among names": f"image,label\n000.jpg,{digits}\n001.jpg,red\n".encode(),
        "5,000 digits, signed and with a point": f"image,label\n000.jpg,-{digits}.0\n".encode(),
        "300 digits": f"image,label\n000.jpg,{'9' * 300}\n".encode(),
        "2 to the 64": b"image,label\n000.jpg,18446744073709551616\n",
        "other scripts' digits": "image,label\n000.jpg,\u0663\n".encode(),
        "a superscript digit": "image,label\n000.jpg,\u00b2\n".encode(),
        "NaN": b"image,label\n000.jpg,nan\n",
        "1e3": b"image,label\n000.jpg,1e3\n",
        "a NUL": b"image,label\n000.jpg,\x001\n",
        "no UTF-8": b"image,label\n000.jpg,\xff\n",
        "a name of a million characters": f"image,label\n000.jpg,{'x' * 1_000_000}\n".encode(),
        "an image of a million characters": f"image,label\n{'x' * 1_000_000},0\n".encode(),
        "a header of a million columns": b"image,label" + b",x" * 1_000_000 + b"\n000.jpg,0\n",
        "a quote that never ends": b'image,label\n"000.jpg,0\n',
        "ESC in a label": b"image,label\n000.jpg,\x1b[31m\n",
        "ESC in a header": b"\x1b[31mimage,label\n000.jpg,0\n",
        "nothing": b"",
        "a line feed": b"\n",
    }
    cases = []
    for number, (told, data) in enumerate(files.items()):
        path = scene.work / f"labels{number}.csv"
        path.write_bytes(data)
        words = (scene.ground.bundle, "--images", scene.ground.photographs, "--labels", path, *_EVALUATED)
        cases.append(Case(told, (*words, "--saliency", "spectral", "--output", f"out{number}"), (path.name,)))
    return scene.refused("qcam-eval", cases, "files of labels")


def _places(scene: Scene, *, command: str) -> Verdict:
    """Give each option that takes a place one that cannot be."""
    if command not in scene.tree.commands:
        return held("there is no such command")
    cases = []
    for told, place in (("5,000 letters", _LONG), ("10,000 folders", _LONGER), ("no UTF-8", _BYTES)):
        for where, words in _options(scene, command, place):
            shown = place[:20] if place != _BYTES else "a\\udcffb"
            # What is missing besides may be told first, and a module is called by its last name.
            names = () if where == "MODEL, Python" else (shown,)
            cases.append(Case(f"{where}: {told}", words, names))
    return scene.refused(command, cases, "places")


def _options(scene: Scene, command: str, place: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield every option of a command that takes a place, with the command's arguments."""
    bundle, images = scene.ground.bundle, ("--images", scene.ground.photographs)
    none = ("--saliency", "none")
    eval_ = (*_EVALUATED, *_OUTPUT)
    every: dict[str, dict[str, tuple[object, ...]]] = {
        "qcam-eval": {
            "BUNDLE": (place, *images, *none, *eval_),
            "--images": (bundle, "--images", place, *none, *eval_),
            "--images, a tar": (bundle, "--images", f"{place}.tar", *none, *eval_),
            "--images, Parquet": (bundle, "--images", f"{place}.parquet", *none, *eval_),
            "--labels": (bundle, *images, "--labels", place, *none, *eval_),
            "--saliency masks": (bundle, *images, "--saliency", f"masks:{place}", *eval_),
            "--saliency onnx": (bundle, *images, "--saliency", f"onnx:{place}", *eval_),
            "--saliency birefnet": (bundle, *images, "--saliency", f"birefnet:./{place}", *eval_),
        },
        "qcam-check": {
            "BUNDLE": (place, *images, *_SHORT, *_OUTPUT),
            "--images": (bundle, "--images", place, *_SHORT, *_OUTPUT),
            "--deployed": (bundle, *images, "--deployed", f"int8={place}", *_SHORT, *_OUTPUT),
        },
        "qcam-report": {
            "RESULT": (place, *_OUTPUT),
            "--check": (scene.ground.run, "--check", place, *_OUTPUT),
        },
        "qcam-export": {
            "MODEL, Python": (f"./{place}.py:build", *_OUTPUT),
            "MODEL, a program": (f"./{place}.pt2", *_OUTPUT),
            "MODEL, ONNX": (f"./{place}.onnx", *_OUTPUT),
            "--weights": ("mobilenet_v2", "--weights", f"./{place}", *_OUTPUT),
            "--weights .pth": ("mobilenet_v2", "--weights", f"{place}.pth", *_OUTPUT),
            "--classes": ("mobilenet_v2", "--weights", "random:0", "--classes", place, *_OUTPUT),
            "--calibration": ("mobilenet_v2", "--weights", "random:0", "--calibration", place, *_OUTPUT),
        },
        "qcam-import": {
            "FILE": (f"{place}.onnx", *_OUTPUT),
            "--float": (bundle / "int8.onnx", "--float", place, "--like", bundle, *_OUTPUT),
            "--like": (bundle / "int8.onnx", "--like", place, *_OUTPUT),
            "--into": (bundle / "int8.onnx", "--into", place),
        },
    }  # fmt: skip
    yield from every[command].items()


def _outputs(scene: Scene) -> Verdict:
    """Give each command a place to write to that cannot be."""
    bundle, images = scene.ground.bundle, ("--images", scene.ground.photographs)
    for place in (_LONG, _LONGER):
        for command, words in {
            "qcam-eval": (bundle, *images, "--saliency", "none", *_EVALUATED),
            "qcam-check": (bundle, *images, *_SHORT),
            "qcam-report": (scene.ground.run,),
            "qcam-import": (bundle / "int8.onnx", "--like", bundle),
        }.items():
            if command not in scene.tree.commands:
                continue
            verdict = scene.run(command, *words, "--output", place).refused(place[:20])
            if not verdict.held:
                return fell(f"{command}: {verdict.told}")
    return held("8 places: each refused")


def _network(path: Path, shape: list[int | str | None], output: list[int | str | None] | None = None) -> Path:
    """Write a salient-object network: the mean of the channels, and a sigmoid."""
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    if shape and shape[-1] is None:
        given.type.tensor_type.shape.dim[-1].Clear()
    made = helper.make_tensor_value_info("map", TensorProto.FLOAT, output or [1, 1, "h", "w"])
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Sigmoid", ["grey"], ["map"]),
    ]
    graph = helper.make_graph(nodes, "saliency", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def _sizes(scene: Scene) -> Verdict:
    """Take salient-object networks whose inputs no picture has."""
    sides: list[tuple[int, int]] = [
        (0, 0), (0, 320), (320, 0), (-1, -1), (-320, 320), (1_000_000, 1_000_000), (1, 2**40), (2**62, 2**62), (4097, 4097),
        (100_000, 100_000),
    ]  # fmt: skip
    cases = []
    for height, width in sides:
        path = _network(scene.work / f"n{height}x{width}.onnx", [1, 3, height, width])
        words = (scene.ground.bundle, "--images", scene.ground.photographs, "--saliency", f"onnx:{path}", *_EVALUATED)
        # A negative side is one that the file leaves open.
        cases.append(Case(f"{height}×{width}", (*words, "--output", path.stem), (path.name,), harmless=min(height, width) < 0))
    for case in cases:
        outcome = scene.run("qcam-eval", *case.words, most=3_000)
        verdict = fell("more than 3 GB of memory") if outcome.code is None else case.judge(outcome)
        if not verdict.held:
            return fell(f"{case.told}: {verdict.told} (one of {len(cases)} sizes)")
    return held(f"{len(cases)} sizes: refused, or left open")


def _shapes(scene: Scene) -> Verdict:
    """Take salient-object networks that take and give other things than pictures."""
    shapes: dict[str, tuple[list[int | str | None], list[int | str | None] | None]] = {
        "no axes": ([], []), "one axis": ([3], [1]), "five axes": ([1, 3, 8, 8, 8], [1, 1, 8, 8, 8]),
        "four channels": ([1, 4, 32, 32], None), "1,000 pictures at a time": ([1000, 3, 32, 32], [1000, 1, 32, 32]),
    }  # fmt: skip
    cases = []
    for number, (told, (given, made)) in enumerate(shapes.items()):
        path = _network(scene.work / f"net{number}.onnx", given, made)
        words = (scene.ground.bundle, "--images", scene.ground.photographs, "--saliency", f"onnx:{path}", *_EVALUATED)
        cases.append(Case(told, (*words, "--output", path.stem), (path.name,)))
    return scene.refused("qcam-eval", cases, "shapes")


def _settings(scene: Scene) -> Verdict:
    """Say of a salient-object network what cannot be."""
    path = _network(scene.work / "net.onnx", [1, 3, "h", "w"])
    texts = {
        "size": ["0", "-1", "1000000", "9" * 5_000, "nan", "1e3", "", "\u0663\u0662\u0660x"],
        "mean": ["nan", "inf", "1,2", "1,2,3,4", "9" * 5_000, "x"],
        "std": ["0", "nan", "-inf", "1,0,1"],
        "index": ["5", "-5", "9" * 5_000],
        "background": ["nan", "2", "-1"],
        "scale": ["0"],
        "output": ["x" * 5_000, "\x1b[31m"],
        "x" * 5_000: ["1"],
    }
    words = (scene.ground.bundle, "--images", scene.ground.photographs, "--saliency", f"onnx:{path}", *_EVALUATED, *_OUTPUT)
    cases = [
        Case(f"{key[:20]}={text[:20]}", (*words, "--saliency-option", f"{key}={text}"), (key[:5] if key != "index" else "",))
        for key, some in texts.items()
        for text in some
    ]
    return scene.refused("qcam-eval", [case._replace(names=tuple(filter(None, case.names))) for case in cases], "settings")


def _bomb() -> bytes:
    """Return a gigabyte of zeros, compressed."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + packer.flush()


def _entry(about: object, planes: bytes) -> bytes:
    """Return an entry of the cache of maps whose digest is right."""
    content = (about if isinstance(about, str) else json.dumps(about)).encode("utf-8", "surrogatepass") + b"\n" + planes
    return hashlib.sha256(content).digest() + content


def _cache(scene: Scene) -> Verdict:
    """Damage every entry of the cache of maps, digests made right, and run again: the maps are the same."""
    network = _network(scene.work / "net.onnx", [1, 3, 32, 32])
    words = (scene.ground.bundle, "--images", scene.ground.photographs, "--saliency", f"onnx:{network}", *_EVALUATED[2:])

    def run(name: str) -> tuple[Outcome, bytes]:
        outcome = scene.run("qcam-eval", *words, "--saliency-cache", "maps", "--output", name, most=3_000)
        path = scene.work / name / "results.parquet"
        return outcome, path.read_bytes() if path.exists() else b""

    first, good = run("first")
    if first.code != 0:
        return fell(f"the first run: exit {first.code}")
    entries = sorted((scene.work / "maps").rglob("*.map"))
    if not entries:
        return held("nothing is kept here")
    whole = entries[0].read_bytes()
    about = json.loads(whole[32:].partition(b"\n")[0])
    planes = zlib.compress(bytes(2 * 32 * 32))
    shapes: list[object] = [[0, 0], [10**6, 10**6], [-32, -32], [2**62, 4], [32, 31], [32], "x", None]
    made: list[object] = [about | {"shape": shape} for shape in shapes]
    made += [about | {"no_object": 7}, about | {"version": "1"}, {}, [], "", "null", "[" * 100_000, '{"a":' * 100_000]
    made += [f'{{"version": 1, "image": {text}}}' for _, text in NOTHINGS]
    damaged = [_entry(each, planes) for each in made]
    damaged += [_entry(about | {"shape": [0, 0]}, zlib.compress(b"")), _entry(about, _bomb())]
    damaged += [_entry(about, b""), _entry(about, planes[:-9]), b"", whole[:40]]
    for number, data in enumerate(damaged):
        entries[number % len(entries)].write_bytes(data)
        if (number + 1) % len(entries) and number + 1 < len(damaged):
            continue
        outcome, found = run(f"again{number}")
        if outcome.code is None or outcome.peak > first.peak + _ROOM:
            return fell(f"{(outcome.peak - first.peak) / 1024:.1f} GiB more memory")
        if outcome.fault() or outcome.code != 0:
            return fell(outcome.fault() or f"exit {outcome.code}")
        if found != good:
            return fell("a damaged map is taken for a good one")
    return held(f"{len(damaged)} entries: each made again, results equal")


def _configurations(scene: Scene) -> Verdict:
    """Take salient-object models whose configuration is no record, or names code that cannot be there."""
    good = json.dumps({"model_type": "x", "auto_map": {"AutoModel": "net.Net"}})
    texts = no_records(good)
    for told, value in {
        "a place of 5,000 characters": "n" * 5_000 + ".Net", "a place above": "../../net.Net", "nothing": "", "a dot": ".",
        "another repository": "a/b--net.Net", "10,000 folders": "d." * 5_000 + "Net", "ESC": "\x1b[31m.Net",
    }.items():  # fmt: skip
        texts.append((told, json.dumps({"auto_map": {"AutoModel": value}}).encode()))
    texts.append(("code 60 deep", json.dumps({"auto_map": _nested(60)}).encode()))
    cases = []
    for number, (told, data) in enumerate(texts):
        folder = scene.work / f"model{number}"
        folder.mkdir()
        (folder / "config.json").write_bytes(data)
        (folder / "net.py").write_text("raise SystemExit('ran')")
        words = (scene.ground.bundle, "--images", scene.ground.photographs, "--saliency", f"birefnet:{folder}", *_EVALUATED)
        cases.append(Case(told, (*words, *_OUTPUT), (folder.name,)))
    return scene.refused("qcam-eval", cases, "configurations")


def _nested(depth: int) -> object:
    found: object = "net.Net"
    for _ in range(depth):
        found = [found]
    return found


def _part(scene: Scene, *, changes: dict[bytes, bytes]) -> Verdict:
    """Let a part say other things of itself, digest made right."""
    _ = scene.ground.whole
    out = scene.copy(scene.ground.killed)
    part = parts_of(out)[0]
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata((table.schema.metadata or {}) | changes), part, compression="zstd")
    sign(part)
    return go_on(scene, out, [part.name])


_DEEP = b"[" * 100_000
_RUNS: list[tuple[str, Callable[[Scene], Verdict]]] = [
    ("labels of 5,000 digits, of NUL, of a million columns …", _labels),
    ("qcam-eval: places of 5,000 letters, 10,000 folders, no UTF-8", partial(_places, command="qcam-eval")),
    ("qcam-check: the same", partial(_places, command="qcam-check")),
    ("qcam-report: the same", partial(_places, command="qcam-report")),
    ("qcam-export: the same", partial(_places, command="qcam-export")),
    ("qcam-import: the same", partial(_places, command="qcam-import")),
    ("--output of 5,000 letters, of 10,000 folders", _outputs),
    ("saliency network: input 0×0, 10⁶×10⁶, negative …", _sizes),
    ("saliency network: other shapes than a picture's", _shapes),
    ("saliency network: options that cannot be", _settings),
    ("cache of maps: shapes, depth, a bomb, digests made right", _cache),
    ("birefnet:FOLDER: config.json that is none", _configurations),
    ("a part that says deep things of itself", partial(_part, changes={b"qcam.contents": _DEEP})),
    ("a part of a worker that is no record", partial(_part, changes={b"qcam.worker": b'{"node": NaN, "shards": "x"}'})),
    ("a part whose state is no UTF-8", partial(_part, changes={b"qcam.state": b"\xff\xfe"})),
]
ATTACKS = [Attack(f"C3.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
