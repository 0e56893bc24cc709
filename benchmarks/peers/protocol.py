"""Worker processes that time what they are told to, one line of JSON for each request. Standard library only.

Requests are `{"prepare": {...}}`, answered by `{"tasks": {name: {"batch"}}, "versions": {...}}`, and
`{"run": name}`, answered by `{"seconds", "calls", "batch", "told"}`: the median duration of a few calls in a row, and what the
task says of them, if anything. What fails is answered by `{"error": reason}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

#: A turn goes on until its calls have taken that long together.
TURN_SECONDS = 0.3
#: A turn starts with an untimed call, which wakes threads and fills caches, unless a call takes longer than this.
LONG_SECONDS = 1.0


@dataclass(frozen=True)
class Task:
    """Something to time.

    Attributes:
        make: Prepares it, untimed, on the first turn, and returns the call that is timed.
        batch: Images that one call takes.
        told: What there is to say of the last call; empty if nothing.
    """

    make: Callable[[], Callable[[], object]]
    batch: int
    told: Callable[[], str] = str


@dataclass(frozen=True)
class Prepared:
    """What a worker can run.

    Attributes:
        tasks: By name, in the order of the tables.
        versions: Package → version.
    """

    tasks: Mapping[str, Task]
    versions: Mapping[str, str]


def serve(prepare: Callable[[dict[str, Any]], Prepared]) -> None:
    """Answer requests from standard input until it ends.

    Args:
        prepare: Makes the tasks of one model from the request's settings; called once.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the replies
    desk = _Desk(prepare)
    for line in sys.stdin:
        try:
            reply = desk.answer(json.loads(line))
        except Exception as error:  # whatever a library raises is that task's result
            reply = {"error": _reason(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


class _Desk:
    """The tasks of one model, made when they are first asked for."""

    def __init__(self, prepare: Callable[[dict[str, Any]], Prepared]) -> None:
        self._prepare = prepare
        self._tasks: Mapping[str, Task] = {}
        self._calls: dict[str, Callable[[], object]] = {}
        self._last: dict[str, float] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "prepare" in request:
            prepared = self._prepare(request["prepare"])
            self._tasks = prepared.tasks
            tasks = {name: {"batch": task.batch} for name, task in self._tasks.items()}
            return {"tasks": tasks, "versions": dict(prepared.versions)}
        name = request["run"]
        task = self._tasks[name]
        if name not in self._calls:
            self._calls[name] = task.make()
        call = self._calls[name]
        if self._last.get(name, 0.0) < LONG_SECONDS:
            call()
        seconds: list[float] = []
        while sum(seconds) < TURN_SECONDS:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        self._last[name] = statistics.median(seconds)
        return {"seconds": self._last[name], "calls": len(seconds), "batch": task.batch, "told": task.told()}


def _reason(error: BaseException) -> str:
    """Return what went wrong at the bottom, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()).replace(str(Path.cwd()), ".")
    return f"{type(error).__name__}: {text[:300]}"


class WorkerError(Exception):
    """A worker that ended, or a request that failed."""


class Worker:
    """A worker process, as its driver sees it."""

    def __init__(
        self, python: Path, module: str, threads: int, log: Path, more: dict[str, str], folders: Sequence[Path] = ()
    ) -> None:
        """Start it; what it prints goes to a file.

        Args:
            python: Its interpreter.
            module: What it runs.
            threads: Of its OpenMP.
            log: The file.
            more: Further environment variables.
            folders: Where else it looks for modules first.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self._name, self._log = module, log
        path = os.pathsep.join(map(str, (Path(__file__).parents[1], *folders)))
        environment = os.environ | more | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
        with log.open("w", encoding="utf-8") as stream:
            self._process = subprocess.Popen(
                [str(python), "-P", "-m", module],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, env=environment, text=True,
            )  # fmt: skip

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the reply.

        Raises:
            WorkerError: If the request failed or the process is gone.
        """
        requests, replies = self._pipes()
        try:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            line = replies.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self._name} ended with exit status {self._process.wait()}; {self._log} has its last words")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        """Return where requests go, and where replies come from."""
        if self._process.stdin is None or self._process.stdout is None:
            raise WorkerError(f"{self._name} was started without pipes")
        return self._process.stdin, self._process.stdout

    def close(self) -> None:
        """Let it end."""
        with contextlib.suppress(BrokenPipeError):  # it has ended before
            self._pipes()[0].close()
        self._process.wait()
