"""Leases, retries, quarantine: the dispatcher against workers that do as the test says."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.engine import dispatcher as module
from qcam.evaluate.engine.dispatcher import ATTEMPTS, LEASE, Dispatcher
from qcam.evaluate.engine.messages import Finished, Joined, Lost, Refused, Returned, Shard, Started
from qcam.evaluate.run.facts import WorkerFacts
from qcam.images.sources import ImageFile
from qcam.runtime.gpu import Gpu

FACTS = WorkerFacts((), None, False, "CPU", "here", [], {})


def shards(count):
    images = [ImageFile(f"{index}.jpg", None) for index in range(count)]
    return [Shard(index, f"key {index}", (image,), {}) for index, image in enumerate(images)]


class FakePool:
    """Workers that finish what they are given, but for shards that kill them, fail, or are never answered."""

    where = "a test"
    traceback = ""

    def __init__(self, workers=2, *, deadly=(), failing=(), hanging=(), refused=0, gone=0, blind=0, times=10**6):
        self.deadly, self.failing, self.hanging = set(deadly), set(failing), set(hanging)
        self.times = dict.fromkeys([*deadly, *failing, *hanging], times)
        self.queue = deque((f"refused {n}", Refused("wrong kernels")) for n in range(refused))
        self.queue.extend((f"worker {n}", Joined(FACTS)) for n in range(workers))
        self.made = workers
        self.gone, self.blind, self.rested = gone, blind, 0
        self.leases, self.killed, self.closed = [], [], False

    @property
    def coming(self):
        return sum(isinstance(message, Joined) for _, message in self.queue)

    def poll(self, timeout):
        return [self.queue.popleft()] if self.queue else []

    def assign(self, worker, lease):
        self.leases.append([shard.index for shard in lease])
        if self.gone:  # it had died while it was idle
            self.gone -= 1
            self.replace(worker, "its node died")
            return
        if self.blind:
            self.blind -= 1
            self.queue.append((worker, Refused("does not see the folder")))
            self.queue.append((f"worker {self.made}", Joined(FACTS)))
            self.made += 1
            return
        self.queue.append((worker, Started()))
        for shard in lease:
            bad = self.times.get(shard.index, 0)
            if bad:
                self.times[shard.index] -= 1
                if shard.index in self.deadly:
                    self.replace(worker, "ended by SIGKILL")
                elif shard.index in self.failing:
                    self.queue.append((worker, Returned("MemoryError: no room", self.traceback)))
                return
            self.queue.append((worker, Finished(shard.index)))
        self.queue.append((worker, Returned()))

    def rest(self, seconds):
        self.rested = seconds

    def kill(self, worker):
        self.killed.append(worker)
        self.replace(worker, "ended by SIGKILL")

    def replace(self, worker, reason):
        self.queue.append((worker, Lost(reason)))
        self.queue.append((f"worker {self.made}", Joined(FACTS)))
        self.made += 1

    def close(self):
        self.closed = True


def run(pool, count, **options):
    dispatcher = Dispatcher(pool, **options)
    dispatcher.open()
    return dispatcher, [shard.index for shard in dispatcher.run(shards(count))]


def test_every_shard_is_done_once_and_leases_get_shorter():
    pool = FakePool(3)
    dispatcher, done = run(pool, 100)
    assert sorted(done) == list(range(100))
    assert len(pool.leases[0]) == LEASE
    assert [len(lease) for lease in pool.leases] == sorted((len(lease) for lease in pool.leases), reverse=True)
    assert len(pool.leases[-1]) == 1
    assert not dispatcher.quarantined
    assert not dispatcher.trouble


def test_a_worker_of_another_gpu_than_the_first_one_s_gets_no_work():
    cards = Gpu("Tesla T4", "7.5"), Gpu("NVIDIA H100 80GB HBM3", "9.0"), None, Gpu("Tesla T4", "7.5")
    pool = FakePool(0)
    pool.queue.extend((f"worker {n}", Joined(replace(FACTS, gpu=gpu, node=f"node {n}"))) for n, gpu in enumerate(cards))
    busy = set()
    real = pool.assign
    pool.assign = lambda worker, lease: (busy.add(worker), real(worker, lease))
    dispatcher, done = run(pool, 40)
    assert sorted(done) == list(range(40))
    assert busy <= {"worker 0", "worker 3"}
    assert [line.partition(": ")[2].partition(",")[0] for line in dispatcher.trouble] == [
        "node 1 computes on NVIDIA H100 80GB HBM3 (9.0)", "node 2 computes on no GPU"
    ]  # fmt: skip
    assert all("the first worker on Tesla T4 (7.5)" in line for line in dispatcher.trouble)
    assert all(line.endswith("two are not mixed; choose with {require} gpu=NAME") for line in dispatcher.trouble)


@pytest.mark.parametrize("kind", ["deadly", "failing"])
def test_what_fails_once_is_done_by_another_try(kind):
    pool = FakePool(2, **{kind: [17]}, times=1)
    dispatcher, done = run(pool, 40)
    assert sorted(done) == list(range(40))
    assert not dispatcher.quarantined
    assert len(dispatcher.trouble) == 1


@pytest.mark.parametrize("kind", ["deadly", "failing"])
def test_a_poisoned_shard_is_quarantined_by_name_and_the_rest_completes(kind):
    pool = FakePool(2, **{kind: [17]})
    dispatcher, done = run(pool, 40)
    assert sorted(done) == [index for index in range(40) if index != 17]
    assert list(dispatcher.quarantined) == [17]
    assert any("quarantined after 3 failures: shard 17 (17.jpg)" in line for line in dispatcher.trouble)
    # Only failures on its own count: its neighbours in the first lease were never blamed.
    assert pool.leases.count([17]) == ATTEMPTS


def test_a_worker_that_says_nothing_is_ended_and_its_shards_go_to_another(monkeypatch):
    clock = iter(range(0, 10**9, 5))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    pool = FakePool(2, hanging=[3], times=1)
    dispatcher, done = run(pool, 10, patience=1000)
    assert sorted(done) == list(range(10))
    assert len(pool.killed) == 1
    assert "no word from a worker for 1000 s; it is ended" in dispatcher.trouble


def test_refused_workers_leave_the_work_to_the_others():
    dispatcher, done = run(FakePool(1, refused=2), 5)
    assert sorted(done) == list(range(5))
    assert dispatcher.trouble == ["a worker is refused: wrong kernels"]


def test_no_worker_at_all_is_an_error():
    with pytest.raises(QcamError, match="no worker can take part: wrong kernels"):
        Dispatcher(FakePool(0, refused=2)).open()


def test_workers_that_die_before_they_have_begun_end_the_run():
    pool = FakePool(0)
    pool.queue.extend((f"w{n}", Lost("ended by SIGSEGV")) for n in range(50))
    with pytest.raises(QcamError, match="workers die while they open their sessions: ended by SIGSEGV"):
        Dispatcher(pool).open()


def test_a_worker_at_work_that_joins_again_ends_the_run_and_does_not_lose_its_shards_in_silence():
    pool = FakePool(workers=1)
    pool.queue.append(("worker 0", Joined(FACTS)))
    with pytest.raises(RuntimeError, match="worker 0 joined already"):
        list(Dispatcher(pool).run(shards(3)))


def test_nothing_to_do_needs_no_worker():
    assert list(Dispatcher(FakePool(0)).run([])) == []


def test_workers_that_were_gone_before_they_began_or_may_not_take_part_cost_no_shard():
    for troubles in ({"gone": 5}, {"blind": 20}):
        dispatcher, done = run(FakePool(1, **troubles), 1)
        assert done == [0]
        assert not dispatcher.quarantined


def test_when_shard_after_shard_fails_it_is_the_run():
    pool = FakePool(2, failing=range(1000))
    dispatcher = Dispatcher(pool)
    dispatcher.open()
    with pytest.raises(QcamError, match="shard after shard fails, in 10 places of the run; the last one: MemoryError: no room"):
        list(dispatcher.run(shards(1000)))
    assert len(pool.leases) < 20


def test_workers_that_die_as_they_start_end_nothing_while_others_work():
    pool = FakePool(1)
    pool.queue.extend((f"w{n}", Lost("its node died")) for n in range(10))
    done = run(pool, 5)[1]
    assert sorted(done) == list(range(5))
    assert pool.rested > 0


def test_shards_that_fail_for_a_bug_keep_its_traceback():
    pool = FakePool(2, failing=(3, 9))
    dispatcher, _ = run(pool, 12)
    assert dispatcher.bug_behind(dispatcher.quarantined) is None
    pool = FakePool(2, failing=(3, 9))
    pool.traceback = "Traceback: KeyError"
    dispatcher, _ = run(pool, 12)
    assert str(dispatcher.bug_behind(dispatcher.quarantined)) == "Traceback: KeyError"
    assert dispatcher.bug_behind([3, 5]) is None
    assert dispatcher.bug_behind([]) is None
