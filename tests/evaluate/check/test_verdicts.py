import pytest
from judged import HIGH, LOW, NONE, judged

from qcam.common.verdict import Verdict, together

HOLDS, FALLS_SHORT, UNDECIDED = Verdict.HOLDS, Verdict.FALLS_SHORT, Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("gates", "verdict", "holds"),
    [((), None, True), ((HIGH,), HOLDS, True), ((HIGH, LOW), FALLS_SHORT, False), ((HIGH, NONE), UNDECIDED, False),
     ((NONE, LOW), FALLS_SHORT, False)],
)  # fmt: skip
def test_a_verdict_needs_every_gate(gates, verdict, holds):
    assert (judged(*gates).verdict, judged(*gates).holds) == (verdict, holds)


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [([], None), ([None], None), ([None, HOLDS], HOLDS), ([HOLDS, UNDECIDED], UNDECIDED),
     ([UNDECIDED, HOLDS, FALLS_SHORT], FALLS_SHORT), ([FALLS_SHORT, UNDECIDED], FALLS_SHORT)],
)  # fmt: skip
def test_falls_short_wins_over_undecided_and_that_over_holds(verdicts, whole):
    assert together(verdicts) is whole


def test_a_figure_that_is_no_number_falls_short():
    assert judged(HIGH.__class__("cc", -1.0, float("nan"))).verdict is FALLS_SHORT


def test_a_share_that_misses_1_by_a_rounding_is_not_shown_as_1():
    gate = HIGH.__class__("codes", 1.0, 1 - 1 / 30_000_000)
    assert gate.verdict is FALLS_SHORT
    assert gate.sentence.startswith("codes = 0.9999999666666667, at least 1 wanted")
