"""A strip for each model of each run, where clipping was counted."""

from __future__ import annotations

from types import SimpleNamespace

from qcam.evaluate.report.clipping import clipping_figures
from qcam.evaluate.report.runs import Column
from qcam.evaluate.results.records import ClippedTensor, Clipping, ModelRecord, Summary


def tensor(share, error):
    return ClippedTensor(name="t", lowest=0, highest=1, n=9, low=share / 4, high=share * 3 / 4, below=0, above=0, error=error)


def column(name, *clipping):
    """Make the column of a run that holds what two models clipped."""
    models = {"net": ModelRecord(calibration_images=8), "other": ModelRecord()}
    run = SimpleNamespace(summary=Summary(clipping=clipping), record=SimpleNamespace(models=models), entries={})
    return Column(run, "net", f"net · {name}")


def test_each_model_of_a_run_has_a_strip_for_each_precision_and_runs_that_counted_nothing_have_none():
    int16, int8 = (Clipping("net", name, 20, (tensor(0.0, 0.0), tensor(0.25, 4.0))) for name in ("int16", "int8"))
    other = Clipping("other", "int8", 20, (tensor(0.5, 0.5),))
    without = Clipping("net", "vendor", 20, ())
    earlier, first, second = column("earlier"), column("first", int16, int8, other), column("second", int8, without)
    for each in (earlier, first, second):
        each.run.entries["net"] = {("vs_f32", name, "CC"): None for name in ("int16", "int8")}
    found = clipping_figures([earlier, first, second])
    assert [figure.chart.title for figure in found] == [
        "net · first: clipped values over depth", "net · second: clipped values over depth",
    ]  # fmt: skip
    assert len({figure.chart.name for figure in found}) == 2
    assert found[1].chart.description.startswith("int8: 1 of 2 tensors clip, at most 25")
    assert [line.partition(": ")[0] for line in found[0].lines] == ["net, int16", "net, int8"]
    assert "clipping is the larger error in 1 (ranges come from 8 photographs), rounding in the other 1" in found[0].lines[0]
