"""From figures to verdicts: of a gate, of a result, of the whole."""

from __future__ import annotations

from dataclasses import dataclass

from qcam.common.verdict import Verdict, together, told_apart
from qcam.evaluate.check.gates import GATES
from qcam.evaluate.check.result import CheckResult


@dataclass(frozen=True)
class Gate:
    """A threshold that a figure has to reach.

    Attributes:
        name: One of `GATES`.
        threshold: The smallest value that holds.
        value: What was measured; None if it is undefined.
    """

    name: str
    threshold: float
    value: float | None

    @property
    def verdict(self) -> Verdict:
        """Return the verdict: an undefined figure neither reaches the threshold nor misses it."""
        if self.value is None:
            return Verdict.UNDECIDED
        return Verdict.HOLDS if self.value >= self.threshold else Verdict.FALLS_SHORT

    @property
    def holds(self) -> bool:
        """Tell whether the figure reaches the threshold."""
        return self.verdict is Verdict.HOLDS

    @property
    def sentence(self) -> str:
        """Return figure and threshold in words."""
        found = "undefined" if self.value is None else told_apart(self.value, self.threshold, ".6g")
        return f"{self.name} = {found}, at least {self.threshold:.15g} wanted ({GATES[self.name]})"


@dataclass(frozen=True)
class Judged:
    """A result with its gates.

    Attributes:
        result: What was measured.
        gates: What it has to reach; empty where it is told for information only.
    """

    result: CheckResult
    gates: tuple[Gate, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """Return the verdict; None if nothing was asked of the result."""
        return together(gate.verdict for gate in self.gates)

    @property
    def holds(self) -> bool:
        """Tell whether no gate says otherwise."""
        return all(gate.holds for gate in self.gates)
