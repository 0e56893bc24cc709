"""The account of what a run was given: what was taken, what was not, what fits nothing.

It is counted where things are read, and told in every run. A line is a topic, a sentence, and the numbers in it. Whoever reads
something from outside adds one: images, labels, masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from qcam.common.wording import in_options

#: How many names are given as examples.
_NAMED = 3


@dataclass(frozen=True)
class AccountLine:
    """What became of one kind of input.

    Attributes:
        topic: `images`, `labels`, …
        text: All of it in a sentence, without the topic; with tokens where it names options.
        counts: The same as numbers, by name.
    """

    topic: str
    text: str
    counts: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the line as it is printed."""
        return f"{self.topic}: {self.text}"


class Account:
    """Lines, in the order in which they were added.

    Attributes:
        lines: The lines.
    """

    def __init__(self, lines: Iterable[AccountLine] = ()) -> None:
        """Begin with some lines."""
        self.lines: list[AccountLine] = list(lines)

    def add(self, topic: str, text: str, **counts: int) -> None:
        """Add a line.

        Args:
            topic: What it is about, in a word.
            text: A sentence without the topic and without a full stop.
            counts: The numbers in it, by name.
        """
        plain = text.encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8
        self.lines.append(AccountLine(topic, plain, counts))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the lines as run.json keeps them, in the words of the commands (`qcam.common.wording`)."""
        return [{"topic": line.topic, "text": in_options(line.text), "counts": dict(line.counts)} for line in self.lines]


def examples(names: Iterable[str]) -> str:
    """Return the first three names, and that there are more; empty without any."""
    every = list(dict.fromkeys(names))
    more = ", …" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more
