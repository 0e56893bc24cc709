"""Workers as actors on a Ray cluster."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from qcam.common import console
from qcam.common.errors import QcamError
from qcam.evaluate.engine.messages import Lost, Message, Refused, Returned, Shard
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
        actor: type | None = None,
    ) -> None:
        """Connect, and start the workers.

        Args:
            spec: What they are to know.
            destination: Where parts go.
            address: HOST:PORT of the cluster's head, or `auto` for the one that runs on this machine; by default what
                RAY_ADDRESS says, else a cluster that lives as long as this process.
            workers: Their number; by default as many as the cluster has room for, whatever its size becomes.
            gpus: GPUs of each, or the part of one that several share.
            actor: The class of the actors; by default `RayWorker`.

        Raises:
            QcamError: If Ray is not installed, or there is no cluster at that address.
        """
        self._ray = _connect(address)
        self._threads = spec.options.settings.threads
        self._gpus = gpus
        options = {"num_cpus": self._threads, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._make = self._ray.remote(actor or RayWorker).options(**options)
        self._spec = self._ray.put(spec)
        self._destination = self._ray.put(destination)
        self._asked = workers
        self._names = itertools.count(1)
        self._actors: dict[str, Any] = {}
        self._opening: dict[Any, str] = {}
        self._working: dict[Any, str] = {}
        self._refused: set[str] = set()
        self._looked = 0.0
        self._told = False
        self.where = "Ray"
        self._grow()

    @property
    def coming(self) -> int:
        """Return how many workers are starting or waited for."""
        return len(self._opening)

    def poll(self, timeout: float) -> list[tuple[str, Message]]:
        """Wait for messages, at most some seconds; return each with its worker's name."""
        self._grow()
        waiting = [*self._opening, *self._working]
        if not waiting:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout, fetch_local=False)
        if ready:  # whatever else is there already
            ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        found: list[tuple[str, Message]] = []
        for each in ready:
            name = self._opening.get(each) or self._working[each]
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

    def close(self) -> None:
        """End all workers, and leave the cluster."""
        for actor in self._actors.values():
            with suppress(Exception):
                self._ray.kill(actor)
        self._actors.clear()
        self._ray.shutdown()

    def _receive(self, ready: Any) -> Message | None:
        """Return what an actor says; None if its lease ended and that has been told."""
        opening = ready in self._opening
        name = self._opening.pop(ready) if opening else self._working[ready]
        try:
            message: Message = self._ray.get(ready if opening else next(ready))
        except StopIteration:
            del self._working[ready]
            return None
        except Exception as error:  # the actor is gone; Ray's exceptions say how
            if not opening:
                del self._working[ready]
            self._actors.pop(name, None)
            return Lost(_why(error))
        if isinstance(message, Returned):
            del self._working[ready]
        elif isinstance(message, Refused):
            self._working.pop(ready, None)
            self._refused.add(name)  # it stays where it is, so that Ray puts no other there
        return message

    def _grow(self) -> None:
        """Start as many workers as are missing."""
        now = time.monotonic()
        if now - self._looked < _LOOK and len(self._actors) >= (self._asked or 0):
            return
        self._looked = now
        wanted = self._slots() if self._asked is None else self._asked
        if not wanted and not self._actors and not self._told:
            self._told = True
            console.note(f"the cluster has no room yet for a worker of {self._threads} cores; waiting")
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

    def open(self, spec: WorkerSpec) -> Message:
        """Open the sessions; return `Joined` or `Refused`."""
        from qcam.evaluate.engine.worker import open_worker

        self._worker, message = open_worker(spec)
        return message

    def evaluate(self, lease: Sequence[Shard], destination: Destination) -> Any:
        """Evaluate shards; a stream of messages."""
        assert self._worker is not None
        yield from self._worker.evaluate(lease, destination)


def _connect(address: str | None) -> Any:
    """Connect to a cluster and return the module."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # an actor without GPUs leaves the variables alone
    try:
        import ray
    except ImportError as error:
        raise QcamError(f'--engine ray needs Ray ({error}): pip install "qcam[ray]"') from error
    if ray.is_initialized():
        return ray
    try:
        own: dict[str, Any] = {"include_dashboard": False} if address is None else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError … by cause
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise QcamError(f"no Ray cluster at {where}: {_why(error)}; start one with ray start --head") from error
    return ray


def _why(error: BaseException) -> str:
    """Return the first line of an exception that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
