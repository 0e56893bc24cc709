"""Whether two results hold the same figures, bit for bit: Parquet tables, JSON records and the CSV table of a run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

#: What tells the entries of a JSON list apart.
_IDENTITY = (
    "model", "precision", "arithmetic", "kernel", "provider", "comparison", "metric", "first", "second", "baseline", "name",
    "tensor",
)  # fmt: skip
#: Columns whose text tells a reader something: changed words are listed, they are no figures.
_WORDS = ("remark",)


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        values: How many values were compared.
        different: Figures that differ, in words.
        listed: What changed but is no figure: titles, words, new columns.
        rounded: Figures that were expected to round otherwise (`compare_records`), and do.
    """

    values: int = 0
    different: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    rounded: list[str] = field(default_factory=list)

    def add(self, other: Comparison) -> None:
        """Take up what another comparison found."""
        self.values += other.values
        self.different += other.different
        self.listed += other.listed
        self.rounded += other.rounded


def compare_tables(before: Path, after: Path, keys: Sequence[str]) -> Comparison:
    """Compare two Parquet files, sorted by their key columns: every column bitwise.

    Args:
        before: The older file.
        after: The newer one.
        keys: The columns that name a row.
    """
    order = [(key, "ascending") for key in keys]
    first, second = (pq.read_table(path).sort_by(order) for path in (before, after))
    found = Comparison()
    gone = [name for name in first.column_names if name not in second.column_names]
    found.different += [f"column {name} is gone" for name in gone]
    found.listed += [f"new column {name}" for name in second.column_names if name not in first.column_names]
    if first.num_rows != second.num_rows:
        found.different.append(f"{first.num_rows} rows before, {second.num_rows} now")
        return found
    names = [" · ".join(map(str, row.values())) for row in first.select(list(keys)).to_pylist()]
    for column in first.column_names:
        if column not in gone:
            found.add(_compare_columns(column, names, first[column], second[column]))
    return found


def _compare_columns(column: str, names: Sequence[str], before: pa.ChunkedArray, after: pa.ChunkedArray) -> Comparison:
    values = before.combine_chunks().flatten() if pa.types.is_list(before.type) else before
    found = Comparison(len(values))
    kinds = [f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind) for kind in (before.type, after.type)]
    if kinds[0] != kinds[1]:
        found.different.append(f"{column}: {kinds[0]} before, {kinds[1]} now")
        return found
    for name, old, new in zip(names, bits(before), bits(after), strict=True):
        if old == new:
            continue
        worded = column in _WORDS or (column == "status" and str(old).partition(":")[0] == str(new).partition(":")[0])
        (found.listed if worded else found.different).append(f"{column} of {name}: {_shown(old)} before, {_shown(new)} now")
    return found


def bits(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values so that equal means bitwise equal: floats, and lists of them, as their bytes."""
    if pa.types.is_floating(column.type) or pa.types.is_list(column.type):
        kind = column.type.value_type if pa.types.is_list(column.type) else column.type
        return [None if value is None else np.asarray(value, kind.to_pandas_dtype()).tobytes() for value in column.to_pylist()]
    return list(column.to_pylist())


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{np.frombuffer(value)[0]!r}" if len(value) == 8 else f"{len(value)} bytes"
    return str(value)


def compare_records(before: Any, after: Any, rounding: Mapping[str, float] | None = None) -> Comparison:
    """Compare two JSON values leaf by leaf: numbers, truths and nulls are figures; words that changed or went are listed.

    Entries of lists are found by what they name, not by their place, where they name anything.

    Args:
        before: The older value.
        after: The newer one.
        rounding: Last name of a path → relative difference up to which its floats may round otherwise, since they are
            computed in another order on purpose. All others are compared bit for bit.
    """
    first, second = dict(leaves(before)), dict(leaves(after))
    found = Comparison(len(first))
    found.listed += [f"new entry {name}" for name in _summarised(second.keys() - first.keys())]
    for name, old in first.items():
        if name not in second:
            found.different.append(f"{name} is gone")
        elif not _same(old, second[name]):
            text = f"{name}: {old} before, {second[name]} now"
            allowed = (rounding or {}).get(name.rpartition(".")[2], 0.0)
            if isinstance(old, str):
                found.listed.append(text)
            elif _near(old, second[name], allowed):
                found.rounded.append(text)
            else:
                found.different.append(text)
    return found


def _near(before: Any, now: Any, allowed: float) -> bool:
    """Tell whether two leaves are floats that differ by no more than a share of the first."""
    return allowed > 0 and isinstance(before, float) and isinstance(now, float) and abs(now - before) <= allowed * abs(before)


def _same(before: Any, now: Any) -> bool:
    """Tell whether two leaves are of one type and, bit for bit, of one value."""
    if type(before) is not type(now):
        return False
    return before.hex() == now.hex() if isinstance(before, float) else bool(before == now)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a JSON value with its path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for label, item in zip(_labels(value), value, strict=True):
            yield from leaves(item, f"{name}[{label}]")
    else:
        yield name, value


def _labels(items: list[Any]) -> list[str]:
    """Return what tells a list's entries apart: their names where these do, else their numbers."""
    named = [
        " · ".join(str(item[key]) for key in _IDENTITY if isinstance(item.get(key), str)) if isinstance(item, Mapping) else ""
        for item in items
    ]
    return named if all(named) and len(set(named)) == len(named) else [str(index) for index in range(len(items))]


def _summarised(names: set[str]) -> list[str]:
    """Return the paths with their places in lists left out, each once."""
    short = set()
    for name in names:
        parts = [part.partition("]")[2] or part if index else part for index, part in enumerate(name.split("["))]
        short.add("[]".join(parts))
    return sorted(short)


def compare_csv(before: Path, after: Path, keys: Sequence[str]) -> Comparison:
    """Compare two CSV tables: numbers as they are written; changed words and new columns are listed.

    Args:
        before: The older file.
        after: The newer one.
        keys: The columns that name a row.
    """
    first, second = (_rows(path, keys) for path in (before, after))
    found = Comparison()
    found.listed += [f"new row {' · '.join(name)}" for name in second if name not in first]
    columns = {column for row in second.values() for column in row} - {column for row in first.values() for column in row}
    found.listed += [f"new column {column}" for column in sorted(columns)]
    for name, row in first.items():
        for column, old in row.items():
            found.values += 1
            new = second.get(name, {}).get(column)
            if old == new:
                continue
            words = new is not None and not _is_number(old) and not _is_number(new) and bool(old) and bool(new)
            text = f"{column} of {' · '.join(name)}: {old or 'empty'} before, {'gone' if new is None else new or 'empty'} now"
            (found.listed if words else found.different).append(text)
    return found


def _rows(path: Path, keys: Sequence[str]) -> dict[tuple[str, ...], dict[str, str]]:
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    return {tuple(row[key] for key in keys): dict(row) for row in rows}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def compare_titles(before: Path, after: Path) -> Comparison:
    """List the titles of rows and columns that two Markdown tables do not share; figures are compared elsewhere."""
    first, second = (_titles(path.read_text(encoding="utf-8")) for path in (before, after))
    found = Comparison(len(first))
    found.listed += [f"title gone: {title}" for title in first if title not in second]
    found.listed += [f"new title: {title}" for title in second if title not in first]
    return found


def _titles(text: str) -> list[str]:
    """Return each row's leading cells up to its first figure."""
    titles = []
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith(("|-", "|:", "| -", "| :")):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            titles.append(" / ".join(cell for cell in cells if cell and not _figure(cell)))
    return titles


def _figure(cell: str) -> bool:
    return "±" in cell or _is_number(cell.split()[0].rstrip("%"))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def leave_out_schema_2(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Leave out of a bundle's manifest what came with schema version 2, where the one before has version 1.

    Args:
        before: The manifest before.
        now: The manifest now; changed.

    Returns:
        What was left out, in words.
    """
    if (before["schema_version"], now["schema_version"]) != (1, 2):
        return []
    now["schema_version"] = 1
    for entry in now["precisions"]:
        del entry["input"], entry["session"]
    return [f"new entry {name} of every precision (schema version 2)" for name in ("input", "session")]
