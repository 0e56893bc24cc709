"""Parts: what is finished of a run. One shard of images is one Parquet file that appears whole or not at all.

A part has one row per image, holding all of it: the result rows of every model, the CAMs and the pictures, as nested
columns. Its name carries the key of the shard: the hash of the images' contents and of everything else that can change a
figure (bundles, provider, options, versions). A part of another key is another run's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qcam.common.errors import QcamError
from qcam.common.files import commit_file
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
    write_arrow,
)

#: Folder of the parts, below the result folder.
PARTS = "parts"
_STATE = b"qcam.state"
_KEY = b"qcam.key"
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


def part_path(folder: Path, index: int, key: str) -> Path:
    """Return where the part of a shard is: its place in the run, and the first 16 digits of its key."""
    return folder / PARTS / f"{index:06d}-{key[:16]}.parquet"


def write_part(path: Path, key: str, outcomes: Sequence[ImageOutcome], state: str = "") -> None:
    """Write a part.

    Args:
        path: From `part_path`.
        key: The shard's key, stored in full.
        outcomes: The shard's images, in the order of the run.
        state: What the next shard has to know of this one; empty where images do not depend on each other.

    Raises:
        QcamError: If the disk refuses.
    """
    table = pa.Table.from_pylist([asdict(outcome) for outcome in outcomes], schema=_SCHEMA)
    write_arrow(path, table.replace_schema_metadata({_KEY: key.encode(), _STATE: state.encode()}))


def read_state(path: Path, key: str) -> str:
    """Return what a part says to the next shard.

    Raises:
        QcamError: If the part cannot be read, or is another's.
    """
    metadata = _open(path).schema_arrow.metadata or {}
    if metadata.get(_KEY, b"").decode() != key:
        raise QcamError(f"{path} is no part of this run; delete it, or use --force")
    return str(metadata.get(_STATE, b"").decode())


def join_parts(paths: Sequence[Path], folder: Path) -> None:
    """Join parts into the result files, one part in memory at a time; every file appears whole.

    Args:
        paths: The parts, in the order of the run.
        folder: The result folder.

    Raises:
        QcamError: If a part cannot be read or the disk refuses.
    """
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_writer(folder / name, schema)) for name, (_, schema) in _JOINED.items()}
        for path in paths:
            try:
                table = _open(path).read()
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(path, error) from error
            for name, (column, schema) in _JOINED.items():
                for chunk in table[column].chunks:
                    batch = pa.RecordBatch.from_struct_array(chunk.flatten())
                    if batch.num_rows:
                        _write(writers[name], batch.cast(schema), folder / name)


def remove_leftovers(folder: Path) -> int:
    """Delete the half-written files that a killed process left in the result folder; return their number."""
    found = [path for place in (folder, folder / PARTS) for path in place.glob(".*.part") if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> QcamError:
    return QcamError(f"cannot read {path}: {str(error).splitlines()[0]}; delete it and run the same command again")


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
