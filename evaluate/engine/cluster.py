"""Workers as actors on a Ray cluster."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import suppress
from typing import Any

from qcam.common import telling
from qcam.common.errors import QcamError, first_line
from qcam.evaluate.engine.messages import Lost, Message, Opening, Refused, Returned, Shard
from qcam.evaluate.engine.worker import Destination, Worker, WorkerSpec

#: Seconds between two looks at the cluster's size.
_LOOK = 2.0


class RayPool:
    """Actors, one for each slot of so many cores (and so much of a GPU), as many as asked for or as the cluster holds.

    An actor that Ray cannot place yet waits until a node has room: nodes may come and go while a run goes on.

    Attributes:
        where: What it is, in words.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        destination: Destination,
        *,
        address: str | None = None,
        workers: int | None = None,
        gpus: float = 0.0,
    ) -> None:
        """Connect, and start the workers.

        Args:
            spec: What they are to know.
            destination: Where parts go.
            address: HOST:PORT of the cluster's head, or `auto` for the one that runs on this machine; by default what
                RAY_ADDRESS says, else a cluster that lives as long as this process.
            workers: Their number; by default as many as the cluster has room for, whatever its size becomes.
            gpus: GPUs of each, or the part of one that several share.

        Raises:
            QcamError: If Ray is not installed, or there is no cluster at that address.
        """
        self._ray, self._own = _connect(address)
        self._threads = spec.options.settings.threads
        self._gpus = gpus
        options = {"num_cpus": self._threads, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._make = self._ray.remote(RayWorker).options(**options)
        self._spec = self._ray.put(spec)
        self._destination = self._ray.put(destination)
        self._asked = workers
        self._names = itertools.count(1)
        self._actors: dict[str, Any] = {}
        self._opening: dict[Any, str] = {}
        self._placed: set[str] = set()  # of those that open: they have said a word, so they have a place
        self._working: dict[Any, str] = {}
        self._pings: dict[Any, str] = {}
        self._refused: set[str] = set()
        self._looked = self._not_before = 0.0
        self._room = 0
        self._told = False
        self.where = "Ray"
        self._grow()

    @property
    def coming(self) -> int:
        """Return how many workers are starting, or wait for room that is there when nobody else takes it."""
        joined = len(self._actors) - len(self._opening)  # those that were refused keep their place
        return max(0, min(len(self._opening), self._room - joined))

    @property
    def opening(self) -> Collection[str]:
        """Return the workers that have a place and have not joined."""
        return self._placed

    def poll(self, timeout: float) -> list[tuple[str, Message]]:
        """Wait for messages, at most some seconds; return each with its worker's name."""
        try:
            self._grow()
            waiting = [*self._opening, *self._working, *self._pings]
            if not waiting:
                time.sleep(timeout)
                return []
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout, fetch_local=False)
            if ready:  # whatever else is there already
                ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        except QcamError:
            raise
        except Exception as error:  # the head is gone, and with it all that Ray could tell
            raise QcamError(f"the Ray cluster is gone: {_why(error)}; start it again, and the same command goes on") from error
        found: list[tuple[str, Message]] = []
        for each in ready:
            name = self._opening.get(each) or self._working.get(each) or self._pings[each]
            message = self._receive(each)
            if message is not None:
                found.append((name, message))
        return found

    def assign(self, worker: str, lease: Sequence[Shard]) -> None:
        """Let an idle worker evaluate shards."""
        self._working[self._actors[worker].evaluate.remote(list(lease), self._destination)] = worker

    def kill(self, worker: str) -> None:
        """End a worker that hangs; it is replaced."""
        self._ray.kill(self._actors[worker])

    def rest(self, seconds: float) -> None:
        """Start no worker for a while."""
        self._not_before = time.monotonic() + seconds

    def close(self) -> None:
        """End all workers, and leave the cluster."""
        for actor in self._actors.values():
            with suppress(Exception):
                self._ray.kill(actor)
        self._actors.clear()
        self._ray.shutdown()

    def _receive(self, ready: Any) -> Message | None:
        """Return what an actor says; None if its lease ended and that has been told."""
        streams = ready in self._working or ready in self._opening
        name: str = self._working.get(ready) or self._opening.get(ready) or self._pings.pop(ready)
        try:
            message: Message | None = self._ray.get(next(ready) if streams else ready)
        except StopIteration:
            self._forget(ready, name)
            return None
        except Exception as error:  # the actor is gone; Ray's exceptions say how
            self._forget(ready, name)
            known = self._actors.pop(name, None) is not None and name not in self._refused
            return Lost(_why(error)) if known else None
        if isinstance(message, Opening):
            self._placed.add(name)
        elif ready in self._opening or isinstance(message, (Returned, Refused, Lost)):
            self._forget(ready, name)
        if isinstance(message, Refused):
            self._refused.add(name)  # it stays where it is, so that Ray puts no other there
        elif isinstance(message, Lost):
            self._ray.kill(self._actors.pop(name))
        return message

    def _forget(self, ready: Any, name: str) -> None:
        """Wait for no further word of what a worker was opening, or of its lease."""
        self._working.pop(ready, None)
        if self._opening.pop(ready, None) is not None:
            self._placed.discard(name)

    def _grow(self) -> None:
        """Start as many workers as are missing."""
        now = time.monotonic()
        if now - self._looked < _LOOK and len(self._actors) >= (self._asked or 0):
            return
        self._looked = now
        self._room = self._slots()
        if not self._room and not self._told:
            wants = f"{self._threads} cores" + (f" and {self._gpus:g} GPUs" if self._gpus else "")
            if self._own:
                raise QcamError(
                    f"this machine has no room for a worker of {wants}; fewer {{threads}}, or a cluster by {{ray_address}}"
                )
            self._told = True
            telling.note(f"no node of the cluster has room for a worker of {wants}; waiting for one")
        # Ray tells of an actor's end only to who waits for a word of it.
        busy = {*self._opening.values(), *self._working.values(), *self._pings.values()}
        for name, actor in self._actors.items():
            if name not in busy:
                self._pings[actor.ping.remote()] = name
        if now < self._not_before:
            return
        wanted = self._room if self._asked is None else self._asked
        for _ in range(wanted - len(self._actors)):
            name = f"worker-{next(self._names)}"
            actor = self._make.remote()
            self._actors[name] = actor
            self._opening[actor.open.remote(self._spec)] = name
        self.where = f"{len(self._actors)} workers on Ray"

    def _slots(self) -> int:
        """Return how many workers the living nodes have room for, if they do nothing else."""
        slots = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                room = node["Resources"].get("CPU", 0) // self._threads
                slots += int(min(room, node["Resources"].get("GPU", 0) / self._gpus) if self._gpus else room)
        return slots


class RayWorker:
    """What runs in an actor."""

    def __init__(self) -> None:
        """Do nothing yet: the driver asks for it by `open`."""
        self._worker: Worker | None = None

    def ping(self) -> None:
        """Be there."""

    def open(self, spec: WorkerSpec) -> Generator[Message, None, None]:
        """Open the sessions; a stream of `Opening`, then `Joined`, `Refused` or `Lost`."""
        from qcam.evaluate.engine.worker import open_worker

        self._worker = yield from open_worker(spec)

    def evaluate(self, lease: Sequence[Shard], destination: Destination) -> Any:
        """Evaluate shards; a stream of messages."""
        if self._worker is None:
            raise RuntimeError("this actor has no worker: open comes first, and one that refused is left alone")
        yield from self._worker.evaluate(lease, destination)


def _connect(address: str | None) -> tuple[Any, bool]:
    """Connect to a cluster; return the module, and whether the cluster is our own and lives as long as this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # an actor without GPUs leaves the variables alone
    try:
        import ray
    except ImportError as error:
        raise QcamError(f'{{engine}} ray needs Ray ({error}): pip install "qcam[ray]"') from error
    before = signal.getsignal(signal.SIGTERM)
    try:
        own: dict[str, Any] = {"include_dashboard": False} if address is None else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError … by cause
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise QcamError(f"no Ray cluster at {where}: {_why(error)}; start one with ray start --head") from error
    finally:
        if before is not None:  # as it is where no Python code has set it
            signal.signal(signal.SIGTERM, before)  # Ray's would end this process before it has joined what is finished
    return ray, address is None and not os.environ.get("RAY_ADDRESS")


def _why(error: BaseException) -> str:
    """Return the first line of an exception that says something; of the one in a worker, if that is the cause."""
    error = getattr(error, "cause", None) or error
    said, kind = first_line(error), type(error).__name__
    return kind if said == kind else f"{kind}: {said}"
