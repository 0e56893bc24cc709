"""Archives of images: WebDataset's tar files, and Parquet files with an image column. They are listed here and never unpacked.

A tar file's headers are read once; after that each image is its bytes at an offset. Of a Parquet file only the metadata, the
paths and the labels are read. Archives come from anywhere: a name in one is only ever a name, never a place to write to.
"""

from __future__ import annotations

import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any

from qcam.common import telling
from qcam.common.errors import ImageSetError, QcamError
from qcam.common.storage import Location, open_binary, reason, shown, state_of
from qcam.images.footers import checked_footer, refuse_deadly
from qcam.images.kinds import HEAD, HEIF_SUFFIXES, SUFFIXES, ending, is_photograph, is_readable, kind_of, may_be
from qcam.images.sources import Cell, ImageFile, Span, in_order, reads_at_a_time, require_own_bytes

#: Endings of archives that can be read, in lower case.
ARCHIVES = (".tar", ".parquet")
#: Endings of tar files that cannot, in lower case: an image's bytes have no offset in them.
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")

#: First bytes of what compressors write.
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
#: Largest header that is read: a longer one describes no file.
_HEADER_BYTES = 1 << 20
#: Bytes that the smallest picture takes, at least.
_LEAST_BYTES = 20
#: Most bytes of a label, and of an image's own name.
_LABEL_BYTES, _PATH_BYTES = 256, 4096
#: Columns that hold labels.
_LABELS = ("label", "labels")


@dataclass
class Listing:
    """What a place holds.

    Attributes:
        images: The images.
        others: Files that are none, by ending (empty for none), and how many.
        by_content: Images that have no picture's ending.
        remarks: What else is to be said.
        masks: Masks that lie among the images, once they have been told apart.
        real: Of files that are reached through links: name → name of the real file below the folder that was listed, or its
            whole path where it lies outside.
    """

    images: list[ImageFile] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    by_content: int = 0
    remarks: list[str] = field(default_factory=list)
    masks: list[ImageFile] = field(default_factory=list)
    real: dict[str, str] = field(default_factory=dict)

    def add(self, other: Listing) -> None:
        """Take in what another place holds."""
        self.images += other.images
        self.others += other.others
        self.by_content += other.by_content
        self.remarks += other.remarks


def archive_images(archives: Sequence[tuple[str, Location]]) -> Listing:
    """List the images in archives: archive after archive, in the order in which each holds them.

    Args:
        archives: Name and place of each.

    Returns:
        The images, named `ARCHIVE/NAME`, with the labels that the archives give; and what else is there.

    Raises:
        ImageSetError: If one cannot be read, or is none.
    """
    threads = reads_at_a_time([location for _, location in archives])
    found = Listing()
    tables = [location for _, location in archives if not location.name.lower().endswith(".tar")]
    with telling.status(f"listing images in {len(archives)} archives"):
        footers = dict(zip(tables, refuse_deadly(tables), strict=True))
        given = [(name, location, footers.get(location, "")) for name, location in archives]
        for listing in in_order(_list_archive, given, threads):
            found.add(listing)
    return found


def visible(name: str) -> bool:
    """Tell whether a name is neither hidden nor below a hidden folder."""
    return not any(part.startswith(".") for part in PurePosixPath(name).parts)


def compressed(location: Location) -> ImageSetError:
    """Return the error that tells what to do about a compressed tar file."""
    return ImageSetError(f"{shown(location)} is compressed, and images are read from a tar file by their offset; decompress it")


def _list_archive(archive: tuple[str, Location, str]) -> Listing:
    name, location, footer = archive
    tar = location.name.lower().endswith(".tar")
    try:
        with open_binary(location) as stream:
            return _list_tar(name, location, stream) if tar else _list_parquet(name, location, stream, footer)
    except QcamError:
        raise
    except Exception as error:  # tarfile, Arrow and file systems raise their own; on damaged files nearly anything
        kind = "tar" if tar else "Parquet"
        raise ImageSetError(f"cannot list {shown(location)} as a {kind} file: {reason(error)}; write it again") from error


def _list_tar(name: str, location: Location, stream: IO[bytes]) -> Listing:
    if stream.read(6).startswith(_MAGIC):
        raise compressed(location)
    stream.seek(0)
    state = state_of(stream)
    spans: dict[str, Span] = {}
    labels: dict[str, str] = {}
    listing = Listing()
    for member in _members(location, stream):
        # The encoding makes a name out of any bytes; one that is no UTF-8 could be written to no result.
        inner = PurePosixPath(member.name.encode("utf-8", "backslashreplace").decode().lstrip("/"))
        odd = _odd(member, inner)
        if odd:
            listing.others[odd] += 1
        elif inner.name.lower().partition(".")[2] == "cls":
            if member.size <= _LABEL_BYTES:
                stream.seek(member.offset_data)
                labels[_key(inner)] = stream.read(member.size).decode("utf-8", "replace").strip()
            else:
                listing.others[f".cls of more than {_LABEL_BYTES} bytes"] += 1
        elif is_photograph(inner.name) or _holds_picture(inner.name, member, stream, listing):
            spans.pop(str(inner), None)  # of members of one name the last counts, as when a tar file is unpacked
            spans[str(inner)] = Span(location, member.offset_data, member.size, state)
        else:
            listing.others[ending(inner.name)] += 1
    for image, span in spans.items():
        label, stated = _label_in(labels.get(_key(PurePosixPath(image))))
        listing.images.append(ImageFile(f"{name}/{image}", span, label, stated))
    return listing


def _holds_picture(name: str, member: tarfile.TarInfo, stream: IO[bytes], listing: Listing) -> bool:
    """Tell whether a member without a picture's ending is one that can be read."""
    if not may_be(name):
        return False
    stream.seek(member.offset_data)
    found = is_readable(kind_of(stream.read(min(HEAD, member.size))))
    listing.by_content += found
    return found


def _odd(member: tarfile.TarInfo, inner: PurePosixPath) -> str:
    """Say why a member is passed over, whatever it is called; empty if it is not."""
    if member.islnk() or member.issym():
        return "linked to others"
    if not member.isreg():
        return "of a device"
    if member.issparse():
        return "sparse"
    if ".." in inner.parts:
        return "with .. in the name"
    return "" if visible(str(inner)) else "hidden"


def _label_in(text: str | None) -> tuple[int | None, str | None]:
    """Return a label as a number where it is written as one writes it, else in words: `01` may be a class's name."""
    number = text is not None and text.isascii() and text.isdigit() and len(text) <= 18 and text == str(int(text))
    return (int(text), None) if text is not None and number else (None, text)


def _members(location: Location, stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file that are no folders."""
    end = -1
    with tarfile.TarFile(fileobj=_Headers(stream), mode="r", encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[arg-type]
        while True:
            try:
                member = archive.next()
            except tarfile.ReadError as error:
                if "unexpected end" not in str(error):
                    raise
                # The last member's bytes end before they should; it is refused by name when it is read.
                telling.warn(f"{shown(location)} ends in the middle of an image: it was not copied whole")
                return
            if member is None:
                break
            archive.members.clear()  # type: ignore[attr-defined]  # every header would be kept
            if member.size < 0 or archive.offset <= end:
                raise OSError(f"damaged at byte {end}")
            end = archive.offset
            if not member.isdir():
                yield member
        # A damaged header ends the list like the end of the file does.
        stream.seek(max(end, 0))
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise OSError(f"damaged at byte {max(end, 0)}")


class _Headers:
    """What tarfile reads headers from; a header of absurd length takes no memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise OSError(f"a header of {size} bytes")
        return self._stream.read(size)


def _key(inner: PurePosixPath) -> str:
    """Return what WebDataset's files of one sample have in common: all up to the first dot of the file's name."""
    return str(inner.parent / inner.name.partition(".")[0])


def _list_parquet(name: str, location: Location, stream: IO[bytes], footer: str) -> Listing:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream, metadata=checked_footer(stream, footer))
    column = _image_column(file.schema_arrow, location)
    rows = file.metadata.num_rows
    size = stream.seek(0, os.SEEK_END)
    if rows * _LEAST_BYTES > size:
        raise ImageSetError(f"{shown(location)} has {rows:,} rows in {size:,} bytes: they hold no images of their own")
    leaves = [file.metadata.schema.column(index) for index in range(file.metadata.num_columns)]
    held = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path in ("image.path", *_LABELS)]
    texts = pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=held)
    state = state_of(stream)
    names = _paths(file, texts) if column == "image.bytes" else None
    if names is None:
        names = [f"{row:06d}" for row in range(rows)]
    listing = Listing()
    labels, meaning = _labels(file, texts, rows, location, listing)
    cells = (
        Cell(location, group, row, column, footer, state)
        for group in range(file.num_row_groups)
        for row in range(file.metadata.row_group(group).num_rows)
    )
    for inner, cell, (label, stated) in zip(names, cells, labels, strict=True):
        listing.images.append(ImageFile(f"{name}/{inner}", cell, label, stated, meaning if label is not None else ()))
    return listing


def _image_column(schema: Any, location: Location) -> str:
    """Return the column that holds images' bytes: `image`, or `image.bytes` of a struct."""
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    if schema.get_all_field_indices("image"):
        kind = schema.field("image").type
        if holds_bytes(kind):
            return "image"
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type):
            return "image.bytes"
    raise ImageSetError(
        f"{shown(location)} has no column image, of bytes or of a struct with bytes; its columns: {', '.join(schema.names)}"
    )


def _paths(file: Any, texts: Any) -> list[str] | None:
    """Return the images' own names, if every row has one, none twice, and all are plain paths of pictures.

    Args:
        file: The file.
        texts: The same, opened for `_texts`.
    """
    import pyarrow as pa

    kind = file.schema_arrow.field("image").type
    index = kind.get_field_index("path")
    if index < 0 or not (pa.types.is_string(kind.field(index).type) or pa.types.is_large_string(kind.field(index).type)):
        return None
    found = _texts(file, texts, "image.path", _PATH_BYTES)
    if found is None:
        return None
    names = [path for path in found if path is not None]
    usable = len(names) == len(found) and all(
        ending(path) in SUFFIXES | HEIF_SUFFIXES
        and str(PurePosixPath(path)) == path
        and not path.startswith("/")
        and visible(path)
        for path in names
    )
    return names if usable and len(set(names)) == len(names) else None


def _labels(
    file: Any, texts: Any, rows: int, location: Location, listing: Listing
) -> tuple[list[tuple[int | None, str | None]], tuple[str, ...]]:
    """Return the label of every row, as a number or in words, and what the numbers mean where the file says so.

    Raises:
        ImageSetError: If two columns hold labels, or one holds numbers that are not whole.
    """
    import pyarrow as pa

    schema = file.schema_arrow
    columns = [column for column in _LABELS for _ in schema.get_all_field_indices(column)]
    if len(columns) > 1:
        raise ImageSetError(f"{shown(location)} has the columns {' and '.join(columns)}; keep the one that holds the labels")
    nothing: list[tuple[int | None, str | None]] = [(None, None)] * rows
    if not columns:
        return nothing, ()
    (column,) = columns
    kind = schema.field(column).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    wanted = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string)
    if not any(is_kind(plain) for is_kind in wanted):
        listing.remarks.append(f"column {column} of {location.name} holds {kind}: it gives no labels")
        return nothing, ()
    if not (pa.types.is_integer(plain) or pa.types.is_floating(plain)):
        words = _texts(file, texts, column, _LABEL_BYTES)
        if words is None:
            what = f"holds texts of more than {_LABEL_BYTES} bytes: it gives no labels"
            listing.remarks.append(f"column {column} of {location.name} {what}")
            return nothing, ()
        return [_label_in("" if word is None else word.strip()) for word in words], ()
    values = file.read(columns=[column]).column(column).to_pylist()
    names = _class_names(schema, column)
    return [_numbered(value, column, location, listed=bool(names)) for value in values], names


def _texts(file: Any, texts: Any, column: str, most: int) -> list[str | None] | None:
    """Return a column of texts; None if any of them is longer than so many bytes, before it takes memory row by row.

    Args:
        file: The file.
        texts: The same, opened so that the column is read as a dictionary: a text that many rows share is in memory once.
        column: Its path.
        most: Bytes.

    Raises:
        OSError: If the column is written in a way in which a small file holds any amount of text.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found: list[str | None] = []
    for index in range(file.num_row_groups):
        _, shared = require_own_bytes(file.metadata.row_group(index), column)
        table = (texts if shared else file).read_row_group(index, columns=[column])
        for chunk in (table if column in table.column_names else table.flatten()).column(column).chunks:
            values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            longest = pc.max(pc.binary_length(values)).as_py()
            if longest is not None and longest > most:
                return None
            found += chunk.to_pylist()
    return found


def _numbered(value: float | None, column: str, location: Location, *, listed: bool) -> tuple[int | None, str | None]:
    """Return a label that is a number; below 0 in words, as it stands in no list of names: -1 says that there is none.

    Raises:
        ImageSetError: If it is not whole.
    """
    if value is None or value != value or (listed and value == -1):  # null and NaN
        return None, ""
    if not math.isfinite(value) or value != int(value):
        raise ImageSetError(f"{shown(location)}: column {column} holds {value}, no label; write whole numbers or names")
    return (int(value), None) if value >= 0 else (None, str(int(value)))


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Return the names of a ClassLabel as Hugging Face's data sets keep them in the schema; empty where there are none."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
