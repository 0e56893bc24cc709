"""Messages name options in the words of whoever reads them."""

from __future__ import annotations

import ast
import inspect
import logging
import logging.handlers
import pickle
import queue
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import qcam
from qcam.commands import check, console, export, fetch, importing, report
from qcam.commands import eval as evaluate
from qcam.common import errors, telling
from qcam.common.errors import GateError, QcamError, UndecidedError, first_line
from qcam.common.wording import COMMANDS, OPTIONS, in_options, in_python

ROOT = Path(qcam.__file__).parents[2]
ROOMS = [folder.name for folder in Path(qcam.__file__).parent.iterdir() if folder.is_dir() and folder.name != "__pycache__"]
MAINS = {f"qcam-{name}": module.main for name, module in
         {"export": export, "import": importing, "eval": evaluate, "check": check, "report": report,
          "fetch": fetch}.items()}  # fmt: skip
TEXT = "a exists; use {force}, or {cam_layer} {it} of {qcam-export}"
PYTHON = "a exists; use force=True, or cam_layer {it} of qcam.export"
DASHES = "a exists; use --force, or --cam-layer {it} of qcam-export"


def options_of(command: click.Command) -> set[str]:
    """Return every spelling of a command's options, those of help and version too."""
    params = command.get_params(click.Context(command))
    return {name for param in params for name in (*param.opts, *param.secondary_opts) if name.startswith("--")}


def library_files() -> list[Path]:
    rooms = [path for room in ROOMS if room != "commands" for path in (ROOT / room).rglob("*.py")]
    return sorted([*rooms, *Path(qcam.__file__).parent.glob("*.py")])


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string in a module but the docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_rooms_are_all_looked_at() -> None:
    assert {"common", "models", "exporters", "runtime", "calibration", "evaluate", "images"} <= set(ROOMS)
    assert len(library_files()) > 150


def test_no_text_outside_commands_names_an_option_in_dashes() -> None:
    own = set().union(*map(options_of, MAINS.values()))
    assert {"--force", "--no-fake-quant", "--help-all", "--cam-layer"} <= own
    pattern = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, sorted(own, key=len, reverse=True))) + r")(?![\w-])")
    found = [f"{path.relative_to(ROOT)}:{line}: {text}" for path in library_files() if path.name != "wording.py"
             for line, text in literals(path) if pattern.search(text)]  # fmt: skip
    assert found == []


def test_every_token_in_the_library_is_in_the_table() -> None:
    token = re.compile(r"(?<!\w)\{([a-z][a-z0-9_-]*)\}")  # LaTeX has a command before its braces
    used = {name for path in library_files() if path.name != "wording.py" for _, text in literals(path)
            for name in token.findall(text)}  # fmt: skip
    assert used == {*OPTIONS, *COMMANDS}


def test_every_name_in_the_table_is_an_option_and_a_parameter() -> None:
    functions = (qcam.export, qcam.import_onnx, qcam.study, qcam.check, qcam.explain, qcam.report)
    parameters = dict(item for function in functions for item in inspect.signature(function).parameters.items())
    for name, spelling in OPTIONS.items():
        option = in_options(f"{{{name}}}")
        command, _, of = spelling.partition(" ")
        if of:  # the API has none
            assert of == option in options_of(MAINS[command])
            assert name not in parameters
            continue
        assert any(option in options_of(main) for main in MAINS.values()), option
        parameter, _, value = spelling.partition("=")
        assert (str(parameters[parameter].annotation) == "bool") == (value == "True"), spelling
    for command, function in COMMANDS.items():
        assert command in MAINS
        assert callable(getattr(qcam, function.removeprefix("qcam.")))


def test_words_for_python_and_for_commands() -> None:
    assert in_python(TEXT) == PYTHON
    assert in_options(TEXT) == DASHES


def test_braces_that_are_no_token_stay() -> None:
    text = "{} {it} {{x}} {Force} { force } {force! {--force} {no_such}"
    assert in_python(text) == in_options(text) == text


def test_an_error_speaks_python_and_keeps_its_tokens() -> None:
    error = QcamError(TEXT)
    assert str(error) == f"{error}" == PYTHON
    assert repr(error) == f"QcamError({PYTHON!r})"
    assert error.template == TEXT
    assert first_line(error) == TEXT
    assert str(QcamError(f"cannot go on: {first_line(error)}")) == f"cannot go on: {PYTHON}"


def test_an_error_keeps_its_tokens_from_process_to_process() -> None:
    error = pickle.loads(pickle.dumps(GateError(TEXT)))
    assert (type(error), error.template, str(error)) == (GateError, TEXT, PYTHON)


def test_nothing_takes_an_error_of_qcam_into_a_text_without_its_tokens() -> None:
    own = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, QcamError)}
    trees = {path: ast.parse(path.read_text(encoding="utf-8"))
             for path in [*library_files(), *(ROOT / "commands").rglob("*.py")]}  # fmt: skip
    own |= {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
            and any(isinstance(base, ast.Name) and base.id in own for base in node.bases)}  # fmt: skip
    assert "DamagedPartError" in own
    found = []
    for path, tree in trees.items():
        for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is not None):
            if not own.intersection(name.id for name in ast.walk(handler.type) if isinstance(name, ast.Name)):
                continue
            for node in ast.walk(handler):
                shown = node.value if isinstance(node, ast.FormattedValue) else None
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
                    shown = node.args[0]
                if isinstance(shown, ast.Name) and shown.id == handler.name:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_python_users_read_their_own_words_in_logging(caplog: pytest.LogCaptureFixture) -> None:
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(waiting)
    telling.LOGGER.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "qcam"):
            telling.warn(TEXT)
            telling.note(TEXT)
    finally:
        telling.LOGGER.removeHandler(handler)
    assert caplog.messages == [PYTHON, PYTHON]
    # A record that went to another process still says both.
    sent = pickle.loads(pickle.dumps(waiting.get()))
    assert (sent.getMessage(), sent.template) == (PYTHON, TEXT)


def test_commands_tell_in_options(capsys: pytest.CaptureFixture[str]) -> None:
    with console.shown_on_terminal():
        telling.warn(TEXT)
        telling.note(TEXT)
        telling.LOGGER.warning("%s", "another program's {force}")
    assert capsys.readouterr().err == f"warning: {DASHES}\n{DASHES}\nwarning: another program's {{force}}\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(QcamError, 2, "error"), (UndecidedError, 3, "undecided"), (GateError, 1, "does not hold")],
)
def test_commands_say_errors_in_options(
    error: type[QcamError], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command("qcam-test", cls=console.Command)
    def main() -> None:
        raise error(TEXT)

    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{said}: {DASHES}\n"
