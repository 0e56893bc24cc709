"""How commands speak: errors as one line with an exit code, progress with rate and time left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from qcam.common.errors import GateError, QcamError


class _Console(Console):
    """A console that lets `Command` decide what a broken pipe means; rich's own ends the process with code 1."""

    def on_broken_pipe(self) -> None:
        """Pass the error on."""
        raise BrokenPipeError


#: Results go to standard output; progress, notes and errors to standard error, so that a pipe gets results only.
#: A pipe or a file has no width; rich would assume 80 columns and cut figures off. Names are shown as they are: no emoji
#: for `timm:cat:x`.
out = _Console(soft_wrap=True, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
err = _Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


class Command(click.Command):
    """A click command whose errors follow qcam's rules.

    Exit code 0: done; 1: a gate does not hold; 2: bad input or environment, one line; 130: interrupted.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and exit with its code (arguments as in click)."""
        kwargs["standalone_mode"] = False
        # SIGTERM ends a run like Ctrl-C does: what is finished stays readable.
        with _terminate_as_interrupt():
            try:
                code = super().main(*args, **kwargs)
            except click.exceptions.Exit as error:
                code = error.exit_code
            except click.ClickException as error:
                error.show()
                code = 2
            except (KeyboardInterrupt, click.Abort):
                err.print("[yellow]interrupted[/]")
                code = 130
            except QcamError as error:
                err.print("[bold red]error:[/] ", end="")
                err.print(str(error), markup=False)
                code = 2
            except GateError as error:
                err.print("[bold red]does not hold:[/] ", end="")
                err.print(str(error), markup=False)
                code = 1
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, context: click.Context) -> Any:
        """Run the command's body (as in click)."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            # The reader of our output went away (`| head`); nothing is wrong. Caught here: click would make it code 1.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            return 0


def note(message: str) -> None:
    """Print a remark that is no result, to standard error."""
    err.print(message, style="dim", markup=False)


def warn(message: str) -> None:
    """Print a warning, to standard error."""
    err.print("[bold yellow]warning:[/] ", end="")
    err.print(message, markup=False)


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


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt while the block runs (main thread only)."""

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: leave signals alone
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
