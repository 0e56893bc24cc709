"""The account of what a run was given."""

from __future__ import annotations

import json

import pytest

from qcam.images.account import Account, examples, number, read_account


def test_lines_come_back_from_the_record_as_they_were() -> None:
    account = Account()
    account.add("images", "2 taken; 1 file not taken: 1 .tga", taken=2, not_taken=1)
    account.add("labels", "0 of 2 images labelled")
    found = read_account(json.loads(json.dumps(account.to_json())))
    assert found == account.lines
    assert [str(line) for line in found] == [
        "images: 2 taken; 1 file not taken: 1 .tga", "labels: 0 of 2 images labelled"
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, {}, "", [1, None]])
def test_records_without_an_account_have_none(value: object) -> None:
    assert read_account(value) == []


def test_a_name_that_is_no_utf_8_can_be_written() -> None:
    account = Account()
    account.add("labels", "by name, from a\udcff.csv")
    assert account.lines[0].text.encode() == rb"by name, from a\udcff.csv"


def test_examples_are_three_and_say_that_there_are_more() -> None:
    assert examples(["a", "b", "a", "c"]) == "a, b, c"
    assert examples("abcd") == "a, b, c, …"
    assert (number(1, "row"), number(1000, "row"), number(2, "is", "are")) == ("1 row", "1,000 rows", "2 are")
