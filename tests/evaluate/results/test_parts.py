import io
import json
import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qcam.common.files import sha256_bytes, sha256_file
from qcam.evaluate.results.clipping import CLIPPING, ClippedRow
from qcam.evaluate.results.folder import MAPS, PICTURES, REFERENCES, RESULTS, Picture, Row, StoredMap, read_rows
from qcam.evaluate.results.parts import (
    DamagedPartError,
    ImageOutcome,
    PartStore,
    PlannedPart,
    find_part,
    join_parts,
    read_part,
    remove_leftovers,
    write_part,
)
from qcam.evaluate.results.records import WorkerRecord

KEY = "ab" * 32


def outcome(name):
    rows = [Row(name, "00", "net", precision, "vs_f32", CC=0.5, increase=True) for precision in ("f32", "int8")]
    cam = StoredMap.of(np.arange(6.0).reshape(2, 3), name, "net", "int8", "deployed")
    counts = {"values": [9, 4], "low": [0, 1], "high": [2, 0], "below": [0.0, 0.5], "above": [1.0, 0.0], "squares": [3.0, 0.1]}
    counted = ClippedRow(name, "net", "int8", ["a", "b"], [0.0, -1.0], [6.0, 1.0], **counts)
    return ImageOutcome(name, rows, [cam], [Picture(name, "squash 3×2", 3, 2, b"\xff\x00jpeg", None)], clipping=[counted])


def planned(index, *names, key=KEY, rows=2):
    return PlannedPart(index, key, names, rows)


@pytest.fixture
def store(tmp_path):
    return PartStore(tmp_path / "parts")


def write(store, part, **options):
    return write_part(store, part, [outcome(name) for name in part.images], **options)


def renamed(path, data):
    """Write bytes under a name whose digest is right: what only somebody who knows how it is made can do."""
    name = f"{path.name[:23]}-{sha256_bytes(data)[:16]}.parquet"
    path.unlink(missing_ok=True)
    (path.parent / name).write_bytes(data)
    return path.parent / name


def rewritten(path, change):
    """Let a function change a part's table, and name the file rightly."""
    table = change(pq.read_table(path))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return renamed(path, buffer.getvalue())


def test_parts_are_joined_in_order_and_nothing_is_lost(store, tmp_path):
    parts = [planned(0, "b", "a"), planned(1, "d"), planned(2, "c")]
    for part in reversed(parts):
        write(store, part)
    joined = join_parts(store, parts, tmp_path)
    assert (joined.images, joined.damaged, joined.missing) == (4, [], [])
    names = (RESULTS, REFERENCES, MAPS, PICTURES, CLIPPING)
    assert joined.files == {name: sha256_file(tmp_path / name) for name in names}
    rows = read_rows(tmp_path / RESULTS)
    assert [row.image for row in rows] == ["b", "b", "a", "a", "d", "d", "c", "c"]
    assert rows[:2] == outcome("b").rows
    maps = [StoredMap(**item) for item in pq.read_table(tmp_path / MAPS).to_pylist()]
    assert [item.image for item in maps] == ["b", "a", "d", "c"]
    np.testing.assert_array_equal(maps[0].array, np.arange(6.0).reshape(2, 3))
    pictures = [Picture(**item) for item in pq.read_table(tmp_path / PICTURES).to_pylist()]
    assert pictures[0] == outcome("b").pictures[0]
    counted = [ClippedRow(**item) for item in pq.read_table(tmp_path / CLIPPING).to_pylist()]
    assert counted == [outcome(name).clipping[0] for name in "badc"]


def test_images_without_maps_or_pictures_leave_none(store, tmp_path):
    part = planned(0, "refused", rows=1)
    write_part(store, part, [ImageOutcome("refused", [Row("refused", "", "net", "int8", "vs_f32", status="refused: no")])])
    join_parts(store, [part], tmp_path)
    assert [row.status for row in read_rows(tmp_path / RESULTS)] == ["refused: no"]
    assert pq.read_table(tmp_path / MAPS).num_rows == pq.read_table(tmp_path / PICTURES).num_rows == 0


def test_joining_nothing_gives_empty_files_and_says_what_is_missing(store, tmp_path):
    assert join_parts(store, [planned(3, "a")], tmp_path).missing == [3]
    assert read_rows(tmp_path / RESULTS) == []


def test_a_part_carries_what_it_is(store):
    path = write(store, planned(7, "a", "b"), state='["{}"]', worker=WorkerRecord(node="here"))
    assert path.name == f"000007-abababababababab-{sha256_file(path)[:16]}.parquet"
    part = read_part(path, planned(7, "a", "b"))
    assert (part.state, part.worker) == ('["{}"]', WorkerRecord("here"))
    metadata = pq.read_schema(path).metadata
    assert metadata[b"qcam.key"].decode() == KEY
    counts = {"rows": 4, "references": 0, "maps": 2, "pictures": 2, "clipping": 2}
    assert json.loads(metadata[b"qcam.contents"]) == {"version": 1, "images": ["a", "b"]} | counts


def test_none_of_a_hundred_flipped_bits_passes(store, tmp_path):
    part = planned(0, "a", "b")
    path = write(store, part)
    data = path.read_bytes()
    chance = random.Random(20261125)
    for _ in range(100):
        flipped = bytearray(data)
        place = chance.randrange(len(data) * 8)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedPartError, match="its SHA-256 is not the one in its name"):
            read_part(path, part)
    joined = join_parts(store, [part], tmp_path)
    assert (len(joined.damaged), joined.missing, joined.images) == (1, [0], 0)


@pytest.mark.parametrize("length", [0, 4, 100, -40])
def test_a_truncated_part_is_none(store, length):
    path = write(store, planned(0, "a"))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedPartError, match="SHA-256"):
        read_part(path, planned(0, "a"))


def test_two_parts_that_changed_places_are_none(store, tmp_path):
    parts = [planned(0, "a"), planned(1, "b")]
    first, second = (write(store, part) for part in parts)
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    assert join_parts(store, parts, tmp_path).missing == [0, 1]


#: How somebody may change a part who knows how names are made, and what is said of it.
FORGERIES = {
    "emptied": (lambda table: table.slice(0, 0), "does not hold what it says of itself"),
    "halved": (lambda table: table.slice(0, 1), "does not hold what it says of itself"),
    "another run's": (lambda table: with_metadata(table, **{"qcam.key": "cd" * 32}), "belongs to another run"),
    "other images": (lambda table: told_again(renamed_images(table)), "images that are not the 2 of its shard"),
    "other order": (lambda table: told_again(table.take([1, 0])), "images that are not the 2 of its shard"),
    "fewer rows": (lambda table: told_again(with_rows(table, lambda rows: rows[:1])), "holds 1 to 1 rows of an image, not 2"),
    "rows of others": (lambda table: told_again(with_rows(table, of_others)), "holds rows of other images"),
    "another column": (lambda table: table.append_column("more", pa.array([1, 2])), "other columns"),
    "no column": (lambda table: table.drop_columns(["maps"]), "other columns"),
    "another type": (lambda table: table.set_column(0, "image", pa.array([1, 2])), "other columns"),
    "nothing said": (lambda table: table.replace_schema_metadata({}), "is no part"),
}


def with_metadata(table, **entries):
    return table.replace_schema_metadata((table.schema.metadata or {}) | {k.encode(): v.encode() for k, v in entries.items()})


def told_again(table):
    columns = ("rows", "references", "maps", "pictures", "clipping")
    counts = {column: sum(len(item) for item in table[column].to_pylist()) for column in columns}
    said = {"version": 1, "images": table["image"].to_pylist()} | counts
    return with_metadata(table, **{"qcam.contents": json.dumps(said)})


def renamed_images(table):
    return table.set_column(0, table.schema.field(0), pa.array(["x", "y"]))


def with_rows(table, change):
    place = table.schema.get_field_index("rows")
    rows = pa.array([change(item) for item in table["rows"].to_pylist()], table.schema.field(place).type)
    return table.set_column(place, table.schema.field(place), rows)


def of_others(rows):
    return [row | {"image": "x"} for row in rows]


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_part_that_is_another_one_inside_is_none(store, kind):
    change, said = FORGERIES[kind]
    part = planned(0, "a", "b")
    path = rewritten(write(store, part), change)
    with pytest.raises(DamagedPartError, match=said):
        read_part(path, part)


def test_a_file_that_is_no_parquet_is_none_under_the_right_name(store):
    path = renamed(write(store, planned(0, "a")), b"PAR1 and nothing of the kind")
    with pytest.raises(DamagedPartError, match="is no part: "):
        read_part(path, planned(0, "a"))


def test_what_an_earlier_version_wrote_is_listed_apart_and_not_joined(store, tmp_path):
    path = write(store, planned(0, "a"))
    old = path.rename(path.with_name("000000-abababababababab.parquet"))
    assert store.listing() == {}
    assert store.outdated() == [old]
    assert join_parts(store, [planned(0, "a")], tmp_path).missing == [0]
    with pytest.raises(DamagedPartError, match="carries no checksum"):
        read_part(old, planned(0, "a"))
    store.clear()
    assert not old.exists()


def test_a_shard_that_two_workers_evaluated_is_joined_once(store, tmp_path):
    part = planned(0, "a")
    for node in ("one", "another", "a third"):
        write(store, part, worker=WorkerRecord(node=node))
    files = store.listing()[part.place]
    assert len(files) == 3
    files[0].write_bytes(b"damaged")
    joined = join_parts(store, [part], tmp_path)
    assert (joined.images, len(joined.damaged), joined.missing) == (1, 1, [])


@pytest.mark.parametrize("worker", [{"node": 3}, {"versions": {"torch": None}}, {"node": "a\0b"}])
def test_a_part_that_says_of_its_worker_what_nobody_writes_is_none(store, worker):
    part = planned(0, "a")
    path = write(store, part, worker=replace(WorkerRecord(), **worker))
    with pytest.raises(DamagedPartError, match=rf"^{path} is no part: (its worker: |cannot read its worker: )[^;]*$"):
        read_part(path, part)


def test_a_part_of_a_worker_that_will_not_do_is_passed_over(store, tmp_path):
    part = planned(0, "a")
    for kernel in ("avx2", "vnni", "arm64"):
        write(store, part, worker=WorkerRecord(kernel=kernel))
    found = find_part(store.listing(), part, [], lambda worker: worker.kernel == "vnni")
    assert found is not None
    assert found.worker == WorkerRecord(kernel="vnni")
    assert join_parts(store, [part], tmp_path, lambda worker: worker.kernel == "riscv").missing == [0]


def test_rows_are_not_counted_where_nobody_knows_how_many_there_are(store):
    part = planned(0, "a")
    path = write(store, part)
    with pytest.raises(DamagedPartError, match="2 to 2 rows of an image, not 3"):
        read_part(path, replace(part, rows=3))
    assert read_part(path, replace(part, rows=None)).table.num_rows == 1


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / "parts").mkdir()
    leftovers = [tmp_path / ".results.parquet.x1.part", tmp_path / "parts" / ".000000-0.parquet.x2.part"]
    for path in leftovers:
        path.write_bytes(b"half")
    (tmp_path / "mine.part").write_text("not ours")
    assert remove_leftovers(tmp_path) == 2
    assert not any(path.exists() for path in leftovers)
    assert (tmp_path / "mine.part").exists()
