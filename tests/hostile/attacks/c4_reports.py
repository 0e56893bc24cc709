"""C4: result folders whose records and tables are not what a run writes, digests made right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hostile.harness import Attack, Case, Scene, Verdict, sign_results
from hostile.records import NOTHINGS, Steps, fields, linked_copy, matches, named, no_records, put, text_with, variants, without

_RUN, _SUMMARY, _PLACEMENT, _CHECK = "run.json", "summary.json", "placement.json", "check.json"
_TABLES = ("results.parquet", "maps.parquet", "pictures.parquet", "images.parquet")
#: Fields of run.json that a report shows as they are, and that may say anything.
_SHOWN = [("plan", "versions", "*"), ("machine", "*"), ("conventions", "*")]
_MODEL, _PRECISION = ("models", "*"), ("models", "*", "precisions", "*")
_KERNELS = [("kernels",), ("kernels", "*"), *(("kernels", "*", name) for name in ("operator", "provider", "count"))]
_PLACED = [("arithmetic",), ("fallback",), ("integer_coverage",), ("integer_coverage", "count"), ("integer_coverage", "macs")]
#: Fields that are read again.
_READ: dict[str, list[tuple[str, ...]]] = {
    _RUN: [
        *((name,) for name in ("complete", "protocol", "provider", "plan", "machine", "kernels", "workers", "models")),
        *((name,) for name in ("classes", "conventions", "notes", "warnings", "seconds", "account")),
        ("int8_kernels_saturate_in_pairs",),
        ("protocol", "*"), ("kernels", "family"), ("kernels", "reason"), ("seconds", "*"), ("notes", "*"), ("account", "*"),
        *(("plan", name) for name in ("bundles", "images", "saliency", "device", "shard_size", "options", "versions")),
        ("plan", "images", "count"), ("plan", "images", "fingerprint"), ("plan", "bundles", "*"), ("account", "*", "*"),
        ("workers", "*"), ("workers", "*", "*"), ("workers", "*", "versions", "*"), ("classes", "*"), ("classes", "*", "*"),
        _MODEL, *((*_MODEL, name) for name in ("bundle", "weights", "geometry", "classes", "calibration_images", "precisions")),
        *((*_MODEL, "weights", name) for name in ("name", "sha256", "trained")), _PRECISION, (*_PRECISION, "sha256"),
        (*_PRECISION, "tap"), *((*_PRECISION, *each) for each in _PLACED + _KERNELS),
    ],
    _PLACEMENT: [("*",), ("*", "*"), *(("*", "*", *each) for each in _PLACED + _KERNELS)],
}  # fmt: skip
_LONG, _EVIL = "n" * 5_000, "=a\n\x1b[31m\tb\r|`<i>\u202e"


class _Results:
    """Result folders with one file changed, and reports of them."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._count = 0

    def report(self, told: str, file: str, data: Any, *names: str, harmless: bool = False) -> Case:
        """Return a report of results in which a file is another: JSON-ready, text, bytes or a table."""
        folder = self.with_file(file, data)
        words = (folder, "--pictures", 2, "--output", f"report{self._count}")
        return Case(told, words, (file, *names), harmless)

    def with_file(self, file: str, data: Any) -> Path:
        """Return results in which a file is another."""
        self._count += 1
        folder = linked_copy(self._scene.ground.run, self._scene.work / f"r{self._count}", file, _RUN)
        path = folder / file
        if isinstance(data, pa.Table):
            pq.write_table(data, path)
        elif isinstance(data, bytes):
            path.write_bytes(data)
        else:
            path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        if file != _RUN or isinstance(data, dict):
            sign_results(folder)
        return folder


def _record(scene: Scene, file: str) -> Any:
    """Return a record of a good run; of a summary with an entry of every kind."""
    record = json.loads((scene.ground.run / file).read_text(encoding="utf-8"))
    if file == _SUMMARY and "clipping" in record:
        tensor = {"name": "t", "lowest": -1.0, "highest": 1.0, "n": 9, "low": 0.5, "high": 0.1, "below": 1.5, "above": 2.5}
        tensor["error"] = 2.5
        record["clipping"] = [{"model": "tiny", "precision": "int8", "images": 6, "tensors": [tensor]}]
    return record


def _told(steps: Steps) -> str:
    return next(step for step in reversed(steps) if isinstance(step, str))


#: Where a record need not say anything, null is as good as nothing.
_NULLS = {
    _RUN: [("models", "*", "weights", "trained"), ("models", "*", "calibration_images"), ("plan", "images", "count"),
           ("plan", "saliency"), ("plan", "device"), ("plan", "shard_size"), ("files",),
           ("models", "*", "precisions", "*", "integer_coverage"), ("models", "*", "precisions", "*", "integer_coverage", "*")],
    _SUMMARY: [("*", "*", name) for name in ("mean", "std", "low", "high", "p_holm", "differing")]
    + [("clipping", "*", "tensors", "*", name) for name in ("below", "above", "error")]
    + [("flips", "*", "*", "*", "mean")],
    _PLACEMENT: [("*", "*", "integer_coverage"), ("*", "*", "integer_coverage", "*")],
}  # fmt: skip
#: What nobody reads again.
_UNREAD = [("schema_version",), ("std",), ("flips", "*", "unknown"), ("flips", "*", "*", "*", "n"), ("tests", "*", "p")]


def _types(scene: Scene, *, file: str) -> Verdict:
    """Give every field other types; what nobody reads may have any."""
    good, results = _record(scene, file), _Results(scene)
    cases = []
    for told, steps, record in variants(good, lambda steps: not _free(file, steps)):
        if _at(record, steps) is None and matches(steps, *_NULLS[file]):
            continue
        cases.append(results.report(told, file, record, _told(steps)))
    return scene.refused("qcam-report", cases, "fields of other types")


def _free(file: str, steps: Steps) -> bool:
    return matches(steps, *_UNREAD) if file == _SUMMARY else not matches(steps, *_READ[file])


def _at(record: Any, steps: Steps) -> Any:
    for step in steps:
        record = record[step]
    return record


def _any_value(scene: Scene) -> Verdict:
    """Let all that a report shows as it is be of one odd type after the other."""
    good, results = _record(scene, _RUN), _Results(scene)
    cases = []
    for value in ("x" * 5_000, -1e308, [[1, [2, {"a": None}]]], {"": {"": {}}}):
        record = good
        for steps, _ in fields(good):
            if matches(steps, *_SHOWN):
                record = put(record, steps, value)
        cases.append(results.report(f"all of it is {str(value)[:20]}", _RUN, record, harmless=True))
    return scene.refused("qcam-report", cases, "values of what is shown as it is", at_once=4)


def _missing(scene: Scene) -> Verdict:
    """Leave out each field, one after the other: refused by name, or what earlier versions did not say."""
    cases = []
    results = _Results(scene)
    for file, needed in (
        (_RUN, [("plan",), ("models",)]),
        (_SUMMARY, [("entries", "*", name) for name in ("model", "precision", "comparison", "metric", "n")]),
        (_PLACEMENT, []),
    ):
        good = _record(scene, file)
        cases += [
            results.report(f"{file} without {named(steps)}", file, without(good, steps), _told(steps))
            for steps, _ in fields(good)
            if matches(steps, *needed)
        ]
    return scene.refused("qcam-report", cases, "fields that are missing")


def _nothings(scene: Scene, *, file: str) -> Verdict:
    """Give every field a value that no record has."""
    good, results = _record(scene, file), _Results(scene)
    cases = []
    for place, (steps, value) in enumerate(fields(good)):
        if isinstance(value, dict | list):
            continue
        told, text = NOTHINGS[place % len(NOTHINGS)]
        named_too = [_told(steps)] if "5,000" not in told and "deep" not in told else []
        cases.append(results.report(f"{named(steps)} is {told}", file, text_with(good, steps, text), *named_too))
    return scene.refused("qcam-report", cases, "fields without a value")


def _files(scene: Scene) -> Verdict:
    """Put what is no record in the place of each."""
    results, cases = _Results(scene), []
    for file in (_RUN, _SUMMARY, _PLACEMENT):
        text = (scene.ground.run / file).read_text(encoding="utf-8")
        for told, data in no_records(text):
            if file == _PLACEMENT and told == "an empty object":
                continue  # nothing was placed: run.json says the rest
            empty = file == _SUMMARY and told == "an empty object"
            cases.append(results.report(f"{file}: {told}", file, data, harmless=empty))
    return scene.refused("qcam-report", cases, "files", at_once=40)


def _texts(scene: Scene, *, text: str) -> Verdict:
    """Let every text in a record be another one, names of models and precisions alike everywhere."""
    results, cases = _Results(scene), []
    for file in (_RUN, _SUMMARY, _PLACEMENT):
        record = good = _record(scene, file)
        for steps, value in fields(good):
            if isinstance(value, str) and not _key(file, steps):
                record = put(record, steps, text)
        cases.append(results.report(f"every text in {file}", file, record, harmless=True))
    return scene.refused("qcam-report", cases, "records", at_once=4)


def _key(file: str, steps: Steps) -> bool:
    """Tell whether a text is looked for elsewhere."""
    keys = [("digest",), ("files", "*"), ("models", "*", "bundle"), ("models", "*", "classes"), ("models", "*", "geometry")]
    keys += [("*", "*", name) for name in ("model", "precision", "comparison", "metric", "reference", "first", "second")]
    return matches(steps, *keys)


def _schemas(scene: Scene) -> Verdict:
    """Give versions that there are not."""
    results, good, cases = _Results(scene), _record(scene, _RUN), []
    for version in (0, 1, 3, 99, -1, True, 2.0, "2", None, 2**60, "v" * 5_000, "\x1b[31m", [2], {}):
        record = put(good, ("schema_version",), version)
        cases.append(results.report(f"schema_version is {str(version)[:20]!r}", _RUN, record, "schema version"))
    cases.append(results.report("no schema_version", _RUN, without(good, ("schema_version",)), "schema version"))
    return scene.refused("qcam-report", cases, "versions")


def _names(scene: Scene) -> Verdict:
    """Speak of models, precisions and comparisons that there are not."""
    results, cases = _Results(scene), []
    good = _record(scene, _SUMMARY)
    for key in ("model", "precision", "comparison", "metric", "reference", "first", "second"):
        value = "nobody"
        for section in ("entries", "tests", "flips", "scale", "drift", "non_inferiority", "clipping", "crossings"):
            if good.get(section) and key in good[section][0] and key in ("model", "reference"):
                record = put(good, (section, 0, key), value)
                cases.append(results.report(f"{section}[0].{key} is {value!r}", _SUMMARY, record, harmless=True))
        record = {name: _renamed(part, key, value) for name, part in good.items()}
        cases.append(results.report(f"every {key} is {value!r}", _SUMMARY, record, harmless=True))
    record = put(good, ("statuses",), {"nobody": {"ok": 3, "odd": 2}})
    cases.append(results.report("statuses of nobody", _SUMMARY, record, harmless=True))
    run = _record(scene, _RUN)
    model = run["models"]["tiny"]
    records: dict[str, tuple[Steps, Any]] = {
        "no model": (("models",), {}),
        "a model more": (("models", "nobody"), model),
        "other precisions": (("models", "tiny", "precisions"), {"nobody": model["precisions"]["f32"]}),
        "no precision": (("models", "tiny", "precisions"), {}),
        "other classes": (("models", "tiny", "classes"), "nothing"),
        "no classes": (("classes",), {}),
        "classes without names": (("classes",), {key: [] for key in run["classes"]}),
        "another geometry": (("models", "tiny", "geometry"), "x"),
        "no file": (("files",), {}),
    }
    for told, (steps, value) in records.items():
        cases.append(results.report(told, _RUN, put(run, steps, value), harmless=True))
    return scene.refused("qcam-report", cases, "names of nobody", at_once=6)


def _renamed(section: Any, key: str, value: str) -> Any:
    """Return a part of a summary in which every entry says something else."""
    if not isinstance(section, list):
        return section
    return [entry | ({key: value} if key in entry else {}) for entry in section]


def _numbers(scene: Scene) -> Verdict:
    """Give figures that no measure has."""
    results, cases = _Results(scene), []
    good = _record(scene, _SUMMARY)
    for value in (0, 1e308, -(2**63)):
        record = good
        for steps, held in fields(good):
            whole = isinstance(held, int) and not isinstance(held, bool)
            if steps[0] != "schema_version" and (isinstance(held, float) or whole):
                record = put(record, steps, int(value) if whole and abs(value) < 2**64 else 7 if whole else value)
        cases.append(results.report(f"every figure is {value}", _SUMMARY, record, harmless=True))
    run = _record(scene, _RUN)
    for value in (-1, 2**63):
        record = run
        for steps, held in fields(run):
            if isinstance(held, int | float) and not isinstance(held, bool) and not matches(steps[:1], ("schema_version",)):
                record = put(record, steps, value)
        cases.append(results.report(f"every number is {value}", _RUN, record, harmless=True))
    return scene.refused("qcam-report", cases, "numbers", at_once=4)


def _with(table: pa.Table, **columns: Any) -> pa.Table:
    """Return a table whose columns have one value each, of their types."""
    for name, value in columns.items():
        place = table.schema.get_field_index(name)
        if place >= 0:
            field = table.schema.field(place)
            table = table.set_column(place, field, pa.array([value] * table.num_rows, field.type))
    return table


def _columns(scene: Scene) -> Verdict:
    """Take each column of each table away, and give it other types."""
    results, cases = _Results(scene), []
    for file in _TABLES:
        table = pq.read_table(scene.ground.run / file)
        for place, field in enumerate(table.schema):
            name, later = field.name, file == "results.parquet" and field.name in _LATER
            less = table.remove_column(place)
            if not later:
                cases.append(results.report(f"{file} without {name}", file, less, name))
            for kind, values in _other_types(table.num_rows, field.type):
                changed = table.set_column(place, pa.field(name, values.type), values)
                cases.append(results.report(f"{file}: {name} of {kind}", file, changed, name))
        twice = pa.table([table[0], *table.columns], names=[table.schema.names[0], *table.schema.names])
        more = table.append_column("more", pa.array(["x"] * table.num_rows))
        cases += [
            results.report(f"{file} without columns", file, pa.table({})),
            results.report(f"{file} without rows", file, table.slice(0, 0), harmless=True),
            results.report(f"{file}: a column twice", file, twice),
        ]
        if file == "results.parquet":
            more = more.drop_columns([name for name in _LATER if name in table.schema.names])
            cases.append(results.report(f"{file} with a column more, others less", file, more, harmless=True))
    return scene.refused("qcam-report", cases, "columns", at_once=40)


#: Columns that came later: results of earlier versions have none.
_LATER = ("rank_correlation", "overlap", "energy_in_object", "native_SIM", "native_CC", "drop", "increase", "crossings")


def _other_types(rows: int, kind: pa.DataType) -> Iterator[tuple[str, pa.Array]]:
    """Yield columns of other types."""
    columns = {
        "text": pa.array(["x"] * rows), "short numbers": pa.array([1] * rows, pa.int8()), "lists": pa.array([["x"]] * rows),
        "bytes": pa.array([b"\xff"] * rows), "nulls": pa.nulls(rows),
    }  # fmt: skip
    yield from ((name, column) for name, column in columns.items() if column.type != kind)


def _nulls(scene: Scene) -> Verdict:
    """Let columns say nothing that have to say something."""
    results, cases = _Results(scene), []
    names = {
        "results.parquet": ["image", "image_sha256", "model", "precision", "comparison", "status", "remark"],
        "maps.parquet": ["image", "model", "precision", "kind", "height", "width", "values"],
        "pictures.parquet": ["image", "geometry", "width", "height", "photo"],
        "images.parquet": ["name"],
    }
    for file, columns in names.items():
        table = pq.read_table(scene.ground.run / file)
        for name in columns:
            # Rows of no model are of none that is reported.
            nobody = name in {"results.parquet": ["model"], "maps.parquet": ["image", "model", "kind"]}.get(file, ["image"])
            less = _with(table, **{name: None})
            cases.append(results.report(f"{file}: {name} is null", file, less, *([] if nobody else [name]), harmless=nobody))
    return scene.refused("qcam-report", cases, "columns of nulls")


def _values(scene: Scene) -> Verdict:
    """Put values into tables that no run writes."""
    results, cases = _Results(scene), []
    figures = ("SIM", "CC", "KLD", *(name for name in _LATER if name not in ("increase", "crossings")), "logit_error")
    whole = ("target_class", "top1", "label", "crossings")
    rows, maps, pictures, images = (pq.read_table(scene.ground.run / file) for file in _TABLES)
    for value in (None, float("nan"), float("inf"), -float("inf"), 1e308):
        changed = _with(rows, **dict.fromkeys(figures, value))
        cases.append(results.report(f"figures are {value}", "results.parquet", changed, harmless=True))
    for value in (None, 2**63 - 1, -(2**63)):
        changed = _with(rows, **dict.fromkeys(whole, value))
        cases.append(results.report(f"classes are {value}", "results.parquet", changed, harmless=True))
    for name in ("image", "model", "precision", "comparison"):
        changed = _with(rows, **{name: "nobody"})
        cases.append(results.report(f"results: {name} is 'nobody'", "results.parquet", changed, harmless=True))
    changed = _with(rows, image="x" * 100_000, status="y" * 100_000, remark="z" * 100_000)
    cases.append(results.report("texts of 100,000 characters", "results.parquet", changed, harmless=True))
    nan = _with(maps, values=[float("nan")] * len(maps["values"][0]))
    cases.append(results.report("maps of NaN", "maps.parquet", nan, harmless=True))
    infinite = _with(maps, values=[float("inf")] * len(maps["values"][0]))
    cases.append(results.report("infinite maps", "maps.parquet", infinite, harmless=True))
    cases.append(results.report("maps of nobody", "maps.parquet", _with(maps, image="nobody", kind=""), harmless=True))
    nobody = _with(pictures, image="", geometry="")
    cases.append(results.report("pictures of nobody", "pictures.parquet", nobody, harmless=True))
    cases.append(results.report("no saliency map", "pictures.parquet", _with(pictures, saliency=None), harmless=True))
    cases.append(results.report("no photograph", "pictures.parquet", _with(pictures, photo=b"")))
    cases.append(results.report("an empty saliency map", "pictures.parquet", _with(pictures, saliency=b"")))
    cases.append(results.report("images of nobody", "images.parquet", _with(images, name="", label=-5), harmless=True))
    return scene.refused("qcam-report", cases, "values", at_once=8)


def _sizes(scene: Scene) -> Verdict:
    """Let maps and pictures be of absurd sizes: each is refused by name."""
    results, cases = _Results(scene), []
    sides = [(0, 0), (0, 5), (5, 0), (-1, -1), (-4, -16), (2**31, 2**31), (2**32, 2**32), (2**62, 4), (10**6, 10**6), (3, 7)]
    for file in ("maps.parquet", "pictures.parquet"):
        table = pq.read_table(scene.ground.run / file)
        for height, width in sides if file == "maps.parquet" else sides[:-1]:
            cases.append(results.report(f"{file}: {height}×{width}", file, _with(table, height=height, width=width)))
    maps = pq.read_table(scene.ground.run / "maps.parquet")
    count = len(maps["values"][0])
    for told, values in (("no value", []), ("nulls", [None] * count), ("a value too many", [0.5] * (count + 1))):
        cases.append(results.report(f"maps: {told}", "maps.parquet", _with(maps, values=values)))
    return scene.refused("qcam-report", cases, "sizes")


def _compared(scene: Scene) -> Verdict:
    """Compare good results with such as have odd maps."""
    results, cases = _Results(scene), []
    table = pq.read_table(scene.ground.run / "maps.parquet")
    for name, value in (("height", 0), ("width", 2**40), ("values", None), ("values", [])):
        folder = results.with_file("maps.parquet", _with(table, **{name: value}))
        other = scene.ground.other_run
        for place, runs in enumerate(((other, folder), (folder, other))):
            words = (*runs, "--pictures", 0, "--output", f"c{name}{place}")
            cases.append(Case(f"{name} is {value}", words, ("maps.parquet",)))
    return scene.refused("qcam-report", cases, "comparisons")


def _again(scene: Scene) -> Verdict:
    """Give the command again on results whose record has another type in every field of its plan."""
    good, results, cases = _record(scene, _RUN), _Results(scene), []
    words = ("--images", scene.ground.photographs, "--no-fake-quant", "--no-report", "--grid-rows", 0, "--workers", 1)
    words += ("--threads", 1, "--batch-size", 4, "--saliency", "spectral")
    for told, steps, record in variants(good, lambda steps: steps[0] == "plan"):
        folder = results.with_file(_RUN, record)
        same = _same(_at(good, steps), _at(record, steps))
        cases.append(Case(told, (scene.ground.bundle, *words, "--output", folder), harmless=same))
    return scene.refused("qcam-eval", cases, "fields of a plan")


def _same(good: Any, other: Any) -> bool:
    """Tell whether Python takes two values for one, or the other says nothing."""
    return bool(good == other) or not other


def _check(scene: Scene) -> Verdict:
    """Give checks that are none, or of other types."""
    good = json.loads((scene.ground.check / _CHECK).read_text(encoding="utf-8"))
    cases: list[Case] = []

    def add(told: str, data: bytes, *names: str, harmless: bool = False) -> None:
        folder = scene.work / f"check{len(cases)}"
        folder.mkdir()
        (folder / _CHECK).write_bytes(data)
        words = (scene.ground.run, "--check", folder, "--pictures", 0, "--output", f"report{len(cases)}")
        cases.append(Case(told, words, (_CHECK, *names), harmless))

    read = [("results", "*", name) for name in ("model", "precision", "arithmetic", "kernel", "provider", "holds", "tensors")]
    read += [("results", "*", "tensors", "*", name) for name in ("name", "equal")]
    read += [("results",), ("bundles",), ("results", "*")]
    for told, steps, record in variants(good, lambda steps: matches(steps, *read)):
        if not (_at(record, steps) is None and steps[-1] == "equal"):
            add(told, json.dumps(record).encode(), _told(steps))
    for version in (0, 3, True, "2", 2.0, None, "v" * 5_000, "\x1b[31m"):
        text = json.dumps(good | {"schema_version": version})
        add(f"schema_version is {str(version)[:20]!r}", text.encode(), "schema version")
    for told, data in no_records(json.dumps(good)):
        add(told, data)
    return scene.refused("qcam-report", cases, "checks", at_once=40)


_RUNS: list[tuple[str, Callable[[Scene], Verdict]]] = [
    ("run.json: every field of another type", partial(_types, file=_RUN)),
    ("summary.json: every field of another type", partial(_types, file=_SUMMARY)),
    ("placement.json: every field of another type", partial(_types, file=_PLACEMENT)),
    ("run.json: what is shown as it is, of any type", _any_value),
    ("fields that are missing", _missing),
    ("run.json: NaN, NUL, half of a pair, depth, 5,000 digits", partial(_nothings, file=_RUN)),
    ("summary.json: the same", partial(_nothings, file=_SUMMARY)),
    ("placement.json: the same", partial(_nothings, file=_PLACEMENT)),
    ("records that are none: empty, cut, BOM, a key twice, deep …", _files),
    ("every text of 5,000 characters", partial(_texts, text=_LONG)),
    ("every text with newline, ESC, markup", partial(_texts, text=_EVIL)),
    ("versions that there are not", _schemas),
    ("models, precisions, comparisons of nobody", _names),
    ("figures that no measure has", _numbers),
    ("tables: each column missing, and of other types", _columns),
    ("tables: columns of nulls", _nulls),
    ("tables: values that no run writes", _values),
    ("maps and pictures of absurd sizes", _sizes),
    ("the same, two runs compared", _compared),
    ("qcam-eval again: every field of the plan of another type", _again),
    ("check.json: of other types, versions, none", _check),
]
ATTACKS = [Attack(f"C4.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
