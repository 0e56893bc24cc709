"""From seconds, round by round, to medians, ratios and verdicts. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from peers.tasks import BASELINE, Bar


@dataclass
class Measured:
    """One task's times.

    Attributes:
        batch: Images that one call takes.
        seconds: Of a call, a median for each round.
        calls: How many calls each of them is the median of.
        cannot: Why it cannot be timed; empty where it can.
        told: What the task itself said of its last turn; empty if nothing.
    """

    batch: int = 0
    seconds: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    cannot: str = ""
    told: str = ""

    @property
    def timed(self) -> bool:
        """Tell whether there are times."""
        return not self.cannot and bool(self.seconds)

    @property
    def milliseconds(self) -> list[float]:
        """Return the time of an image, round by round."""
        return [seconds / self.batch * 1e3 for seconds in self.seconds]

    @property
    def median(self) -> float:
        """Return the median time of an image, in ms."""
        return statistics.median(self.milliseconds)


Times = dict[str, Measured]


def added_up(tasks: Sequence[Measured]) -> Measured:
    """Return the times an image of several tasks one after the other, round by round as far as all have them."""
    rounds = zip(*(task.milliseconds for task in tasks), strict=False)
    return Measured(1, [sum(of_round) / 1e3 for of_round in rounds])


@dataclass(frozen=True)
class Ratio:
    """One task's time an image divided by another's.

    Attributes:
        of_medians: The ratio of the medians.
        least: The smallest ratio of one round.
        most: The largest ratio of one round.
    """

    of_medians: float
    least: float
    most: float

    @classmethod
    def of(cls, numerator: Measured, denominator: Measured) -> Ratio:
        """Divide one by the other; rounds are paired as far as both have them."""
        pairs = zip(numerator.milliseconds, denominator.milliseconds, strict=False)
        rounds = [above / below for above, below in pairs]
        return cls(numerator.median / denominator.median, min(rounds), max(rounds))


@dataclass(frozen=True)
class Verdict:
    """One bar, judged.

    Attributes:
        bar: The bar.
        numerator: The task that counted; empty if none could be timed.
        ratio: The ratio; None if one of the tasks could not be timed.
        reason: Why not.
    """

    bar: Bar
    numerator: str
    ratio: Ratio | None
    reason: str = ""

    @property
    def text(self) -> str:
        """Return the verdict on the ratio of the medians, in words."""
        if self.ratio is None:
            return f"cannot: {self.reason}"
        beyond = self.ratio.of_medians < self.bar.bound if self.bar.at_least else self.ratio.of_medians > self.bar.bound
        return "does not hold" if beyond else "holds"

    def to_json(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        ratio = self.ratio
        return {
            "bar": self.bar.number,
            "what": self.bar.what,
            "numerator": self.numerator,
            "denominator": " + ".join(self.bar.denominators),
            "ratio": None if ratio is None else ratio.of_medians,
            "round_ratios": None if ratio is None else [ratio.least, ratio.most],
            "bound": self.bar.bound,
            "at_least": self.bar.at_least,
            "verdict": self.text,
        }


def judge(bar: Bar, times: Times) -> Verdict:
    """Hold a bar against what was measured."""
    missing = Measured(cannot="was not run")
    candidates = {name: times.get(name, missing) for name in bar.numerators}
    timed = {name: measured for name, measured in candidates.items() if measured.timed}
    below = {name: times.get(name, missing) for name in bar.denominators}
    if not timed:
        name, measured = next(iter(candidates.items()))
        return Verdict(bar, "", None, f"{name}: {measured.cannot}")
    for name, measured in below.items():
        if not measured.timed:
            return Verdict(bar, "", None, f"{name}: {measured.cannot}")
    fastest = min(timed, key=lambda name: timed[name].median)
    return Verdict(bar, fastest, Ratio.of(timed[fastest], added_up(list(below.values()))))


def to_json(times: Times) -> dict[str, Any]:
    """Return tasks with all their times, JSON-ready."""
    found: dict[str, Any] = {}
    for name, measured in times.items():
        if not measured.timed:
            found[name] = {"cannot": measured.cannot}
            continue
        ms = measured.milliseconds
        found[name] = {
            "batch": measured.batch,
            "seconds": measured.seconds,
            "calls": measured.calls,
            "ms_an_image": {"median": measured.median, "min": min(ms), "max": max(ms)},
        }
        if measured.told:
            found[name]["told"] = measured.told
        base = times.get(BASELINE.get(name, ""))
        if base is not None and base.timed:
            ratio = Ratio.of(measured, base)
            found[name] |= {
                "baseline": BASELINE[name], "ratio": ratio.of_medians, "round_ratios": [ratio.least, ratio.most],
            }  # fmt: skip
    return found


def table(times: Times) -> Iterator[str]:
    """Return the lines of a table of tasks, a time an image in ms."""
    yield f"{'task':50} {'median':>9} {'min':>9} {'max':>9} {'ratio':>8}  to"
    for name, measured in times.items():
        if not measured.timed:
            yield f"{name:50} cannot: {measured.cannot}"
            continue
        ms = measured.milliseconds
        line = f"{name:50} {measured.median:9.2f} {min(ms):9.2f} {max(ms):9.2f}"
        base = times.get(BASELINE.get(name, ""))
        if base is not None and base.timed:
            line += f" {Ratio.of(measured, base).of_medians:8.3f}  {BASELINE[name]}"
        yield line
        if measured.told:
            yield f"  {measured.told}"


def bars_table(verdicts: Iterable[tuple[str, Verdict]]) -> Iterator[str]:
    """Return the lines of a table of bars, each with its model."""
    yield f"{'bar':3} {'model':27} {'ratio':44} {'measured':>9} {'rounds':>17} {'bound':>8}  verdict"
    for model, verdict in verdicts:
        bar, ratio = verdict.bar, verdict.ratio
        figures = f"{'':9} {'':17}"
        if ratio is not None:
            figures = f"{ratio.of_medians:9.3f} {f'{ratio.least:.3f}..{ratio.most:.3f}':>17}"
        bound = f"{'≥' if bar.at_least else '≤'} {bar.bound:g}"
        yield f"{bar.number:3} {model:27} {bar.what:44} {figures} {bound:>8}  {verdict.text}"
