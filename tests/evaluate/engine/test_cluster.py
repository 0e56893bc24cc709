"""The pool of actors and the dispatcher against a cluster that is none: actors that hang, lie and are ended."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.engine import cluster
from qcam.evaluate.engine.dispatcher import OPENING, Dispatcher
from qcam.evaluate.engine.messages import Finished, Joined, Opening, Returned, Shard, Started
from qcam.evaluate.run.facts import WorkerFacts
from qcam.images.sources import ImageFile

FACTS = WorkerFacts((), None, False, "CPU", "node 9", [], {})
SPEC = SimpleNamespace(options=SimpleNamespace(settings=SimpleNamespace(threads=1)))


class Stream:
    """What a generator of an actor gives: messages that are there already; None stands for one that never comes."""

    def __init__(self, actor, messages):
        self.actor, self.messages = actor, iter(messages)
        self.next = next(self.messages, StopIteration)

    @property
    def ready(self):
        return self.actor.killed or self.next is not None

    def __next__(self):
        if self.actor.killed:
            return self.actor
        message, self.next = self.next, next(self.messages, StopIteration)
        if message is StopIteration:
            raise StopIteration
        return message


class FakeRay:
    """As much of Ray as the pool asks for, on a cluster of one core. Actors do as `behave` says of the first, second … one."""

    def __init__(self, behave):
        self.behave, self.actors = behave, []

    def put(self, value):
        return value

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 1}}]

    def remote(self, kind):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.actor))

    def actor(self):
        made = SimpleNamespace(killed=False)
        opening, evaluating = self.behave(len(self.actors))
        made.open = SimpleNamespace(remote=lambda spec: Stream(made, opening))
        made.evaluate = SimpleNamespace(remote=lambda lease, place: Stream(made, evaluating(lease)))
        made.ping = SimpleNamespace(remote=lambda: Stream(made, []))
        self.actors.append(made)
        return made

    def wait(self, waiting, num_returns, timeout, fetch_local=True):
        return [each for each in waiting if each.ready][:num_returns], []

    def get(self, each):
        if isinstance(each, Stream):  # a ping
            each = each.actor if each.actor.killed else None
        if isinstance(each, SimpleNamespace):
            raise RuntimeError("the actor is dead")
        return each

    def kill(self, actor):
        actor.killed = True

    def shutdown(self):
        pass


def good(lease):
    yield Started()
    for shard in lease:
        yield Finished(shard.index, f"part {shard.index}")
    yield Returned()


@pytest.fixture
def crew(monkeypatch):
    """Make a dispatcher over actors that do as they are told; its clock goes on by a second with each look."""
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))

    def make(behave, inspect=lambda *_: ""):
        ray = FakeRay(behave)
        monkeypatch.setattr(cluster, "_connect", lambda address: (ray, False))
        return ray, Dispatcher(cluster.RayPool(SPEC, None), inspect)

    return make


def done(dispatcher, count=3):
    dispatcher.open()
    shards = [Shard(index, "key", (ImageFile(f"{index}.jpg", None),), {}) for index in range(count)]
    return sorted(shard.index for shard in dispatcher.run(shards))


def test_an_actor_that_hangs_while_it_opens_a_bundle_is_ended_and_replaced(crew):
    opening = [Opening("node 9", "s3://models/first"), Opening("node 9", "s3://models/second")]
    ray, dispatcher = crew(lambda number: ([*opening, None] if number == 0 else [*opening, Joined(FACTS)], good))
    assert done(dispatcher) == [0, 1, 2]
    assert [actor.killed for actor in ray.actors] == [True, False]
    assert dispatcher.trouble == [
        f"no word for {OPENING:.0f} s from a worker on node 9 that opens s3://models/second; it is ended"
    ]


def test_actors_that_hang_again_and_again_end_the_run(crew):
    ray, dispatcher = crew(lambda number: ([Opening("node 9", "s3://models/first"), None], good))
    with pytest.raises(QcamError, match=r"workers hang while they open their sessions: .* opens s3://models/first"):
        dispatcher.open()
    assert len(ray.actors) == 2


def test_an_actor_for_which_there_is_no_room_yet_is_waited_for(crew):
    """Ray starts it when a node has room: it has said nothing, and does not hang."""
    ray, dispatcher = crew(lambda number: ([None], good))
    pool = dispatcher._pool
    for _ in range(int(2 * OPENING)):
        assert pool.poll(0) == []
        dispatcher._look_for_the_hung()
    assert not ray.actors[0].killed
    assert pool.coming == 1


def test_an_actor_that_hands_in_something_wrong_is_ended_and_another_does_its_shards(crew):
    wrong = iter(["holds SIM 2 in rows, which is 0 to 1"])
    ray, dispatcher = crew(
        lambda number: ([Joined(FACTS)], good),
        lambda shard, part, facts: next(wrong, "") if shard.index == 1 else "",
    )
    assert done(dispatcher) == [0, 1, 2]
    assert [actor.killed for actor in ray.actors] == [True, False]
    assert dispatcher.trouble == [
        "a shard failed and is tried again: the part of shard 1 (1.jpg) holds SIM 2 in rows, which is 0 to 1; "
        "the worker on node 9 that handed it in is ended"
    ]


def test_an_actor_that_finishes_a_shard_that_it_was_not_given_is_ended(crew):
    def lying(lease):
        yield Started()
        yield Finished(7, "part 7")
        yield Returned()

    ray, dispatcher = crew(lambda number: ([Joined(FACTS)], lying if number == 0 else good))
    assert done(dispatcher) == [0, 1, 2]
    assert ray.actors[0].killed
    assert "shard 7 is said to be finished, which that worker was not given" in dispatcher.trouble[0]


def test_a_shard_of_which_every_actor_hands_in_something_wrong_is_given_up(crew):
    ray, dispatcher = crew(
        lambda number: ([Joined(FACTS)], good),
        lambda shard, part, facts: "is damaged: its SHA-256 is not the one in its name" if shard.index == 1 else "",
    )
    assert done(dispatcher) == [0, 2]
    assert "its SHA-256 is not the one in its name" in dispatcher.quarantined[1][1]
    assert 3 <= len(ray.actors) <= 6
