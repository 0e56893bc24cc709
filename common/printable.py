"""Names from outside in a line of text: what does not print is written as an escape sequence."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text with everything that does not print escaped: control characters, line ends, changes of direction.

    >>> printable("a\x1b[31m\n")
    'a\\x1b[31m\\n'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
