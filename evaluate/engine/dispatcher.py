"""Which worker evaluates which shard, and what becomes of a shard that breaks its workers.

Shards are leased in runs: a worker overlaps loading, runs and metrics across the shards of a lease. Leases get shorter towards
the end, so that nobody waits long for the last one. What is unfinished of a lease that failed, or whose worker is gone, is
leased again, each shard on its own: then a failure is the shard's. A shard that failed so `ATTEMPTS` times is quarantined, and
the rest of the run goes on.

What a worker hands in is looked at before it counts. One that hands in something wrong is ended, and gets no other lease.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from qcam.common import telling
from qcam.common.errors import QcamError
from qcam.evaluate.engine.messages import (
    Finished,
    Joined,
    Lost,
    Message,
    Opening,
    Refused,
    RemoteBugError,
    Returned,
    Shard,
    Started,
)
from qcam.evaluate.run.facts import WorkerFacts

#: How often a shard may fail on its own.
ATTEMPTS = 3
#: Shards of the longest lease.
LEASE = 8
#: Seconds without a word after which a worker counts as hung, at least; and as a multiple of the slowest shard so far.
PATIENCE, SLOWEST = 600.0, 10.0
#: Seconds without a word after which a worker counts as hung that opens its sessions: of each bundle it says a word.
OPENING = 1800.0
#: A failure on its own counts so much; the end of a worker that had not said that it took the shard up, 1.
_FAILURE = 3
#: Places of a run that may fail in a row, no shard finished between them, before it is the run that is at fault.
_IN_A_ROW = 10
#: Workers that may die in a row before one has opened its sessions, and for how many seconds no other is started then.
_STILLBORN, _REST = 4, 60.0
#: Like so many of these counts one that hung.
_HUNG = 2
#: Looks at what a worker hands in: shard, name of the part's file, facts of the first worker. Returns what is wrong with it,
#: empty if nothing is.
Inspect = Callable[[Shard, str, WorkerFacts], str]
_POLL = 0.5


class Pool(Protocol):
    """Workers, wherever they are. One that is lost is replaced by the pool; one that refuses is not.

    Attributes:
        where: What it is, in words.
    """

    where: str

    @property
    def coming(self) -> int:
        """Return how many workers are starting or waited for."""
        ...

    @property
    def opening(self) -> Collection[str]:
        """Return the workers that have begun to start and have not joined; none that a place is waited for."""
        ...

    def poll(self, timeout: float) -> list[tuple[str, Message]]:
        """Wait for messages, at most some seconds; return each with its worker's name."""
        ...

    def assign(self, worker: str, lease: Sequence[Shard]) -> None:
        """Let an idle worker evaluate shards."""
        ...

    def kill(self, worker: str) -> None:
        """End a worker that hangs; it is replaced."""
        ...

    def rest(self, seconds: float) -> None:
        """Start no worker for a while."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


@dataclass
class _State:
    """What the dispatcher knows of a worker."""

    lease: dict[int, Shard] = field(default_factory=dict)
    busy: bool = False  # until it says that it returned, whatever is left of its lease
    alone: bool = False
    started: bool = False
    heard: float = 0.0
    node: str = ""
    expelled: bool = False  # it is ended, and nothing that it still says counts


@dataclass
class _Start:
    """What the dispatcher knows of a worker that opens its sessions."""

    heard: float
    node: str = "this machine"
    what: str = "what it needs"
    hung: str = ""


class Dispatcher:
    """Leases shards to a pool's workers.

    Attributes:
        facts: What the first worker to join is.
        quarantined: Shards that were given up, with the last reason.
        trouble: What went wrong so far, in lines, each once.
    """

    def __init__(self, pool: Pool, inspect: Inspect = lambda *_: "", *, patience: float | None = None) -> None:
        """Take a pool.

        Args:
            pool: The workers.
            inspect: Looks at every part before it counts.
            patience: Seconds without a word after which a worker counts as hung; by default `PATIENCE`, or longer where
                shards take long.
        """
        self._pool = pool
        self._inspect = inspect
        self._starts: dict[str, _Start] = {}
        self._patience = patience
        self._workers: dict[str, _State] = {}
        self._refusals: list[str] = []
        self._stillborn = 0
        self._slowest = 0.0
        self.facts: WorkerFacts | None = None
        self.quarantined: dict[int, tuple[Shard, str]] = {}
        self._tracebacks: dict[int, str] = {}
        self.trouble: list[str] = []

    def open(self) -> WorkerFacts:
        """Wait for the first worker.

        Raises:
            QcamError: If none can take part.
        """
        while self.facts is None:
            for worker, message in self._pool.poll(_POLL):
                self._admit(worker, message)
            self._look_for_the_hung()
            self._require_workers()
        return self.facts

    def run(self, shards: Sequence[Shard]) -> Generator[Shard, None, None]:
        """Evaluate shards.

        Args:
            shards: What is to do.

        Yields:
            Each shard whose part has been written; those that never come are `quarantined`.

        Raises:
            QcamError: If no worker is left.
        """
        waiting, alone = deque(shards), deque[Shard]()
        failures: dict[int, int] = {}
        failed: set[int] = set()
        left = {shard.index for shard in shards}
        while left:
            for name, state in self._workers.items():
                if not state.busy and (waiting or alone):
                    self._lease(name, state, waiting, alone)
            for name, message in self._pool.poll(_POLL):
                known = self._workers.get(name)
                if known is None:
                    self._admit(name, message)
                    continue
                if known.expelled:
                    if isinstance(message, (Refused, Lost)):
                        del self._workers[name]
                    continue
                if isinstance(message, Started):
                    known.started = True
                    continue
                if isinstance(message, Finished):
                    self._slowest = max(self._slowest, time.monotonic() - known.heard)
                    known.heard = time.monotonic()
                    wrong = self._wrong_with(known, message)
                    if not wrong:
                        failed.clear()
                        left.discard(message.index)
                        yield known.lease.pop(message.index)
                        continue
                    known.expelled = True
                    self._pool.kill(name)
                    message = Returned(f"{wrong}; the worker on {known.node} that handed it in is ended")
                if isinstance(message, (Joined, Opening)):
                    raise RuntimeError(f"{name} joined already, and says so again")
                reason = self._end_of_lease(name, message)
                unfinished, known.lease, known.busy = list(known.lease.values()), {}, known.expelled
                # A worker that may not take part says nothing of its shards, one that was gone before it began little.
                weight = 0 if isinstance(message, Refused) or not known.alone else _FAILURE if known.started else 1
                if unfinished and not isinstance(message, Refused):
                    failed.add(unfinished[0].index)
                if len(failed) >= _IN_A_ROW:
                    raise QcamError(f"shard after shard fails, in {len(failed)} places of the run; the last one: {reason}")
                for shard in unfinished:
                    failures[shard.index] = failures.get(shard.index, 0) + weight
                    if failures[shard.index] < ATTEMPTS * _FAILURE:
                        alone.append(shard)
                        continue
                    self.quarantined[shard.index] = (shard, reason)
                    self._tracebacks[shard.index] = message.traceback if isinstance(message, Returned) else ""
                    left.discard(shard.index)
                    self._tell(f"quarantined after {ATTEMPTS} failures: {_named(shard)}: {reason}")
            self._look_for_the_hung()
            self._require_workers()

    def bug_behind(self, shards: Iterable[int]) -> RemoteBugError | None:
        """Return the bug for which all of some quarantined shards were given up; None if any was for another reason."""
        found = [self._tracebacks.get(index, "") for index in shards]
        return RemoteBugError(found[0]) if found and all(found) else None

    @property
    def where(self) -> str:
        """Return what the workers are, in words."""
        return self._pool.where

    def close(self) -> None:
        """End all workers."""
        self._pool.close()

    def _lease(self, name: str, state: _State, waiting: deque[Shard], alone: deque[Shard]) -> None:
        state.alone = not waiting
        if waiting:
            count = min(LEASE, max(1, len(waiting) // (2 * len(self._workers))))
            lease = [waiting.popleft() for _ in range(count)]
        else:
            lease = [alone.popleft()]
        state.lease, state.busy = {shard.index: shard for shard in lease}, True
        state.started, state.heard = False, time.monotonic()
        self._pool.assign(name, lease)

    def _wrong_with(self, state: _State, message: Finished) -> str:
        """Say what is wrong with what a worker hands in; empty if nothing is."""
        shard = state.lease.get(message.index)
        if shard is None or self.facts is None:
            return f"shard {message.index} is said to be finished, which that worker was not given"
        wrong = self._inspect(shard, message.part, self.facts)
        return f"the part of {_named(shard)} {wrong}" if wrong else ""

    def _admit(self, name: str, message: Message) -> None:
        """Take note of a worker that opens its sessions, that joins, or that does not."""
        if isinstance(message, Opening):
            self._starts[name] = _Start(time.monotonic(), message.node, message.what)
            return
        start = self._starts.pop(name, None)
        if isinstance(message, Joined) and self.facts is not None and message.facts.gpu != self.facts.gpu:
            # It stays where it is, without work: the pool would start another one there.
            mine, theirs = self.facts.gpu, message.facts.gpu
            told = "no GPU" if theirs is None else theirs.describe()
            first = "no GPU" if mine is None else mine.describe()
            where = message.facts.node
            reason = f"{where} computes on {told}, and the first worker on {first}: two are not mixed"
            self._refuse(Refused(f"{reason}; choose with {{require}} gpu=NAME"))
        elif isinstance(message, Joined) and self.facts is not None and _rows(message.facts) != _rows(self.facts):
            (rows, references), here = _rows(self.facts), _rows(message.facts)
            told = f"{message.facts.node} makes {here[0]} result rows and {here[1]} reference rows of an image"
            self._refuse(Refused(f"{told}, the first worker {rows} and {references}; install the same everywhere"))
        elif isinstance(message, Joined):
            self._stillborn = 0
            self.facts = self.facts or message.facts
            self._workers[name] = _State(node=message.facts.node)
        elif isinstance(message, Refused):
            self._refuse(message)
        elif isinstance(message, Lost):
            hung = "" if start is None else start.hung
            self._stillborn += _HUNG if hung else 1
            if not hung:  # else it has been told
                self._tell(f"a worker was lost while it opened its sessions: {message.reason}")
            if self._stillborn >= _STILLBORN and not self._workers:
                if hung:
                    raise QcamError(f"workers hang while they open their sessions: {hung}")
                raise QcamError(f"workers die while they open their sessions: {message.reason}")
            if self._stillborn >= _STILLBORN:
                self._pool.rest(_REST)

    def _end_of_lease(self, name: str, message: Returned | Refused | Lost) -> str:
        """Take note that a worker is idle, or gone; return what failed, if anything."""
        if isinstance(message, Returned):
            if message.failure:
                self._tell(f"a shard failed and is tried again: {message.failure}")
            return message.failure
        del self._workers[name]
        if isinstance(message, Refused):
            self._refuse(message)
        else:
            self._tell(f"a worker was lost, its shards are tried again: {message.reason}")
        return message.reason

    def _refuse(self, message: Refused) -> None:
        self._refusals.append(message.reason)
        self._tell(f"a worker is refused: {message.reason}")

    def _look_for_the_hung(self) -> None:
        patience = max(PATIENCE, SLOWEST * self._slowest) if self._patience is None else self._patience
        for name, state in self._workers.items():
            if state.busy and not state.expelled and time.monotonic() - state.heard > patience:
                state.heard = time.monotonic()  # the pool's word that it is lost comes later
                self._tell(f"no word from a worker for {patience:.0f} s; it is ended")
                self._pool.kill(name)
        now, patience = time.monotonic(), max(OPENING, self._patience or 0.0)
        for name in set(self._pool.opening):
            start = self._starts.setdefault(name, _Start(now))
            if now - start.heard > patience and not start.hung:
                start.hung = f"no word for {patience:.0f} s from a worker on {start.node} that opens {start.what}"
                self._tell(f"{start.hung}; it is ended")
                self._pool.kill(name)

    def _require_workers(self) -> None:
        if self._refusals and not self._workers and not self._pool.coming:
            raise QcamError(f"no worker can take part: {self._refusals[0]}")

    def _tell(self, line: str) -> None:
        if line not in self.trouble:
            self.trouble.append(line)
            telling.warn(line)


def _rows(facts: WorkerFacts) -> tuple[int, int]:
    """Return how many result rows and reference rows a worker makes of an image."""
    return facts.rows, facts.references


def _named(shard: Shard) -> str:
    """Name a shard by its images."""
    names = [image.name for image in shard.images]
    return f"shard {shard.index} ({names[0]})" if len(names) == 1 else f"shard {shard.index} ({names[0]} … {names[-1]})"


@contextmanager
def dispatching(dispatcher: Dispatcher) -> Generator[Dispatcher, None, None]:
    """End the workers when the block ends, however it does."""
    try:
        yield dispatcher
    finally:
        with suppress(Exception):
            dispatcher.close()
