"""Wall time by stage, and how stages overlap."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Stages that are runs of a network under evaluation in ONNX Runtime begin with this word.
DEPLOYED = "deployed "
#: The stage in which sessions and mirrors that are not kept open are opened again.
REOPENING = "open again"


@dataclass(frozen=True)
class StageSpan:
    """One time that a stage ran.

    Attributes:
        stage: Its name.
        start: Seconds since the clock was made.
        end: Likewise.
        thread: Name of the thread it ran in.
    """

    stage: str
    start: float
    end: float
    thread: str


class StageClock:
    """Adds up the wall time spent in named stages, from any thread.

    Attributes:
        seconds: Stage → seconds so far; stages of different threads overlap.
        spans: Every time that a stage ran, in the order in which they ended; only if asked for.
    """

    def __init__(self, *, spans: bool = False) -> None:
        """Start the clock.

        Args:
            spans: Whether to keep the spans: memory grows with their number.
        """
        self.seconds: dict[str, float] = {}
        self.spans: list[StageSpan] = []
        self._keep = spans
        self._begin = time.perf_counter()
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's time towards a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + end - start
                if self._keep:
                    span = StageSpan(name, start - self._begin, end - self._begin, threading.current_thread().name)
                    self.spans.append(span)

    @property
    def elapsed(self) -> float:
        """Return the seconds since the clock was made."""
        return time.perf_counter() - self._begin


def covered(spans: Iterable[StageSpan]) -> float:
    """Return the seconds in which at least one of some spans ran.

    >>> covered([StageSpan("a", 0.0, 2.0, ""), StageSpan("b", 1.0, 3.0, ""), StageSpan("a", 5.0, 6.0, "")])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, reached))
        reached = max(reached, span.end)
    return total


def describe(spans: Iterable[StageSpan], elapsed: float) -> list[str]:
    """Return a profile in lines: each stage's seconds, how much of them nothing else ran beside it, and ONNX Runtime's share.

    Args:
        spans: A whole run.
        elapsed: Its wall time in seconds.
    """
    spans = list(spans)
    lines = [f"{'stage':28} {'seconds':>8} {'of wall':>8} {'alone':>8}"]
    for stage in dict.fromkeys(span.stage for span in spans):
        own = [span for span in spans if span.stage == stage]
        others = [span for span in spans if span.stage != stage]
        seconds, alone = covered(own), covered(spans) - covered(others)
        lines.append(f"{stage:28} {seconds:8.2f} {seconds / elapsed:8.1%} {alone:8.2f}")
    deployed = [span for span in spans if span.stage.startswith(DEPLOYED)]
    inside = covered(deployed)
    lines.append(f"inside ONNX Runtime: {inside:.2f} of {elapsed:.2f} s, {inside / elapsed:.1%}")
    if deployed:
        loop = max(span.end for span in deployed) - min(span.start for span in deployed)
        lines.append(f"between the first and the last of these runs: {inside / loop:.1%} of {loop:.2f} s")
    return lines


def to_trace(spans: Iterable[StageSpan]) -> dict[str, Any]:
    """Return spans in Chrome's trace format, as chrome://tracing and ui.perfetto.dev open it; times in microseconds."""
    spans = list(spans)
    threads = {name: number for number, name in enumerate(dict.fromkeys(span.thread for span in spans))}
    names = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": {"name": name}} for name, number in threads.items()
    ]
    events = [
        {
            "name": span.stage, "ph": "X", "pid": 1, "tid": threads[span.thread],
            "ts": round(span.start * 1e6, 1), "dur": round((span.end - span.start) * 1e6, 1),
        }
        for span in spans
    ]  # fmt: skip
    return {"traceEvents": [*names, *events]}
