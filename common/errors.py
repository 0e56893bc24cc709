"""Errors that are the user's to mend, told apart from bugs; and what an error says, in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qcam.common.wording import in_python

#: Terminal sequences, and control characters: a message of another library may carry both.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class QcamError(Exception):
    """Bad input or an unusable environment: shown as one line, exit code 2, no traceback.

    The message says what was wrong, where, and what to do next. It may hold tokens for options (`wording`): `str` has Python's
    words for them; whoever puts the message into another one takes `template`. The tree below lets callers tell kinds apart:

        QcamError
        ├── ProviderError           an execution provider or a GPU cannot be had, or not for this file
        ├── BundleError             a bundle is none, is damaged, or is not what its manifest says
        │   └── UnsupportedGraphError   a graph holds what qcam cannot run or mirror
        ├── ImageSetError           images, labels or masks cannot be had or do not fit
        ├── WeightsError            weights cannot be had, or do not belong to the model
        ├── ResultsError            results, parts or traces cannot be read, or are other ones
        ├── MissingExtraError       a package is not installed; names the extra
        ├── GateError               a gate that was asked for does not hold: exit code 1
        └── UndecidedError          a gate can neither hold nor fall short: exit code 3
    """

    @property
    def template(self) -> str:
        """Return the message with tokens where it names options."""
        return super().__str__()

    def __str__(self) -> str:
        return in_python(self.template)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ProviderError(QcamError):
    """An execution provider or a GPU cannot be had, or not for this file."""


class OutOfMemoryError(ProviderError):
    """A provider's memory, as that of a GPU, does not hold a session or a batch."""


class BundleError(QcamError):
    """A bundle is none, is damaged, or is not what its manifest says."""


class UnsupportedGraphError(BundleError):
    """A graph holds what qcam cannot run or mirror.

    Attributes:
        names_file: Whether the message begins with the file that holds the graph (`in_file`).
    """

    names_file = False


class ImageSetError(QcamError):
    """Images, labels or masks cannot be had, or do not fit."""


class WeightsError(QcamError):
    """Weights cannot be had, or do not belong to the model."""


class ResultsError(QcamError):
    """Results or parts cannot be read, or are other ones."""


class MissingExtraError(QcamError):
    """A package is not installed; the message names the extra that brings it."""


class GateError(QcamError):
    """A gate the user asked for does not hold: shown as one line, exit code 1."""


class UndecidedError(QcamError):
    """A gate can neither hold nor fall short, since its figure is undefined: shown as one line, exit code 3."""


def first_line(error: BaseException) -> str:
    """Say in one line what an exception says: its first line with text in it, or its type where it has no text.

    Args:
        error: Any exception, of whatever library.

    Returns:
        One line without control characters and terminal sequences, never empty; with tokens for options, as other messages
        take it in.
    """
    try:
        said = error.template if isinstance(error, QcamError) else str(error)
        lines = (_CONTROL.sub("", line).strip() for line in said.splitlines())
        text = next(filter(None, lines), "")
    except Exception:  # an exception whose text cannot be made still has a type
        text = ""
    return text or type(error).__name__


@contextmanager
def in_file(file: str | Path) -> Iterator[None]:
    """Let a graph that is refused say in which file it is: whoever follows a graph knows nodes, not files.

    Args:
        file: The file, or what messages call it.

    Raises:
        UnsupportedGraphError: What was raised inside, the file in front of its message unless it names one already.
    """
    try:
        yield
    except UnsupportedGraphError as error:
        if error.names_file or str(file) in error.template:
            raise
        named = UnsupportedGraphError(f"{file}: {error.template}")
        named.names_file = True
        raise named from error
