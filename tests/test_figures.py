"""The comparison behind `make figures`: a single changed bit is found, and what is no figure is not taken for one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from equal import Comparison, compare_csv, compare_records, compare_tables, compare_titles, leave_out_schema_2

ROWS: dict[str, list[Any]] = {
    "image": ["b", "a"],
    "CC": [0.1, float("nan")],
    "top1": [3, None],
    "values": [[0.25, 0.0], [1.0]],
    "status": ["ok", "refused: broken"],
}


def write(path: Path, **changed: list[Any]) -> Path:
    pq.write_table(pa.table(ROWS | changed), path)
    return path


def compared(tmp_path: Path, **changed: list[Any]) -> Comparison:
    return compare_tables(write(tmp_path / "before.parquet"), write(tmp_path / "now.parquet", **changed), ["image"])


def test_equal_tables_are_equal_in_any_order_undefined_values_too(tmp_path: Path) -> None:
    found = compared(tmp_path, **{name: values[::-1] for name, values in ROWS.items()})
    assert (found.values, found.different, found.listed) == (8 + 3, [], [])


@pytest.mark.parametrize(
    "changed",
    [
        {"CC": [float(np.nextafter(0.1, 1)), float("nan")]},
        {"CC": [0.1, None]},
        {"top1": [3, 0]},
        {"values": [[0.25, -0.0], [1.0]]},
        {"values": [[0.25], [0.0, 1.0]]},
        {"status": ["ok", "no_object: broken"]},
        {"CC": [1, 2]},
        {"image": ["b", "c"]},
    ],
)
def test_a_changed_value_is_found(tmp_path: Path, changed: dict[str, list[Any]]) -> None:
    assert compared(tmp_path, **changed).different


def test_a_lost_row_and_a_lost_column_are_found_and_a_new_column_is_listed(tmp_path: Path) -> None:
    fewer = {name: values[:1] for name, values in ROWS.items()}
    assert compared(tmp_path, **fewer).different == ["2 rows before, 1 now"]
    assert compared(tmp_path, more=[1, 2]).listed == ["new column more"]
    whole, less = write(tmp_path / "whole.parquet", more=[1, 2]), write(tmp_path / "less.parquet")
    assert compare_tables(whole, less, ["image"]).different == ["column more is gone"]


def test_words_of_a_status_are_listed(tmp_path: Path) -> None:
    found = compared(tmp_path, status=["ok", "refused: it is broken"])
    assert not found.different
    assert len(found.listed) == 1


def test_records_are_compared_by_name_and_words_are_listed() -> None:
    before = {"results": [{"model": "a", "cc": 0.5, "verdict": "undefined"}, {"model": "b", "cc": None, "verdict": "holds"}]}
    moved = {"results": before["results"][::-1]}
    assert compare_records(before, moved) == Comparison(6)
    reworded = {"results": [before["results"][0] | {"verdict": "undecided", "more": 1}, before["results"][1]]}
    found = compare_records(before, reworded)
    assert not found.different
    assert found.listed == ["new entry results[].more", "results[a].verdict: undefined before, undecided now"]
    silent = {"results": [before["results"][0] | {"verdict": None}, before["results"][1]]}
    assert compare_records(before, silent) == Comparison(6, [], ["results[a].verdict: undefined before, None now"])
    for value in (0.5000000000000001, None, "0.5", 1):
        changed = {"results": [before["results"][0] | {"cc": value}, before["results"][1]]}
        assert len(compare_records(before, changed).different) == 1
    assert compare_records(before, {"results": before["results"][:1]}).different


def test_only_what_is_named_may_round_otherwise() -> None:
    before = {"results": [{"model": "a", "logit_error": 0.25, "cc": 0.25}]}
    for now, rounded in ((0.25 * (1 + 1e-9), True), (0.25 * (1 + 1e-7), False), (None, False)):
        changed = {"results": [before["results"][0] | {"logit_error": now}]}
        found = compare_records(before, changed, {"logit_error": 1e-8})
        assert (bool(found.rounded), bool(found.different)) == (rounded, not rounded)
        assert compare_records(before, changed).different
    other = {"results": [before["results"][0] | {"cc": 0.25 * (1 + 1e-9)}]}
    assert compare_records(before, other, {"logit_error": 1e-8}).different


def test_numbers_of_a_csv_table_are_compared_as_written(tmp_path: Path) -> None:
    before, now = tmp_path / "before.csv", tmp_path / "now.csv"
    before.write_text("model,metric,mean,low\na,CC,0.5,\na,SIM,0.25,0.1\n")
    now.write_text("model,title,metric,mean,low\na,x,SIM,0.25,0.1\na,y,CC,0.5,\n")
    assert compare_csv(before, now, ["model", "metric"]) == Comparison(8, [], ["new column title"])
    now.write_text("model,metric,mean,low\na,CC,0.50,0.1\n")
    assert len(compare_csv(before, now, ["model", "metric"]).different) == 2 + 4


def test_titles_of_a_table_are_listed_without_its_figures(tmp_path: Path) -> None:
    before, now = tmp_path / "before.md", tmp_path / "now.md"
    before.write_text("| | | net |\n|---|---|---|\n| f32 v. f32 | SIM | 0.5 ± 0.1 |\n| top-1 | int8 | 95.0% |\n")
    now.write_text("| | | net |\n|---|---|---|\n| f32 v. f32 | SIM | 0.6 ± 0.1 |\n| same top-1 | int8 | 95.0% |\n")
    assert compare_titles(before, now).listed == ["title gone: top-1 / int8", "new title: same top-1 / int8"]


def test_a_manifest_of_schema_2_is_compared_as_far_as_schema_1_says_the_same() -> None:
    entry = {"name": "int8", "sha256": "0"}
    old, new = ({"schema_version": version, "precisions": [dict(entry)]} for version in (1, 2))
    new["precisions"][0] |= {"input": {"name": "images"}, "session": {}}
    same = json.loads(json.dumps(new))
    assert leave_out_schema_2(new, same) == []
    assert same == new
    assert len(leave_out_schema_2(old, new)) == 2
    assert new == old
