"""Parquet files of a result folder are held against what a run writes, column by column."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qcam.common.errors import ResultsError
from qcam.evaluate.results.tables import TableForm, read_table, require_columns, wrong_figures, wrong_maps, wrong_pictures

SCHEMA = pa.schema([("name", pa.string()), ("value", pa.float64()), ("label", pa.int64()), ("values", pa.list_(pa.float32()))])
FORM = TableForm(SCHEMA, nullable=["label"], later=["value"])
GOOD = pa.table({"name": ["a", "b"], "value": [0.5, None], "label": [None, 3], "values": [[1.0], [2.0, 3.0]]}, schema=SCHEMA)

NO_VALUES = pa.nulls(2, pa.list_(pa.float32()))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.parquet"


def test_what_a_run_writes_is_read_and_further_columns_are_let_through(path):
    pq.write_table(GOOD.append_column("of a later version", pa.array([1, 2])), path)
    assert read_table(path, FORM) == GOOD
    assert read_table(path, FORM, columns=["label", "name"]) == GOOD.select(["label", "name"])


def test_a_file_of_another_writer_is_read_whatever_it_calls_the_entries_of_lists(path):
    pq.write_table(GOOD, path, store_schema=False)
    assert read_table(path, FORM).to_pylist() == GOOD.to_pylist()


def test_columns_that_came_later_are_undefined_in_earlier_results(path):
    pq.write_table(GOOD.drop_columns(["value"]), path)
    assert read_table(path, FORM).schema.names == SCHEMA.names
    assert read_table(path, FORM)["value"].to_pylist() == [None, None]
    assert read_table(path, FORM, columns=["value"], filters=pa.compute.field("name") == "a")["value"].to_pylist() == [None]
    assert require_columns(path, FORM) == ["name", "label", "values"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (GOOD.drop_columns(["name"]), "column name is missing"),
        (pa.table({}), "column name is missing"),
        (GOOD.append_column("name", GOOD["name"]), "column name is there 2 times"),
        (GOOD.set_column(0, "name", pa.array([1, 2])), "column name is of type int64 and has to be string"),
        (GOOD.set_column(1, "value", pa.nulls(2)), "column value is of type null and has to be double"),
        (GOOD.set_column(3, "values", pa.array([[1], [2]])), "column values is of type list<.*int64> and has to be list<.*>"),
        (GOOD.set_column(0, "name", pa.array(["a", None])), "column name is undefined in 1 rows"),
        (GOOD.set_column(3, SCHEMA.field("values"), NO_VALUES), "column values is undefined in 2 rows"),
    ],
)
def test_other_columns_are_refused_by_file_and_column(path, table, words):
    pq.write_table(table, path)
    with pytest.raises(ResultsError, match=rf"^{path}: {words}; run qcam.study again with force=True$"):
        read_table(path, FORM)


def test_a_type_of_endless_length_is_cut_in_the_message(path):
    kind = pa.struct([(f"field\x1b{place}", pa.int8()) for place in range(500)])
    pq.write_table(GOOD.set_column(0, "name", pa.nulls(2, kind)), path)
    with pytest.raises(ResultsError, match="column name is of type 'struct<field") as told:
        read_table(path, FORM)
    assert len(str(told.value)) < 400
    assert str(told.value).isprintable()


def test_what_is_no_parquet_is_refused_by_file(path):
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ResultsError, match=rf"^cannot read {path}: "):
        read_table(path, FORM)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CC", -5.0, "column CC holds -5, which is none from -1 to 1"),
        ("SIM", float("inf"), "column SIM holds inf, which is none from 0 to 1"),
        ("KLD", 1e308, "column KLD holds 1e+308, which is none from 0 to 1e+06"),
        ("CC", float("nan"), ""),
        ("SIM", 1.0000001, ""),
        ("logit_error", 1e30, ""),
        ("label", -7.0, ""),
    ],
)
def test_a_figure_is_what_its_measure_can_be(name, value, words):
    assert wrong_figures(pa.table({"image": ["a", "b", "c"], name: [0.5, value, None]})) == words


def maps(height, width, values):
    return pa.table({"height": [height], "width": [width], "values": pa.array([values], pa.list_(pa.float32()))})


@pytest.mark.parametrize(
    ("height", "width", "values"),
    [(0, 0, []), (0, 3, []), (-1, -2, [0.5] * 2), (2, 2, [0.5] * 3), (1 << 32, 1 << 32, []), (1 << 62, 4, [])],
)
def test_a_map_has_as_many_values_as_its_sides_say(height, width, values):
    assert wrong_maps(maps(height, width, values)) == f"a map of height {height} and width {width} has {len(values)} values"


def test_maps_are_told_by_their_sides_and_values_alone():
    assert wrong_maps(maps(2, 3, [0.5, float("nan"), 0, 0, 0, 0])) == ""
    assert wrong_maps(maps(1, 2, [0.5, None])) == "values are undefined in column values"
    assert wrong_maps(pa.table({"height": [0], "image": ["a"]})) == ""


@pytest.mark.parametrize(("sides", "told"), [([1, 4096], ""), ([], ""), ([5, 0], "0"), ([5, -7], "-7"), ([4097], "4097")])
def test_a_picture_has_sides_of_a_crop(sides, told):
    table = pa.table({"height": pa.array([1] * len(sides), pa.int64()), "width": pa.array(sides, pa.int64())})
    assert wrong_pictures(table) == (told and f"a picture has width {told}, which is none from 1 to 4096")
