"""Whose sessions are open: those of all networks, or of one at a time where a provider's memory does not hold all."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from qcam.common import telling
from qcam.common.errors import OutOfMemoryError

Result = TypeVar("Result")
One = TypeVar("One", bound="Member")


class Member(Protocol):
    """Something with sessions that can be closed and opened again; both do nothing where they are so already."""

    def open(self) -> None:
        """Open what was closed."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Turns(Generic[One]):
    """Lets members run, and closes the others' sessions first where memory asked for that once.

    Figures do not depend on it: a session that is opened again is made of the same file by the same settings.

    Attributes:
        members: In the order in which they came.
        apart: Whether one member's sessions are open at a time.
    """

    def __init__(self) -> None:
        self.members: list[One] = []
        self.apart = False

    def add(self, make: Callable[[], One]) -> None:
        """Make one more member; where memory does not hold its sessions beside the others', close those first.

        Args:
            make: Opens its sessions.

        Raises:
            OutOfMemoryError: If memory does not hold those of this one alone.
        """
        member = None
        try:
            member = make()
        except OutOfMemoryError as error:
            if self.apart or not self.members:
                raise
            reason = error.template
        if member is None:  # out of the block above: its error holds what was open
            self._part(reason)
            member = make()
        self.members.append(member)
        if self.apart:  # the next one is tried with nothing beside it
            member.close()

    def run(self, member: One, task: Callable[[], Result]) -> Result:
        """Do something that needs a member's sessions.

        Args:
            member: The member.
            task: What is done; once more from its beginning if memory was full while others' sessions were open.

        Raises:
            OutOfMemoryError: If memory is full with this member's sessions alone.
        """
        self._take(member)
        try:
            return task()
        except OutOfMemoryError as error:
            if self.apart or len(self.members) < 2:
                raise
            reason = error.template
        self._part(reason)
        self._take(member)
        return task()

    def _take(self, member: One) -> None:
        if self.apart:
            self._close(other for other in self.members if other is not member)
        member.open()

    def _part(self, reason: str) -> None:
        self.apart = True
        self._close(self.members)
        gc.collect()  # sessions that were half made hang on the errors that ended them
        telling.warn(
            "the provider's memory does not hold the sessions of all networks: one network at a time from here on, which takes "
            f"longer and gives the same figures ({reason})"
        )

    @staticmethod
    def _close(members: Iterable[Member]) -> None:
        for member in members:
            member.close()
