"""The door for the Parquet files of a result folder: columns, types and sizes are held against what a run writes.

Checksums tell damage, not forgery, and results of earlier versions have none: so a file may hold anything, and what is made of
its rows later relies on their form. Columns that nobody asks for are let through: a later version may have written them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qcam.common.errors import ResultsError, first_line
from qcam.common.records import AGAIN
from qcam.evaluate.results.bounds import BOUNDS

#: Longest side of a stored picture's crop, in pixels.
_LARGEST = 4096
#: Measures that charts show, and what they can be; a divergence has no upper end, and none was ever near this one.
_DRAWN = ("SIM", "CC", "KLD", "rank_correlation", "overlap", "energy_in_object", "native_SIM", "native_CC", "drop")
_RANGES = {name: (float(low), 1e6 if high is None else float(high)) for name in _DRAWN for low, high in [BOUNDS[name]]}
_ROUNDING = 1e-3
#: Characters of a type that a message shows.
_SHOWN = 60


def _nothing_wrong(_table: pa.Table) -> str:
    return ""


@dataclass(frozen=True)
class TableForm:
    """What one of the files holds.

    Attributes:
        schema: Its columns.
        nullable: Columns that may be undefined in some rows.
        later: Columns that results of earlier versions lack: they are undefined there.
        wrong: Says what is wrong with values; nothing is: an empty text.
    """

    schema: pa.Schema
    nullable: Collection[str] = ()
    later: Collection[str] = ()
    wrong: Callable[[pa.Table], str] = _nothing_wrong


def read_table(path: Path, form: TableForm, *, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """Read a file, or some columns and rows of it.

    Args:
        path: The file.
        form: What it has to hold.
        columns: Which of them; None for all.
        filters: Which rows, as pyarrow takes it.

    Returns:
        The columns, in their order, those that came later undefined where the file lacks them.

    Raises:
        ResultsError: If it cannot be read, lacks a column, or one is of another type or undefined where it never is.
    """
    wanted = form.schema.names if columns is None else list(columns)
    found = require_columns(path, form)
    try:
        table = pq.read_table(path, columns=[name for name in wanted if name in found], filters=filters)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    for place, name in enumerate(wanted):
        if name not in table.schema.names:
            field = form.schema.field(name)
            table = table.add_column(place, field, pa.nulls(table.num_rows, field.type))
    if wrong := _undefined(table, form) or form.wrong(table):
        raise ResultsError(f"{path}: {wrong}; {AGAIN}")
    return table


def require_columns(path: Path, form: TableForm) -> list[str]:
    """Hold the columns of a file against its form (errors as from `read_table`); return the names of those that it has."""
    try:
        found = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    if wrong := _wrong_columns(found, form):
        raise ResultsError(f"{path}: {wrong}; {AGAIN}")
    names: list[str] = found.names
    return names


def wrong_figures(table: pa.Table) -> str:
    """Say which figure of result rows lies outside what its measure can be, whatever columns there are; none: an empty text."""
    for name in table.schema.names:
        if name in _RANGES and table.num_rows:
            low, high = _RANGES[name]
            found = pc.min_max(table[name]).as_py()
            for value in (found["min"], found["max"]):
                if value is not None and not low - _ROUNDING <= value <= high + _ROUNDING and value == value:
                    return f"column {name} holds {value:g}, which is none from {low:g} to {high:g}"
    return ""


def wrong_maps(table: pa.Table) -> str:
    """Say what is wrong with the sizes of maps; needs the columns height, width and values, otherwise nothing is."""
    if not {"height", "width", "values"} <= set(table.schema.names):
        return ""
    if pc.list_flatten(table["values"]).null_count:
        return "values are undefined in column values"
    counts = pc.list_value_length(table["values"]).to_pylist()
    for height, width, count in zip(table["height"].to_pylist(), table["width"].to_pylist(), counts, strict=True):
        if min(height, width) < 1 or height * width != count:
            return f"a map of height {height} and width {width} has {count} values"
    return ""


def wrong_pictures(table: pa.Table) -> str:
    """Say what is wrong with the sizes of pictures; needs the columns height and width, otherwise nothing is."""
    for name in {"height", "width"} & set(table.schema.names):
        ends = pc.min_max(table[name]).as_py()
        if table.num_rows and not 1 <= ends["min"] <= ends["max"] <= _LARGEST:
            odd = ends["min"] if ends["min"] < 1 else ends["max"]
            return f"a picture has {name} {odd}, which is none from 1 to {_LARGEST}"
    return ""


def _wrong_columns(found: pa.Schema, form: TableForm) -> str:
    """Say what is wrong with the columns of a file; nothing is: an empty text."""
    for field in form.schema:
        count = found.names.count(field.name)
        if count == 0 and field.name not in form.later:
            return f"column {field.name} is missing"
        if count > 1:
            return f"column {field.name} is there {count} times"
        if count and found.field(field.name).type != field.type:
            return f"column {field.name} is of type {_brief(found.field(field.name).type)} and has to be {_brief(field.type)}"
    return ""


def _undefined(table: pa.Table, form: TableForm) -> str:
    """Name a column that is undefined where it never is; none is: an empty text."""
    odd = [name for name in table.schema.names if name not in (*form.nullable, *form.later) and table[name].null_count]
    return f"column {odd[0]} is undefined in {table[odd[0]].null_count:,} rows" if odd else ""


def _brief(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= _SHOWN and text.isprintable() else ascii(text[:_SHOWN])


def _unreadable(path: Path, error: Exception) -> ResultsError:
    return ResultsError(f"cannot read {path}: {first_line(error)}; run again with {{force}}")
