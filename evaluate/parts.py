"""Parts: what is finished of a run. One shard of images is one Parquet file that appears whole or not at all.

A part has one row per image, holding all of it: the result rows of every model, the CAMs and the pictures, as nested
columns. Its name carries the key of the shard: the hash of the images' contents and of everything else that can change a
figure (bundles, provider, options, versions). A part of another key is another run's.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qcam.common.errors import QcamError
from qcam.common.files import commit_file
from qcam.common.storage import Location, files_below, reason, shown
from qcam.evaluate.remote import write_whole
from qcam.evaluate.results import (
    MAP_SCHEMA,
    MAPS,
    PICTURE_SCHEMA,
    PICTURES,
    RESULTS,
    ROW_SCHEMA,
    Picture,
    Row,
    StoredMap,
    parquet_bytes,
    write_arrow,
)

#: Folder of the parts, below the result folder.
PARTS = "parts"
_STATE = b"qcam.state"
_KEY = b"qcam.key"
_WORKER = b"qcam.worker"
_JOINED = {RESULTS: ("rows", ROW_SCHEMA), MAPS: ("maps", MAP_SCHEMA), PICTURES: ("pictures", PICTURE_SCHEMA)}
_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string()),
        *(pa.field(name, pa.list_(pa.struct(list(schema)))) for name, schema in _JOINED.values()),
    ]
)


@dataclass
class ImageOutcome:
    """All that a run found out about one image.

    Attributes:
        image: Its name.
        rows: Result rows of every model.
        maps: CAMs of every model.
        pictures: One for each geometry that the models see it in.
    """

    image: str
    rows: list[Row] = field(default_factory=list)
    maps: list[StoredMap] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class PartStore:
    """The folder of the parts.

    Attributes:
        folder: A local path, or a location behind a URL.
    """

    folder: Location

    def path(self, index: int, key: str) -> Location:
        """Return where the part of a shard is: its place in the run, and the first 16 digits of its key."""
        return self.folder / f"{index:06d}-{key[:16]}.parquet"

    def names(self) -> set[str]:
        """Return the names of all finished parts, from one listing.

        Raises:
            QcamError: If the folder cannot be listed.
        """
        try:
            local = isinstance(self.folder, Path)
            found = [path.name for path in self.folder.iterdir()] if local else files_below(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            raise QcamError(f"cannot list {shown(self.folder)}: {reason(error)}") from error
        return {name for name in found if name.endswith(".parquet") and not name.startswith(".")}

    def clear(self) -> None:
        """Delete the parts, as far as the place lets."""
        if isinstance(self.folder, Path):
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        with suppress(Exception):
            for name in self.names():
                (self.folder / name).unlink()


def part_path(folder: Path, index: int, key: str) -> Path:
    """Return where the part of a shard is, in a result folder."""
    path = PartStore(folder / PARTS).path(index, key)
    assert isinstance(path, Path)
    return path


def write_part(
    path: Location, key: str, outcomes: Sequence[ImageOutcome], state: str = "", worker: Mapping[str, Any] | None = None
) -> None:
    """Write a part.

    Args:
        path: From `PartStore.path`.
        key: The shard's key, stored in full.
        outcomes: The shard's images, in the order of the run.
        state: What the next shard has to know of this one; empty where images do not depend on each other.
        worker: What evaluated it (`WorkerFacts.to_json`).

    Raises:
        QcamError: If the disk refuses.
    """
    table = pa.Table.from_pylist([asdict(outcome) for outcome in outcomes], schema=_SCHEMA)
    metadata = {_KEY: key.encode(), _STATE: state.encode(), _WORKER: json.dumps(worker or {}).encode()}
    table = table.replace_schema_metadata(metadata)
    if isinstance(path, Path):
        write_arrow(path, table)
    else:
        write_whole(path, parquet_bytes(table))


def read_state(path: Location, key: str) -> str:
    """Return what a part says to the next shard.

    Raises:
        QcamError: If the part cannot be read, or is another's.
    """
    metadata = _open(path).schema_arrow.metadata or {}
    if metadata.get(_KEY, b"").decode() != key:
        raise QcamError(f"{shown(path)} is no part of this run; delete it, or use --force")
    return str(metadata.get(_STATE, b"").decode())


def read_worker(path: Location) -> dict[str, Any]:
    """Return what evaluated a part.

    Raises:
        QcamError: If the part cannot be read.
    """
    about: dict[str, Any] = json.loads((_open(path).schema_arrow.metadata or {}).get(_WORKER, b"{}"))
    return about


def join_parts(paths: Sequence[Location], folder: Path) -> list[dict[str, Any]]:
    """Join parts into the result files, one part in memory at a time; every file appears whole.

    Args:
        paths: The parts, in the order of the run.
        folder: The result folder, local.

    Returns:
        What evaluated them, each once, with the number of its parts as `shards`.

    Raises:
        QcamError: If a part cannot be read or the disk refuses.
    """
    workers: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_writer(folder / name, schema)) for name, (_, schema) in _JOINED.items()}
        for path in paths:
            try:
                table = _open(path).read()
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(path, error) from error
            about = (table.schema.metadata or {}).get(_WORKER, b"{}").decode()
            workers.setdefault(about, json.loads(about) | {"shards": 0})["shards"] += 1
            for name, (column, schema) in _JOINED.items():
                for chunk in table[column].chunks:
                    batch = pa.RecordBatch.from_struct_array(chunk.flatten())
                    if batch.num_rows:
                        _write(writers[name], batch.cast(schema), folder / name)
    return list(workers.values())


def remove_leftovers(folder: Path) -> int:
    """Delete the half-written files that a killed process left in the result folder; return their number."""
    found = [path for place in (folder, folder / PARTS) for path in place.glob(".*.part") if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _open(path: Location) -> pq.ParquetFile:
    """Open a part; one behind a URL is read whole, in one go."""
    try:
        return pq.ParquetFile(path if isinstance(path, Path) else io.BytesIO(path.read_bytes()))
    except Exception as error:  # file systems behind URLs have their own
        raise _unreadable(path, error) from error


def _unreadable(path: Location, error: Exception) -> QcamError:
    return QcamError(f"cannot read {shown(path)}: {reason(error)}; delete it and run the same command again")


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
