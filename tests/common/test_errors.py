"""What an exception says, in one line; and that nothing of the product picks that line itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcam.common.errors import BundleError, QcamError, UnsupportedGraphError, first_line, in_file
from qcam.common.storage import reason

ROOT = Path(__file__).parents[2]
ROOMS = ("common", "images", "commands", "calibration", "models", "exporters", "runtime", "evaluate")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (QcamError("one line"), "one line"),
        (ValueError("first\nsecond"), "first"),
        (ValueError(), "ValueError"),
        (ValueError(""), "ValueError"),
        (ValueError("\n \r\n\t\n"), "ValueError"),
        (ValueError("\n\n  text behind blank lines  \nmore"), "text behind blank lines"),
        (ValueError("\x1b[1;31mred\x1b[m text\nmore"), "red text"),
        (ValueError("\x1b[31m\x1b[m\nsecond"), "second"),
        (ValueError("\x1b[31m\x1b[m"), "ValueError"),
        (ValueError("a\x00b\x07c\x7f\x9b"), "abc"),
        (KeyError("name"), "'name'"),
        (Speechless(), "Speechless"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_an_exception_says_one_line_that_is_never_empty(error: BaseException, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(5, "Input/output error\nmore"), "Input/output error"),
        (OSError(5, "\n"), "OSError"),
        (OSError(5, ""), "[Errno 5]"),
        (OSError(), "OSError"),
        (FileNotFoundError("bucket/name"), "no such file"),
        (ValueError("\n\nsecond"), "second"),
        (ValueError(), "ValueError"),
        (Speechless(), "Speechless"),
    ],
)
def test_what_a_file_system_raises_has_a_reason_of_one_line(error: BaseException, line: str) -> None:
    assert reason(error).strip() == line


def _exceptions(tree: ast.AST) -> set[str]:
    """Return the names that hold an exception somewhere in a module: of `except … as name`, and of annotated arguments."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            kinds = [part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)]
            if any(kind.endswith(("Exception", "Error")) for kind in kinds):
                names.add(node.arg)
    return names


def _is_text_of(node: ast.AST, names: set[str]) -> bool:
    """Tell whether an expression makes a text of one of these names: `str(name)`, `repr(name)` or `f"{name}"`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("str", "repr"):
        return any(isinstance(argument, ast.Name) and argument.id in names for argument in node.args)
    return isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name) and node.value.id in names


def lines_picked(source: str) -> Iterator[int]:
    """Yield the lines at which a line of an exception's text is picked by its number."""
    tree = ast.parse(source)
    names = _exceptions(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript):
            continue
        called = node.value.func if isinstance(node.value, ast.Call) else None
        splits = isinstance(called, ast.Attribute) and called.attr in ("splitlines", "split", "partition")
        if splits and any(_is_text_of(part, names) for part in ast.walk(node.value)):
            yield node.lineno


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("str(error).splitlines()[0]", True),
        ("str(error).strip().splitlines()[0] if str(error) else ''", True),
        ("str(error).splitlines()[0][:120]", True),
        ("f'{error}'.split('\\n')[0]", True),
        ("str(error).partition('\\n')[0]", True),
        ("f'no: {str(error).splitlines()[-1]}'", True),
        ("first_line(error)[:120]", False),
        ("text.splitlines()[0]", False),
        ("str(path).split('/')[0]", False),
    ],
)
def test_the_search_finds_what_it_is_for(expression: str, found: bool) -> None:
    caught = f"try:\n    pass\nexcept ValueError as error:\n    print({expression})\n"
    given = f"def why(error: OSError | None):\n    return {expression}\n"
    assert (list(lines_picked(caught)), list(lines_picked(given))) == (([4], [2]) if found else ([], []))


@pytest.mark.parametrize("room", [*ROOMS, "src/qcam"])
def test_nothing_picks_a_line_of_an_exception_itself(room: str) -> None:
    modules = sorted((ROOT / room).glob("*.py") if room == "src/qcam" else (ROOT / room).rglob("*.py"))
    assert modules
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in modules
        if path != ROOT / "common" / "errors.py"
        for line in lines_picked(path.read_text(encoding="utf-8"))
    ]
    assert not found, "use qcam.common.errors.first_line: str(error) may be empty"


def test_a_refused_graph_says_its_file_once_however_many_go_through_it() -> None:
    with (
        pytest.raises(UnsupportedGraphError, match=r"^b\.onnx: no operator; choose another") as caught,
        in_file("a.onnx"),
        in_file("b.onnx"),
        in_file("b.onnx"),
    ):
        raise UnsupportedGraphError("no operator; choose another {precision}")
    assert caught.value.template == "b.onnx: no operator; choose another {precision}"


def test_an_error_of_another_kind_and_one_that_names_the_file_stay_as_they_are() -> None:
    for error in (BundleError("no operator"), UnsupportedGraphError("nothing in a.onnx is known")):
        with pytest.raises(BundleError) as caught, in_file("a.onnx"):
            raise error
        assert caught.value is error
