import doctest

import pytest
from judged import HIGH, LOW, NONE, judged
from rich.console import Console

from qcam.evaluate.check import tables
from qcam.evaluate.check.tables import as_tables


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


def test_an_undefined_logit_error_is_left_out_of_the_mean_and_counted() -> None:
    tried = doctest.testmod(tables)
    assert tried.attempted == 1
    assert tried.failed == 0
