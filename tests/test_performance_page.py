"""The page on performance is made section by section; what was not measured anew stays, and is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import performance

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def test_the_page_has_the_sections_that_it_is_made_of():
    page = PAGE.read_text(encoding="utf-8")
    found = performance.sections(page)
    assert "".join(found.values()) == page
    titles = list(performance.SECTIONS.values())
    assert list(found) in (["", *titles], ["", *(title for title in titles if title != performance.SECTIONS["again"])])
    assert all(text.startswith(f"## {title}\n") for title, text in found.items() if title)


@pytest.mark.parametrize("page", ["", "# Performance\n\n## Export\n\nfigures\n"])
def test_a_section_that_is_nowhere_is_asked_for(page, tmp_path):
    (tmp_path / "export.json").write_text("{}")
    (tmp_path / "page.md").write_text(page)
    told = ["--export", str(tmp_path / "export.json"), "--output", str(tmp_path / "page.md")]
    result = CliRunner().invoke(performance.main, told)
    assert result.exit_code == 2
    assert "has no section Beside bare inference and beside peers, Whole commands" in result.output
    assert (tmp_path / "page.md").read_text() == page
