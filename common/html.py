"""Small pieces of HTML for notebooks: self-contained, everything escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

from qcam.common.printable import printable

_STYLE = "border-collapse:collapse;font-family:system-ui,sans-serif;font-size:13px"
_CELL = "padding:2px 10px 2px 0;text-align:left;border:0"


def facts(title: str, values: Mapping[str, object]) -> str:
    """Return a heading and a table of two columns.

    Args:
        title: The heading.
        values: Name → value, shown as text.
    """
    rows = "".join(
        f'<tr><th style="{_CELL};font-weight:normal;opacity:.7">{escaped(name)}</th>'
        f'<td style="{_CELL}">{escaped(value)}</td></tr>'
        for name, value in values.items()
    )
    return f'<div><b>{escaped(title)}</b><table style="{_STYLE}">{rows}</table></div>'


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a row of headings."""
    top = "".join(f'<th style="{_CELL}">{escaped(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(f'<td style={_quoted(_CELL)}>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table style="{_STYLE}"><tr>{top}</tr>{body}</table>'


def picture(data: bytes, caption: str, *, kind: str = "image/png") -> str:
    """Return an embedded picture over its caption.

    Args:
        data: The picture's file.
        caption: Text below it.
        kind: Its media type.
    """
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    text = escaped(caption)
    return (
        f'<figure style="display:inline-block;margin:4px 8px 4px 0;font:13px system-ui,sans-serif">'
        f'<img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
    )


def escaped(value: object) -> str:
    """Return a value as text that HTML shows as it is, also inside an attribute."""
    return html.escape(printable(str(value)), quote=True)


def _quoted(text: str) -> str:
    return f'"{text}"'
