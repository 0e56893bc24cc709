"""Workers as processes of this machine."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import sys
import time
import weakref
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from qcam.common.errors import QcamError
from qcam.evaluate.engine.messages import Lost, Message, Opening, Refused, Shard
from qcam.evaluate.engine.worker import Destination, Worker, WorkerSpec, open_worker
from qcam.runtime.deployed import PackedCopies
from qcam.runtime.deployed.packed import new_folder, remove_folder

#: Seconds that a worker has to end when it is told to.
_GRACE = 5.0
#: Seconds before another worker is tried where the system refused one.
_PAUSE = 5.0


class ProcessPool:
    """A fixed number of processes, each with its own sessions.

    Attributes:
        where: What it is, in words.
    """

    def __init__(self, spec: WorkerSpec, destination: Destination, workers: int) -> None:
        """Start the workers.

        Args:
            spec: What they are to know.
            destination: Where parts go.
            workers: Their number.
        """
        self.where = f"{workers} processes"
        self._spec = spec
        self._destination = destination
        self._context = multiprocessing.get_context("spawn")  # PyTorch and ONNX Runtime do not survive a fork
        self._names = itertools.count(1)
        self._processes: dict[str, tuple[BaseProcess, Connection]] = {}
        self._joined: set[str] = set()
        self._wanted = workers
        self._not_before = 0.0
        # Of this process and not of a worker's, which is ended without a chance to remove anything.
        self._copies = new_folder() if spec.room is not None else None
        self._remove = weakref.finalize(self, remove_folder, self._copies) if self._copies is not None else None
        self._fill()

    @property
    def coming(self) -> int:
        """Return how many workers are starting."""
        return self._wanted - len(self._joined)

    @property
    def opening(self) -> Collection[str]:
        """Return the workers that run and have not joined."""
        return self._processes.keys() - self._joined

    def poll(self, timeout: float) -> list[tuple[str, Message]]:
        """Wait for messages, at most some seconds; return each with its worker's name."""
        self._fill()
        if not self._processes:
            time.sleep(timeout)
        names = {connection: name for name, (_, connection) in self._processes.items()}
        found: list[tuple[str, Message]] = []
        ready = set(wait(list(names), timeout))
        for connection, name in names.items():
            if connection not in ready:
                continue
            try:
                message: Message = connection.recv()
            except (EOFError, OSError):
                message = Lost(self._bury(name))
            if isinstance(message, Refused):
                self._wanted -= 1  # another one here would be refused as well
                self._bury(name)
            elif isinstance(message, Lost):
                if name in self._processes:  # it said so itself
                    self._bury(name)
            elif not isinstance(message, Opening):
                self._joined.add(name)
            found.append((name, message))
        return found

    def assign(self, worker: str, lease: Sequence[Shard]) -> None:
        """Let an idle worker evaluate shards."""
        with suppress(OSError):  # it is gone: the next poll says so
            self._processes[worker][1].send(list(lease))

    def kill(self, worker: str) -> None:
        """End a worker that hangs; it is replaced."""
        self._processes[worker][0].kill()

    def rest(self, seconds: float) -> None:
        """Start no worker for a while."""
        self._not_before = time.monotonic() + seconds

    def close(self) -> None:
        """End all workers."""
        for process, connection in self._processes.values():
            connection.close()
            process.terminate()
        for process, _ in self._processes.values():
            process.join(_GRACE)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes.clear()
        if self._remove is not None:
            self._remove()

    def _fill(self) -> None:
        """Start as many workers as are missing."""
        while len(self._processes) < self._wanted and time.monotonic() >= self._not_before:
            try:
                self._start()
            except OSError as error:  # no memory, no process left: later, perhaps
                if not self._processes:
                    raise QcamError(f"cannot start a worker: {error.strerror or error}") from error
                self.rest(_PAUSE)

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        name = f"worker-{next(self._names)}"
        process = self._context.Process(
            target=_serve, args=(self._spec, self._destination, self._copies, theirs), name=name, daemon=True
        )
        # Ctrl-C reaches the workers too; ignored from their first moment on, the driver decides.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with _without_main():
                process.start()
        finally:
            signal.signal(signal.SIGINT, before)
            theirs.close()
        self._processes[name] = (process, ours)

    def _bury(self, name: str) -> str:
        """Forget a process; return how it ended."""
        process, connection = self._processes.pop(name)
        self._joined.discard(name)
        connection.close()
        process.join(_GRACE)
        code = process.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


@contextmanager
def _without_main() -> Generator[None, None, None]:
    """Start processes that do not run the caller's script anew, as multiprocessing's would: a worker needs nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # of no file and no name that could be run
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(spec: WorkerSpec, destination: Destination, copies: Path | None, connection: Connection) -> None:
    """Be a worker until the driver is gone; then remove the packed copies, which it may have had no chance to."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    refused = False
    with suppress(OSError, EOFError):
        worker = _sent(open_worker(spec, None if copies is None else PackedCopies(copies)), connection)
        refused = worker is None
        while not refused and worker is not None:
            for message in worker.evaluate(connection.recv(), destination):
                connection.send(message)
                refused = refused or isinstance(message, Refused)
    if copies is not None and not refused:  # a worker that was refused goes alone
        remove_folder(copies)


def _sent(messages: Generator[Message, None, Worker | None], connection: Connection) -> Worker | None:
    """Send what the opening of a worker tells; return the worker."""
    while True:
        try:
            message = next(messages)
        except StopIteration as ended:
            worker: Worker | None = ended.value
            return worker
        connection.send(message)
