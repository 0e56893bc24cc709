"""Writes small pictures, tar files and Parquet files for tests of image sets."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(seed: int, kind: str = "PNG") -> bytes:
    """Return an encoded picture that no other seed gives."""
    stream = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


def tar(members: Iterable[tuple[str, bytes]], mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar file with plain members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return stream.getvalue()


def parquet(columns: dict[str, Any], rows_per_group: int = 4) -> bytes:
    """Return a Parquet file; `columns` are Arrow arrays or lists."""
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, row_group_size=rows_per_group)
    return stream.getvalue()


def hugging_face(data: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.Array:
    """Return an image column as Hugging Face's data sets write it."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": each, "path": path} for each, path in zip(data, paths, strict=True)], kind)
