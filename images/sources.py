"""Where an image's bytes are: in a file, behind a URL, in a tar file, or in a cell of a Parquet file.

All are read the same way, pickle small, and carry no credentials. Whatever a file system raises, the caller sees `OSError`.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from qcam.common import machine
from qcam.common.files import sha256_bytes, sha256_file
from qcam.common.storage import Location, is_web, open_binary, read_pieces, reason, shown
from qcam.images.footers import checked_footer

if TYPE_CHECKING:
    from upath import UPath

#: Largest file that is read at all, in bytes.
MAX_BYTES = 1 << 28
#: Reads under way at a time where each waits for a network.
REMOTE_READS = 16
#: Row groups that are kept are at most so many, and of so many bytes in all, unless the newest alone is larger.
_KEPT_ROW_GROUPS = 4
_KEPT_BYTES = 1 << 29
#: Largest row group that is read: one is in memory as a whole.
_LARGEST_ROW_GROUP = 1 << 29

Item = TypeVar("Item")
Result = TypeVar("Result")


class TooLargeError(OSError):
    """An image has more bytes than are read."""


@dataclass(frozen=True)
class Span:
    """An image inside a file: a member of a tar file.

    Attributes:
        location: The file.
        offset: Its first byte there.
        size: How many bytes it has.
        state: What a file of a web server was when it was listed; another one is not read.
    """

    location: Location
    offset: int
    size: int
    state: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Return the file and the place in it."""
        return f"{shown(self.location)} at byte {self.offset}"

    def read_bytes(self) -> bytes:
        """Return the bytes.

        Raises:
            OSError: If they cannot be read.
        """
        return b"".join(read_pieces(self.location, self.offset, self.size, self.state))


@dataclass(frozen=True)
class Cell:
    """An image in a Parquet file.

    Attributes:
        location: The file.
        row_group: Index of the row group.
        row: Index of the row in its row group.
        column: The column, `image` or `image.bytes`.
        footer: SHA-256 of the file's footer when it was listed; a file of another one is not read. Empty for any.
        state: As of `Span`.
    """

    location: Location
    row_group: int
    row: int
    column: str
    footer: str = field(default="", compare=False)
    state: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Return the file and the place in it."""
        return f"{shown(self.location)} at row {self.row} of row group {self.row_group}"

    def read_bytes(self) -> bytes:
        """Return the bytes; the row group stays in memory for its neighbours.

        Raises:
            OSError: If they cannot be read.
        """
        try:
            value = _row_groups.get(self)[self.row].as_py()
        except OSError:
            raise
        except Exception as error:  # Arrow's own, and IndexError where the file has changed
            raise OSError(reason(error)) from error
        if not isinstance(value, bytes):
            raise OSError("the cell is empty")
        return value


#: Where an image's bytes are.
Source: TypeAlias = "Path | UPath | Span | Cell"


@dataclass(frozen=True)
class ImageFile:
    """One photograph of an image set.

    Attributes:
        name: Path below the set's folder with forward slashes: unique in the set, used in every result. In an archive it begins
            with the archive's own.
        path: Where its bytes are.
        label: True class index where known, else None. As an archive gives it until `label_images` has read it.
        stated: The label as an archive gives it in words; empty where it says that there is none. None where it says nothing,
            or gives a number as one writes it: without zeros before it.
        names: What the archive's own numbers mean, in their order; empty where it does not say.
    """

    name: str
    path: Source
    label: int | None = None
    stated: str | None = None
    names: tuple[str, ...] = ()


def location_of(source: Source) -> Location:
    """Return the file that an image is, or is in."""
    return source.location if isinstance(source, (Span, Cell)) else source


def absolute_source(source: Source) -> Source:
    """Return the same source with an absolute path, for processes with another working folder."""
    if isinstance(source, Path):
        return source.absolute()
    if isinstance(source, (Span, Cell)) and isinstance(source.location, Path):
        return replace(source, location=source.location.absolute())
    return source


def read_source(source: Source) -> bytes:
    """Return an image's bytes.

    Raises:
        TooLargeError: If they are more than MAX_BYTES.
        OSError: If they cannot be read, whatever the file system raised.
    """
    if isinstance(source, Path):
        if source.stat().st_size > MAX_BYTES:
            raise TooLargeError
        return source.read_bytes()
    if isinstance(source, Span) and source.size > MAX_BYTES:
        raise TooLargeError
    if isinstance(source, (Span, Cell)):
        data = source.read_bytes()
    else:
        read: list[bytes] = []
        for piece in read_pieces(source):
            read.append(piece)
            if sum(map(len, read)) > MAX_BYTES:
                raise TooLargeError
        data = b"".join(read)
    if len(data) > MAX_BYTES:
        raise TooLargeError
    return data


def fingerprint_source(source: Source) -> str:
    """Return the SHA-256 of an image's bytes, as 64 hexadecimal digits.

    Raises:
        TooLargeError: If a file of a web server has more than MAX_BYTES; of any other, however large, there is one.
        OSError: If they cannot be read, whatever the file system raised.
    """
    if isinstance(source, Path):
        return sha256_file(source)
    if isinstance(source, Cell):
        return sha256_bytes(source.read_bytes())
    digest = hashlib.sha256()
    if isinstance(source, Span):
        pieces = read_pieces(source.location, source.offset, source.size, source.state)
    else:
        pieces = read_pieces(source)
    total = 0
    for piece in pieces:
        digest.update(piece)
        total += len(piece)
        if total > MAX_BYTES and not isinstance(source, Span) and is_web(source):  # there may be no end
            raise TooLargeError(f"larger than {MAX_BYTES >> 20} MiB")
    return digest.hexdigest()


def fingerprint_sources(sources: Sequence[Source]) -> Iterator[str | None]:
    """Fingerprint images in their order, several at a time: as many as there are cores, more where a network is waited for.

    Yields:
        The SHA-256, or None where an image cannot be read.
    """
    threads = reads_at_a_time(sources)
    yield from in_order(_fingerprint_or_none, sources, threads, ahead=4 * threads)


def reads_at_a_time(sources: Iterable[Source]) -> int:
    """Return how many images are read at a time: as many as there are cores, more if any is behind a URL."""
    remote = any(not isinstance(location_of(source), Path) for source in sources)
    return REMOTE_READS if remote else machine.available_cores()


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, *, ahead: int | None = None
) -> Iterator[Result]:
    """Apply a function in threads; yields in the items' order.

    Args:
        function: Applied to each item; what it raises ends the iteration.
        items: Taken as they are needed.
        threads: How many at a time.
        ahead: How many results may wait or be under way, `threads` unless given.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "images") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= (ahead or threads):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _fingerprint_or_none(source: Source) -> str | None:
    try:
        return fingerprint_source(source)
    except OSError:
        return None


class _RowGroups:
    """The image columns of the row groups that were read last; one is read at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._columns: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def get(self, cell: Cell) -> Any:
        """Return the column of a cell's row group, an Arrow array of bytes.

        Raises:
            OSError: If the row group is too large.
            Exception: Whatever Arrow or the file system raises.
        """
        key = (cell.location, _state(cell.location), cell.row_group, cell.column, cell.footer, cell.state)
        with self._lock:
            if key not in self._columns:
                self._columns[key] = _read_column(cell)
                while len(self._columns) > 1 and (len(self._columns) > _KEPT_ROW_GROUPS or self._bytes() > _KEPT_BYTES):
                    self._columns.popitem(last=False)
            self._columns.move_to_end(key)
            return self._columns[key]

    def _bytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())


_row_groups = _RowGroups()


def _state(location: Location) -> tuple[int, int] | None:
    """Return what changes when a local file is written anew."""
    if not isinstance(location, Path):
        return None
    about = location.stat()
    return about.st_mtime_ns, about.st_size


def require_own_bytes(group: Any, column: str) -> tuple[int, bool]:
    """Return the size of a column in a row group, in bytes before compression, and whether rows may share values there.

    Args:
        group: Metadata of the row group.
        column: The column's path.

    Raises:
        OSError: If it is written so that a value may be made of the one before it: then a small file holds any amount of bytes.
    """
    chunks = [group.column(index) for index in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema == column]
    if any("DELTA_BYTE_ARRAY" in chunk.encodings for chunk in chunks):
        raise OSError(f"column {column} is written as DELTA_BYTE_ARRAY, which is not read here; write it as PLAIN")
    return sum(chunk.total_uncompressed_size for chunk in chunks), any(chunk.has_dictionary_page for chunk in chunks)


def _read_column(cell: Cell) -> Any:
    import pyarrow.parquet as pq

    with open_binary(cell.location, cell.state) as stream:
        file = pq.ParquetFile(stream, metadata=checked_footer(stream, cell.footer) if cell.footer else None)
        size, shared = require_own_bytes(file.metadata.row_group(cell.row_group), cell.column)
        if shared:  # as a dictionary: an image that many rows share is in memory once
            file = pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=[cell.column])
        if size > _LARGEST_ROW_GROUP:
            raise OSError(
                f"row group {cell.row_group} has {size >> 20} MiB of images, more than {_LARGEST_ROW_GROUP >> 20}; "
                "write the file with fewer rows in a row group"
            )
        table = file.read_row_group(cell.row_group, columns=[cell.column])
    # A struct's field becomes a column of its own: `image.bytes`.
    return (table if cell.column in table.column_names else table.flatten()).column(cell.column)
