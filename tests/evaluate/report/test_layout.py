"""The layout: what every medium shows, in which order."""

from __future__ import annotations

import doctest

from summaries import figure_of, summary_record

from qcam.evaluate.report import layout
from qcam.evaluate.report.layout import blocks, by_model, fill


def entries(*found):
    return by_model(summary_record({"entries": list(found)}).entries)["mobilenet_v2"]


def test_titles_are_as_their_examples_say():
    tried = doctest.testmod(layout)
    assert tried.attempted == 3
    assert tried.failed == 0


def test_no_figure_stands_twice_and_the_null_row_is_of_maps_alone():
    addresses = [line.address for block in blocks() for line in block.lines]
    assert len(addresses) == len(set(addresses)) == 36 + 9 * 3 * 3 + 18 * 3 - 6  # f32 agrees with itself
    null = [(line.title, line.label) for block in blocks() for line in block.lines if line.null]
    again = [f"{title} again v. {title}" for title in ("f32", "f32", "int16", "int8")]  # of each comparison, if there is one
    assert null == [(title, metric) for title in again for metric in ("SIM", "CC", "KLD")]


def test_the_paper_has_fifteen_of_the_lines():
    assert sum(line.published for block in blocks() for line in block.lines) == 15


def test_precisions_of_other_tools_stand_behind_qcam_s():
    ((block, lines), *_) = [of for of in fill([entries(figure_of("vendor", 0.5), figure_of("int8", 0.5))]) if of[1]]
    assert [line.line.title for line in lines] == ["int8 v. f32", "vendor v. f32"]
    assert block.maps


def test_a_line_is_there_if_anything_was_tried_and_the_first_of_its_title_says_so():
    figures = entries(
        figure_of("int16", None, n=0, undefined=3), figure_of("int16", 0.5, metric="KLD"), figure_of("f32", None, n=0)
    )
    ((_, lines),) = [of for of in fill([figures]) if of[1]]
    assert [(line.line.label, line.first, line.defined) for line in lines] == [("CC", True, False), ("KLD", False, True)]
