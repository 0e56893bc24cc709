"""Errors that are the user's to mend, told apart from bugs; and what an error says, in one line."""

from __future__ import annotations

import re

#: Terminal sequences, and control characters: a message of another library may carry both.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class QcamError(Exception):
    """Bad input or an unusable environment: shown as one line, exit code 2, no traceback.

    The message says what was wrong, where, and what to do next.
    """


class GateError(Exception):
    """A gate the user asked for does not hold: shown as one line, exit code 1."""


def first_line(error: BaseException) -> str:
    """Say in one line what an exception says: its first line with text in it, or its type where it has no text.

    Args:
        error: Any exception, of whatever library.

    Returns:
        One line without control characters and terminal sequences, never empty.
    """
    try:
        lines = (_CONTROL.sub("", line).strip() for line in str(error).splitlines())
        text = next(filter(None, lines), "")
    except Exception:  # an exception whose text cannot be made still has a type
        text = ""
    return text or type(error).__name__
