"""docs/inputs.md: every row of its tables names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")


def test_every_form_names_a_test_that_is_there() -> None:
    defined = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\b(test_\w+)(?!\w|\.py|…)", PAGE)) - {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 30
    assert {name for name in named if name not in defined} == set()


def test_every_row_of_a_situation_has_a_test_of_its_name() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for situation in (*(f"l{number}" for number in range(1, 10)), *(f"i{number}" for number in range(1, 5)), "h7", "h14"):
        assert f"def test_{situation}_" in tests, situation
