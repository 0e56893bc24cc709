"""Where time goes: overlapping spans, and the trace that a viewer opens."""

from __future__ import annotations

import pytest

from qcam.evaluate.run.stages import StageClock, StageSpan, covered, describe, to_trace

SPANS = [
    StageSpan("decode", 0.0, 2.0, "load"),
    StageSpan("deployed int8", 1.0, 4.0, "main"),
    StageSpan("metrics", 3.0, 4.5, "finish"),
    StageSpan("deployed f32", 5.0, 6.0, "main"),
]


def test_time_that_spans_share_counts_once():
    assert covered(SPANS) == pytest.approx(5.5)
    assert covered(reversed(SPANS)) == pytest.approx(5.5)
    assert covered([]) == 0.0


def test_the_profile_tells_each_stages_time_alone_and_the_runtimes_share():
    lines = describe(SPANS, 8.0)
    found = {line[:28].strip(): line[28:].split() for line in lines[1:-2]}
    assert found["decode"] == ["2.00", "25.0%", "1.00"]
    assert found["metrics"] == ["1.50", "18.8%", "0.50"]
    assert found["deployed int8"] == ["3.00", "37.5%", "1.00"]
    assert lines[-2] == "inside ONNX Runtime: 4.00 of 8.00 s, 50.0%"
    assert lines[-1] == "between the first and the last of these runs: 80.0% of 5.00 s"


def test_the_trace_has_a_row_for_each_thread_and_microseconds():
    events = to_trace(SPANS)["traceEvents"]
    threads = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert sorted(threads.values()) == ["finish", "load", "main"]
    (metrics,) = [event for event in events if event["name"] == "metrics"]
    assert (threads[metrics["tid"]], metrics["ts"], metrics["dur"]) == ("finish", 3e6, 1.5e6)


def test_a_clock_keeps_spans_only_if_asked_for():
    for spans in (False, True):
        clock = StageClock(spans=spans)
        with clock.stage("a"), clock.stage("b"):
            pass
        assert set(clock.seconds) == {"a", "b"}
        assert [span.stage for span in clock.spans] == ["b", "a"] * spans
        assert all(0 <= span.start <= span.end <= clock.elapsed for span in clock.spans)
