"""Bytes that come as a Parquet file of images: rows listed without reading them all, or refused by name."""

from __future__ import annotations

import io
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.edits import as_json, edited
from fuzz.harness import Broken, scratch
from fuzz.reader import Reader, with_decisions
from qcam.common.errors import ImageSetError
from qcam.common.files import sha256_bytes
from qcam.images import archives, footers
from qcam.images.decoding import decode
from qcam.images.labels import label_images
from qcam.images.listing import find_images

COVERED = ("qcam.images.archives", "qcam.images.footers", "qcam.images.sources", "qcam.images.listing")
_PIXEL = b"P6 1 1 255\n\1\2\3"
_CLASSES = ("cat", "dog")
_DECODED = 6
_FEATURES = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}


def one(data: bytes) -> None:
    """List one file, decode its first images, and give them their classes."""
    reader = Reader(data)
    file = _written(reader) if reader.yes() else reader.rest()
    path = scratch() / "images.parquet"
    path.write_bytes(file)
    images = find_images(path)
    if len({image.name for image in images}) != len(images):
        raise Broken("names are unique in an image set")
    for image in images[:_DECODED]:
        decode(image.path)
    label_images(images, _CLASSES, None)


class _Child:
    """The process that looks at footers, kept from one input to the next: starting one takes longer than all else.

    It is the one of `qcam.images.footers`, given the same bytes.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def refuse(self, locations: Sequence[Any]) -> list[str]:
        """Do as `footers.refuse_deadly` does."""
        seen = []
        for location in locations:
            footer = footers._footer(location)
            answer = self._asked(footer)
            if answer != b"good\n":
                wrong = answer.decode("utf-8", "replace").strip() or "reading its footer ended the reader"
                raise ImageSetError(f"cannot list {location} as a Parquet file: {wrong}; write it again")
            seen.append(sha256_bytes(footer))
        return seen

    def _asked(self, footer: bytes) -> bytes:
        """Return the child's line, nothing if it has ended; the next footer gets another one then."""
        if self._process is None:
            command, pipe = [sys.executable, "-m", "qcam.images.footers"], subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        into, out = self._process.stdin, self._process.stdout
        assert into is not None
        assert out is not None
        with suppress(OSError):  # it has ended
            into.write(len(footer).to_bytes(8, "little") + footer)
            into.flush()
        ready = select.select([out], [], [], footers.DEADLINE)[0]
        answer = out.readline() if ready else b""
        if not answer:
            self._process.kill()
            self._process.wait()
            self._process = None
        return answer


archives.refuse_deadly = _Child().refuse  # type: ignore[assignment]


def _written(reader: Reader) -> bytes:
    """Write a table as bytes decide, then perhaps change a few bytes of it."""
    rows = reader.integer(0, 12)
    columns: dict[str, pa.Array] = {}
    for _ in range(reader.integer(1, 3)):
        name = reader.pick("image", "label", "image", "label", "labels", "other", "")
        columns[name] = _column(reader, "image" if name == "image" else "label", rows)
    table = pa.table(columns)
    if reader.yes():
        table = table.replace_schema_metadata({"huggingface": as_json(edited(_FEATURES, reader))})
    names = [name for name in columns if reader.integer(0, 3)]
    compression = reader.pick("none", "snappy", "zstd", "gzip")
    options: dict[str, Any] = {
        "row_group_size": reader.pick(None, 1, 5), "use_dictionary": names or reader.yes(), "compression": compression,
        "data_page_version": reader.pick("1.0", "2.0"), "store_schema": bool(reader.integer(0, 3)),
    }  # fmt: skip
    if reader.integer(0, 7) == 0:
        options |= {"use_dictionary": False, "column_encoding": {"label": "DELTA_BYTE_ARRAY"}}
    buffer = io.BytesIO()
    try:
        pq.write_table(table, buffer, **options)
    except (pa.ArrowException, OSError):  # there is no such file
        return b""
    file = bytearray(buffer.getvalue())
    for _ in range(max(reader.integer(0, 7) - 3, 0)):
        place = reader.integer(0, 65535)
        file[-1 - place % min(512, len(file)) if reader.yes() else place % len(file)] ^= 1 << reader.integer(0, 7)
    return bytes(file)


def _column(reader: Reader, kind: str, rows: int) -> pa.Array:
    pictures: tuple[Any, ...] = (_PIXEL, _PIXEL, None, b"", b"no picture")
    if kind == "image":
        values = [reader.pick(*pictures) for _ in range(rows)]
        paths = [reader.pick(f"{row}.jpg", "a.jpg", "../x.jpg", None, "x" * 5000, ".hidden.jpg") if reader.integer(0,
        3) == 0 else f"{row}.png"
                 for row in range(rows)]  # fmt: skip
        binary = pa.array(values, reader.pick(pa.binary(), pa.large_binary(), pa.binary()))
        way = reader.integer(0, 6)
        if way in (1, 2, 3):
            text = pa.array(paths, reader.pick(pa.string(), pa.large_string()))
            mask = pa.array([reader.integer(0, 7) == 7 for _ in range(rows)], pa.bool_())
            return pa.StructArray.from_arrays([binary, text], ["bytes", "path"], mask=mask)
        if way == 4:
            return binary.dictionary_encode()
        if way == 5:
            return pa.array([[value] for value in values], pa.list_(pa.binary()))
        return binary
    numbers = [reader.pick(0, 1, 1, None, -1, 2, 10**12) for _ in range(rows)]
    words = [reader.pick("cat", "dog", "", None, "1", "01", "é", "x" * 300) for _ in range(rows)]
    floats = [reader.pick(0.0, 1.0, None, float("nan"), 0.5, 1e300, float("inf")) for _ in range(rows)]
    way = reader.integer(0, 11)
    if way < 3:
        return pa.array(numbers, pa.int64())
    if way < 6:
        return pa.array(words, reader.pick(pa.string(), pa.large_string()))
    if way == 6:
        return pa.array(words).dictionary_encode()
    if way == 7:
        return pa.array(floats, reader.pick(pa.float64(), pa.float32()))
    if way == 8:
        return pa.array(
            [None if value is None else value % 100 for value in numbers], reader.pick(pa.int8(), pa.uint8(), pa.int16())
        )
    if way == 9:
        return pa.array([None if value is None else bool(value) for value in numbers])
    if way == 10:
        return pa.array(numbers).dictionary_encode()
    return pa.array([[value] for value in numbers], pa.list_(pa.int64()))


def seeds() -> Iterator[bytes]:
    """Yield files as Hugging Face's data sets write them, and bytes that draw others."""
    bytes_ = pa.array([_PIXEL, _PIXEL, b"no picture"], pa.binary())
    struct = pa.StructArray.from_arrays([bytes_, pa.array(["a.png", "b.png", "c.png"])], ["bytes", "path"])
    for image in (bytes_, struct):
        for label in (pa.array([0, 1, -1]), pa.array(["cat", "dog", ""]), pa.array([0.0, 1.0, None])):
            table = pa.table({"image": image, "label": label}).replace_schema_metadata({"huggingface": as_json(_FEATURES)})
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            yield with_decisions(buffer.getvalue(), 0)
    import random

    numbers = random.Random(0)
    for _ in range(40):
        yield with_decisions(numbers.randbytes(120), 1)
