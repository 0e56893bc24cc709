"""Stages that overlap: order, exceptions, and how far ahead they run."""

from __future__ import annotations

import threading
import time

import pytest

from qcam.evaluate.run.pipeline import AHEAD, overlapped


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order_and_only_run_is_in_the_callers_thread(count):
    threads = {"load": set(), "run": set(), "finish": set()}

    def stage(name, change):
        def work(value):
            threads[name].add(threading.current_thread().name)
            time.sleep(0.002 * (value % 3))
            return change(value)

        return work

    load, run, finish = stage("load", lambda v: v + 1), stage("run", lambda v: v * 2), stage("finish", lambda v: v - 1)
    assert list(overlapped(range(count), load, run, finish)) == [(index + 1) * 2 - 1 for index in range(count)]
    if count:
        assert threads["run"] == {threading.current_thread().name}
        assert not threads["load"] & threads["finish"]
        assert threads["run"].isdisjoint(threads["load"] | threads["finish"])


def test_loading_goes_on_while_one_runs():
    loaded = threading.Event()

    def load(index):
        if index == 1:
            loaded.set()
        return index

    def run(index):
        if index == 0:
            assert loaded.wait(5)  # the next one is loaded meanwhile
        return index

    assert list(overlapped(range(2), load, run, lambda index: index)) == [0, 1]


def test_no_more_than_a_few_items_are_in_memory():
    loaded, taken = [], []
    for result in overlapped(range(30), lambda i: loaded.append(i) or i, lambda i: i, lambda i: i):
        taken.append(result)
        assert len(loaded) - len(taken) <= 2 * AHEAD + 1
    assert taken == list(range(30))


@pytest.mark.parametrize("stage", ["load", "run", "finish"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_a_stage_raises_the_caller_gets_and_nothing_more_is_started(stage, error):
    started = []

    def work(name):
        def act(index):
            if name == "load":
                started.append(index)
            if name == stage and index == 3:
                raise error("three")
            return index

        return act

    results = overlapped(range(100), work("load"), work("run"), work("finish"))
    with pytest.raises(error, match="three"):
        list(results)
    assert len(started) <= 3 + 2 * AHEAD + 2
    assert threading.active_count() < 20


def test_a_caller_that_stops_leaves_no_thread_behind():
    results = overlapped(range(100), lambda i: i, lambda i: i, lambda i: i)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("load", "finish"))]
