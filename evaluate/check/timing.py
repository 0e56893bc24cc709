"""Where the time of a check goes: wall time by stage, each moment counted once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import TypeVar

#: Stages of a check; each mirror's forward runs are a stage of their own (`mirror_stage`).
PREPARING = "preparing"
WAITING = "waiting for images"
EXPOSED = "exposed run"
COMPARING = "comparing"
CAMS = "CAMs"
SLOPES = "finite differences"
FED = "fed with the deployed codes"
ELSEWHERE = "other CPUs' mirrors"

Item = TypeVar("Item")


def mirror_stage(arithmetic: str) -> str:
    """Return the stage of a mirror's forward runs."""
    return f"{arithmetic.replace('_', '-')} mirror"


class Spent:
    """Time that several threads spend on one thing."""

    def __init__(self) -> None:
        """Start with none."""
        self._by_thread: dict[int, float] = {}

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the block's time, of the thread that it runs in."""
        start = time.perf_counter()
        try:
            yield
        finally:
            thread = get_ident()
            self._by_thread[thread] = self._by_thread.get(thread, 0.0) + time.perf_counter() - start

    @property
    def mean(self) -> float:
        """Return the seconds of a thread, of those that spent any; 0 where none did."""
        return sum(self._by_thread.values()) / max(len(self._by_thread), 1)


class Stopwatch:
    """Adds up the wall time of named stages in one thread; of stages inside each other the innermost is counted alone.

    Attributes:
        seconds: Stage → seconds so far.
    """

    def __init__(self) -> None:
        """Start with no time counted."""
        self.seconds: dict[str, float] = {}
        self._under_way: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's time towards a stage, and no longer towards the one around it."""
        self._count()
        self._under_way.append(name)
        try:
            yield
        finally:
            self._count()
            self._under_way.pop()

    @contextmanager
    def within(self, name: str) -> Iterator[Spent]:
        """Count towards a stage what threads that take part in the block spend on it: their mean, and not towards the block's.

        No stage may begin or end inside the block.
        """
        spent = Spent()
        yield spent
        self._count()
        around = self._under_way[-1]
        seconds = min(spent.mean, self.seconds[around])
        self.seconds[around] -= seconds
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items; the time in which they are made is the stage's."""
        iterator = iter(items)
        while True:
            try:
                with self.stage(name):
                    item = next(iterator)
            except StopIteration:
                return
            yield item

    def _count(self) -> None:
        now = time.perf_counter()
        if self._under_way:
            stage = self._under_way[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now


def shares(seconds: Iterable[Mapping[str, float]]) -> str:
    """Say how long something took, and which share each stage had, the longest first; stages of one name are added up.

    >>> shares([{"decoding": 0.5, "exposed run": 3.0}, {"decoding": 0.5}])
    '4.0 s: exposed run 75 %, decoding 25 %'
    """
    total: dict[str, float] = {}
    for stages in seconds:
        for stage, time_ in stages.items():
            total[stage] = total.get(stage, 0.0) + time_
    whole = sum(total.values())
    parts = [f"{stage} {100 * time_ / whole:.0f} %" for stage, time_ in sorted(total.items(), key=lambda item: -item[1])]
    return f"{whole:.1f} s: {', '.join(parts)}"
