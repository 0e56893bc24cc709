"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from qcam.common.printable import printable
from qcam.evaluate.report.sections import RULE, Section, main_section
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
        _table(main_section([entry for entry in entries if entry.model in part], title), title_style="bold") for part in parts
    ]


def section_table(section: Section, width: int | None = None) -> Table:
    """Return a section for a terminal: as it is, or where its figures would not fit, a line for each of them.

    Args:
        section: The section.
        width: Columns of the terminal; None does not limit.
    """
    if width is not None and _least_width(section) > width:
        section = _sideways(section)
    return _table(section, title_style=None)


def _least_width(section: Section) -> int:
    """Return the columns that a section takes at least: names fold between words, figures do not."""
    cells = [list(column) for column in zip(section.headings, *filter(None, section.rows), strict=True)]
    names = [max((len(word) for cell in column for word in cell.split()), default=0) for column in cells[: section.left]]
    figures = [max(map(len, column[1:]), default=0) for column in cells[section.left :]]
    return sum([*names, *figures]) + 3 * len(cells) + 1


def _sideways(section: Section) -> Section:
    """Return a section with a line for each figure, below the names that it belongs to."""
    rows: list[list[str]] = []
    for row in filter(None, section.rows):
        rows += [RULE] if rows else []
        rows.append([" ".join(row[: section.left]), ""])
        rows += [[head, cell] for head, cell in zip(section.headings[section.left :], row[section.left :], strict=True) if cell]
    return Section(section.title, ["", ""], rows, 1, section.remarks)


def _table(section: Section, *, title_style: str | None) -> Table:
    caption = "\n".join(escape(printable(remark)) for remark in section.remarks) or None
    table = Table(title=escape(printable(section.title)), title_justify="left", caption=caption, caption_justify="left")
    table.show_header = any(section.headings)
    if title_style is not None:
        table.title_style = title_style
    for index, heading in enumerate(section.headings):
        name = index < section.left
        longest = max((len(printable(row[index])) for row in section.rows if row), default=0)
        least = None if name else longest
        table.add_column(escape(printable(heading)), justify="left" if name else "right", overflow="fold", min_width=least)
    for row in section.rows:
        if row:
            table.add_row(*(escape(printable(text)) for text in row))
        else:
            table.add_section()
    return table
