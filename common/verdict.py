"""What a gate says, and what several say together."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """What a gate, a check or a study says."""

    HOLDS = "holds"
    FALLS_SHORT = "falls short"
    UNDECIDED = "undecided"


#: The ladder: whatever is higher up decides over what is below.
_LADDER = (Verdict.FALLS_SHORT, Verdict.UNDECIDED, Verdict.HOLDS)


def together(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """Return the verdict of several: falls short if one does, else undecided if one is, else holds.

    Args:
        verdicts: Of gates or of results; None where nothing was judged, which decides nothing.

    Returns:
        The verdict; None if nothing was judged.

    >>> together([Verdict.HOLDS, Verdict.UNDECIDED, None]).value
    'undecided'
    """
    found = set(verdicts)
    return next((verdict for verdict in _LADDER if verdict in found), None)


def told_apart(value: float, threshold: float | None, form: str = ".4f") -> str:
    """Return a number in a form, or with all its digits where the form would put it on the other side of a threshold.

    >>> told_apart(0.99999997, 1, ".6g"), told_apart(0.98, 0.9)
    ('0.99999997', '0.9800')
    """
    short = format(value, form)
    return short if threshold is None or (float(short) >= threshold) == (value >= threshold) else repr(value)
