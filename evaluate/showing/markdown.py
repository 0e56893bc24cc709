"""Markdown: texts that stand for themselves, and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from qcam.common.printable import printable

_SPECIAL = str.maketrans({"\\": "\\\\", "|": "\\|", "`": "\\`", "*": "\\*", "~": "\\~"})
#: What begins a tag of HTML.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
#: What begins a character's name.
_ENTITY = re.compile(r"&(?=#?\w+;)")
#: Underscores that are not within a word: they may emphasize.
_EDGE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


def table_markdown(headings: Sequence[str], left: int, rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    Args:
        headings: Of its columns.
        left: How many of the first columns are text.
        rows: Its rows; empty ones are left out.
    """
    ruler = ["---"] * left + ["---:"] * (len(headings) - left)
    lines = [headings, ruler, *(row for row in rows if row)]
    return "".join("| " + " | ".join(map(escape_markdown, line)) + " |\n" for line in lines)


def escape_markdown(text: str) -> str:
    """Return a text that stands for itself in a line or a cell of Markdown: no markup, no HTML, no line ends, no link."""
    plain = printable(text).translate(_SPECIAL)
    plain = _EDGE.sub(r"\\_", _ENTITY.sub("&amp;", plain))
    return _TAG.sub("&lt;", plain).replace("](", "]\\(")
