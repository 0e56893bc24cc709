import numpy as np
import pyarrow.parquet as pq
import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.parts import ImageOutcome, join_parts, part_path, read_state, remove_leftovers, write_part
from qcam.evaluate.results import MAPS, PICTURES, RESULTS, Picture, Row, StoredMap, read_rows


def outcome(name):
    rows = [Row(name, "00", "net", precision, "vs_f32", CC=0.5, increase=True) for precision in ("f32", "int8")]
    cam = StoredMap.of(np.arange(6.0).reshape(2, 3), name, "net", "int8", "deployed")
    return ImageOutcome(name, rows, [cam], [Picture(name, "squash 3×2", 3, 2, b"\xff\x00jpeg", None)])


def test_parts_are_joined_in_order_and_nothing_is_lost(tmp_path):
    paths = [part_path(tmp_path, index, f"{index}" * 64) for index in range(3)]
    for path, names in zip(paths, (["b", "a"], ["d"], ["c"]), strict=True):
        write_part(path, "key", [outcome(name) for name in names])
    join_parts(paths, tmp_path)
    rows = read_rows(tmp_path / RESULTS)
    assert [row.image for row in rows] == ["b", "b", "a", "a", "d", "d", "c", "c"]
    assert rows[:2] == outcome("b").rows
    maps = [StoredMap(**item) for item in pq.read_table(tmp_path / MAPS).to_pylist()]
    assert [item.image for item in maps] == ["b", "a", "d", "c"]
    np.testing.assert_array_equal(maps[0].array, np.arange(6.0).reshape(2, 3))
    pictures = [Picture(**item) for item in pq.read_table(tmp_path / PICTURES).to_pylist()]
    assert pictures[0] == outcome("b").pictures[0]


def test_images_without_maps_or_pictures_leave_none(tmp_path):
    path = part_path(tmp_path, 0, "0" * 64)
    write_part(path, "key", [ImageOutcome("refused", [Row("refused", "", "net", "int8", "vs_f32", status="refused: no")])])
    join_parts([path], tmp_path)
    assert [row.status for row in read_rows(tmp_path / RESULTS)] == ["refused: no"]
    assert pq.read_table(tmp_path / MAPS).num_rows == pq.read_table(tmp_path / PICTURES).num_rows == 0


def test_joining_nothing_gives_empty_files(tmp_path):
    join_parts([], tmp_path)
    assert read_rows(tmp_path / RESULTS) == []


def test_a_part_carries_its_state_and_only_for_its_own_key(tmp_path):
    path = part_path(tmp_path, 7, "ab" * 32)
    assert path.name == "000007-abababababababab.parquet"
    write_part(path, "ab" * 32, [outcome("a")], state='["{}"]')
    assert read_state(path, "ab" * 32) == '["{}"]'
    with pytest.raises(QcamError, match="is no part of this run"):
        read_state(path, "cd" * 32)


def test_a_damaged_part_is_named_and_the_results_before_stay(tmp_path):
    good, bad = part_path(tmp_path, 0, "0" * 64), part_path(tmp_path, 1, "1" * 64)
    write_part(good, "key", [outcome("a")])
    join_parts([good], tmp_path)
    before = (tmp_path / RESULTS).read_bytes()
    bad.write_bytes(good.read_bytes()[:-40])
    with pytest.raises(QcamError, match=r"cannot read .*000001-1111111111111111\.parquet"):
        join_parts([good, bad], tmp_path)
    assert (tmp_path / RESULTS).read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / "parts").mkdir()
    leftovers = [tmp_path / ".results.parquet.x1.part", tmp_path / "parts" / ".000000-0.parquet.x2.part"]
    for path in leftovers:
        path.write_bytes(b"half")
    (tmp_path / "mine.part").write_text("not ours")
    assert remove_leftovers(tmp_path) == 2
    assert not any(path.exists() for path in leftovers)
    assert (tmp_path / "mine.part").exists()
