"""Shards through models, in this process: each image decoded once, loading and metrics overlapping with the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial

from qcam.common.errors import ResultsError
from qcam.common.records import AGAIN, read_record
from qcam.evaluate.results.parts import ImageOutcome
from qcam.evaluate.run.facts import WorkerFacts, gather_facts
from qcam.evaluate.run.loader import LoadedBatch, Loader
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.run.pipeline import overlapped
from qcam.evaluate.run.protocol import Evaluator, Finish
from qcam.evaluate.run.stages import StageClock
from qcam.evaluate.run.turns import Turns
from qcam.evaluate.saliency import SaliencySource
from qcam.images.sources import ImageFile

#: Batches that run one after the other with each model, and whether they are the last of their shard.
_Unit = tuple[Sequence[Sequence[ImageFile]], bool]


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
    ) -> None:
        """Make the evaluators, and take what else a run is made of.

        Args:
            openers: One per bundle: opens its sessions.
            saliency: Where salient-object maps come from, if anywhere.
            options: What can change a figure.
            clock: Where the time goes.

        Raises:
            QcamError: If an evaluator cannot be made.
        """
        self._turns: Turns[Evaluator] = Turns()
        for make in openers:
            self._turns.add(make)
        self._saliency = saliency
        self.options = options
        self.clock = clock or StageClock()
        self._device = "cpu"

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

    def evaluate(
        self, shards: Sequence[Sequence[ImageFile]], hashes: Mapping[str, str], advance: Callable[[int], None]
    ) -> Generator[tuple[list[ImageOutcome], str], None, None]:
        """Evaluate shards with every model, each image decoded once, and write nothing.

        Batches are loaded ahead, and their metrics computed behind, while one runs (`pipeline.py`).

        Args:
            shards: The images of each.
            hashes: Image name → the fingerprint it had when the run was planned.
            advance: Told the number of images × models done.

        Yields:
            For each shard one outcome per image, in their order, and the state that it leaves to the next (`Evaluator.state`).

        Raises:
            QcamError: If an image is not what it was when it was fingerprinted.
        """
        loader = Loader(self.evaluators, self._saliency, hashes, self.clock, labelled=self.options.target == "label")

        def load(unit: _Unit) -> tuple[list[LoadedBatch], bool]:
            batches, last = unit
            return [loader.load(images) for images in batches], last

        def run(loaded: tuple[list[LoadedBatch], bool]) -> tuple[list[tuple[LoadedBatch, list[Finish]]], str, bool]:
            unit, last = loaded
            done: list[tuple[LoadedBatch, list[Finish]]] = [(batch, []) for batch in unit]
            for evaluator in self.evaluators:
                for batch, finishes in done:
                    samples = batch.samples[evaluator.bundle.model_id]
                    if samples:
                        evaluate = partial(evaluator.evaluate, samples, self.clock)
                        finishes.append(self._turns.run(evaluator, evaluate))
                    advance(len(batch.images))
            return done, self.state(), last

        def finish(ran: tuple[list[tuple[LoadedBatch, list[Finish]]], str, bool]) -> tuple[list[ImageOutcome], str, bool]:
            return [outcome for done in ran[0] for outcome in self._outcomes(*done)], *ran[1:]

        finished = overlapped((unit for shard in shards for unit in self._units(shard)), load, run, finish)
        with closing(finished):
            for shard in shards:
                outcomes, state, last = [], "", not shard
                while not last:
                    found, state, last = next(finished)
                    outcomes += found
                yield outcomes, state

    def _units(self, shard: Sequence[ImageFile]) -> Iterator[_Unit]:
        """Yield a shard as what runs at a time: a batch, or all that is left where sessions are closed and opened between.

        Each is settled only when it is about to be loaded: memory may turn out too small in the middle of a run.
        """
        size = self.options.batch_size
        left = [shard[start : start + size] for start in range(0, len(shard), size)]
        while left:
            taken = len(left) if self._turns.apart else 1
            unit, left = left[:taken], left[taken:]
            yield unit, not left

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
        for finish in finishes:
            rows, maps = finish()
            for row in rows:
                outcomes[row.image].rows.append(row)
            for item in maps:
                outcomes[item.image].maps.append(item)
        return list(outcomes.values())
