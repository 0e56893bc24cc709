"""The account of what a run was given."""

from __future__ import annotations

from qcam.images.account import Account, examples


def test_the_record_has_the_words_of_the_commands() -> None:
    account = Account()
    account.add("images", "2 taken; 1 file not taken: 1 .tga", taken=2, not_taken=1)
    account.add("labels", "folders are no labels; {label_format} index takes them")
    assert account.to_json() == [
        {"topic": "images", "text": "2 taken; 1 file not taken: 1 .tga", "counts": {"taken": 2, "not_taken": 1}},
        {"topic": "labels", "text": "folders are no labels; --label-format index takes them", "counts": {}},
    ]
    assert str(account.lines[0]) == "images: 2 taken; 1 file not taken: 1 .tga"


def test_a_name_that_is_no_utf_8_can_be_written() -> None:
    account = Account()
    account.add("labels", "by name, from a\udcff.csv")
    assert account.lines[0].text.encode() == rb"by name, from a\udcff.csv"


def test_examples_are_three_and_say_that_there_are_more() -> None:
    assert examples(["a", "b", "a", "c"]) == "a, b, c"
    assert examples("abcd") == "a, b, c, …"
