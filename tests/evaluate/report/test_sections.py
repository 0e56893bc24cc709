"""The tables of a study as texts."""

from __future__ import annotations

import html
import io
import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from summaries import columns_of, rows, summary_record

from qcam.evaluate.report.markdown import main_markdown, section_markdown
from qcam.evaluate.report.scale import sentences
from qcam.evaluate.report.sections import (
    drift_section,
    flip_section,
    interval_section,
    main_section,
    paired_section,
    paper_section,
)
from qcam.evaluate.report.terminal import main_tables, section_table
from qcam.evaluate.results.folder import Row
from qcam.evaluate.results.summary import summarise
from qcam.evaluate.showing.markdown import escape_markdown


def summary_of(found):
    return summary_record(summarise(columns_of(found).items()))


@pytest.fixture
def summary():
    return summary_of(rows())


def entry(summary, precision, comparison, metric):
    (found,) = [e for e in summary.entries if (e.precision, e.comparison, e.metric) == (precision, comparison, metric)]
    return found


def test_the_null_row_stands_in_the_table(summary):
    titles = [row[0] for row in main_section(summary.entries).rows if row]
    assert "f32 again v. f32" in titles
    assert titles.index("f32 again v. f32") < titles.index("int16 v. f32")
    assert "| f32 again v. f32 | SIM | 0.900 ± 0.000 |" in main_markdown(summary.entries)


def test_measured_stands_beside_published(summary):
    text = section_markdown(paper_section(summary.entries))
    assert "| int8 v. f32 | SIM | 0.67 ± 0.16; 0.92 ± 0.07; not compared |" in text
    assert "|  | CC | 0.77 ± 0.16; 0.76 ± 0.12; +0.01 |" in text
    assert "0.64 ± 0.34; not compared |" in text
    assert "SIM v. salient object is not held against the paper" in text
    assert section_markdown(paper_section(summary_of(rows("efficientnet_lite0")).entries)) == ""
    assert "SqueezeNet-1.1" in section_markdown(paper_section(summary_of(rows("squeezenet1_1")).entries))


def test_random_weights_are_not_held_against_the_paper(summary):
    assert paper_section(summary.entries, untrained=["mobilenet_v2"]) is None


def test_intervals_stand_in_the_layout_of_the_table(summary):
    text = section_markdown(interval_section(summary))
    how = (
        "95 % percentile bootstrap of the mean over images, 2000 resamples, seed 0; "
        "of shares of images (top-1, increase) Wilson's"
    )
    assert text.startswith(f"Intervals of the means ({how}):")
    cc = entry(summary, "int8", "vs_f32", "CC")
    assert f"|  | CC | {cc.low:.3f} to {cc.high:.3f} |" in text
    assert "| f32 again v. f32 | SIM | 0.900 |" in text  # no width
    accuracy = entry(summary, "int8", "vs_label", "accuracy")
    assert f"| top-1 right | int8 | {accuracy.low:.1%} to {accuracy.high:.1%} |" in text
    one = [row for row in rows() if row.image == "0.jpg"]
    assert section_markdown(interval_section(summary_of(one))) == ""  # one image has no interval


def test_a_pair_that_does_not_differ_is_said_to():
    equal = [replace(row, CC=None if row.CC is None else 0.5) for row in rows()]
    summary = summary_of(equal)
    same = [test for test in summary.tests if test.metric == "CC"]
    assert {(t.n, t.differing, t.p_holm, t.effect) for t in same} == {(5, 0, 1.0, 0.0)}
    text = section_markdown(paired_section(summary))
    assert text.count("1 (no image differs)") - 3 == len(same) == 4  # of accuracy, too, none does


def test_a_p_too_small_for_its_digits_is_not_zero():
    many = [
        Row(f"{n}.jpg", "", "m", p, "vs_f32", CC=1.0 if p == "int16" else 0.5 + n / 1e6, SIM=0.5, KLD=0.5)
        for n in range(3000)
        for p in ("int16", "int8")
    ]
    summary = summary_of(many)
    (cc,) = [test for test in summary.tests if test.metric == "CC"]
    assert (cc.n, cc.effect) == (3000, -1.0)
    assert "| < 0.0001 | -1.00 |" in section_markdown(paired_section(summary))


def test_what_only_rounds_to_one_does_not_look_exact():
    made = []
    for index in range(4):
        made.append(Row(f"{index}.jpg", "", "m", "f32", "vs_f32", CC=1.0, SIM=1.0, KLD=0.0))
        near = 1.0 - (index + 1) * 1e-6
        made.append(Row(f"{index}.jpg", "", "m", "int16", "vs_f32", CC=near, SIM=1.0 if index else near, KLD=1e-6))
    summary = summary_of(made)
    text = section_markdown(interval_section(summary))
    assert "| f32 again v. f32 | SIM | 1.000 |\n|  | CC | 1.000 |\n|  | KLD | 0.000 |" in text
    assert "| int16 v. f32 | SIM | 0.999999" in text
    assert "1.000 to 1.000" not in text


def test_drift_stands_beside_what_else_moves_the_maps():
    units = [Row(f"{n}.jpg", "", "mobilenet_v2", "f32", "jpeg95", CC=0.75 + n / 1e6, SIM=0.9) for n in range(5)]
    references = columns_of(units)["mobilenet_v2"]
    summary = summary_record(summarise(columns_of(rows()).items(), lambda _model: references))
    text = section_markdown(drift_section(summary))
    assert "| mobilenet_v2 | int8 v. f32 | 5 | 0.2 | 0.1 to 0.3 | 0.5 | 3.jpg | undecided: 3 of 5 images, p 0.5 |" in text
    assert "| int16 v. f32 | 5 | 0.01 | 0.01 to 0.02 | 0.03 | 3.jpg | undecided: 5 of 5 images, p 0.062 |" in text
    assert "| mobilenet_v2 | picture as JPEG 95 | 5 | 0.25 | 0.25 to 0.25 | 0.25 | 0.jpg | – |" in text
    assert "moves maps less than: picture as JPEG 95" in text
    lines = sentences((of.model, of) for of in summary.scale)
    assert lines[1].startswith("int8 moves CAMs 0.92 times as much as storing the picture as JPEG 95 does (95 %: ")
    assert lines[1].endswith("(1 - CC; n 5).")
    models = (("a", 1), ("b", 20))
    two = sentences((name, replace(of, ratio=of.ratio * times)) for name, times in models for of in summary.scale)
    assert "int8 moves CAMs 0.92 (a) to 18 (b) times as much" in two[1]
    assert drift_section(summary_record({})) is None
    assert sentences([]) == []


def test_sections_are_shown_on_a_terminal_too(summary):
    console = Console(file=io.StringIO(), width=160)
    section = paired_section(summary)
    assert section is not None
    console.print(section_table(section))
    told = console.file.getvalue()
    assert "int8 v. f32 less int16 v. f32" in told
    assert len(section.rows) == len(summary.tests) == 15


def test_a_table_on_its_side_has_no_empty_headings(summary):
    console = Console(file=io.StringIO(), width=60)
    console.print(section_table(drift_section(summary), 60))
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    first = next(index for index, line in enumerate(lines) if line.startswith("┌"))
    assert "mobilenet_v2 int" in lines[first + 1]
    assert not any(set(line) <= {"┃", " "} for line in lines if line)


def test_flips_and_tests_in_markdown(summary):
    flips = section_markdown(flip_section(summary))
    assert "| mobilenet_v2 | int8 | 2 of 5 | 0.500 / 0.783 | 0.600 / 0.883 | 0.400 / 0.117 |" in flips
    tests = section_markdown(paired_section(summary))
    assert "| mobilenet_v2 | int8 v. f32 less int16 v. f32 | CC | 5 | -0.2160 (" in tests
    assert section_markdown(flip_section(summary_record({}))) == section_markdown(paired_section(summary_record({}))) == ""


def test_a_table_that_is_too_wide_is_cut_by_models():
    several = summary_record(summarise(columns_of([row for name in "abc" for row in rows(name)]).items()))
    assert [len(table.columns) for table in main_tables(several.entries, "t")] == [5]
    assert [len(table.columns) for table in main_tables(several.entries, "t", 100)] == [4, 3]
    assert [len(table.columns) for table in main_tables(several.entries, "t", 10)] == [3, 3, 3]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", r"a\|b"),
        ("a\nb\x1b[31m", r"a\\nb\\x1b[31m"),
        ("<img src=x>", "&lt;img src=x>"),
        ("p < 0.05", "p < 0.05"),
        ("[here](javascript:x)", r"[here]\(javascript:x)"),
        ("`*a*`", r"\`\*a\*\`"),
    ],
)
def test_i4_names_stand_for_themselves_in_markdown(name: str, shown: str) -> None:
    assert escape_markdown(name) == shown
    assert f"| {shown} |" in main_markdown(summary_of(rows(name)).entries)


@pytest.mark.parametrize("name", ["_a_.jpg", "__b__ c_d", "&lt;b&gt; &#42; a & b", "~~x~~", "[a](b) `c` **d**"])
def test_a_name_reads_as_it_is_where_markdown_is_shown(name):
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"- {escape_markdown(name)}")
    assert html.unescape(re.sub("<[^>]+>", "", page)).strip() == name
