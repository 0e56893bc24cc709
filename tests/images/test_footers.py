"""Parquet files of a stranger: what makes the reader abort, and what a small file makes large, is refused by name."""

from __future__ import annotations

import io
import os
import resource
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qcam.common.errors import ImageSetError
from qcam.images import footers
from qcam.images.decoding import CANNOT_BE_READ, decode
from qcam.images.listing import find_images


def written(path: Path, table: pa.Table, **options: Any) -> Path:
    pq.write_table(table, path, **options)
    return path


def images_of(rows: int) -> pa.Table:
    return pa.table({"image": pa.array([os.urandom(500) for _ in range(rows)], pa.binary())})


def grown() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def test_a_footer_that_ends_the_reader_ends_the_child_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = written(tmp_path / "a.parquet", images_of(3))
    bad = written(tmp_path / "b.parquet", images_of(3))
    deadly = tmp_path / "sitecustomize.py"
    deadly.write_text(
        "import os\n"
        "import pyarrow.parquet as pq\n"
        "real, seen = pq.ParquetFile, []\n"
        "def opened(*given, **more):\n"
        "    seen.append(1)\n"
        "    return real(*given, **more) if len(seen) < 2 else os.abort()\n"
        "pq.ParquetFile = opened\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImageSetError, match=r"cannot list .*b\.parquet as a Parquet file: .*signal 6.*; write it again"):
        footers.refuse_deadly([good, bad])


def test_damaged_footers_never_end_this_process(tmp_path: Path) -> None:
    """Bytes of the metadata are overwritten one after the other; B1 saw Arrow's reader abort on some, as versions differ."""
    whole = written(tmp_path / "x.parquet", images_of(4)).read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for place in range(len(whole) - 8 - length, len(whole) - 8, 29):
        data = bytearray(whole)
        data[place] ^= 0x55
        (tmp_path / "x.parquet").write_bytes(data)
        told = ""
        try:
            assert len(find_images(tmp_path / "x.parquet")) <= 4
        except ImageSetError as error:
            told = str(error)
        refused += bool(told)
        assert not told or ("x.parquet" in told and "\n" not in told)
    assert refused > 2


def test_a_footer_that_takes_too_long_or_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.parquet", images_of(2))
    monkeypatch.setattr(footers, "DEADLINE", 0.0)
    with pytest.raises(ImageSetError, match="reading its footer takes more than 0 seconds"):
        footers.refuse_deadly([path])
    monkeypatch.undo()
    monkeypatch.setattr(footers, "MAX_FOOTER", 10)
    with pytest.raises(ImageSetError, match="its footer has 0 MiB, more than 0; write it with larger row groups"):
        footers.refuse_deadly([path])


def test_one_child_looks_at_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = footers.subprocess.Popen
    monkeypatch.setattr(footers.subprocess, "Popen", lambda *given, **more: started.append(given) or real(*given, **more))
    (tmp_path / "set").mkdir()
    for number in range(60):
        written(tmp_path / "set" / f"{number:03d}.parquet", images_of(2))
    assert len(find_images(tmp_path / "set")) == 120
    assert len(started) == 1
    started.clear()
    footers.refuse_deadly([])
    assert not started


def test_an_image_that_many_rows_share_is_in_memory_once(tmp_path: Path) -> None:
    """35 kB that stand for 3.2 GB: 40,000 rows of one image of 80 kB (B4)."""
    image = os.urandom(80_000)
    rows = 4_000
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([image], pa.binary()))
    many = pa.table({"image": shared})
    path = written(tmp_path / "x.parquet", many, store_schema=False)
    before = grown()
    found = find_images(path)  # a row for every 20 bytes of the file, or fewer: they are listed
    assert len(found) == rows
    assert found[7].path.read_bytes() == image  # type: ignore[union-attr]
    assert grown() - before < 200
    more = pa.DictionaryArray.from_arrays(pa.array([0] * 400_000, pa.int32()), pa.array([image], pa.binary()))
    with pytest.raises(ImageSetError, match=r"400,000 rows in .* bytes: they hold no images of their own"):
        find_images(written(tmp_path / "y.parquet", pa.table({"image": more}), store_schema=False))


def test_rows_of_nothing_are_refused_at_once(tmp_path: Path) -> None:
    """5.8 kB of 3 million null rows took more than a minute with --limit 20 (B4)."""
    path = written(tmp_path / "x.parquet", pa.table({"image": pa.nulls(3_000_000, pa.binary())}))
    assert path.stat().st_size < 10_000
    start = time.monotonic()
    with pytest.raises(ImageSetError, match="3,000,000 rows in"):
        find_images(path)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("column", ["image", "label", "image.path"])
def test_values_that_are_made_of_the_one_before_are_refused(tmp_path: Path, column: str) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": os.urandom(90), "path": f"{'d/' * 40}{row}.png"} for row in range(50)]
    table = pa.table({"image": pa.array(rows, struct), "label": [f"{'n' * 90}{row}" for row in range(50)]})
    name = "image.bytes" if column == "image" else column
    path = written(tmp_path / "x.parquet", table, use_dictionary=False, column_encoding={name: "DELTA_BYTE_ARRAY"})
    wanted = "is written as DELTA_BYTE_ARRAY, which is not read here; write it as PLAIN"
    if column == "image":
        (first, *_) = find_images(path)
        assert decode(first.path).refusal == f"{CANNOT_BE_READ}: column image.bytes {wanted}"
        return
    with pytest.raises(ImageSetError, match=f"column {column} {wanted}"):
        find_images(path)


@pytest.mark.parametrize("column", ["image.bytes", "label", "image.path"])
def test_lengths_apart_from_bytes_are_read(tmp_path: Path, column: str) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": os.urandom(90), "path": f"{row}.png"} for row in range(50)]
    table = pa.table({"image": pa.array(rows, struct), "label": [f"n{row % 3}" for row in range(50)]})
    path = written(tmp_path / "x.parquet", table, use_dictionary=False, column_encoding={column: "DELTA_LENGTH_BYTE_ARRAY"})
    found = find_images(path)
    assert [image.name for image in found] == [f"x.parquet/{row}.png" for row in range(50)]
    assert [image.stated for image in found[:4]] == ["n0", "n1", "n2", "n0"]
    assert found[9].path.read_bytes() == rows[9]["bytes"]  # type: ignore[union-attr]


def test_labels_and_paths_that_many_rows_share_are_in_memory_once(tmp_path: Path) -> None:
    rows = 3_000
    text = "x" * 1_000_000
    index = pa.array([0] * rows, pa.int32())
    label = pa.DictionaryArray.from_arrays(index, pa.array([text]))
    image = pa.array([os.urandom(400) for _ in range(rows)], pa.binary())
    path = written(tmp_path / "x.parquet", pa.table({"image": image, "label": label}), store_schema=False)
    before = grown()
    found = find_images(path)
    assert len(found) == rows
    assert found[0].label is None
    assert found[0].stated is None
    assert grown() - before < 400
    struct = pa.StructArray.from_arrays(
        [image, pa.DictionaryArray.from_arrays(index, pa.array([f"{text}.png"]))], ["bytes", "path"]
    )
    named = find_images(written(tmp_path / "y.parquet", pa.table({"image": struct}), store_schema=False))
    assert named[1].name == "y.parquet/000001"
    assert grown() - before < 400


def test_the_child_answers_frame_by_frame() -> None:
    buffer, told = io.BytesIO(), io.BytesIO()
    pq.write_table(images_of(1), buffer)
    good = buffer.getvalue()
    frames = b"".join(len(data).to_bytes(8, "little") + data for data in (good, b"PAR1PAR1", good))
    footers._serve(io.BytesIO(frames), told)
    first, second, third = told.getvalue().splitlines()
    assert (first, third) == (b"good", b"good")
    assert b"Parquet" in second
