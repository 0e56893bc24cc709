"""Names that would not print, or would print as something else."""

from __future__ import annotations

import logging

import pytest

from qcam.common import html, telling
from qcam.common.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢 .jpg", "plain ü 漢 .jpg"),
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("a\nerror: forged", r"a\nerror: forged"),
        ("\r\t\x00\x07\x7f\x9b", r"\r\t\x00\x07\x7f\x9b"),
        ("gpj.\u202etxt", r"gpj.\u202etxt"),
        ("\u2028\ufeff", r"\u2028\ufeff"),
    ],
)
def test_i4_what_does_not_print_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_i4_what_library_code_tells_stays_in_its_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "qcam"):
        telling.warn("no mask for a\x1b[2K\nerror: forged.jpg")
        telling.note("taking a\rb")
    assert [record.getMessage() for record in caplog.records] == [
        r"no mask for a\x1b[2K\nerror: forged.jpg", r"taking a\rb"
    ]  # fmt: skip


def test_i4_html_of_notebooks_has_no_control_characters() -> None:
    assert html.escaped("a\x1b<b>\n") == r"a\x1b&lt;b&gt;\n"
