"""Tables in Markdown: table.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qcam.evaluate.report.placement_table import placement_as_markdown
from qcam.evaluate.report.sections import Section, main_section
from qcam.evaluate.results.records import Entry
from qcam.evaluate.showing.markdown import escape_markdown, table_markdown
from qcam.runtime.deployed.placement import Placement


def main_markdown(entries: Iterable[Entry]) -> str:
    """Return the study's table."""
    section = main_section(entries)
    return table_markdown(section.headings, section.left, section.rows)


def section_markdown(section: Section | None) -> str:
    """Return a section with its title and remarks; empty without one."""
    if section is None:
        return ""
    remarks = "".join(f"\n- {escape_markdown(remark)}" for remark in section.remarks)
    end = "\n" if remarks else ""
    return f"{escape_markdown(section.title)}:\n\n{table_markdown(section.headings, section.left, section.rows)}{remarks}{end}"


def placement_markdown(placements: Mapping[str, Mapping[str, Any]], where: str) -> str:
    """Return the placement of every session.

    Args:
        placements: Content of placement.json.
        where: What messages call it.

    Raises:
        ResultsError: If a field is missing or of another type.
    """
    read = {
        (model, name): Placement.from_json(value, f"{where} of {model} {name}")
        for model, sessions in placements.items()
        for name, value in sessions.items()
    }
    return "".join(
        f"\n{escape_markdown(f'{model} {name}: {placement.describe()}')}\n\n{placement_as_markdown(placement)}"
        for (model, name), placement in read.items()
    )
