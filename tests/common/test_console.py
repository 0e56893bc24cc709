"""How commands end: exit code, one line, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import click
import pytest
from click.testing import CliRunner

from qcam.common import console
from qcam.common.errors import GateError, QcamError

# A command that fails in the way its argument names, run as its users run it: as a process of its own.
SCRIPT = """
    import time
    import click
    from qcam.common import console
    from qcam.common.errors import GateError, QcamError

    @click.command(cls=console.Command)
    @click.argument("how")
    def main(how):
        print("result", flush=True)
        if how == "bad input":
            raise QcamError("no bundle at [bold]x:cat:[/bold] 'ü'; " + "make one with qcam-export, " * 20)
        if how == "gate":
            raise GateError("int8 CC 0.8 is below 0.9")
        if how == "ctrl-c":
            raise KeyboardInterrupt
        if how == "wait":
            time.sleep(60)
        while how == "print":
            print("result", flush=True)
        while how == "rich":
            console.out.print("result")

    main()
"""


def start(how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("done", 0, ""),
        (
            "bad input",
            2,
            "error: no bundle at [bold]x:cat:[/bold] 'ü'; " + "make one with qcam-export, " * 20 + "\n",
        ),
        ("gate", 1, "does not hold: int8 CC 0.8 is below 0.9\n"),
        ("ctrl-c", 130, "\ninterrupted\n"),  # click ends the line in which the terminal showed ^C
    ],
)
def test_each_end_has_its_code_and_one_line(how: str, code: int, line: str) -> None:
    with start(how) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "result\n", line)


def test_sigterm_ends_a_command_like_ctrl_c() -> None:
    with start("wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "result\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "\ninterrupted\n")


@pytest.mark.parametrize("how", ["print", "rich"])
def test_a_reader_that_goes_away_is_no_error(how: str) -> None:
    with start(how) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "result\n"
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        code = process.wait(timeout=60)
    assert (code, err) == (0, "")


def run(body: object, *arguments: str) -> tuple[int, str, str]:
    """Run a command whose body raises or returns `body`, in this process."""

    @click.command(cls=console.Command)
    @click.option("--count", type=click.IntRange(1), default=1)
    def command(count: int) -> object:
        if isinstance(body, BaseException):
            raise body
        return body

    result = CliRunner().invoke(command, list(arguments))
    assert isinstance(result.exception, (SystemExit, type(None)))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3), ("text", 0)])
def test_a_number_returned_is_the_code(returned: object, code: int) -> None:
    assert run(returned) == (code, "", "")


@pytest.mark.parametrize(
    ("error", "code", "err"),
    [
        (QcamError("one line"), 2, "error: one line\n"),
        (GateError("one line"), 1, "does not hold: one line\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
        (click.exceptions.Exit(5), 5, ""),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_errors_become_codes(error: BaseException, code: int, err: str) -> None:
    assert run(error) == (code, "", err)


@pytest.mark.parametrize("arguments", [("--count", "0"), ("--count", "x"), ("--no-such-option",), ("superfluous",)])
def test_wrong_usage_is_2_and_says_what_is_wrong(arguments: tuple[str, ...]) -> None:
    code, out, err = run(None, *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: ")
    assert arguments[-1] in err.splitlines()[-1] or arguments[0] in err.splitlines()[-1]


def test_a_bug_is_not_disguised_as_bad_input() -> None:
    @click.command(cls=console.Command)
    def command() -> None:
        raise ZeroDivisionError("a bug")

    assert isinstance(CliRunner().invoke(command, []).exception, ZeroDivisionError)


def test_the_handler_of_sigterm_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(QcamError("x"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_remarks_go_to_standard_error_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.note("see [x] :dog:")
    console.warn("mind [y] :cat: " + "long " * 40)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "see [x] :dog:\n" + "warning: mind [y] :cat: " + "long " * 40 + "\n"


@pytest.mark.parametrize(
    ("steps", "total", "shown"),
    [
        ([1] * 8, 8, ["2/8", "4/8", "6/8", "8/8"]),
        ([5, 5], 10, ["5/10", "10/10"]),
        ([], 0, []),
        ([1, 1, 1], 3, ["1/3", "2/3", "3/3"]),
    ],
)
def test_progress_without_a_terminal_is_a_line_each_quarter(
    capsys: pytest.CaptureFixture[str], steps: list[int], total: int, shown: list[str]
) -> None:
    with console.progress("images", total) as advance:
        for count in steps:
            advance(count)
    assert capsys.readouterr().err.splitlines() == [f"images: {text}" for text in shown]
