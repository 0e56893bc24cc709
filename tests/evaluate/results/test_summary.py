"""The summary: counts, tests between precisions, class flips apart from drift; and its forms in CSV, LaTeX and Markdown."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from qcam.evaluate.maps.statistics import paired_test
from qcam.evaluate.report import table_files
from qcam.evaluate.report.published import COLUMNS, comparable, published
from qcam.evaluate.report.table import as_markdown, table_rows
from qcam.evaluate.report.table_files import (
    as_csv,
    as_latex,
    beside_the_paper,
    escape_latex,
    flips_as_markdown,
    intervals_as_markdown,
    paired_section,
)
from qcam.evaluate.results.folder import Row
from qcam.evaluate.results.summary import columns_of, summarise

CCS = {"f32": [1.0] * 6, "int16": [0.99, 0.98, 1.0, 0.97, 0.99, None], "int8": [0.9, 0.8, 0.95, 0.5, 0.7, None]}
FLIPPED = [False, False, False, True, True, None]


def rows(model="mobilenet_v2"):
    made = []
    for precision, ccs in CCS.items():
        for index, cc in enumerate(ccs):
            status = "ok" if cc is not None else "refused: not an image"
            common = {"image": f"{index}.jpg", "image_sha256": "", "model": model, "precision": precision, "status": status}
            agrees = None if FLIPPED[index] is None else precision != "int8" or not FLIPPED[index]
            values = {} if cc is None else {"CC": cc, "SIM": cc - 0.1, "KLD": 1 - cc}
            made.append(Row(**common, comparison="vs_f32", top1_agrees=agrees, logit_error=0.5, **values))
            values = {} if cc is None else {"CC": cc / 2, "SIM": cc / 3, "KLD": 2 - cc, "energy_in_object": cc / 4}
            top1 = None if cc is None else 3
            head = common | {"status": "no_object: largest probability 0.1" if index == 2 and cc is not None else status}
            made.append(Row(**head, comparison="vs_saliency", top1=top1, label=3 if index < 2 else 4, **values))
    return made


@pytest.fixture
def summary():
    return summarise(columns_of(rows()).items())


def entry(summary, precision, comparison, metric):
    (found,) = [
        e for e in summary["entries"] if (e["precision"], e["comparison"], e["metric"]) == (precision, comparison, metric)
    ]
    return found


def test_a_precision_of_another_tool_comes_behind_those_of_qcam():
    vendor = [replace(row, precision="int8-vendor") for row in rows() if row.precision == "int8"]
    told = summarise(columns_of([*vendor, *rows()]).items())
    named = [e["precision"] for e in told["entries"] if (e["comparison"], e["metric"]) == ("vs_f32", "CC")]
    assert named == ["f32", "int16", "int8", "int8-vendor"]
    assert [flips["precision"] for flips in told["flips"]] == ["int16", "int8", "int8-vendor"]


def test_entries_have_mean_deviation_interval_and_counts(summary):
    found = entry(summary, "int8", "vs_f32", "CC")
    values = np.array(CCS["int8"][:5])
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())
    assert (found["n"], found["undefined"]) == (5, 1)
    assert values.min() < found["low"] < values.mean() < found["high"] < values.max()
    assert entry(summary, "int8", "vs_label", "accuracy")["mean"] == pytest.approx(2 / 5)
    assert entry(summary, "int8", "vs_saliency", "energy_in_object")["mean"] == pytest.approx(values.mean() / 4)
    assert not [e for e in summary["entries"] if e["metric"] in ("overlap", "drop")]  # measured for no image
    assert "NaN" not in json.dumps(summary)


def test_every_image_is_counted_by_what_became_of_it(summary):
    assert summary["statuses"] == {"mobilenet_v2": {"ok": 4, "no_object": 1, "refused": 1}}


def test_precisions_are_tested_image_by_image(summary):
    told = {(t["comparison"], t["first"], t["second"], t["metric"]): t for t in summary["tests"]}
    assert len(told) == 2 * 3 * 3
    found = told[("vs_f32", "int16", "int8", "CC")]
    as_array = {name: np.array([np.nan if v is None else v for v in values]) for name, values in CCS.items()}
    expected = paired_test(as_array["int16"], as_array["int8"])
    assert (found["n"], found["effect"]) == (5, -1.0)
    assert found["p"] == pytest.approx(expected.p)
    assert found["mean_difference"] == pytest.approx(expected.mean_difference)
    assert found["low"] < found["mean_difference"] < found["high"] < 0
    assert found["p_holm"] >= found["p"]
    assert max(t["p_holm"] for t in summary["tests"]) <= 1.0


def test_flips_are_told_apart_from_drift(summary):
    by_precision = {flip["precision"]: flip for flip in summary["flips"]}
    int8 = by_precision["int8"]
    assert (int8["flipped"], int8["kept"], int8["unknown"]) == (2, 3, 1)
    assert int8["CC"]["flipped"] == {"mean": pytest.approx(0.6), "n": 2}
    assert int8["CC"]["kept"] == {"mean": pytest.approx((0.9 + 0.8 + 0.95) / 3), "n": 3}
    assert by_precision["int16"]["flipped"] == 0
    assert by_precision["int16"]["CC"]["flipped"] == {"mean": None, "n": 0}


def test_the_null_row_stands_in_the_table(summary):
    _, body = table_rows(summary["entries"])
    titles = [row[0] for row in body if row]
    assert "f32 again v. f32" in titles
    assert titles.index("f32 again v. f32") < titles.index("int16 v. f32")
    assert "| f32 again v. f32 | SIM | 0.900 ± 0.000 |" in as_markdown(summary["entries"])


@pytest.mark.parametrize(
    ("model", "precision", "comparison", "metric", "expected"),
    [
        ("vgg16", "f32", "vs_saliency", "SIM", (0.44, 0.19)),
        ("resnet50", "int8", "vs_f32", "CC", (0.61, 0.29)),
        ("densenet121", "int16", "vs_f32", "KLD", (0.05, 0.11)),
        ("mobilenet_v2", "int8", "vs_f32", "CC", (0.76, 0.12)),
        ("efficientnet_b0", "int8", "vs_f32", "KLD", (0.40, 0.17)),
        ("squeezenet1_1", "int16", "vs_f32", "CC", (0.92, 0.18)),
        ("squeezenet1_0", "int16", "vs_f32", "CC", (0.92, 0.18)),
        ("efficientnet_lite0", "int8", "vs_f32", "CC", None),
        ("vgg16", "f32", "vs_f32", "CC", None),
        ("vgg16", "int8", "fake_quant_vs_deployed", "CC", None),
        ("vgg16", "int8", "vs_f32", "overlap", None),
    ],
)
def test_published_figures_are_the_paper_s(model, precision, comparison, metric, expected):
    assert published(model, precision, comparison, metric) == expected


def test_every_cell_of_the_paper_s_table_is_there():
    cells = [
        published(model, precision, comparison, metric)
        for model in COLUMNS
        for precision, comparison in [(p, "vs_saliency") for p in CCS] + [("int16", "vs_f32"), ("int8", "vs_f32")]
        for metric in ("SIM", "CC", "KLD")
    ]
    assert len(cells) == 90
    assert None not in cells
    assert not comparable("vs_saliency", "SIM")
    assert comparable("vs_f32", "SIM")


def test_measured_stands_beside_published(summary):
    text = beside_the_paper(summary["entries"])
    assert "| int8 v. f32 | SIM | 0.67 ± 0.16; 0.92 ± 0.07; -0.25 |" in text
    assert "|  | CC | 0.77 ± 0.16; 0.76 ± 0.12; +0.01 |" in text
    assert "0.64 ± 0.34; not compared |" in text
    assert "SIM v. salient object is not held against the paper" in text
    assert beside_the_paper(summarise(columns_of(rows("efficientnet_lite0")).items())["entries"]) == ""
    assert "SqueezeNet-1.1" in beside_the_paper(summarise(columns_of(rows("squeezenet1_1")).items())["entries"])


def test_random_weights_are_not_held_against_the_paper(summary):
    assert beside_the_paper(summary["entries"], untrained=["mobilenet_v2"]) == ""
    lines = list(csv.DictReader(io.StringIO(as_csv(summary, untrained=["mobilenet_v2"]))))
    assert len(lines) == len(summary["entries"])
    assert {(line["published_mean"], line["published_std"], line["difference"]) for line in lines} == {("", "", "")}


def test_intervals_stand_in_the_layout_of_the_table(summary):
    text = intervals_as_markdown(summary)
    how = "95 % percentile bootstrap of the mean over images, 2000 resamples, seed 0"
    assert text.startswith(f"Intervals of the means ({how}):")
    cc = entry(summary, "int8", "vs_f32", "CC")
    assert f"|  | CC | {cc['low']:.3f} to {cc['high']:.3f} |" in text
    assert "| f32 again v. f32 | SIM | 0.900 |" in text  # no width
    accuracy = entry(summary, "int8", "vs_label", "accuracy")
    assert f"| top-1 right | int8 | {accuracy['low']:.1%} to {accuracy['high']:.1%} |" in text
    one = [row for row in rows() if row.image == "0.jpg"]
    assert intervals_as_markdown(summarise(columns_of(one).items())) == ""  # one image has no interval


def test_a_pair_that_does_not_differ_is_said_to():
    equal = [replace(row, CC=None if row.CC is None else 0.5) for row in rows()]
    summary = summarise(columns_of(equal).items())
    same = [test for test in summary["tests"] if test["metric"] == "CC"]
    assert {(t["n"], t["differing"], t["p"], t["p_holm"], t["effect"]) for t in same} == {(5, 0, 1.0, 1.0, 0.0)}
    text = table_files.tests_as_markdown(summary)
    assert text.count("1 (no image differs)") == len(same) == 6


def test_a_p_too_small_for_its_digits_is_not_zero():
    many = [
        Row(f"{n}.jpg", "", "m", p, "vs_f32", CC=1.0 if p == "f32" else 0.5 + n / 1e6, SIM=0.5, KLD=0.5)
        for n in range(3000)
        for p in ("f32", "int8")
    ]
    summary = summarise(columns_of(many).items())
    (cc,) = [test for test in summary["tests"] if test["metric"] == "CC"]
    assert (cc["n"], cc["effect"]) == (3000, -1.0)
    assert "| < 0.0001 | -1.00 |" in table_files.tests_as_markdown(summary)


def test_what_only_rounds_to_one_does_not_look_exact():
    made = []
    for index in range(4):
        made.append(Row(f"{index}.jpg", "", "m", "f32", "vs_f32", CC=1.0, SIM=1.0, KLD=0.0))
        near = 1.0 - (index + 1) * 1e-6
        made.append(Row(f"{index}.jpg", "", "m", "int16", "vs_f32", CC=near, SIM=1.0 if index else near, KLD=1e-6))
    summary = summarise(columns_of(made).items())
    text = intervals_as_markdown(summary)
    assert "| f32 again v. f32 | SIM | 1.000 |\n|  | CC | 1.000 |\n|  | KLD | 0.000 |" in text
    assert "| int16 v. f32 | SIM | 1.000 to 1.000 |\n|  | CC | 1.000 to 1.000 |" in text
    assert "| CC | 4 | -2.5e-06 (-3." in table_files.tests_as_markdown(summary)


def test_sections_are_shown_on_a_terminal_too(summary):
    console = Console(file=io.StringIO(), width=160)
    section = paired_section(summary)
    assert section is not None
    console.print(section.as_rich())
    told = console.file.getvalue()
    assert "int8 v. f32 less int16 v. f32" in told
    assert len(section.rows) == len(summary["tests"]) == 18


def test_csv_has_every_figure_and_no_formula():
    summary = summarise(columns_of(rows("=cmd|'x'")).items())
    lines = list(csv.DictReader(io.StringIO(as_csv(summary))))
    assert len(lines) == len(summary["entries"])
    assert {line["model"] for line in lines} == {"'=cmd|'x'"}
    known = list(csv.DictReader(io.StringIO(as_csv(summarise(columns_of(rows()).items())))))
    (cc,) = [x for x in known if (x["precision"], x["comparison"], x["metric"]) == ("int8", "vs_f32", "CC")]
    assert float(cc["published_mean"]) == 0.76
    assert float(cc["difference"]) == pytest.approx(0.77 - 0.76)
    (sim,) = [x for x in known if (x["precision"], x["comparison"], x["metric"]) == ("int8", "vs_saliency", "SIM")]
    assert (sim["published_mean"], sim["difference"]) == ("0.64", "")


def test_latex_is_a_whole_table_with_names_escaped(summary):
    text = as_latex(summary)
    assert text.count("\\begin{tabular}{llc}") == text.count("\\end{tabular}") == 1
    assert "mobilenet\\_v2" in text
    assert "int8 v. f32 & SIM & $0.670 \\pm 0.160$ \\\\" in text
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.count("&") - line.count("\\&") for line in body} == {2}
    assert escape_latex("a_b%c\\d~e") == "a\\_b\\%c\\textbackslash{}d\\textasciitilde{}e"


def test_flips_and_tests_in_markdown(summary):
    flips = flips_as_markdown(summary)
    assert "| mobilenet_v2 | int8 | 2 of 5 | 0.500 / 0.783 | 0.600 / 0.883 | 0.400 / 0.117 |" in flips
    tests = table_files.tests_as_markdown(summary)
    assert "| mobilenet_v2 | int8 v. f32 less int16 v. f32 | CC | 5 | -0.2160 (" in tests
    assert flips_as_markdown({"flips": []}) == table_files.tests_as_markdown({"tests": []}) == ""
