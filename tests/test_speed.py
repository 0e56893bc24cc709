"""Bars of benchmarks/speed.py: which network has which, and how one that was not run is told."""

import pytest
import speed
from click.testing import CliRunner
from peers.figures import Measured, bars_table, judge, table, to_json
from peers.tasks import AVX2, BARE, BARS, CAM, EXPOSED, INTEGER, OF_TRAINED, TAIL, TORCH, TRAINED, WHOLE, WHOLE_CHECK, bars_of


def bounds(model, *kinds):
    return {(bar.numerators[0], bar.denominators): bar.bound for bar in bars_of(model, kinds)}


def test_each_network_has_the_bars_of_its_kind():
    resnet = bounds("resnet50", WHOLE)
    assert resnet[INTEGER, (TORCH,)] == 0.5
    assert resnet[CAM["int8"], (BARE["int8"],)] == 1.05
    assert resnet[WHOLE_CHECK, (EXPOSED, INTEGER)] == 1.5
    assert bounds("mobilenet_v2", WHOLE)[INTEGER, (TORCH,)] == 0.8
    vgg = bounds("vgg16", TAIL)
    assert (vgg[INTEGER, (TORCH,)], vgg[CAM["int8"], (BARE["int8"],)], vgg[CAM["f32"], (BARE["f32"],)]) == (0.5, 1.15, 1.6)
    assert bounds("resnet50", TRAINED) == {(AVX2, (TORCH,)): 1.2}
    assert set(OF_TRAINED) == {"resnet50", "efficientnet_lite0", "mobilenet_v2"}


def test_no_two_bars_judge_one_ratio_of_a_network():
    for model in {model for bar in BARS for model in bar.models}:
        for kind in (WHOLE, TAIL, TRAINED):
            ratios = [(bar.numerators, bar.denominators) for bar in bars_of(model, {kind})]
            assert len(ratios) == len(set(ratios)), (model, kind)


def test_a_check_is_held_against_the_sum_of_its_two_runs():
    (bar,) = [bar for bar in bars_of("resnet50", {WHOLE}) if bar.numerators == (WHOLE_CHECK,)]
    times = {
        WHOLE_CHECK: Measured(100, [12.0, 10.0], [1, 1]),
        EXPOSED: Measured(16, [0.8, 0.32], [1, 1]),
        INTEGER: Measured(16, [0.8, 0.96], [1, 1]),
    }
    verdict = judge(bar, times)
    assert verdict.ratio.of_medians == pytest.approx(0.11 / 0.09)
    assert (verdict.ratio.least, verdict.ratio.most) == (pytest.approx(1.2), pytest.approx(1.25))
    assert verdict.text == "holds"
    assert verdict.to_json()["denominator"] == f"{EXPOSED} + {INTEGER}"
    del times[EXPOSED]
    assert judge(bar, times).text == f"cannot: {EXPOSED}: was not run"


def test_what_a_task_says_of_its_time_stands_below_it():
    times = {WHOLE_CHECK: Measured(100, [10.0], [1], told="time: 9.9 s: exposed run 60 %")}
    assert list(table(times))[-1] == "  time: 9.9 s: exposed run 60 %"
    assert to_json(times)[WHOLE_CHECK]["told"] == "time: 9.9 s: exposed run 60 %"


def test_a_bar_without_trained_weights_is_named_with_what_to_give():
    (bar,) = bars_of("mobilenet_v2", {TRAINED})
    reason = "no trained weights were given (--trained-weights mobilenet_v2=FILE)"
    lines = list(bars_table([("mobilenet_v2, trained", judge(bar, {AVX2: Measured(cannot=reason)}))]))
    assert lines[-1].endswith(f"cannot: {AVX2}: {reason}")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["resnet50"], "give MODEL=WEIGHTS"),
        (["resnet50="], "give MODEL=WEIGHTS"),
        (["resnet50=random:0"], "give MODEL=WEIGHTS, trained ones"),
        (["resnet50=a.pth", "resnet50=b.pth"], "resnet50 has a.pth already"),
    ],
)
def test_what_are_no_trained_weights_is_refused_before_anything_runs(given, told, monkeypatch):
    monkeypatch.setattr(speed, "_Run", lambda *arguments: pytest.fail("something was run"))
    arguments = [part for text in given for part in ("--trained-weights", text)]
    result = CliRunner().invoke(speed.main, ["--peers", "none", *arguments])
    assert result.exit_code == 2
    assert told in result.output
