"""The tables of a page, against figures worked out by hand."""

from __future__ import annotations

from summaries import figure_of, run_of

from qcam.evaluate.report.findings import alarms
from qcam.evaluate.report.html_tables import flip_table, main_table, paired_table
from qcam.evaluate.report.runs import Column


def test_a_cell_has_its_interval_count_and_what_was_published() -> None:
    run = run_of([figure_of("int16", 0.93, undefined=2), figure_of("int16", 0.4, comparison="vs_saliency", metric="SIM")])
    salient, quantized = main_table([Column(run, "mobilenet_v2", "mobilenet_v2")])
    (cell,) = quantized.rows[0].cells
    assert (cell.text, cell.interval, cell.n, cell.undefined) == ("0.930 ± 0.100", "0.900 to 0.950", "n 20", 2)
    assert cell.published == "0.83 ± 0.10 (+0.10)"
    assert salient.rows[0].cells[0].published == "0.68 ± 0.34 (not compared)"


def test_random_weights_are_not_held_against_the_paper() -> None:
    run = run_of([figure_of("int16", 0.93)], trained=False)
    column = Column(run, "mobilenet_v2", "mobilenet_v2")
    assert main_table([column])[0].rows[0].cells[0].published == "0.83 ± 0.10"
    assert "Random weights" in dict(alarms([run]))


def test_flips_stand_apart_from_drift_without_one() -> None:
    means = {"flipped": {"mean": 0.25, "n": 1}, "kept": {"mean": 0.75, "n": 3}}
    flip = {"model": "m", "precision": "int8", "flipped": 1, "kept": 3, "unknown": 0, "SIM": means, "CC": means, "KLD": {}}
    (row,) = flip_table([run_of([figure_of("int8", 0.5, model="m")], flips=[flip])])
    assert (row.flipped, row.share, row.has_flips) == ("1 of 4", "25 %", True)
    assert row.metrics == [["0.250", "0.750"], ["0.250", "0.750"], ["–", "–"]]


def test_tests_name_what_they_compare() -> None:
    test = {
        "model": "m", "metric": "CC", "comparison": "vs_f32", "first": "f32", "second": "int8", "n": 20,
        "mean_difference": -0.1, "low": -0.2, "high": -0.05, "p": 0.001, "p_holm": 0.004, "effect": -0.5,
    }  # fmt: skip
    ((metric, (row,)),) = paired_table([run_of([figure_of("int8", 0.5, model="m")], tests=[test])]).items()
    assert metric == "CC"
    assert row.compared == "int8 less f32 again, v. f32"
    assert (row.difference, row.interval, row.p, row.effect) == ("−0.1000", "−0.2000 to −0.0500", "0.004", "−0.50")
    assert row.clear
