"""Shards through models, in this process: each image decoded once, loading and metrics overlapping with the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain

from qcam.common.errors import ResultsError
from qcam.common.records import AGAIN, read_record
from qcam.common.vocabulary import Reference, words
from qcam.evaluate.results.parts import ImageOutcome
from qcam.evaluate.run.facts import WorkerFacts, gather_facts
from qcam.evaluate.run.loader import BatchOfImages, LoadedBatch, Loader
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.run.pace import LONGEST, Pace
from qcam.evaluate.run.pipeline import overlapped
from qcam.evaluate.run.protocol import Evaluator, Finish
from qcam.evaluate.run.stages import REOPENING, StageClock
from qcam.evaluate.run.turns import Turns
from qcam.evaluate.saliency import SaliencySource
from qcam.images.sources import ImageFile

_REFERENCES = frozenset(words(Reference))
#: Batches that run one after the other with each model, each with whether it is the last of its shard.
_Unit = Sequence[tuple[BatchOfImages, bool]]
#: A batch that ran, what computes the rest, the state it leaves, whether it is the last of its shard.
_Ran = tuple[LoadedBatch, list[Finish], str, bool]


class ShardRunner:
    """Evaluators of all models of a run, and what they need to evaluate images.

    Attributes:
        options: What can change a figure.
        clock: Where the time goes.
    """

    def __init__(
        self,
        openers: Sequence[Callable[[], Evaluator]],
        saliency: SaliencySource | None,
        options: StudyOptions,
        clock: StageClock | None = None,
        *,
        longest: float = LONGEST,
    ) -> None:
        """Make the evaluators, and take what else a run is made of.

        Args:
            openers: One per bundle: opens its sessions.
            saliency: Where salient-object maps come from, if anywhere.
            options: What can change a figure.
            clock: Where the time goes.
            longest: Seconds after which something should be finished, where sessions are closed and opened between.

        Raises:
            QcamError: If an evaluator cannot be made.
        """
        self._turns: Turns[Evaluator] = Turns()
        for make in openers:
            self.add(make)
        self._saliency = saliency
        self.options = options
        self.clock = clock or StageClock()
        self._device = "cpu"
        self._pace = Pace(longest)

    def add(self, make: Callable[[], Evaluator]) -> None:
        """Make one more evaluator.

        Args:
            make: Opens its sessions.

        Raises:
            QcamError: If it cannot be made.
        """
        self._turns.add(make)

    @property
    def evaluators(self) -> Sequence[Evaluator]:
        """Return the evaluators, one per bundle, in the order of the run."""
        return self._turns.members

    @property
    def sequential(self) -> bool:
        """Tell whether an image's figures depend on the images before it."""
        return any(evaluator.sequential for evaluator in self.evaluators)

    @property
    def facts(self) -> WorkerFacts:
        """Return what this process is; under the paper's protocol whole only after `build`."""
        return gather_facts(self.evaluators, self.options.settings, self._device)

    def settle(self, device: str) -> None:
        """Learn where PyTorch, which has been imported, will compute: what this process is depends on it.

        Args:
            device: PyTorch device of the mirrors.
        """
        self._device = device

    def build(self, device: str) -> None:
        """Build what needs PyTorch.

        Args:
            device: PyTorch device of the mirrors.

        Raises:
            QcamError: If a graph cannot be mirrored.
        """
        self.settle(device)
        with self.clock.stage("build mirrors"):
            for evaluator in self.evaluators:
                evaluator.build(device)
        expected = [evaluator.expected for evaluator in self.evaluators]
        self._pace.expect(sum(each.opening for each in expected), sum(each.image for each in expected))

    def evaluate(
        self,
        shards: Sequence[Sequence[ImageFile]],
        hashes: Mapping[str, str],
        advance: Callable[[int], None],
        references: Sequence[int] = (),
    ) -> Generator[tuple[list[ImageOutcome], str], None, None]:
        """Evaluate shards with every model, each image decoded once, and write nothing.

        Batches are loaded ahead, and their metrics computed behind, while one runs (`pipeline.py`).

        Args:
            shards: The images of each.
            hashes: Image name → the fingerprint it had when the run was planned.
            advance: Told the number of images × models done.
            references: Of how many images of each shard, its first ones, there are reference rows; none if left out.

        Yields:
            For each shard one outcome per image, in their order, and the state that it leaves to the next (`Evaluator.state`).

        Raises:
            QcamError: If an image is not what it was when it was fingerprinted.
        """
        loader = Loader(self.evaluators, self._saliency, hashes, self.clock, labelled=self.options.target == "label")

        def load(unit: _Unit) -> list[tuple[LoadedBatch, bool]]:
            return [(loader.load(images), last) for images, last in unit]

        def run(unit: list[tuple[LoadedBatch, bool]]) -> list[_Ran]:
            begin, opening = self.clock.elapsed, self.clock.seconds.get(REOPENING, 0.0)
            finishes: list[list[Finish]] = [[] for _ in unit]
            for evaluator in self.evaluators:
                model = evaluator.bundle.model_id
                places = [place for place, (batch, _) in enumerate(unit) if batch.samples[model]]
                if places:
                    samples = [unit[place][0].samples[model] for place in places]
                    made = self._turns.run(evaluator, partial(evaluator.evaluate_all, samples, self.clock))
                    for place, finish in zip(places, made, strict=True):
                        finishes[place].append(finish)
                advance(sum(len(batch.images) for batch, _ in unit))
            opening = self.clock.seconds.get(REOPENING, 0.0) - opening
            self._pace.learn(sum(len(batch.images) for batch, _ in unit), self.clock.elapsed - begin - opening, opening)
            state = self.state()
            return [(batch, done, state, last) for (batch, last), done in zip(unit, finishes, strict=True)]

        def finish(unit: list[_Ran]) -> list[tuple[list[ImageOutcome], str, bool]]:
            return [(self._outcomes(batch, done), state, last) for batch, done, state, last in unit]

        finished = overlapped(self._units(shards, references or [0] * len(shards)), load, run, finish)
        with closing(finished):
            batches = chain.from_iterable(finished)
            for shard in shards:
                outcomes, state, last = [], "", not shard
                while not last:
                    found, state, last = next(batches)
                    outcomes += found
                yield outcomes, state

    def _units(self, shards: Sequence[Sequence[ImageFile]], references: Sequence[int]) -> Iterator[_Unit]:
        """Yield what runs at a time: a batch, or many where sessions are closed and opened between.

        Each is settled only when it is about to be loaded: memory may turn out too small in the middle of a run.
        """
        size = self.options.batch_size
        left = [
            (BatchOfImages.of(shard, start, size, referenced), start + size >= len(shard))
            for shard, referenced in zip(shards, references, strict=True)
            for start in range(0, len(shard), size)
        ]
        while left:
            taken = 1
            if self._turns.apart:
                taken += next(place for place, (_, last) in enumerate(left) if last)
            elif self._pace.reopens:
                taken = self._pace.images() // size or 1
            unit, left = left[:taken], left[taken:]
            yield unit

    def state(self) -> str:
        """Return what the images so far leave to the next; empty where they do not depend on each other."""
        return json.dumps([evaluator.state() for evaluator in self.evaluators]) if self.sequential else ""

    def restore(self, text: str) -> None:
        """Go on from a state that `state` returned, or a part carries.

        Raises:
            ResultsError: If it is none, or of other models.
        """
        states = read_record(text, list[str], "the state of a part")
        if len(states) != len(self.evaluators):
            raise ResultsError(f"the state of a part is of {len(states)} models, not of {len(self.evaluators)}; {AGAIN}")
        for evaluator, state in zip(self.evaluators, states, strict=True):
            evaluator.restore(state)

    def _outcomes(self, batch: LoadedBatch, finishes: Sequence[Finish]) -> list[ImageOutcome]:
        """Compute the rest of a batch, and put what all models gave together, image by image."""
        outcomes = {image.name: ImageOutcome(image.name) for image in batch.images}
        for image in batch.images:
            outcomes[image.name].pictures += batch.pictures.get(image.name, [])
            if image.name in batch.refused:
                sha256, reason = batch.refused[image.name]
                for evaluator in self.evaluators:
                    outcomes[image.name].rows += evaluator.refused(image.name, sha256, image.label, reason)
                    if image.name in batch.referenced:
                        found = evaluator.refused_references(image.name, sha256, image.label, reason)
                        outcomes[image.name].references += found
        for finish in finishes:
            rows, maps, clipping = finish()
            for row in rows:
                outcome = outcomes[row.image]
                (outcome.references if row.comparison in _REFERENCES else outcome.rows).append(row)
            for item in maps:
                outcomes[item.image].maps.append(item)
            for counted in clipping:
                outcomes[counted.image].clipping.append(counted)
        return list(outcomes.values())
