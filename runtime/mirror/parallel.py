"""Work on parts of a batch by several threads.

PyTorch splits every operation among its threads by itself. Where many small operations follow each other on the same values,
that is slow twice: threads meet after each of them, and values leave the cache in between. Here each thread takes a part of the
batch through all of them, alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Barrier, Lock

import torch

#: Values that a thread works on at a time.
PART = 2**19
#: Values of which no part is worth a thread of its own.
_FEW = 2**14


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


def memory(x: torch.Tensor) -> torch.Tensor | None:
    """Return the values of a tensor as they lie in memory, one after another; None if there are gaps or repetitions."""
    if x.is_contiguous():
        return x.view(-1)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).view(-1)
    return None


def laid_out_as(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a new tensor laid out as one without gaps, and its values as they lie in memory."""
    result = torch.empty_strided(x.shape, x.stride(), dtype=kind, device=x.device)
    return result, result.as_strided((x.numel(),), (1,))


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
        """Work on parts; what the first of them raises is raised, when no thread works any more."""
        rest, lock = list(parts)[::-1], Lock()

        def take() -> None:
            with torch.no_grad():
                while True:
                    with lock:
                        if not rest:
                            return
                        part = rest.pop()
                    try:
                        work(part)
                    except BaseException:
                        with lock:
                            rest.clear()
                        raise

        futures = [self._pool.submit(take) for _ in range(min(self._count, len(parts)))]
        try:
            wait(futures)
        except BaseException:  # Ctrl-C
            with lock:
                rest.clear()
            raise
        for future in futures:
            future.result()


@lru_cache(maxsize=4)
def _team(_process: int, count: int) -> _Team:
    """Return the threads of a process; a forked one starts its own."""
    return _Team(count)
