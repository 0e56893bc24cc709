"""docs/architecture.md: what is drawn there is what the modules import. tests/README.md: so are the tests of each module."""

import pytest
from architecture import (
    PAGE,
    TESTS_PAGE,
    THROUGH,
    arrow_table,
    drawing,
    drawn,
    filled,
    floors,
    imported,
    tests_of,
    tests_page,
    untested,
)

#: What makes the page; pytest would take them for tests by their names.
tests_of.__test__ = tests_page.__test__ = False  # type: ignore[attr-defined]

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


def test_the_committed_list_of_tests_is_what_the_imports_say() -> None:
    assert TESTS_PAGE.read_text(encoding="utf-8") == tests_page(), "tests/README.md is stale: make architecture"


def test_every_module_has_a_test_that_imports_it_or_is_named_with_the_one_that_runs_it() -> None:
    assert untested(tests_of(), THROUGH) == []


def test_a_module_without_a_test_and_a_name_without_need_are_told() -> None:
    found = {"qcam.a": [], "qcam.b": ["test_b.py"], "qcam.c": []}
    assert untested(found, {"b": "test_architecture.py", "c": "test_gone.py"}) == [
        "a is imported by no test: write one, or name in THROUGH the one that runs it",
        "b stands in THROUGH without need",
        "test_gone.py stands in THROUGH and is not there",
    ]


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("from qcam.a import b", {"qcam.a", "qcam.a.b"}),
        ("from qcam.a import other", {"qcam.a"}),
        ("def f():\n    import qcam.a.b as x", {"qcam.a.b"}),
        ("import qcam\nqcam.study()", {"qcam._results"}),
        ("import qcam as q\nq.study()", {"qcam._results"}),
        ("import qcam\nother.study()", set()),
        ("from qcam import study", {"qcam._results"}),
    ],
)
def test_what_a_program_imports_is_found_wherever_it_stands_and_through_what_packages_offer(program, found) -> None:
    assert imported(program, {"qcam.a", "qcam.a.b", "qcam._results"}, {"qcam.study": "qcam._results"}) == found
