"""What carries a study out: this process, or a crew of workers. A study knows neither; it speaks to both in the same words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from qcam.common import telling
from qcam.common.errors import ResultsError
from qcam.evaluate.engine.dispatcher import dispatching
from qcam.evaluate.engine.worker import Destination
from qcam.evaluate.results.parts import DamagedPartError, find_part, write_part
from qcam.evaluate.run.evaluator import deployed_openers, wanted_precisions
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.run.runner import ShardRunner
from qcam.evaluate.run.stages import StageClock
from qcam.evaluate.saliency import SaliencySource
from qcam.images.sources import absolute_source
from qcam.runtime.bundle import Bundle
from qcam.runtime.deployed import PackedCopies

if TYPE_CHECKING:
    from qcam.evaluate.engine.dispatcher import Dispatcher
    from qcam.evaluate.engine.messages import Shard
    from qcam.evaluate.results.place import ResultPlace
    from qcam.evaluate.run.facts import WorkerFacts
    from qcam.evaluate.run.protocol import Evaluator
    from qcam.evaluate.study.plan import StudyPlan


class Executor(Protocol):
    """What evaluates the shards of a study, and writes their parts."""

    @property
    def here(self) -> bool:
        """Tell whether this process evaluates. Workers may be other machines: each part records its own."""
        ...

    @property
    def sequential(self) -> bool:
        """Tell whether an image's figures depend on the images before it."""
        ...

    @property
    def where(self) -> str:
        """Return where the work is done, in words; empty if here."""
        ...

    @property
    def known(self) -> WorkerFacts | None:
        """Return what evaluates: this process, or the first worker that joined; None as long as none has."""
        ...

    @property
    def facts(self) -> WorkerFacts:
        """Return what evaluates; wait for it, if it is on its way.

        Raises:
            QcamError: If no worker can take part.
            RuntimeError: If nobody is at work.
        """
        ...

    @property
    def given_up(self) -> Mapping[int, str]:
        """Return the places of shards that nobody could evaluate, with the last reason."""
        ...

    def bug_behind(self, shards: Collection[int]) -> Exception | None:
        """Return the bug for which all of some shards were given up; None if any was for another reason."""
        ...

    def at_work(self, plan: StudyPlan, place: ResultPlace) -> AbstractContextManager[None]:
        """Be there for a run, and leave when the block ends, however it does.

        Args:
            plan: What is run.
            place: Where parts go.
        """
        ...

    def settle(self, device: str) -> None:
        """Learn where PyTorch will compute, before `facts` are asked for.

        Args:
            device: PyTorch device of the mirrors.
        """
        ...

    def build(self, device: str) -> None:
        """Build what needs PyTorch, or wait for the first worker that has.

        Args:
            device: PyTorch device of the mirrors.

        Raises:
            QcamError: If a graph cannot be mirrored, or no worker can take part.
        """
        ...

    def evaluate(
        self, plan: StudyPlan, place: ResultPlace, todo: Sequence[int], advance: Callable[[int], None]
    ) -> Generator[int, None, None]:
        """Evaluate shards, and write their parts.

        Args:
            plan: What is run.
            place: Where parts go.
            todo: The places of the shards.
            advance: Told the number of images × models done.

        Yields:
            The place of each shard whose part has been written; those that never come are `given_up`.

        Raises:
            QcamError: If an image is not what it was when the plan was made, the disk refuses, or no worker is left.
        """
        ...


#: Makes what carries a study out, of its bundles, its source of salient-object maps, its options and its clock.
Opening = Callable[[Sequence[Bundle], SaliencySource | None, StudyOptions, StageClock], Executor]


class ThisProcess:
    """This process, with a session for each precision of each bundle.

    Attributes:
        runner: The evaluators.
    """

    here = True
    where = ""

    def __init__(
        self,
        bundles: Sequence[Bundle],
        saliency: SaliencySource | None,
        options: StudyOptions,
        clock: StageClock,
        *,
        make: Callable[[Bundle, list[str]], Evaluator] | None = None,
        room: int | None = None,
    ) -> None:
        """Open every session.

        Args:
            bundles: The bundles.
            saliency: Where salient-object maps come from, if anywhere.
            options: What can change a figure.
            clock: Where the time goes.
            make: Makes the evaluator of a bundle and the precisions wanted of it; by default one of deployed runs.
            room: Memory that sessions and mirrors may take; None for as much as they need.

        Raises:
            QcamError: If a provider cannot be had, or a bundle has no such precision.
        """
        self._copies = PackedCopies()
        with clock.stage("open sessions"):
            openers: Sequence[Callable[[], Evaluator]] = (
                deployed_openers(bundles, options, room, self._copies)
                if make is None
                else [
                    partial(make, bundle, wanted_precisions(bundle, options.precisions, reference=True)) for bundle in bundles
                ]
            )
            self.runner = ShardRunner(openers, saliency, options, clock)

    @property
    def sequential(self) -> bool:
        """Tell whether an image's figures depend on the images before it."""
        return self.runner.sequential

    @property
    def known(self) -> WorkerFacts:
        """Return what this process is."""
        return self.runner.facts

    @property
    def facts(self) -> WorkerFacts:
        """Return what this process is; under the paper's protocol whole only after `build`."""
        return self.runner.facts

    @property
    def given_up(self) -> Mapping[int, str]:
        """Return nothing: what fails here ends the run."""
        return {}

    def bug_behind(self, shards: Collection[int]) -> None:
        """Return nothing: no shard is given up here."""

    @contextmanager
    def at_work(self, plan: StudyPlan, place: ResultPlace) -> Generator[None, None, None]:
        """Be there, as this process is; when the block ends, networks have no more turns (`Executor.at_work`)."""
        try:
            yield
        finally:
            self._copies.close()

    def settle(self, device: str) -> None:
        """Learn where PyTorch will compute (`Executor.settle`)."""
        self.runner.settle(device)

    def build(self, device: str) -> None:
        """Build what needs PyTorch.

        Args:
            device: PyTorch device of the mirrors.

        Raises:
            QcamError: If a graph cannot be mirrored.
        """
        self.runner.build(device)

    def evaluate(
        self, plan: StudyPlan, place: ResultPlace, todo: Sequence[int], advance: Callable[[int], None]
    ) -> Generator[int, None, None]:
        """Evaluate shards one after the other, and write their parts (`Executor.evaluate`)."""
        self._restore(plan, place, todo)
        facts = self.facts
        about, parts = facts.record, plan.parts(facts.rows, facts.references)
        shards, references = [plan.shards[index] for index in todo], [plan.references(index) for index in todo]
        with closing(self.runner.evaluate(shards, plan.hashes, advance, references)) as evaluated:
            for index, (outcomes, state) in zip(todo, evaluated, strict=True):
                with self.runner.clock.stage("write"):
                    write_part(place.parts, parts[index], outcomes, state, about)
                yield index

    def _restore(self, plan: StudyPlan, place: ResultPlace, todo: Sequence[int]) -> None:
        """Put evaluators whose images depend on each other where the first shard to do expects them."""
        if plan.sequential and todo and todo[0]:
            damaged: list[DamagedPartError] = []
            part = plan.parts(self.facts.rows, self.facts.references)[todo[0] - 1]
            before = find_part(place.parts.listing(), part, damaged)
            if before is None:
                why = damaged[0].template if damaged else f"the part of shard {todo[0] - 1} is gone"
                for error in damaged:
                    place.parts.delete(error.path)
                raise ResultsError(f"{why}; run the same command again, which goes on before it")
            self.runner.restore(before.state)


class Crew:
    """Workers, as processes or on a cluster: they are started for a run, and end with it."""

    here = False
    sequential = False

    def __init__(self, start: Callable[[Destination], Dispatcher], bundles: Sequence[Bundle], clock: StageClock) -> None:
        """Take what starts the workers; none is started yet, and no session is opened here.

        Args:
            start: Starts them, told where parts go.
            bundles: The bundles.
            clock: Where the time goes.
        """
        self._start = start
        self._models = len(bundles)
        self._clock = clock
        self._dispatcher: Dispatcher | None = None  # after a run, the one that was

    @property
    def where(self) -> str:
        """Return what the workers are, in words."""
        return self._at_work.where

    @property
    def known(self) -> WorkerFacts | None:
        """Return what the first worker that joined is; None as long as none has."""
        return None if self._dispatcher is None else self._dispatcher.facts

    @property
    def facts(self) -> WorkerFacts:
        """Return what the first worker that joins is (`Executor.facts`)."""
        return self._at_work.open()

    @property
    def given_up(self) -> Mapping[int, str]:
        """Return the places of the shards that no worker could evaluate, with the last reason."""
        quarantined = {} if self._dispatcher is None else self._dispatcher.quarantined
        return {index: reason for index, (_, reason) in quarantined.items()}

    def bug_behind(self, shards: Collection[int]) -> Exception | None:
        """Return the bug for which all of some shards were given up; None if any was for another reason."""
        return self._at_work.bug_behind(shards)

    @contextmanager
    def at_work(self, plan: StudyPlan, place: ResultPlace) -> Generator[None, None, None]:
        """Start the workers, and end them when the block ends, however it does (`Executor.at_work`)."""
        with dispatching(self._start(Destination(place.parts, place.record, plan.fingerprint))) as self._dispatcher:
            yield

    def settle(self, device: str) -> None:
        """Do nothing: each worker knows its device."""

    def build(self, device: str) -> None:
        """Wait for the first worker, which has built what needs PyTorch; each knows its device.

        Args:
            device: Not asked for.

        Raises:
            QcamError: If none can take part.
        """
        with self._clock.stage("open sessions"), telling.status("waiting for the first worker"):
            self._at_work.open()

    def evaluate(
        self, plan: StudyPlan, place: ResultPlace, todo: Sequence[int], advance: Callable[[int], None]
    ) -> Generator[int, None, None]:
        """Let workers evaluate shards and write their parts, in any order (`Executor.evaluate`)."""
        with closing(self._at_work.run([_from_the_root(plan.shard(index)) for index in todo])) as finished:
            for shard in finished:
                advance(len(shard.images) * self._models)
                yield shard.index

    @property
    def _at_work(self) -> Dispatcher:
        if self._dispatcher is None:
            raise RuntimeError("nobody evaluates yet: a study with workers has facts while it runs")
        return self._dispatcher


def by_crew(start: Callable[[Destination], Dispatcher]) -> Opening:
    """Return what makes a crew of what starts its workers."""

    def opening(bundles: Sequence[Bundle], saliency: SaliencySource | None, options: StudyOptions, clock: StageClock) -> Crew:
        return Crew(start, bundles, clock)

    return opening


def _from_the_root(shard: Shard) -> Shard:
    """Name whatever is local from the root: workers have working folders of their own."""
    return replace(shard, images=tuple(replace(image, path=absolute_source(image.path)) for image in shard.images))
