"""table.tex."""

from __future__ import annotations

from summaries import columns_of, rows, summary_record

from qcam.evaluate.report.latex import as_latex, escape_latex
from qcam.evaluate.results.summary import summarise


def test_latex_is_a_whole_table_with_names_escaped():
    text = as_latex(summary_record(summarise(columns_of(rows()).items())).entries)
    assert text.count("\\begin{tabular}{llc}") == text.count("\\end{tabular}") == 1
    assert "mobilenet\\_v2" in text
    assert "int8 v. f32 & SIM & $0.670 \\pm 0.160$ \\\\" in text
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.count("&") - line.count("\\&") for line in body} == {2}
    assert escape_latex("a_b%c\\d~e") == "a\\_b\\%c\\textbackslash{}d\\textasciitilde{}e"


def test_i4_control_characters_and_line_ends_stand_for_themselves() -> None:
    assert escape_latex('a\x1b\nb<>"') == r"a\textbackslash{}x1b\textbackslash{}nb\textless{}\textgreater{}\textquotedbl{}"
