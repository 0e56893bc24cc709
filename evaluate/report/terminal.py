"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from qcam.common.printable import printable
from qcam.evaluate.report.sections import Section, main_section
from qcam.evaluate.results.records import Entry

#: Columns that the two headings, and one model, take in a terminal.
_HEAD_WIDTH, _CELL_WIDTH = 52, 21


def main_tables(entries: Sequence[Entry], title: str, width: int | None = None) -> list[Table]:
    """Return the study's table, cut into several by models where it would be wider than the terminal.

    Args:
        entries: Of a summary.
        title: Above each table.
        width: Columns of the terminal; None does not limit.
    """
    models = list(dict.fromkeys(entry.model for entry in entries))
    per_table = max(1, len(models) if width is None else (width - _HEAD_WIDTH) // _CELL_WIDTH)
    parts = [models[start : start + per_table] for start in range(0, len(models), per_table)]
    return [
        _table(main_section([entry for entry in entries if entry.model in part], title), title_style="bold", no_wrap=True)
        for part in parts
    ]


def section_table(section: Section) -> Table:
    """Return a section for a terminal."""
    return _table(section, title_style=None, no_wrap=False)


def _table(section: Section, *, title_style: str | None, no_wrap: bool) -> Table:
    caption = "\n".join(escape(printable(remark)) for remark in section.remarks) or None
    table = Table(title=escape(printable(section.title)), title_justify="left", caption=caption, caption_justify="left")
    if title_style is not None:
        table.title_style = title_style
    for index, heading in enumerate(section.headings):
        table.add_column(escape(printable(heading)), justify="left" if index < section.left else "right", no_wrap=no_wrap)
    for row in section.rows:
        if row:
            table.add_row(*(escape(printable(text)) for text in row))
        else:
            table.add_section()
    return table
