"""The main results in words."""

from __future__ import annotations

from summaries import figure_of, run_of

from qcam.evaluate.report.findings import alarms, findings
from qcam.evaluate.report.html_tables import main_table, paper_remarks
from qcam.evaluate.report.runs import Column


def test_a_null_row_that_is_not_1_is_marked_and_said() -> None:
    for mean, odd, words in ((1.0, False, "exactly 1"), (0.758, True, "mean CC down to 0.758")):
        run = run_of([figure_of("f32", mean)])
        column = Column(run, "mobilenet_v2", "mobilenet_v2")
        (row,) = main_table([column])[0].rows
        assert row.line.null
        assert row.cells[0].odd is odd
        assert words in findings([column])[0]


def test_a_null_row_without_f32_that_is_not_1_is_marked_and_said() -> None:
    for mean, odd, words in (
        (1.0, False, "int8 run a second time gives the very same"),
        (0.7, True, "int8 differs from itself"),
    ):
        run = run_of([figure_of("int8", mean, comparison="vs_itself")])
        column = Column(run, "mobilenet_v2", "mobilenet_v2")
        ((row,),) = (group.rows for group in main_table([column]))
        assert (row.line.title, row.line.null, row.cells[0].odd) == ("int8 again v. int8", True, odd)
        first, null = findings([column])
        assert first == "No f32 in the bundle: nothing is held against it (mobilenet_v2)."
        assert words in null


def test_what_nobody_knows_to_be_trained_is_told_and_not_held_against_the_paper() -> None:
    unknown = Column(run_of([figure_of("int8", 0.5)], trained=None), "mobilenet_v2", "unknown")
    random = Column(run_of([figure_of("int8", 0.4)], trained=False), "mobilenet_v2", "random")
    assert findings([unknown, random])[0] == "int8 against f32: mean CC 0.500 (unknown)."
    (row,) = main_table([unknown])[0].rows
    assert (row.cells[0].text[:5], row.cells[0].published) == ("0.500", "")
    assert paper_remarks([unknown]) == []
    ((head, told),) = alarms([unknown.run])
    assert (head, told.partition(". ")[0]) == ("Warning", "mobilenet_v2: weights: not known whether trained")


def test_the_main_results_come_in_words() -> None:
    both = [figure_of("int8", 0.76), figure_of("int8", 0.5, model="squeezenet1_0")]
    run = run_of(both, flips=[{"model": "mobilenet_v2", "precision": "int8", "flipped": 3, "kept": 17, "unknown": 0}])
    told = findings([Column(run, model, model) for model in ("mobilenet_v2", "squeezenet1_0")])
    drift = "int8 against f32: mean CC 0.500 (squeezenet1_0) to 0.760 (mobilenet_v2); published for these models: 0.76 to 0.89."
    assert drift in told
    assert "Top-1 class changed: int8 3 of 20 (15 %)." in told


def simulated(*precisions: str) -> list[str]:
    figures = [figure_of(name, 0.5 + place / 10, comparison="fake_quant_vs_deployed") for place, name in enumerate(precisions)]
    told = findings([Column(run_of(figures), "mobilenet_v2", "mobilenet_v2")])
    return [line.partition(" at least")[0] for line in told if line.startswith("Fake-quant")]


def test_what_a_simulation_predicts_is_said_of_names_of_somebodys_own_too() -> None:
    said = "Fake-quant simulation predicts the deployed {} CAM to mean CC {}"
    assert simulated("int16", "int8") == [said.format("int8", "0.600")]
    assert simulated("int16", "int8", "vendor") == [said.format("int8", "0.600"), said.format("vendor", "0.700")]
    assert simulated("int16") == [said.format("int16", "0.500")]
    assert simulated("vendor") == [said.format("vendor", "0.500")]
