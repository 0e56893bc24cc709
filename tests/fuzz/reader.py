"""Decisions out of bytes: one input of a fuzzer decides both what a file holds and what is done with it.

Decisions are taken from the end. What is left in front can be a file as it is: a fuzzer that changes the bytes of a good file
changes that file, and a good file with a few bytes behind it is an input.
"""

from __future__ import annotations

from typing import TypeVar

Option = TypeVar("Option")


class Reader:
    """Bytes that decide."""

    def __init__(self, data: bytes) -> None:
        """Take the bytes, any of them; where they have run out, every decision is the lowest or the first."""
        self._data = data
        self._end = len(data)

    def integer(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`, both included; it takes as many bytes as the range needs."""
        span = high - low
        width = (span.bit_length() + 7) // 8
        taken = self._data[max(self._end - width, 0) : self._end]
        self._end = max(self._end - width, 0)
        return low + int.from_bytes(taken, "little") % (span + 1)

    def pick(self, *options: Option) -> Option:
        """Return one of the options."""
        return options[self.integer(0, len(options) - 1)]

    def yes(self) -> bool:
        """Decide between two."""
        return bool(self.integer(0, 1))

    def rest(self) -> bytes:
        """Return the bytes in front that have decided nothing, and take them."""
        found, self._end = self._data[: self._end], 0
        return found


def with_decisions(file: bytes, *decisions: int) -> bytes:
    """Return an input whose front is a file; each decision is one byte, in the order in which they are taken."""
    return file + bytes(reversed(decisions))
