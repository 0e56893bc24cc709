"""What an import decided, and from what: shown as a short table, and kept in the manifest."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Decision:
    """One thing that was decided.

    Attributes:
        what: input, logits, CAM layer …
        value: What it is.
        because: Where that comes from: the file, an option, or that it is assumed.
    """

    what: str
    value: str
    because: str


@dataclass
class Decisions:
    """All that was decided about one file, in order."""

    made: list[Decision] = field(default_factory=list)

    def note(self, what: str, value: object, because: str) -> None:
        """Note a decision."""
        self.made.append(Decision(what, str(value), because))

    def to_json(self) -> dict[str, list[str]]:
        """Return what stands in a manifest: what → its value, and because of what."""
        return {decision.what: [decision.value, decision.because] for decision in self.made}


def decisions_of(told: object) -> list[Decision]:
    """Read decisions back from a manifest; what is none is left out."""
    if not isinstance(told, dict):
        return []
    return [
        Decision(str(what), str(said[0]), str(said[1]))
        for what, said in told.items()
        if isinstance(said, (list, tuple)) and len(said) == 2
    ]
