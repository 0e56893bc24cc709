"""What carries a study out: a crew is told what a process elsewhere can use, and refuses by name what it cannot do."""

from __future__ import annotations

import pytest

from qcam.evaluate.run.facts import WorkerFacts
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.study.estimate import estimate
from qcam.evaluate.study.executor import by_crew
from qcam.evaluate.study.study import Study
from qcam.images.listing import find_images

FACTS = WorkerFacts((), None, False, "CPU", "elsewhere", [], {})


class FakeDispatcher:
    """Workers that do all that they are given at once, the last shard first."""

    where = "a test"

    def __init__(self, destination):
        self.destination, self.given, self.closed, self.facts, self.quarantined = destination, [], False, None, {}

    def open(self):
        self.facts = FACTS
        return FACTS

    def run(self, shards):
        self.given += shards
        yield from reversed(shards)

    def close(self):
        self.closed = True


@pytest.fixture
def crews():
    return []


@pytest.fixture
def study(tiny_bundle, some_photographs, tmp_path, monkeypatch, crews):
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 1)
    monkeypatch.chdir(some_photographs.parent)
    images = find_images(some_photographs.relative_to(some_photographs.parent))
    assert not any(image.path.is_absolute() for image in images)
    options = StudyOptions(("f32", "int8"), saliency="none", batch_size=1)

    def start(destination):
        crews.append(FakeDispatcher(destination))
        return crews[-1]

    made = Study([tiny_bundle], images, None, options, tmp_path / "out", executor=by_crew(start))
    planned = made.prepare("cpu", force=False)
    assert not planned.complete
    return planned


def test_a_crew_is_started_for_a_run_is_told_places_from_the_root_and_ends_with_it(study, some_photographs, crews):
    executor, told = study.executor, []
    assert not crews
    assert study.plan.conditions.cpu_features is None
    assert executor.known is None
    todo = [0, 1]
    with executor.at_work(study.plan, study.place):
        study.build()
        assert executor.known is FACTS
        assert list(executor.evaluate(study.plan, study.place, todo, told.append)) == [1, 0]
    (crew,) = crews
    assert [shard.index for shard in crew.given] == todo
    assert [shard.images[0].path for shard in crew.given] == [some_photographs / image.name for image in study.plan.images[:2]]
    assert told == [1, 1]
    assert crew.destination.parts == study.place.parts
    assert crew.closed


def test_a_crew_that_is_not_at_work_has_no_facts(study, crews):
    with pytest.raises(RuntimeError, match="nobody evaluates yet"):
        _ = study.facts
    assert not crews


def test_a_study_of_a_crew_is_not_measured_and_no_worker_is_started_for_it(study, crews):
    with pytest.raises(RuntimeError, match="measured in this process"):
        estimate(study)
    assert not crews
