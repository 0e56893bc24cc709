"""How many of what."""

from __future__ import annotations

from qcam.common.counted import counted


def test_one_many_and_another_plural() -> None:
    assert (counted(1, "row"), counted(1000, "row"), counted(2, "is", "are"), counted(0, "row")) == (
        "1 row",
        "1,000 rows",
        "2 are",
        "0 rows",
    )
