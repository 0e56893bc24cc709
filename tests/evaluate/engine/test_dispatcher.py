"""Leases, retries, quarantine: the dispatcher against workers that do as the test says."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.engine import dispatcher as module
from qcam.evaluate.engine.dispatcher import ATTEMPTS, LEASE, Dispatcher
from qcam.evaluate.engine.messages import Finished, Joined, Lost, Opening, Refused, Returned, Shard, Started
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
    opening = ()

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
            self.queue.append((worker, Finished(shard.index, f"part {shard.index} of {worker}")))
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


# ---- what workers hand in


class Inspector:
    """Finds something wrong with the parts of some shards, as often as it is told; remembers whose it let pass."""

    def __init__(self, wrong, times=10**6, text="holds SIM 2 in rows, which is 0 to 1"):
        self.left, self.text, self.passed = dict.fromkeys(wrong, times), text, {}

    def __call__(self, shard, part, facts):
        if self.left.get(shard.index, 0):
            self.left[shard.index] -= 1
            return self.text
        self.passed[shard.index] = part
        return ""


def inspected(pool, count, inspect):
    dispatcher = Dispatcher(pool, inspect)
    dispatcher.open()
    return dispatcher, [shard.index for shard in dispatcher.run(shards(count))]


def test_a_worker_that_hands_in_something_wrong_is_ended_and_another_one_does_the_shard():
    pool, inspect = FakePool(2), Inspector([17], times=1)
    dispatcher, done = inspected(pool, 40, inspect)
    assert sorted(done) == list(range(40))
    assert not dispatcher.quarantined
    (liar,) = pool.killed
    assert inspect.passed[17] != f"part 17 of {liar}"
    assert dispatcher.trouble == [
        "a shard failed and is tried again: the part of shard 17 (17.jpg) holds SIM 2 in rows, which is 0 to 1; "
        "the worker on here that handed it in is ended"
    ]


def test_a_shard_of_which_every_worker_hands_in_something_wrong_is_given_up_after_a_bounded_number_of_tries():
    pool, inspect = FakePool(2), Inspector([17])
    dispatcher, done = inspected(pool, 40, inspect)
    assert sorted(done) == [index for index in range(40) if index != 17]
    assert "SIM 2 in rows" in dispatcher.quarantined[17][1]
    assert pool.leases.count([17]) == ATTEMPTS
    assert len(pool.killed) == ATTEMPTS + 1  # the first time in a lease with others, which does not count


def test_when_all_that_is_handed_in_is_wrong_it_is_the_run():
    pool = FakePool(2)
    with pytest.raises(QcamError, match="shard after shard fails, in 10 places of the run; the last one: the part of shard"):
        inspected(pool, 1000, Inspector(range(1000)))
    assert len(pool.killed) <= 30


@pytest.mark.parametrize("index", [3, 99])
def test_a_shard_that_a_worker_was_not_given_does_not_count_as_finished(index):
    """Another's, or one that there is not."""
    pool = FakePool(1)
    pool.assign = lambda worker, lease, real=pool.assign: (
        pool.queue.append((worker, Finished(index, "part"))) if not pool.killed else real(worker, lease)
    )
    dispatcher, done = inspected(pool, 3, Inspector([]))
    assert sorted(done) == [0, 1, 2]
    assert pool.killed == ["worker 0"]
    assert f"shard {index} is said to be finished, which that worker was not given" in dispatcher.trouble[0]


def test_what_an_expelled_worker_still_says_does_not_count_and_it_gets_no_lease():
    pool = FakePool(1)
    inspect = Inspector([0], times=1)
    late = deque()

    def kill(worker):  # its word that it is gone comes after others that were under way
        pool.killed.append(worker)
        late.extend([(worker, Finished(1, "late")), (worker, Returned())])
        pool.queue.clear()
        pool.queue.extend(late)
        pool.replace(worker, "ended by SIGKILL")

    pool.kill = kill
    dispatcher, done = inspected(pool, 4, inspect)
    assert sorted(done) == [0, 1, 2, 3]
    assert "late" not in inspect.passed.values()
    assert all(part.endswith("of worker 1") for part in inspect.passed.values())
    assert len(dispatcher.trouble) == 1


def test_a_worker_that_makes_other_rows_than_the_first_one_gets_no_work(monkeypatch):
    monkeypatch.setattr(WorkerFacts, "rows", property(lambda self: 12 if self.node == "here" else 9))
    pool = FakePool(1)
    pool.queue.append(("worker 9", Joined(replace(FACTS, node="there"))))
    dispatcher, done = run(pool, 5)
    assert sorted(done) == list(range(5))
    assert dispatcher.trouble == [
        "a worker is refused: there makes 9 result rows and 0 reference rows of an image, the first worker 12 and 0; "
        "install the same everywhere"
    ]


# ---- workers that open their sessions


class Clock:
    """A clock that goes on by a second with each look."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", self)

    def __call__(self):
        self.now += 1.0
        return self.now


class OpeningPool(FakePool):
    """Workers that say what they open and then nothing more, until one does join."""

    def __init__(self, hang):
        super().__init__(0)
        self.opening, self.hang = set(), hang
        self.begin()

    def begin(self):
        name = f"worker {self.made}"
        self.made += 1
        self.opening.add(name)
        self.queue.append((name, Opening("node 7", "bundles/first")))
        self.queue.append((name, Opening("node 7", "the sessions of bundles/second")))
        if self.made > self.hang:
            self.queue.append((name, Joined(FACTS)))

    def poll(self, timeout):
        found = super().poll(timeout)
        self.opening -= {name for name, message in found if isinstance(message, Joined)}
        return found

    def kill(self, worker):
        self.killed.append(worker)
        self.opening.discard(worker)
        self.queue.append((worker, Lost("ended by SIGKILL")))
        self.begin()


def test_a_worker_that_hangs_while_it_opens_its_sessions_is_ended_and_replaced(monkeypatch):
    clock = Clock(monkeypatch)
    pool = OpeningPool(hang=1)
    dispatcher, done = run(pool, 5)
    assert sorted(done) == list(range(5))
    assert pool.killed == ["worker 0"]
    assert module.OPENING < clock.now < 1.1 * module.OPENING
    assert dispatcher.trouble == [
        "no word for 1800 s from a worker on node 7 that opens the sessions of bundles/second; it is ended"
    ]


def test_when_workers_hang_again_and_again_while_they_open_their_sessions_the_run_ends(monkeypatch):
    clock = Clock(monkeypatch)
    pool = OpeningPool(hang=100)
    with pytest.raises(QcamError, match=r"workers hang while they open their sessions: no word for 1800 s .* bundles/second$"):
        run(pool, 5)
    assert clock.now < 2.1 * module.OPENING


def test_a_longer_patience_counts_for_opening_as_well_and_a_shorter_one_does_not(monkeypatch):
    for patience, expected in ((5.0, module.OPENING), (9000.0, 9000.0)):
        clock = Clock(monkeypatch)
        dispatcher = Dispatcher(OpeningPool(hang=1), patience=patience)
        dispatcher.open()
        assert expected < clock.now < 1.1 * expected
        assert f"no word for {expected:.0f} s" in dispatcher.trouble[0]


def test_every_word_of_a_worker_that_opens_its_sessions_begins_its_time_anew(monkeypatch):
    clock = Clock(monkeypatch)
    pool = FakePool(0)
    pool.opening = {"worker 0"}

    def poll(timeout):  # 40 bundles, each opened in a third of the time
        clock.now += module.OPENING / 3
        words = int(clock.now / (module.OPENING / 3))
        return [("worker 0", Joined(FACTS) if words > 40 else Opening("node 7", f"bundle {words}"))]

    pool.poll = poll
    Dispatcher(pool).open()
    assert clock.now > 10 * module.OPENING
    assert not pool.killed
