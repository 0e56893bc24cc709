"""Result folders with something odd in one file, checksums made right or not: read, or one line that names the file."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import qcam
from fuzz.edits import as_json, edited
from fuzz.harness import GOOD, scratch
from fuzz.reader import Reader, with_decisions
from qcam.common.files import fingerprint, sha256_file
from qcam.evaluate.report.finishing import oddities, write_tables
from qcam.evaluate.results.clipping import CLIPPING

COVERED = ("qcam.evaluate.results.folder", "qcam.evaluate.results.records", "qcam.common.records",
           "qcam.evaluate.report.finishing", "qcam.evaluate.report.sections", "qcam._results")  # fmt: skip
_GOOD = GOOD / "results"
_RECORDS = ("run.json", "summary.json", "placement.json")


def one(data: bytes) -> None:
    """Read one folder whole: figures, maps, pictures; write its tables, and now and then its report."""
    reader = Reader(data)
    folder = scratch() / "results"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(_GOOD, folder)
    reported = reader.integer(0, 255) == 255
    name = reader.pick(*_RECORDS, *sorted(path.name for path in _GOOD.glob("*.parquet")))
    sealed, raw = reader.integer(0, 3) > 0, reader.integer(0, 7) == 7
    path = folder / name
    if raw:
        path.write_bytes(reader.rest())
    elif name in _RECORDS:
        path.write_bytes(as_json(edited(json.loads(path.read_bytes()), reader, 4)))
    else:
        _edit_table(path, reader)
    if sealed:
        _seal(folder)
    results = qcam.load_results(folder)
    results.to_arrow()
    results.references()
    stored = results.stored
    for model in results.models:
        stored.columns(model)
        stored.references(model)
        stored.classes(model)
    for row in results.maps():
        _ = row.array
    stored.rows()
    stored.pictures(stored.images)
    _ = stored.placements
    if CLIPPING in (stored.record.files or {}):
        stored.read(CLIPPING)
    results._repr_html_()
    write_tables(stored)
    oddities(stored, str(folder))
    if reported:
        results.report(scratch() / "report", pictures=2)


def _edit_table(path: Any, reader: Reader) -> None:
    """Change a Parquet file: a column is left out, renamed, of another type, or a value is odd; or bytes are flipped."""
    way = reader.integer(0, 5)
    if way == 0:
        file = bytearray(path.read_bytes())
        for _ in range(reader.integer(1, 4)):
            file[reader.integer(0, 65535) % len(file)] ^= 1 << reader.integer(0, 7)
        path.write_bytes(bytes(file))
        return
    table = pq.read_table(path)
    place = reader.integer(0, table.num_columns - 1)
    field = table.schema.field(place)
    if way == 1:
        table = table.remove_column(place)
    elif way == 2:
        table = table.rename_columns(
            [reader.pick("", "x", *table.column_names) if at == place else name for at, name in enumerate(table.column_names)]
        )
    elif way == 3:
        kind = reader.pick(
            pa.string(), pa.float64(), pa.int64(), pa.binary(), pa.bool_(), pa.null(), pa.list_(pa.int64()), pa.int8()
        )
        table = table.set_column(place, pa.field(field.name, kind), pa.nulls(table.num_rows, kind))
    elif way == 4 and table.num_rows:
        values = table.column(place).to_pylist()
        for _ in range(reader.integer(1, 3)):
            values[reader.integer(0, len(values) - 1)] = reader.pick(
                None, 0, -1, 1, 2**40, float("nan"), float("inf"), 1e300, "", "x", "../x", "\x00", "tiny", "f32", "ok",
                "x" * 4000, b"", b"\xff" * 9, True,
                *values,
            )  # fmt: skip
        try:
            table = table.set_column(place, field, pa.array(values, field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return
    else:
        table = reader.pick(
            table.slice(0, 0), pa.concat_tables([table, table]), table.slice(1), table.slice(0, table.num_rows - 1)
        )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    path.write_bytes(buffer.getvalue())


def _seal(folder: Any) -> None:
    """Make every checksum right, as whoever writes such a folder on purpose would."""
    path = folder / "run.json"
    try:
        run = json.loads(path.read_bytes())
        if isinstance(run.get("files"), dict):
            run["files"] = {
                name: sha256_file(folder / name) if (folder / name).is_file() else said for name, said in run["files"].items()
            }
        if "digest" in run:
            run["digest"] = fingerprint({key: value for key, value in run.items() if key != "digest"})
    except Exception:  # it holds what has no checksum: it stays as it is
        return
    path.write_bytes(as_json(run))


def seeds() -> Iterator[bytes]:
    """Yield bytes that decide edits, of every file."""
    import random

    numbers = random.Random(0)
    count = len(_RECORDS) + len(list(_GOOD.glob("*.parquet")))
    for place in range(count):
        for _ in range(8):
            yield with_decisions(numbers.randbytes(40), 0, place, 1, 0)
    for place, name in enumerate(_RECORDS):
        yield with_decisions((_GOOD / name).read_bytes(), 0, place, 0, 7)
    yield with_decisions(b"", 255, 0, 1, 0)
