"""How commands end: exit code, one line, no traceback."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from qcam.commands import console
from qcam.common.errors import GateError, QcamError
from qcam.common.files import write_atomically

# A command that fails in the way its argument names, run as its users run it: as a process of its own.
SCRIPT = """
    import signal
    import time
    import click
    from qcam.commands import console
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
        if how == "tidy up":
            try:
                print("begun", flush=True)
                time.sleep(60)
            finally:
                print("tidying", flush=True)
                time.sleep(60)
        if how == "destructor":
            class Dropping:
                def __del__(self):
                    signal.raise_signal(signal.SIGTERM)
            Dropping()
            time.sleep(60)
        while how == "print":
            print("result", flush=True)
        for _ in range(20_000 if how == "rich" else 0):
            console.out.print("result")

    main()
"""


def as_in_the_foreground() -> None:
    """Take the signals as a shell's command does, whatever runs the tests: nohup ignores one of them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        preexec_fn=as_in_the_foreground,
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


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_being_ended_or_hung_up_ends_a_command_like_ctrl_c(how: signal.Signals) -> None:
    with start("wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "result\n"
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "\ninterrupted\n")


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)])
def test_being_interrupted_again_ends_a_command_alike(signals: tuple[signal.Signals, ...]) -> None:
    with start("tidy up") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "result\n"
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signals[0])
        assert process.stdout.readline() == "tidying\n"
        for number in signals[1:]:
            process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err


def test_an_interruption_that_python_drops_comes_again() -> None:
    with start("destructor") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "result\n", "\ninterrupted\n")


@pytest.mark.parametrize(("before", "code"), [(True, 130), (False, 0)])
def test_an_interruption_before_or_after_the_command_raises_nothing(
    monkeypatch: pytest.MonkeyPatch, before: bool, code: int
) -> None:
    @contextlib.contextmanager
    def around() -> Iterator[None]:
        if before:
            signal.raise_signal(signal.SIGTERM)
        yield
        if not before:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(console, "shown_on_terminal", around)
    assert run(None)[0] == code


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
        (QcamError("a name\nerror: of two\x1b[31m lines"), 2, "error: a name\\nerror: of two\\x1b[31m lines\n"),
        (QcamError("x" * 5_000 + "; mend it"), 2, f"error: {'x' * 2_000} … {'x' * 1_991}; mend it\n"),
        (OSError(errno.ENAMETOOLONG, "Too long", "a/b"), 2, "error: no file or folder can be at a/b: Too long\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
        (click.exceptions.Exit(5), 5, ""),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_errors_become_codes(error: BaseException, code: int, err: str) -> None:
    assert run(error) == (code, "", err)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_goes_away_changes_no_exit_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    done: list[str] = []

    @click.command(cls=console.Command)
    def command() -> None:
        monkeypatch.setattr(sys, name, Gone())
        for _ in range(2):
            (console.out if name == "stdout" else console.err).print("a line", markup=False)
        done.append("files")
        raise GateError("short")

    assert CliRunner().invoke(command, []).exit_code == 1
    assert done == ["files"]


@pytest.mark.parametrize("arguments", [("--count", "0"), ("--count", "x"), ("--no-such-option",), ("superfluous",)])
def test_wrong_usage_is_2_and_says_what_is_wrong(arguments: tuple[str, ...]) -> None:
    code, out, err = run(None, *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: ")
    assert arguments[-1] in err.splitlines()[-1] or arguments[0] in err.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    run(QcamError("x"))
    assert signal.getsignal(number) is before


def test_a_command_under_nohup_goes_on_when_the_terminal_is_closed() -> None:
    seen: list[object] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with console._Interruptions(last=False):
            seen.append(signal.getsignal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIG_IGN]


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


@pytest.fixture
def crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that crash files go to in this test."""
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "crashes"


def crash(body: Callable[[], object], *arguments: str) -> tuple[int, str, str]:
    """Run a command whose body calls `body`, in this process, with arguments that it ignores."""

    @click.command(cls=console.Command, context_settings={"ignore_unknown_options": True})
    @click.argument("given", nargs=-1, type=click.UNPROCESSED)
    def command(given: tuple[str, ...]) -> object:
        return body()

    result = CliRunner().invoke(command, list(arguments), prog_name="qcam-test")
    assert isinstance(result.exception, (SystemExit, type(None)))
    return result.exit_code, result.stdout, result.stderr


def raising(error: BaseException) -> Callable[[], object]:
    def body() -> object:
        raise error

    return body


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero at "),
        (ZeroDivisionError(), "ZeroDivisionError at "),
        (KeyError("name"), "KeyError: 'name' at "),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device at "),
        (Speechless(), "Speechless at "),
        (ValueError("[bold]x:cat:[/bold]\x1b[31m\x07\nsecond"), "ValueError: [bold]x:cat:[/bold] at "),
        (ValueError("\u202egnp.exe"), "ValueError: \\u202egnp.exe at "),
        (ValueError("long " * 1000), "ValueError: long long "),
        (ExceptionGroup("two", [ValueError("a"), ValueError("b")]), "ExceptionGroup: two (2 sub-exceptions) at "),
    ],
)
def test_a_bug_is_one_line_a_file_and_70(crashes: Path, error: Exception, said: str) -> None:
    code, out, err = crash(raising(error), "--count", "3")
    (file,) = crashes.iterdir()
    assert (code, out) == (70, "")
    assert err.startswith(f"bug: {said}")
    assert err.endswith(f"; this is a bug of qcam, please report it: an issue of this project; its traceback is in {file}\n")
    assert err.count("\n") == 1
    assert len(err) < 1000


def test_the_file_says_what_ran_where_and_how_it_failed(crashes: Path) -> None:
    def body() -> None:
        secret = "local secret"
        raise ZeroDivisionError(f"a bug behind {len(secret)} letters")

    crash(body, "a folder/with space", "--count", "3")
    (file,) = crashes.iterdir()
    text = file.read_text(encoding="utf-8")
    assert file.name.endswith(f"Z-{os.getpid()}.txt")
    assert "\ncommand: qcam-test 'a folder/with space' --count 3\n" in text
    for line in ("  python 3.", "  qcam 0.", "  numpy ", "platform: ", "Traceback (most recent call last):", "in body"):
        assert line in text
    assert text.endswith("ZeroDivisionError: a bug behind 12 letters\n")
    assert "local secret" not in text.replace('secret = "local secret"', "")


def test_the_line_names_where_in_qcam_it_was_raised(crashes: Path, tmp_path: Path) -> None:
    _, _, err = crash(lambda: write_atomically(tmp_path / "x", 3))  # type: ignore[arg-type]
    assert err.startswith("bug: TypeError: a bytes-like object is required, not 'int' at qcam.common.files:")


def test_no_environment_variable_is_in_the_file(crashes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("HARMLESS", "harmless value")

    def body() -> None:
        read = os.environ["AWS_SECRET_ACCESS_KEY"]
        raise RuntimeError(f"refused a key of {len(read)} letters")

    crash(body)
    (file,) = crashes.iterdir()
    assert not [word for word in ("wJalrXUtnFEMI", "harmless value") if word in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("s3://me:hunter2@bucket/folder", "s3://bucket/folder"),
        ("--output=s3://me:hunter2@bucket/folder", "--output=s3://bucket/folder"),
        ("model=https://hunter2@host/x.onnx", "model=https://host/x.onnx"),
        ("onnx:https://me:hunter2@host/x.onnx", "onnx:https://host/x.onnx"),
        ("https://host/x.onnx?signature=hunter2", "https://host/x.onnx"),
        ("HTTPS://me:hunter2@host/x", "https://host/x"),
        ("s3://one/x,s3://me:hunter2@two/y", "s3://one/x,s3://two/y"),
        ("s3://me:hunter2@one/x,s3://me:hunter2@two/y", "s3://one/x,s3://two/y"),
        ("s3://me:p@hunter2@bucket/x", "s3://bucket/x"),
        ("s3://me:a b hunter2@bucket/x", "s3://bucket/x"),
    ],
)
def test_credentials_are_neither_in_the_file_nor_in_the_line(crashes: Path, argument: str, kept: str) -> None:
    _, _, err = crash(raising(RuntimeError(f"cannot go to {argument!r} and {argument}")), argument)
    (file,) = crashes.iterdir()
    text = file.read_text(encoding="utf-8")
    (command,) = (line for line in text.splitlines() if line.startswith("command: "))
    assert command == f"command: qcam-test {kept}"
    assert "hunter2" not in text + err


def test_a_command_given_by_the_system_is_in_the_file(crashes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/qcam-test", "--flag"])

    @click.command(cls=console.Command)
    @click.option("--flag", is_flag=True)
    def command(flag: bool) -> None:
        raise ZeroDivisionError

    with pytest.raises(SystemExit) as ended:
        command.main()
    (file,) = crashes.iterdir()
    assert ended.value.code == 70
    assert "\ncommand: qcam-test --flag\n" in file.read_text(encoding="utf-8")


def test_where_no_file_can_be_written_the_line_says_why(crashes: Path) -> None:
    crashes.parent.write_text("a file where the folder should be")
    code, out, err = crash(raising(ZeroDivisionError("x")))
    assert (code, out, err.count("\n")) == (70, "", 1)
    assert "; its traceback could not be kept: cannot write " in err
    assert "Traceback" not in err


def test_without_a_home_the_line_says_why(crashes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(kind: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(console, "cache_folder", homeless)
    code, _, err = crash(raising(ZeroDivisionError("x")))
    assert code == 70
    assert err.endswith("its traceback could not be kept: Could not determine home directory.\n")


def test_an_interruption_while_the_file_is_written_leaves_none(crashes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, data: bytes | str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "write_atomically", interrupted)
    code, _, err = crash(raising(ZeroDivisionError("x")))
    assert (code, crashes.exists()) == (70, False)
    assert err.endswith("its traceback could not be kept: KeyboardInterrupt\n")


def test_a_folder_with_control_characters_stays_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "a\nb\x1b[31m[bold]c"))
    code, _, err = crash(raising(ZeroDivisionError("x")))
    assert (code, err.count("\n")) == (70, 1)
    assert f"{tmp_path}/a\\nb\\x1b[31m[bold]c/crashes/" in err


def test_the_twenty_newest_files_are_kept_and_others_left_alone(crashes: Path) -> None:
    crashes.mkdir(parents=True)
    old = [crashes / f"2020010{day}T000000.{number:06d}Z-7.txt" for day in (1, 2) for number in range(15)]
    for path in (*old, crashes / "notes.txt", crashes / "0000 mine.txt"):
        path.write_text("x")
    crash(raising(ZeroDivisionError("x")))
    left = {path.name for path in crashes.iterdir()}
    assert {"notes.txt", "0000 mine.txt"} < left
    assert {path.name for path in old} & left == {path.name for path in old[-19:]}
    assert len(left) == 22


def test_a_file_of_a_clock_that_went_back_is_kept(crashes: Path) -> None:
    crashes.mkdir(parents=True)
    for number in range(25):
        (crashes / f"29990101T000000.{number:06d}Z-7.txt").write_text("x")
    _, _, err = crash(raising(ZeroDivisionError("x")))
    assert Path(err.rsplit(" ", 1)[1].strip()).is_file()
    assert len(list(crashes.iterdir())) == 20


def test_a_bug_of_a_real_command_shows_no_traceback(crashes: Path, tmp_path: Path) -> None:
    code = textwrap.dedent("""
        from pathlib import Path
        from qcam.commands import export as cli

        def broken(*arguments, **options):
            return {}["no such key"]

        import qcam.models.sources
        qcam.models.sources.load_model = broken
        cli.main(["squeezenet1_1", "--weights", "random:0", "--output", OUTPUT])
    """).replace("OUTPUT", repr(str(tmp_path / "output")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    (file,) = crashes.iterdir()
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 70
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("bug: ")] == [last]
    assert last.startswith("bug: KeyError: 'no such key' at qcam.exporters.ordering:")
    assert last.endswith(str(file))
    assert "KeyError: 'no such key'" in file.read_text(encoding="utf-8")
    assert not (tmp_path / "output").exists() or not list((tmp_path / "output").iterdir())


@pytest.mark.parametrize(
    "module", ["qcam.commands.export", "qcam.commands.eval", "qcam.commands.check", "qcam.commands.report"]
)
def test_the_help_of_every_command_tells_the_code_of_a_bug(module: str) -> None:
    command = importlib.import_module(module).main
    text = CliRunner().invoke(command, ["--help"]).stdout
    assert "70 a bug in qcam" in " ".join(text[text.index("Exit code:") :].split())
