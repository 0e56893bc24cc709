"""Numbers and names as they enter: each is checked where options are made, and becomes Python's own type."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from qcam.common.errors import QcamError
from qcam.common.vocabulary import near


def whole(value: Any, what: str, *, least: int = 1) -> int:
    """Return a whole number; numpy's count as such, truth values and text do not.

    Args:
        value: What was given.
        what: What it is, for the message; may be a token, `{batch_size}`.
        least: The smallest that is accepted.

    Raises:
        QcamError: If it is no whole number, or a smaller one.

    >>> whole(4, "{batch_size}"), whole(0, "pictures", least=0)
    (4, 0)
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise QcamError(f"{what} {reprlib.repr(value)}: give a whole number, {least} or more")
    return int(value)


def whole_or_none(value: Any, what: str) -> int | None:
    """Return a whole number from 1, or None, which leaves the choice to the program. Arguments and errors as `whole`."""
    return None if value is None else whole(value, what)


def truth(value: Any, what: str) -> bool:
    """Return yes or no; numbers and text are neither, since any text would be yes.

    Args:
        value: What was given.
        what: What it is, for the message; may be a token, `{tf32}`.

    Raises:
        QcamError: If it is neither.

    >>> truth(True, "{tf32}")
    True
    """
    if not isinstance(value, bool):
        raise QcamError(f"{what} {reprlib.repr(value)}: give True or False")
    return value


def real(value: Any, what: str) -> float:
    """Return a number; truth values and text are none.

    Args:
        value: What was given.
        what: What it is, for the message.

    Raises:
        QcamError: If it is no number.

    >>> real(1, "{mean}")
    1.0
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise QcamError(f"{what} {reprlib.repr(value)}: give a number")
    return float(value)


def share(value: Any, what: str) -> float:
    """Return a share, 0..1.

    Args:
        value: What was given.
        what: What it is, for the message.

    Raises:
        QcamError: If it is no number, or not between 0 and 1.

    >>> share(0.5, "opacity")
    0.5
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise QcamError(f"{what} {reprlib.repr(value)}: give a number between 0 and 1")
    return float(value)


def names(value: Any, what: str) -> tuple[str, ...]:
    """Return names in their order; a text by itself is one name, not its letters.

    Args:
        value: A text, or several of them.
        what: What they are, for the message.

    Raises:
        QcamError: If one of them is no text.

    >>> names("int8", "{precision}"), names(["f32", "int8"], "{precision}")
    (('int8',), ('f32', 'int8'))
    """
    given = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    for name in given:
        if not isinstance(name, str):
            raise QcamError(f"{what} {reprlib.repr(name)}: give a name as text, or several in a list")
    return tuple(map(str, given))


def texts(value: Any, what: str) -> dict[str, str]:
    """Return a mapping of text to text; None is an empty one.

    Args:
        value: What was given.
        what: What it is, for the message; may be a token, `{provider_option}`.

    Raises:
        QcamError: If it is no mapping, or one of its keys or values is no text.

    >>> texts({"device_id": "1"}, "{provider_option}"), texts(None, "{session_config}")
    ({'device_id': '1'}, {})
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise QcamError(f"{what} {reprlib.repr(value)}: give a mapping of text to text")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise QcamError(f"{what} {{{reprlib.repr(key)}: {reprlib.repr(text)}}}: give a mapping of text to text")
    return dict(value)


def known(given: Iterable[str], those: Iterable[str], what: str, where: str) -> None:
    """Refuse names that there are not.

    Args:
        given: The names.
        those: All that there are.
        what: What they are, for the message: `model`, `image`.
        where: Where they were looked for.

    Raises:
        QcamError: Names the first that is unknown, and those that are most like it.
    """
    there = dict.fromkeys(those)
    for name in given:
        if name not in there:
            close = near(name, there)
            advice = f"did you mean {' or '.join(close)}?" if close else f"there is {', '.join(list(there)[:3]) or 'none'}"
            raise QcamError(f"{where} holds no {what} {name!r}; {advice}{' …' * (not close and len(there) > 3)}")
