"""Parts: what is finished of a run. One shard of images is one Parquet file that appears whole or not at all.

A part has one row per image, holding all of it: the result rows of every model, the CAMs, the pictures and what quantizers
clipped, as nested columns. Its name carries its shard's place, the key of the shard (the hash of the images' contents and of
everything else that can change a figure: bundles, provider, options, versions) and the SHA-256 of its own bytes. Inside stand
the key in full, the names of its images and the number of its rows, maps, pictures and the like. A part is read only as a
whole, and only if all of this is so, and no figure is what it cannot be (`bounds.py`): one that was damaged, emptied, exchanged
or brought from elsewhere is no part.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qcam.common.errors import QcamError, ResultsError, first_line
from qcam.common.files import canonical_json, commit_file, sha256_bytes, sha256_file, write_atomically
from qcam.common.records import read_json, read_record
from qcam.common.storage import Location, files_below, reason, shown
from qcam.evaluate.results.bounds import out_of_bounds
from qcam.evaluate.results.clipping import CLIPPING, CLIPPING_SCHEMA, ClippedRow
from qcam.evaluate.results.folder import (
    FORMS,
    MAP_SCHEMA,
    MAPS,
    PICTURE_SCHEMA,
    PICTURES,
    REFERENCES,
    RESULTS,
    ROW_SCHEMA,
    Picture,
    Row,
    StoredMap,
    parquet_bytes,
)
from qcam.evaluate.results.records import WorkerRecord
from qcam.evaluate.results.remote import write_whole
from qcam.evaluate.results.tables import require_columns

#: Folder of the parts, below the result folder.
PARTS = "parts"
#: Version of the parts.
_VERSION = 1
#: Lines of a result file that are read at a time.
_LINES = 256
_STATE = b"qcam.state"
_KEY = b"qcam.key"
_WORKER = b"qcam.worker"
_CONTENTS = b"qcam.contents"
#: Digits of a key, and of the bytes' SHA-256, in a part's name.
_DIGITS = 16
#: What evaluated a part of which nobody says so.
_UNKNOWN = WorkerRecord()
_NAME = re.compile(rf"(?P<place>\d{{6,}}-[0-9a-f]{{{_DIGITS}}})(?:-(?P<digest>[0-9a-f]{{{_DIGITS}}}))?\.parquet")
_JOINED = {
    RESULTS: ("rows", ROW_SCHEMA),
    REFERENCES: ("references", ROW_SCHEMA),
    MAPS: ("maps", MAP_SCHEMA),
    PICTURES: ("pictures", PICTURE_SCHEMA),
    CLIPPING: ("clipping", CLIPPING_SCHEMA),
}
_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string()),
        *(pa.field(name, pa.list_(pa.struct(list(schema)))) for name, schema in _JOINED.values()),
    ]
)


def _whoever(_worker: WorkerRecord) -> bool:
    """Accept a part, whatever evaluated it."""
    return True


class DamagedPartError(ResultsError):
    """A file among the parts is not the part that it is taken for; its shard has to be done again.

    Attributes:
        path: The file.
        why: What is wrong with it, in words that go on from its name.
    """

    def __init__(self, path: Location, why: str) -> None:
        """Say what is wrong with a file."""
        super().__init__(f"{shown(path)} {why}")
        self.path = path
        self.why = why


@dataclass
class ImageOutcome:
    """All that a run found out about one image.

    Attributes:
        image: Its name.
        rows: Result rows of every model.
        maps: CAMs of every model.
        pictures: One for each geometry that the models see it in.
        references: Reference rows of every model.
        clipping: What the quantizers of every model's simulations clipped.
    """

    image: str
    rows: list[Row] = field(default_factory=list)
    maps: list[StoredMap] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    references: list[Row] = field(default_factory=list)
    clipping: list[ClippedRow] = field(default_factory=list)


@dataclass(frozen=True)
class PlannedPart:
    """What a part has to be.

    Attributes:
        index: The shard's place in the run.
        key: The shard's key.
        images: Names of its images, in their order.
        rows: Result rows of each image, all models together; None where that is not known yet.
        referenced: Of how many of its images, the first ones, there are reference rows.
        references: Reference rows of each of these, all models together; None where that is not known yet.
    """

    index: int
    key: str
    images: tuple[str, ...]
    rows: int | None = None
    referenced: int = 0
    references: int | None = None

    @property
    def place(self) -> str:
        """Return how the names of its files begin."""
        return f"{self.index:06d}-{self.key[:_DIGITS]}"


@dataclass(frozen=True)
class Part:
    """A part that is what it has to be.

    Attributes:
        table: One row per image.
        state: What the next shard has to know of this one.
        worker: What evaluated it.
    """

    table: pa.Table
    state: str
    worker: WorkerRecord


@dataclass(frozen=True)
class PartStore:
    """The folder of the parts.

    Attributes:
        folder: A local path, or a location behind a URL.
    """

    folder: Location

    def listing(self) -> dict[str, list[Location]]:
        """Return what lies there, from one listing: how the name of a planned part's files begins → those files.

        A shard has several files where several workers evaluated it; they come in a fixed order. Files of earlier versions,
        which carry no checksum, are left out.

        Raises:
            QcamError: If the folder cannot be listed.
        """
        found: dict[str, list[Location]] = {}
        for match in self._matches():
            if match["digest"] is not None:
                found.setdefault(match["place"], []).append(self.folder / match.string)
        return found

    def outdated(self) -> list[Location]:
        """Return parts of earlier versions, which carry no checksum (errors as in `listing`)."""
        return [self.folder / match.string for match in self._matches() if match["digest"] is None]

    def _matches(self) -> list[re.Match[str]]:
        """Return the names of parts, in their order."""
        try:
            local = isinstance(self.folder, Path)
            names = [path.name for path in self.folder.iterdir()] if local else files_below(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise ResultsError(f"cannot list {shown(self.folder)}: {reason(error)}") from error
        return [match for match in map(_NAME.fullmatch, sorted(names)) if match is not None]

    def delete(self, path: Location) -> None:
        """Delete a part, as far as the place lets."""
        with suppress(Exception):  # file systems behind URLs have their own
            path.unlink()

    def clear(self) -> None:
        """Delete the parts, as far as the place lets."""
        if isinstance(self.folder, Path):
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        with suppress(Exception):
            for match in self._matches():
                (self.folder / match.string).unlink()


def write_part(
    store: PartStore,
    part: PlannedPart,
    outcomes: Sequence[ImageOutcome],
    state: str = "",
    worker: WorkerRecord = _UNKNOWN,
) -> Location:
    """Write a part.

    Args:
        store: Where.
        part: What it is.
        outcomes: The shard's images, in the order of the run.
        state: What the next shard has to know of this one; empty where images do not depend on each other.
        worker: What evaluated it.

    Returns:
        The file.

    Raises:
        QcamError: If the disk refuses.
    """
    table = pa.Table.from_pylist([asdict(outcome) for outcome in outcomes], schema=_SCHEMA)
    metadata = {
        _KEY: part.key.encode(),
        _STATE: state.encode(),
        _WORKER: json.dumps(worker.of_a_part()).encode(),
        _CONTENTS: json.dumps(_contents(table)).encode(),
    }
    data = parquet_bytes(table.replace_schema_metadata(metadata))
    path = store.folder / f"{part.place}-{sha256_bytes(data)[:_DIGITS]}.parquet"
    if isinstance(path, Path):
        write_atomically(path, data)
    else:
        write_whole(path, data)
    return path


def read_part(path: Location, part: PlannedPart) -> Part:
    """Read a part, as a whole, and hold it against what it has to be.

    Raises:
        DamagedPartError: If it is something else; says what.
    """
    try:
        data = path.read_bytes()
    except Exception as error:  # file systems behind URLs have their own
        raise DamagedPartError(path, f"cannot be read: {reason(error)}") from error
    match = _NAME.fullmatch(path.name)
    if match is None or match["digest"] is None:
        raise DamagedPartError(path, "carries no checksum")
    if match["place"] != part.place:
        raise DamagedPartError(path, "belongs to another shard")
    if sha256_bytes(data)[:_DIGITS] != match["digest"]:
        raise DamagedPartError(path, "is damaged: its SHA-256 is not the one in its name")
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read()
        metadata = table.schema.metadata or {}
        contents = read_json(metadata[_CONTENTS], "what it says of itself", advice="")
        worker = read_record(metadata[_WORKER], WorkerRecord, "its worker", advice="")
        found = Part(table, metadata[_STATE].decode(), worker)
        key = metadata[_KEY].decode()
    except (OSError, ValueError, KeyError, pa.ArrowException, ResultsError) as error:
        raise DamagedPartError(path, f"is no part: {first_line(error)}") from error
    wrong = _difference(table, contents, key, part)
    if wrong:
        raise DamagedPartError(path, wrong)
    return found


@dataclass(frozen=True)
class Joined:
    """What became of parts that were joined.

    Attributes:
        workers: What evaluated them, each once, with the number of its parts.
        images: Images in the result files.
        files: Name of each file that was written → its SHA-256.
        damaged: What was among the parts and is none, in the order of the run; nothing of it is in the result files.
        missing: Places of the planned parts that were not joined.
    """

    workers: list[WorkerRecord]
    images: int
    files: dict[str, str]
    damaged: list[DamagedPartError]
    missing: list[int]


def join_parts(
    store: PartStore, parts: Sequence[PlannedPart], folder: Path, accept: Callable[[WorkerRecord], bool] = _whoever
) -> Joined:
    """Join parts into the result files, one part in memory at a time; every file appears whole.

    Args:
        store: Where they are.
        parts: What was planned, in the order of the run; those that are not there are left out.
        folder: The result folder, local.
        accept: Tells of what evaluated a part whether that will do.

    Raises:
        QcamError: If the disk refuses.
    """
    workers: dict[str, WorkerRecord] = {}
    damaged: list[DamagedPartError] = []
    missing: list[int] = []
    images = 0
    listing = store.listing()
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_writer(folder / name, schema)) for name, (_, schema) in _JOINED.items()}
        for planned in parts:
            part = find_part(listing, planned, damaged, accept)
            if part is None:
                missing.append(planned.index)
                continue
            images += part.table.num_rows
            about = canonical_json(asdict(part.worker))
            met = workers.get(about, part.worker)
            workers[about] = replace(met, shards=met.shards + 1)
            for name, (column, schema) in _JOINED.items():
                for chunk in part.table[column].chunks:
                    batch = pa.RecordBatch.from_struct_array(chunk.flatten())
                    if batch.num_rows:
                        _write(writers[name], batch.cast(schema), folder / name)
    files = {name: sha256_file(folder / name) for name in _JOINED}
    return Joined(list(workers.values()), images, files, damaged, missing)


def split_results(folder: Path, parts: Sequence[PlannedPart]) -> Iterator[list[ImageOutcome]]:
    """Take joined result files apart again, a part in memory at a time.

    Args:
        folder: The result folder, local, its files as they were written.
        parts: Those that they begin with, in the order of the run.

    Yields:
        What each part was made of.

    Raises:
        ResultsError: If one has other columns.
    """
    readers = {column: _Reader(folder / name) for name, (column, _) in _JOINED.items()}
    for part in parts:
        outcomes = {image: ImageOutcome(image) for image in part.images}
        for item in readers["rows"].of(outcomes):
            outcomes[item["image"]].rows.append(Row(**item))
        for item in readers["references"].of(outcomes):
            outcomes[item["image"]].references.append(Row(**item))
        for item in readers["maps"].of(outcomes):
            outcomes[item["image"]].maps.append(StoredMap(**item))
        for item in readers["pictures"].of(outcomes):
            outcomes[item["image"]].pictures.append(Picture(**item))
        for item in readers["clipping"].of(outcomes):
            outcomes[item["image"]].clipping.append(ClippedRow(**item))
        yield list(outcomes.values())


class _Reader:
    """Reads a result file from its beginning on, line by line; nothing of one that an earlier version had not."""

    def __init__(self, path: Path) -> None:
        names = require_columns(path, FORMS[path.name]) if path.exists() else []
        known = [name for name in FORMS[path.name].schema.names if name in names]
        batches = pq.ParquetFile(path).iter_batches(batch_size=_LINES, columns=known) if path.exists() else ()
        self._lines = (line for batch in batches for line in batch.to_pylist())
        self._next: dict[str, Any] | None = next(self._lines, None)

    def of(self, images: Container[str]) -> Iterator[dict[str, Any]]:
        """Yield the lines up to the first one that is of another image."""
        while self._next is not None and self._next["image"] in images:
            yield self._next
            self._next = next(self._lines, None)


def find_part(
    listing: Mapping[str, Sequence[Location]],
    planned: PlannedPart,
    damaged: list[DamagedPartError],
    accept: Callable[[WorkerRecord], bool] = _whoever,
) -> Part | None:
    """Return the first file that is the planned part; None if none is.

    Args:
        listing: From `PartStore.listing`.
        planned: What is looked for.
        damaged: Takes what was met on the way and is no part.
        accept: Tells of what evaluated a part whether that will do.
    """
    for path in listing.get(planned.place, ()):
        try:
            part = read_part(path, planned)
        except DamagedPartError as error:
            damaged.append(error)
            continue
        if accept(part.worker):
            return part
    return None


def holds_figures(path: Location) -> bool:
    """Tell whether a file is a part, whoever's, in which some image was evaluated rather than refused."""
    try:
        data = path.read_bytes()
        match = _NAME.fullmatch(path.name)
        if match is None or match["digest"] != sha256_bytes(data)[:_DIGITS]:
            return False
        rows = pc.list_flatten(pq.read_table(io.BytesIO(data), columns=["rows"])["rows"])
        return any(chosen.is_valid for chosen in pc.struct_field(rows, "top1"))
    except Exception:  # file systems have their own; what cannot be read holds nothing
        return False


def remove_leftovers(folder: Path) -> int:
    """Delete the half-written files that a killed process left in the result folder; return their number."""
    found = [path for place in (folder, folder / PARTS) for path in place.glob(".*.part") if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _contents(table: pa.Table) -> dict[str, Any]:
    """Return what a part says of itself: version, names of its images, and how many rows, maps and pictures it holds."""
    counts = {column: len(pc.list_flatten(table[column])) for column, _ in _JOINED.values()}
    return {"version": _VERSION, "images": table["image"].to_pylist()} | counts


def _difference(table: pa.Table, contents: Any, key: str, part: PlannedPart) -> str:
    """Say in what a table is not the planned part; empty if in nothing."""
    if key != part.key:
        return "belongs to another run"
    if not table.schema.remove_metadata().equals(_SCHEMA):
        return "has other columns than a part of this version"
    if contents != _contents(table):
        return "does not hold what it says of itself"
    images = table["image"].to_pylist()
    if images != list(part.images):
        return f"holds {len(images)} images that are not the {len(part.images)} of its shard"
    for column, _ in _JOINED.values():
        inner = pc.struct_field(pc.list_flatten(table[column]), "image")
        outer = pc.take(table["image"], pc.list_parent_indices(table[column]))
        if not inner.equals(outer):
            return f"holds {column} of other images"
    counts = pc.list_value_length(table["rows"]).to_pylist()
    if part.rows is not None and any(count != part.rows for count in counts):
        return f"holds {min(counts)} to {max(counts)} rows of an image, not {part.rows}"
    counts = pc.list_value_length(table["references"]).to_pylist()
    if part.references is not None:
        wanted = [part.references if place < part.referenced else 0 for place in range(len(counts))]
        if counts != wanted:
            return f"holds {sum(counts)} reference rows, not {sum(wanted)}"
    return out_of_bounds(table)


def _write(writer: pq.ParquetWriter, batch: pa.RecordBatch, path: Path) -> None:
    try:
        writer.write_batch(batch)
    except OSError as error:
        raise _refused(path, error) from error


@contextmanager
def _writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet file piece by piece beside `path`; it takes its place when the block ends well."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise _refused(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
                yield writer
            stream.flush()
            os.fsync(stream.fileno())
        commit_file(temporary, path)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> QcamError:
    return QcamError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder")
