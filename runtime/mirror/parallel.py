"""Work on parts of a batch by several threads.

PyTorch splits every operation among its threads by itself. Where many small operations follow each other on the same values,
that is slow twice: threads meet after each of them, and values leave the cache in between. Here each thread takes a part of the
batch through all of them, alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier, Lock, local

import torch

#: Values that a thread works on at a time.
PART = 2**19
#: Values of which no part is worth a thread of its own.
_FEW = 2**14
#: Values that a thread keeps memory for.
_KEPT = 2**21
_own = local()
_CPU = torch.device("cpu")


def parts_of(count: int, size: int, device: torch.device) -> list[slice]:
    """Cut a batch into parts that fit the cache, at least as many as there are threads.

    Args:
        count: Number of images, or of anything else that can be cut between.
        size: Values that are made of each.
        device: Where it computes; anything but the CPU takes all at once, in the order and on the stream of the caller.
    """
    if device.type != "cpu":
        return [slice(0, count)]
    step = max(1, min(PART // max(size, 1), -(-count // torch.get_num_threads())))
    step = max(step, min(count, -(-_FEW // max(size, 1))))
    return [slice(begin, begin + step) for begin in range(0, count, step)]


def across(parts: Sequence[slice], work: Callable[[slice], None]) -> None:
    """Let the threads that PyTorch may use here work on parts, each part by one of them; one part is PyTorch's own to split.

    Args:
        parts: From `parts_of`.
        work: Is called with each, without gradients; writes its results where no other part does.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        with torch.no_grad():
            for part in parts:
                work(part)
    else:
        _team(os.getpid(), threads).run(parts, work)


def scratch(slot: int, count: int, kind: torch.dtype, device: torch.device = _CPU) -> torch.Tensor:
    """Return memory of this thread's own, flat, that is there already: its values are those of an earlier use.

    Memory of more than `_KEPT` values is new each time, and given back.

    Args:
        slot: Which; memory of one slot and type is handed out again and again.
        count: Number of values.
        kind: Their type.
        device: Where it lies.
    """
    if count > _KEPT or device.type != "cpu":
        return torch.empty(count, dtype=kind, device=device)
    held: dict[tuple[int, torch.dtype], torch.Tensor] = _own.__dict__.setdefault("held", {})
    found = held.get((slot, kind))
    if found is None or len(found) < count:
        found = held[slot, kind] = torch.empty(count, dtype=kind)
    return found[:count]


class _Team:
    """Threads that wait for parts, each with PyTorch to itself."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="qcam-mirror")
        started = Barrier(count)

        def begin() -> None:
            torch.get_num_threads()  # the first time a thread asks, it takes over what holds for all
            torch.set_num_threads(1)  # of this thread, but also of those that are not there yet
            started.wait()

        for future in [self._pool.submit(begin) for _ in range(count)]:
            future.result()
        torch.set_num_threads(count)

    def run(self, parts: Sequence[slice], work: Callable[[slice], None]) -> None:
        """Work on parts; what one of them raises is raised."""
        rest, lock = iter(parts), Lock()

        def take() -> None:
            with torch.no_grad():
                while True:
                    with lock:
                        part = next(rest, None)
                    if part is None:
                        return
                    work(part)

        for future in [self._pool.submit(take) for _ in range(min(self._count, len(parts)))]:
            future.result()


@lru_cache(maxsize=4)
def _team(_process: int, count: int) -> _Team:
    """Return the threads of a process; a forked one starts its own."""
    return _Team(count)
