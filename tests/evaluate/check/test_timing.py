import time

import pytest

from qcam.evaluate.check.timing import Stopwatch, mirror_stage


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves on by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def move_on(seconds):
        now[0] += seconds

    return move_on


def test_a_stage_inside_another_is_counted_alone(clock):
    watch = Stopwatch()
    with watch.stage("around"):
        clock(1)
        with watch.stage("inside"):
            clock(10)
        clock(2)
    clock(1000)
    with watch.stage("inside"):
        clock(20)
    assert watch.seconds == {"around": 3, "inside": 30}


def test_a_stage_that_fails_has_its_time_and_ends(clock):
    def fails():
        with watch.stage("inside"):
            clock(4)
            raise ValueError("no")

    watch = Stopwatch()
    with watch.stage("around"):
        with pytest.raises(ValueError, match="no"):
            fails()
        clock(1)
    assert watch.seconds == {"around": 1, "inside": 4}


def test_making_an_item_is_the_stages_and_using_it_is_not(clock):
    def made():
        for item in "ab":
            clock(2)
            yield item

    watch = Stopwatch()
    with watch.stage("using"):
        for _ in watch.each("making", made()):
            clock(5)
    assert watch.seconds == {"using": 10, "making": 4}


def test_what_threads_spend_inside_a_stage_is_taken_out_of_it_by_their_mean(clock, monkeypatch):
    watch, thread = Stopwatch(), [1]
    monkeypatch.setattr("qcam.evaluate.check.timing.get_ident", lambda: thread[0])
    with watch.stage("around"):
        clock(1)
        with watch.stage("mirror"), watch.within("comparing") as spent:
            for number, seconds in ((1, 4), (2, 2)):
                thread[0] = number
                with spent.counted():
                    clock(seconds)
            clock(3)
        clock(5)
        with watch.stage("mirror"), watch.within("comparing"):
            clock(7)
    assert watch.seconds == {"around": 6, "mirror": 9 - 3 + 7, "comparing": 3}


def test_mirrors_are_stages_by_their_arithmetic():
    assert mirror_stage("fake_quant") == "fake-quant mirror"
