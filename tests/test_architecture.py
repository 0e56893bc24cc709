"""docs/architecture.md: what is drawn there is what the modules import."""

import pytest
from architecture import PAGE, arrow_table, drawing, drawn, filled, floors

# a → b → c, a → c; d and e import each other, and c.
FOUND = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"e", "c"}, "e": {"d"}}


def test_the_committed_drawing_is_what_the_imports_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, text in drawn().items():
        assert f"<!-- {name}: begin -->\n{text}\n<!-- {name}: end -->" in page, f"{name} is stale: make architecture"


def test_each_part_stands_above_what_it_imports_and_a_circle_on_one_floor() -> None:
    assert floors(FOUND) == [["a"], ["b", "d", "e"], ["c"]]


def test_an_arrow_that_follows_from_others_is_not_drawn_but_told() -> None:
    arrows = [line.strip() for line in drawing(FOUND).splitlines() if "-->" in line]
    assert arrows == ["n_a --> n_b", "n_b --> n_c", "n_d --> n_c", "n_d --> n_e", "n_e --> n_d"]
    assert "| `a` | b, c | – |" in arrow_table(FOUND, "room")
    assert "| `c` | – | a, b, d |" in arrow_table(FOUND, "room")


def test_parts_are_put_between_their_marks_and_missing_marks_are_named() -> None:
    page = "x\n<!-- one: begin -->\nold\n<!-- one: end -->\ny"
    assert filled(page, {"one": r"new \1"}) == "x\n<!-- one: begin -->\nnew \\1\n<!-- one: end -->\ny"
    with pytest.raises(ValueError, match="two: begin"):
        filled(page, {"two": "new"})
