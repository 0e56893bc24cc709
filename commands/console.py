"""How commands speak: errors as one line with an exit code, progress with rate and time left."""

from __future__ import annotations

import _thread
import errno
import logging
import os
import platform
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Self

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from qcam.common import machine, telling
from qcam.common.errors import GateError, QcamError, UndecidedError, first_line
from qcam.common.extras import naming_extras
from qcam.common.files import write_atomically
from qcam.common.printable import printable
from qcam.common.storage import cache_folder, shown
from qcam.common.wording import in_options

#: Seconds after which an interruption that Python dropped comes again.
_MOMENT = 0.05
#: So many crash files are kept, the newest ones.
_CRASHES = 20
#: Their names: date and time in UTC, and the process, so that names in order are files in order of age.
_CRASH_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-\d+\.txt")
#: Most characters of a bug's text that are said, and of an error.
_SAID, _LONGEST = 500, 4000
_URL_BEGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URL_IN_TEXT = re.compile(_URL_BEGIN.pattern + r"[^\s'\"]+")


class _Console(Console):
    """A console whose reader may go away (`| head`): rich's own ends the process then, with code 1."""

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print (as in rich); a text without markup stays in its line, what does not print is escaped: names are not ours."""
        if settings.get("markup") is False:
            objects = tuple(printable(each) if isinstance(each, str) else each for each in objects)
        super().print(*objects, **settings)

    def on_broken_pipe(self) -> None:
        """Say nothing more there, and go on: a command still owes its files, its verdict and its exit code."""
        nowhere = open(os.devnull, "w")  # noqa: SIM115
        if self.stderr:
            sys.stderr = nowhere
        else:
            sys.stdout = nowhere


#: Results go to standard output; progress, notes and errors to standard error, so that a pipe gets results only.
#: A pipe or a file has no width; rich would assume 80 columns and cut figures off. Names are shown as they are: no emoji
#: for `timm:cat:x`.
out = _Console(soft_wrap=True, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
err = _Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


class _Rules(click.Command):
    """What every command follows: how it ends, and how its help is laid out.

    Exit code 0: done; 1: a gate does not hold; 2: bad input or environment, one line; 3: a gate is undecided; 70: a bug, one
    line and a file with the traceback; 130: interrupted.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and exit with its code (arguments as in click)."""
        kwargs["standalone_mode"] = False
        given = args[0] if args else kwargs.get("args")
        with _Interruptions(last=given is None) as interruptions, shown_on_terminal():
            try:
                code = self._code(interruptions, *args, **kwargs)
            except KeyboardInterrupt:  # another one, while the first was told
                code = 130
        sys.exit(code)

    def _body(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command, and do nothing else (arguments as in click)."""
        with naming_extras(self.name or "this command"):
            return super().main(*args, **kwargs)

    def _code(self, interruptions: _Interruptions, *args: Any, **kwargs: Any) -> int:
        """Run the command, tell how it ended, and return its exit code (arguments as in click)."""
        try:
            if interruptions.any:  # before this began
                raise KeyboardInterrupt
            code = self._body(*args, **kwargs)
        except click.exceptions.Exit as error:
            code = error.exit_code
        except click.ClickException as error:
            if not isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # whose message is the help
                setattr(error, "message", printable(error.message))  # noqa: B010  # what was typed may be anything
            error.show()
            code = 2
        except (KeyboardInterrupt, click.Abort):
            err.print("[yellow]interrupted[/]")
            code = 130
        except GateError as error:
            err.print("[bold red]does not hold:[/] ", end="")
            for line in in_options(error.template).split("\n"):
                err.print(line, markup=False)
            code = 1
        except UndecidedError as error:
            err.print("[bold yellow]undecided:[/] ", end="")
            for line in in_options(error.template).split("\n"):
                err.print(line, markup=False)
            code = 3
        except QcamError as error:
            _tell_error(in_options(error.template))
            code = 2
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                _tell_error(f"no file or folder can be at {error.filename}: {error.strerror}")
                code = 2
            else:  # nothing that a user can mend
                _tell_bug(error, _command_line(*args, **kwargs))
                code = 70
        return code if isinstance(code, int) else 0

    def invoke(self, context: click.Context) -> Any:
        """Run the command's body (as in click)."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            # The reader of our output went away (`| head`); nothing is wrong. Caught here: click would make it code 1.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            return 0

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options, with --help-all where --help leaves some out (as in click)."""
        params = super().get_params(ctx)
        if any(getattr(param, "advanced", False) for param in params):
            shown = click.Option(
                ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all, help="Show all options."
            )
            params = [*params[:-1], shown, *params[-1:]]  # click puts --help last
        version = click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
        )
        return [*params[:-1], version, *params[-1:]]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their groups, the basic ones or all (as in click)."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None and (ctx.meta.get(_ALL) or not getattr(param, "advanced", False)):
                groups.setdefault(getattr(param, "group", ""), []).append(record)
        last = groups.pop("", [])  # help and version, or every option of a command without groups
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)
        with formatter.section("Other options" if groups else "Options"):
            formatter.write_dl(last)


class Command(_Rules):
    """A click command whose errors, and whose help, follow qcam's rules."""


class Group(_Rules, click.Group):
    """Several of them under one name."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands (as in click)."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


#: Where a context says that all options are shown.
_ALL = "qcam.all"


def _show_all(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"qcam {version('qcam')}")
        ctx.exit()


class _Terminal(logging.Handler):
    """Shows on standard error what library code tells."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a remark or a warning, in the words of the commands."""
        template = getattr(record, "template", None)  # a record of other code has none
        text = record.getMessage() if template is None else in_options(template)
        if record.levelno >= logging.WARNING:
            warn(text)
        else:
            note(text)

    def progress(self, description: str, total: int) -> AbstractContextManager[telling.Advance]:
        """Show a bar."""
        return progress(description, total)

    def status(self, text: str) -> AbstractContextManager[object]:
        """Show a spinner."""
        return err.status(escape(printable(text)))


@contextmanager
def shown_on_terminal() -> Iterator[None]:
    """Print what library code tells while the block runs: remarks, warnings, progress."""
    terminal = _Terminal(logging.INFO)
    level, spread = telling.LOGGER.level, telling.LOGGER.propagate
    telling.LOGGER.addHandler(terminal)
    telling.LOGGER.setLevel(logging.INFO)
    telling.LOGGER.propagate = False
    try:
        with telling.listening(terminal):
            yield
    finally:
        telling.LOGGER.removeHandler(terminal)
        telling.LOGGER.setLevel(level)
        telling.LOGGER.propagate = spread


def note(message: str) -> None:
    """Print a remark that is no result, to standard error."""
    err.print(printable(message), style="dim", markup=False)


def warn(message: str) -> None:
    """Print a warning, to standard error."""
    err.print("[bold yellow]warning:[/] ", end="")
    err.print(printable(message), markup=False)


def _tell_error(text: str) -> None:
    """Print the one line of an error that is the user's to mend; of a very long one the beginning and the end."""
    half = _LONGEST // 2
    err.print("[bold red]error:[/] ", end="")
    err.print(text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}", markup=False)


def _tell_bug(error: Exception, command: Sequence[str]) -> None:
    """Print one line about an error that is nobody's but ours, and keep its traceback in a file."""
    try:
        kept = f"its traceback is in {_write_crash(error, command)}"
    except (Exception, KeyboardInterrupt) as problem:  # whatever it is: the bug is what has to be told
        kept = f"its traceback could not be kept: {in_options(first_line(problem))}"
    text = _what(error, command)
    text = text if len(text) <= _SAID else f"{text[:_SAID]} …"
    line = f"{text} at {_raised_at(error)}; this is a bug of qcam, please report it: an issue of this project; {kept}"
    with suppress(OSError):  # nobody listens any more; the exit code tells
        err.print("[bold red]bug:[/] ", end="")
        err.print(printable(line), markup=False)


def _write_crash(error: Exception, command: Sequence[str]) -> Path:
    """Write what is needed to mend a bug into the user's cache folder: no environment variables, no values of variables.

    Returns:
        The file; all but the newest of its kind are gone.

    Raises:
        QcamError: If the disk refuses.
    """
    now = datetime.now(UTC)
    path = cache_folder("crashes") / f"{now:%Y%m%dT%H%M%S.%f}Z-{os.getpid()}.txt"
    lines = [
        f"{_what(error, command)} at {_raised_at(error)}",
        f"time: {now:%Y-%m-%d %H:%M:%S} UTC",
        f"command: {printable(shlex.join(_without_credentials(argument) for argument in command))}",
        f"platform: {platform.platform()}",
        "versions:",
        *(f"  {package} {version}" for package, version in machine.versions().items()),
        "",
        _public("".join(traceback.format_exception(error)), command),
    ]
    write_atomically(path, "\n".join(lines).encode(errors="backslashreplace"))
    with suppress(OSError):
        names = sorted((old.name for old in path.parent.iterdir() if _CRASH_NAME.fullmatch(old.name)), reverse=True)
        for name in [name for name in names if name != path.name][_CRASHES - 1 :]:
            (path.parent / name).unlink(missing_ok=True)
    return path


def _command_line(args: Sequence[str] | None = None, prog_name: str | None = None, **_: Any) -> list[str]:
    """Return the command and its arguments, from what click was given (its names)."""
    return [prog_name or Path(sys.argv[0]).name, *(sys.argv[1:] if args is None else args)]


def _what(error: Exception, command: Sequence[str]) -> str:
    """Return an error's type and the first line of its text."""
    kind, text = type(error).__name__, first_line(error)
    return kind if text == kind else f"{kind}: {_public(text, command)}"


def _raised_at(error: Exception) -> str:
    """Return module:line of the innermost place inside qcam that an error passed; of the innermost at all if there is none."""
    ways_in = (_Rules.main.__code__, _Rules.invoke.__code__)  # every error of a command passes these
    places = [
        (str(frame.f_globals.get("__name__", "?")), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code not in ways_in
    ]
    inside = [place for place in places if place[0].startswith("qcam.")]
    module, line = (inside or places or [("?", 0)])[-1]
    return f"{module}:{line}"


def _without_credentials(argument: str) -> str:
    """Return an argument with all URLs in it as they may be shown, also behind KEY= or a prefix."""
    begin = _URL_BEGIN.search(argument)
    if begin is None:
        return argument
    url = argument[begin.start() :]
    while (public := shown(url)) != url:  # a password may hold an @
        url = public
    protocol, separator, rest = url.partition("://")
    return argument[: begin.start()] + protocol + separator + _without_credentials(rest)


def _public(text: str, command: Sequence[str]) -> str:
    """Return a text without the credentials of URLs in it, be they those of the command or others."""
    for argument in command:
        begin = _URL_BEGIN.search(argument)
        if begin is not None:  # as a whole: a password may hold what ends a URL in a text
            url = argument[begin.start() :]
            text = text.replace(url, _without_credentials(url))
    return _URL_IN_TEXT.sub(lambda match: _without_credentials(match.group()), text)


class _Rate(ProgressColumn):
    """Steps a second, or seconds a step where that reads better."""

    def render(self, task: Task) -> Text:
        """Show the speed of `task`."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="dim")


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with count, rate and time left; without a terminal, a line now and then.

    Args:
        description: What is being counted, in a few words.
        total: How many steps there are.

    Yields:
        A function that takes the number of steps done since it was last called.
    """
    if err.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda steps: bar.advance(task, steps)
        return
    done = 0
    shown = 0

    def advance(steps: int) -> None:
        nonlocal done, shown
        done += steps
        # A log wants few lines: one each quarter.
        if done * 4 // max(total, 1) > shown:
            shown = done * 4 // max(total, 1)
            note(f"{description}: {done}/{total}")

    yield advance


class _Interruptions:
    """Turns SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt while it is entered, where they are not ignored.

    So a run ends alike on Ctrl-C, by `kill` and when its terminal is closed: what is finished stays readable. Signals reach the
    main thread only. Only a command at work is interrupted, and what tells of its end is not interrupted again. An
    interruption that Python drops, for it came in a callback (of a garbage collector, of C), comes again.
    """

    def __init__(self, *, last: bool) -> None:
        """Take none yet.

        Args:
            last: Whether the process ends with the block: once interrupted, it is then left alone to end.
        """
        self.any = False
        self._last = last
        self._before: dict[int, Any] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Self:
        """Begin."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None or signal.getsignal(number) == signal.SIG_IGN:  # nohup
                continue
            with suppress(ValueError):  # not in the main thread: leave signals alone
                self._before[number] = signal.signal(number, self._interrupt)
        if self._before:
            self._hook, sys.unraisablehook = sys.unraisablehook, self._dropped
        return self

    def __exit__(self, *_: object) -> None:
        """Leave signals as they were."""
        if self._before:
            sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._last and self.any else handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        first, self.any = not self.any, True
        running = set()
        while frame is not None:
            running.add(frame.f_code)
            frame = frame.f_back
        if _Interruptions._dropped.__code__ in running:
            _send_again(number)
        elif (_Rules._code if first else _Rules._body).__code__ in running:  # a second one while the first is told: enough
            raise KeyboardInterrupt

    def _dropped(self, what: sys.UnraisableHookArgs) -> None:
        if what.exc_type is KeyboardInterrupt:
            _send_again(next(iter(self._before)))
        elif not self.any:  # objects that an interruption left half made tell nothing of use
            self._hook(what)


def _send_again(number: int) -> None:
    """Send this process a signal in a moment; no lock is taken, which the code that was interrupted might hold."""

    def send() -> None:
        time.sleep(_MOMENT)
        if signal.getsignal(number) == signal.SIG_DFL:  # the command has ended
            return
        if hasattr(signal, "pthread_kill") and (main := threading.main_thread().ident) is not None:
            signal.pthread_kill(main, number)  # also where it waits
        else:
            signal.raise_signal(number)

    _thread.start_new_thread(send, ())
