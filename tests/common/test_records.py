"""One door for records: what no record can be is refused in one line, by file and by field."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from qcam.common import records
from qcam.common.errors import BundleError, ResultsError
from qcam.common.records import as_record, read_json, read_record


@dataclass(frozen=True)
class Model:
    name: str
    count: int = 0
    mean: float | None = None
    trained: bool = True
    tags: tuple[str, ...] = ()
    size: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Whole:
    models: dict[str, Model] = field(default_factory=dict)
    rows: tuple[Model, ...] = ()
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)


def test_a_record_is_read_with_its_types_and_without_what_nobody_asks_for(tmp_path):
    path = tmp_path / "run.json"
    value = {"models": {"é": {"name": "é", "mean": 1, "tags": ["a"], "later": {}}}, "rest": {"x": [None, 1.5]}, "new": 3}
    path.write_text(json.dumps(value))
    assert read_record(path, Whole) == Whole({"é": Model("é", mean=1.0, tags=("a",))}, rest={"x": [None, 1.5]})
    assert read_json(path) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "the whole is a list and has to be an object"),
        ({"models": []}, "models is a list and has to be an object"),
        ({"models": {"a": {"name": "a"}, "b.c": {"name": 7}}}, "models.b.c.name is a whole number and has to be text"),
        ({"models": {"a": {"name": "a"}, "b": {}}}, "models.b.name is missing"),
        ({"models": {"\x1b[2J": {"name": 7}}}, r"models.'\x1b[2J'.name is a whole number and has to be text"),
        ({"rows": [{"name": "a"}, {"name": "", "count": True}]}, "rows[1].count is a truth value and has to be a whole number"),
        ({"rows": [{"name": "a", "count": 1.0}]}, "rows[0].count is a number with a point and has to be a whole number"),
        ({"rows": [{"name": "a", "mean": "1"}]}, "rows[0].mean is text and has to be a number"),
        ({"rows": [{"name": None}]}, "rows[0].name is missing and has to be text"),
        ({"rows": [{"name": "a", "tags": ["a", 1]}]}, "rows[0].tags[1] is a whole number and has to be text"),
        ({"rows": [{"name": "a", "size": [1]}]}, "rows[0].size has 1 entries, another number than it has to have"),
        ({"counts": {"a": {"b": 1}, "c": {"d": 2, "e": "3"}}}, "counts.c.e is text and has to be a whole number"),
    ],
)
def test_what_is_of_another_type_is_told_by_file_and_field(value, words):
    with pytest.raises(ResultsError) as refused:
        read_record(json.dumps(value), Whole, "out/run.json")
    assert str(refused.value) == f"out/run.json: {words}; run qcam.study again with force=True"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe{}", "'utf-8' codec can't decode byte"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": NaN}', "a: NaN is no number that JSON has"),
        (b'{"a": [{"b": 0}, {"b": -Infinity}]}', "a[1].b: -Infinity is no number that JSON has"),
        (b'{"a": [0.0, 1e999]}', "a[1]: it is beyond float64"),
        (b'{"a": {"b": 18446744073709551616}}', "a.b: it has more than 64 bits"),
        (b"NaN", "the whole: NaN is no number that JSON has"),
        (b'{"a": ' + b"9" * 5000 + b"}", "integer string conversion"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' stands twice in one object"),
        (rb'{"a": "x\u0000"}', r"a: the text 'x\x00' holds a NUL or half of a surrogate pair"),
        (rb'{"a": {"b\ud800": 1}}', r"a: the text 'b\ud800' holds a NUL or half of a surrogate pair"),
        (b"[" * 66 + b"]" * 66, "its lists and objects lie more than 64 deep in each other"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": 1} {}', "Extra data"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "bundle.json"
    path.write_bytes(text)
    with pytest.raises(BundleError) as refused:
        read_json(path, error=BundleError, advice="export it again")
    told = str(refused.value)
    assert told.startswith(f"cannot read {path}: ")
    assert told.endswith("; export it again")
    assert words in told
    assert told.isprintable()


def test_half_of_a_pair_may_stand_where_the_other_half_does():
    assert read_json(rb'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


def test_a_file_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST", 1 << 20)
    path = tmp_path / "run.json"
    path.write_text('"' + "x" * (1 << 20) + '"')
    for source in (path, path.read_bytes(), path.read_text()):
        with pytest.raises(ResultsError, match="it has more than 1 MiB, which no record of this program has"):
            read_json(source)


def test_what_cannot_be_opened_is_told_by_its_name(tmp_path):
    with pytest.raises(ResultsError, match=rf"^cannot read {tmp_path}: Is a directory; run qcam.study again"):
        read_json(tmp_path)
    with pytest.raises(ResultsError, match=r"^cannot read .*run\.json: No such file or directory; run qcam.study again"):
        read_record(tmp_path / "run.json", Whole)


def test_a_refusal_of_a_type_itself_is_told_by_its_field():
    @dataclass(frozen=True)
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError(f"{self.number} is odd")

    with pytest.raises(ResultsError, match=r"^x: \[1\]: 3 is odd; run"):
        as_record([{"number": 2}, {"number": 3}], list[Even], "x")


def test_the_module_does_not_load_msgspec_until_a_record_is_read():
    code = "import sys, qcam.common.records; assert 'msgspec' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
