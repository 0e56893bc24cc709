"""What library code tells while it works: remarks and warnings go to `logging`, progress to whoever listens.

Only commands print. They listen (`listening`) and show bars; a program that imports qcam sees warnings as Python's `logging`
shows them, under the logger `qcam`, and no bars unless it listens itself. Where a message names options (`wording`), the record
says them in Python's words; its `template` holds the tokens, for whoever has others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from qcam.common.printable import printable
from qcam.common.wording import in_python

#: Remarks are of level INFO, warnings of level WARNING.
LOGGER = logging.getLogger("qcam")
#: Takes the number of steps done since it was last called.
Advance = Callable[[int], None]


class Listener(Protocol):
    """Shows how far work is."""

    def progress(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Show that steps are counted while the block runs.

        Args:
            description: What is counted, in a few words.
            total: How many steps there are.
        """
        ...

    def status(self, text: str) -> AbstractContextManager[object]:
        """Show what is being done, without a count, while the block runs."""
        ...


_LISTENER: ContextVar[Listener | None] = ContextVar("qcam.listener", default=None)


def note(message: str) -> None:
    """Tell a remark that is no result."""
    LOGGER.info("%s", printable(in_python(message)), extra={"template": printable(message)})


def warn(message: str) -> None:
    """Tell a warning."""
    LOGGER.warning("%s", printable(in_python(message)), extra={"template": printable(message)})


def progress(description: str, total: int) -> AbstractContextManager[Advance]:
    """Tell that steps are counted; the block gets a function that takes the number of steps done (`Listener.progress`)."""
    listener = _LISTENER.get()
    return nullcontext(lambda _steps: None) if listener is None else listener.progress(description, total)


def status(text: str) -> AbstractContextManager[object]:
    """Tell what is being done while the block runs."""
    listener = _LISTENER.get()
    return nullcontext() if listener is None else listener.status(text)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener show progress while the block runs."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
