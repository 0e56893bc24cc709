import doctest

import pytest
from judged import HIGH, LOW, NONE, judged
from rich.console import Console

from qcam.evaluate.check import tables
from qcam.evaluate.check.result import ValuesResult
from qcam.evaluate.check.tables import as_tables, values_table


@pytest.mark.parametrize("width", [60, 80, 120, 200, None])
def test_no_figure_is_cut_off_at_any_width(width):
    items = [judged(HIGH), judged(HIGH, arithmetic="fake_quant"), judged(LOW), judged(NONE), judged()]
    console = Console(width=width or 10_000, soft_wrap=True, emoji=False)
    with console.capture() as capture:
        for table in as_tables(items, "4 images [x]", width):
            console.print(table)
    text = capture.get()
    assert "…" not in text
    assert "m, 4 images [x]" in text
    assert max(len(line) for line in text.splitlines() if line[:1] in "│┃┏└") <= (width or 10_000)
    assert text.count("> 0.9999") == 2 * len(items)
    for word in ("falls short", "undecided", "fake_quant", "integer (vnni)"):
        assert word in text


def test_a_column_of_values_is_there_where_a_result_has_some():
    item, other = judged(HIGH), judged(HIGH, arithmetic="fake_quant")
    assert not any("within a step" in str(column.header) for column in as_tables([item], "4 images")[0].columns)
    item.result.values = [ValuesResult("v", "Conv v", "p", "uint8", "int8", elements=4, within=3, largest=7.5)]
    (table,) = as_tables([item, other], "4 images")
    (column,) = [column for column in table.columns if column.header == "within a step"]
    assert list(column.cells) == ["75.00 %", "–"]
    every = values_table(item.result)
    assert [list(column.cells) for column in every.columns] == [["v"], ["Conv v"], ["p"], ["75.00 %"], ["7.5"]]


def test_an_undefined_logit_error_is_left_out_of_the_mean_and_counted() -> None:
    tried = doctest.testmod(tables)
    assert tried.attempted == 1
    assert tried.failed == 0
