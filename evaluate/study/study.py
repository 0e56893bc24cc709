"""The run of `qcam-eval`: images through bundles, shard by shard, so that a killed run goes on where it stopped.

A study is three things: a plan that does not change (`plan.py`), a place for its results (`results/place.py`), and what carries
it out (`executor.py`): this process, or a crew of workers. Each finished shard is one Parquet file that appears whole or not at
all (`results/parts.py`). A place that holds results of another plan is refused, so results of different settings never mix.
Memory is bounded by the shard: parts are joined one by one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from qcam.common import telling
from qcam.common.counted import counted
from qcam.common.errors import QcamError, ResultsError
from qcam.common.files import readable_json
from qcam.common.wording import in_options
from qcam.evaluate.engine.requirements import unmet
from qcam.evaluate.results.clipping import CLIPPING, read_clipping
from qcam.evaluate.results.folder import PLACEMENT, RESULTS, RUN, SUMMARY, Results
from qcam.evaluate.results.parts import PlannedPart, find_part, join_parts, split_results, write_part
from qcam.evaluate.results.place import ResultPlace
from qcam.evaluate.results.records import Crossing, RunRecord, Summary, WorkerRecord
from qcam.evaluate.results.summary import summarise
from qcam.evaluate.run.inputs import random_weights
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.run.stages import StageClock
from qcam.evaluate.saliency import SaliencySource
from qcam.evaluate.study.executor import Opening, ThisProcess
from qcam.evaluate.study.plan import StudyPlan, begins_with, make_plan, settled, told_differences, write_images
from qcam.evaluate.study.record import negative_activations, run_record
from qcam.evaluate.study.record import warnings as warnings_of
from qcam.images.account import Account
from qcam.images.sources import ImageFile
from qcam.runtime.bundle import Bundle

if TYPE_CHECKING:
    from qcam.evaluate.results.remote import RemoteFolder
    from qcam.evaluate.run.facts import WorkerFacts

#: How often shards are done again whose parts were damaged or vanished before they were joined.
_ROUNDS = 3
_NO_SUMMARY = Summary()


class Study:
    """Images × bundles × precisions, sessions open, and the folder the results go to; nothing is planned yet.

    Attributes:
        place: Where results go.
        options: What can change a figure.
        bundles: The bundles.
        images: The image set.
        executor: What evaluates: this process, or a crew.
        requirements: What parts must have been evaluated on.
        clock: Where the time goes.
        account: What became of what was given; lines may be added until the run begins.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        images: Sequence[ImageFile],
        saliency: SaliencySource | None,
        options: StudyOptions,
        folder: Path,
        *,
        executor: Opening = ThisProcess,
        remote: RemoteFolder | None = None,
        requirements: Sequence[tuple[str, str]] = (),
        spans: bool = False,
        account: Account | None = None,
    ) -> None:
        """Open every session, so that a provider that cannot be had is refused before anything is written.

        Args:
            bundles: The bundles, of different models.
            images: The image set.
            saliency: Where salient-object maps come from, if anywhere.
            options: What can change a figure.
            folder: Where results go.
            executor: Makes what evaluates; by default it is this process. A crew opens no session here.
            remote: The place behind a URL whose copy the folder is, if it is one.
            requirements: What parts that are there already must have been evaluated on (`engine/requirements.py`).
            spans: Whether the clock keeps every span, for a profile.
            account: What became of what was given, as far as it is known.
        """
        self.place = ResultPlace(folder, remote)
        self.bundles = list(bundles)
        self.images = list(images)
        self._saliency = saliency
        self.options = options
        self.requirements = requirements
        self.account = account or Account()
        self.clock = StageClock(spans=spans)
        ids = [bundle.model_id for bundle in bundles]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            folders = " and ".join(str(bundle.folder) for bundle in bundles if bundle.model_id == twice[0])
            raise QcamError(
                f"two bundles of the same model ({', '.join(twice)}) cannot share one table; evaluate {folders} apart, each "
                "with its own {output}, and let qcam-report show both results side by side"
            )
        self.executor = executor(self.bundles, saliency, options, self.clock)

    def recover(self) -> None:
        """Finish what a killed process began (`ResultPlace.recover`)."""
        self.place.recover()

    @property
    def facts(self) -> WorkerFacts:
        """Return what evaluates: this process, or the first worker that joined."""
        return self.executor.facts

    def prepare(self, device: str, *, force: bool) -> PlannedStudy:
        """Fingerprint the images, and compare the plan with what the place holds.

        Args:
            device: PyTorch device of the mirrors.
            force: Whether results of another plan are replaced.

        Returns:
            The study with its plan; it is `complete` if the place holds the complete results of this very plan.

        Raises:
            ResultsError: If the place holds something else; names what differs.
        """
        self.executor.settle(device)
        facts = self.executor.facts if self.executor.here else None
        kernels = None if facts is None else facts.kernels
        with self.clock.stage("fingerprint images"):
            plan = make_plan(
                self.bundles,
                self.images,
                None if self._saliency is None else self._saliency.fingerprint,
                self.options,
                device,
                kernels=None if kernels is None else kernels.name,
                here=self.executor.here,
                sequential=self.executor.sequential,
                gpu=None if facts is None else facts.gpu,
            )
        place = self.place
        if not force:
            place.fetch()
        if force or not (place.folder / RUN).exists():
            if not force and place.holds_results:
                raise ResultsError(f"{place} holds results without a {RUN}; use {{force}} to replace them, or {{output}}")
            return PlannedStudy(self, plan, device, anew=True)
        held = place.results()
        before = held.record
        recorded, plan = settled(held.run["plan"], plan)
        known = begins_with(place.folder, recorded, plan)
        differing = [] if known else told_differences(recorded, plan, place.folder)
        if differing:
            raise ResultsError(
                f"{place} holds results of other settings ({'; '.join(differing)}); give another folder, "
                f"{{output}} {place.beside()}, or {{force}} to replace them"
            )
        place.take_over(before)
        if known:
            telling.note(f"{place} holds results of the first {known} of these images: going on from there")
            return PlannedStudy(self, plan, device, before=before, known=known)
        if not before.complete:
            return PlannedStudy(self, plan, device)
        for worker in before.workers:
            missing = unmet(self.requirements, worker)
            if missing:
                raise ResultsError(f"{place} holds results that {missing}; use {{force}} to replace them, or {{output}}")
        return PlannedStudy(self, plan, device, complete=not place.is_damaged(before))


class PlannedStudy:
    """A study with its plan: it can be run, and its results read.

    Attributes:
        plan: Its images in shards, and all that can change a figure.
        place: Where results go.
        options: What can change a figure.
        bundles: The bundles.
        executor: What evaluates: this process, or a crew.
        clock: Where the time goes.
        account: What became of what was given; lines may be added until the run begins.
        complete: Whether the place holds the complete results of this very plan.
    """

    def __init__(
        self,
        study: Study,
        plan: StudyPlan,
        device: str,
        *,
        anew: bool = False,
        before: RunRecord | None = None,
        known: int = 0,
        complete: bool = False,
    ) -> None:
        """Take a study and its plan (`Study.prepare`).

        Args:
            study: The study.
            plan: Its plan.
            device: PyTorch device of the mirrors.
            anew: Whether what the place holds is replaced.
            before: The record of results of the first images of this set, if the place holds such.
            known: Of how many images they are.
            complete: Whether the place holds the complete results of this very plan.
        """
        self.plan = plan
        self.place = study.place
        self.options = study.options
        self.bundles = study.bundles
        self.executor = study.executor
        self.clock = study.clock
        self.account = study.account
        self.complete = complete
        self._requirements = study.requirements
        self._device = device
        self._anew = anew
        self._ran = False
        self._before = before
        self._reusable = () if before is None else self._reusable_shards(before, known)

    @property
    def todo(self) -> list[int]:
        """Return the places of the shards that are not finished."""
        if self._anew:
            return list(range(len(self.plan.shards)))
        listing, parts = self.place.parts.listing(), self._parts()
        if self.plan.sequential:
            # Everything behind the first gap is to be done again, and what lies before it has to be read to go on.
            whole = takewhile(lambda part: find_part(listing, part, [], self._accept) is not None, parts)
            return list(range(sum(1 for _ in whole), len(parts)))
        missing = [part.index for part in parts if part.place not in listing and part.index not in self._reusable]
        if self._requirements:
            there = [part for part in parts if part.place in listing]
            missing = sorted([*missing, *(part.index for part in there if find_part(listing, part, [], self._accept) is None)])
        return missing

    def _refuse_other_gpus(self) -> None:
        """Refuse to go on with what another GPU computed, or this one with another driver or other libraries.

        Raises:
            ResultsError: Names both.
        """
        mine = self.facts.gpu
        if mine is None or self._anew:
            return
        before = [] if self._before is None else [worker.gpu for worker in self._before.workers]
        parts, listing = self._parts(), self.place.parts.listing()

        def look(worker: WorkerRecord) -> bool:
            before.append(worker.gpu)
            return True

        for part in parts:
            if part.place in listing:
                find_part(listing, part, [], look)
        for other in before:
            if other != mine:
                told = "no GPU" if other is None else other.describe()
                differing = f" ({'; '.join(other.differences(mine))})" if other is not None else ""
                # Where machines differ, the first worker that joined may be on any of their cards.
                chosen = "" if other is None or other.name == mine.name else f"{{require}} gpu={other.name} to go on there, "
                raise ResultsError(
                    f"{self.place} holds results of {told}, and this is {mine.describe()}{differing}: what two GPUs compute is "
                    f"not mixed; give {chosen}another folder, {{output}} {self.place.beside()}, or {{force}} to replace them"
                )

    def _reusable_shards(self, before: RunRecord, known: int) -> tuple[int, ...]:
        """Return the shards that complete results of the first images hold whole.

        Args:
            before: Their record.
            known: How many images they are of.
        """
        # Which of several workers evaluated an image is not kept, nor what it leaves to the next where that counts.
        if not before.complete or self.plan.sequential or len(before.workers) != 1:
            return ()
        ends = itertools.accumulate(len(shard) for shard in self.plan.shards)
        return tuple(index for index, end in enumerate(ends) if end <= known)

    def _reuse(self, before: RunRecord) -> None:
        """Make parts again of complete results of the first images; those of results that are not complete are there."""
        wanted, self._reusable = self._reusable, ()
        if not wanted or self.place.is_damaged(before):
            return
        (worker,) = before.workers
        parts = [self._parts()[index] for index in wanted]
        for part, outcomes in zip(parts, split_results(self.place.folder, parts), strict=True):
            write_part(self.place.parts, part, outcomes, "", worker)

    @property
    def facts(self) -> WorkerFacts:
        """Return what evaluates: this process, or the first worker that joined."""
        return self.executor.facts

    def build(self) -> None:
        """Build what needs PyTorch, or wait for the first worker that has.

        Raises:
            QcamError: If a graph cannot be mirrored, or no worker can take part.
        """
        self.executor.build(self._device)

    def run(self) -> None:
        """Evaluate every shard that is not finished yet, then write the results.

        Nothing is written, nor old results deleted, before every graph has been mirrored.

        Raises:
            QcamError: If a graph cannot be mirrored, the disk refuses, no worker is left, or shards failed again and again;
                what is finished has been written, readable, before.
            KeyboardInterrupt: If interrupted; likewise.
        """
        with self.executor.at_work(self.plan, self.place):
            self._run()

    def _run(self) -> None:
        self._ran = True
        self.build()
        self._refuse_other_gpus()
        if self._before is not None:
            self._reuse(self._before)
        todo = self.todo
        shards = len(self.plan.shards)
        try:
            self.place.begin(anew=self._anew)
            write_images(self.place.folder, self.plan.images, self.plan.hashes)
            self.place.wrote_images()
            self._write_record(complete=False)
            if len(todo) < shards:
                telling.note(f"{shards - len(todo)} of {counted(shards, 'shard')} are done already; going on")
            self._go_on(todo)
        finally:
            self.place.keep_old()

    def _go_on(self, todo: Sequence[int]) -> None:
        """Evaluate shards, and join all that is finished; shards whose parts do not last until then are done again."""
        for _ in range(_ROUNDS):
            try:
                self._evaluate(todo)
                if self.place.replaces:
                    raise QcamError(
                        f"not one of {counted(len(self.plan.images), 'image')} could be evaluated; without {{force}}, and "
                        "to another {output}, the same command says why for each"
                    )
            except (KeyboardInterrupt, QcamError):
                if not self.place.replaces:
                    with suppress(QcamError):
                        self._collect(last=True)
                        self.publish()
                raise
            todo = self._collect()
            if not todo:
                break
        else:
            self._collect(last=True)
            self.publish()
            raise QcamError(
                f"parts in {self.place} are damaged or vanish again and again (shards {', '.join(map(str, todo[:3]))} …); "
                "look at that disk, or give another {output}"
            )
        given_up = self.executor.given_up
        if given_up:
            self.publish()
            named = "; ".join(f"shard {index}: {reason}" for index, reason in sorted(given_up.items())[:3])
            told = (
                f"{len(given_up)} of {counted(len(self.plan.shards), 'shard')} failed again and again ({named}); "
                f"{self.place} holds the rest, readable, and the same command tries them again"
            )
            bug = self.executor.bug_behind(given_up)
            if bug is not None:  # nothing that a user could mend
                raise RuntimeError(told) from bug
            raise QcamError(told)

    def _evaluate(self, todo: Sequence[int]) -> None:
        """Evaluate shards, here or by workers, and write their parts."""
        steps = sum(len(self.plan.shards[index]) for index in todo) * len(self.bundles)
        title = ", ".join(filter(None, ("images × models", self.executor.where)))
        parts, place = self._parts(), self.place
        with (
            telling.progress(title, steps) as advance,
            closing(self.executor.evaluate(self.plan, place, todo, advance)) as finished,
        ):
            for index in finished:
                if place.replaces and place.has_figures(parts[index].place):
                    place.forget_old()

    def results(self) -> Results:
        """Read the results back, as far as they are asked for."""
        return self.place.results()

    def warnings(self, results: Results) -> list[str]:
        """Return what has to be told of results beside random weights, of which `load_bundles` has warned.

        Args:
            results: This study's.

        Returns:
            The warnings of their record; with tokens for options where it is known what evaluates.
        """
        facts = self.executor.known
        known = negative_activations(results.statistics.crossings)
        if facts is not None:
            known += warnings_of(facts, results.record.workers)
        tokens = {in_options(text): text for text in known}
        told = set(map(random_weights, self.bundles))
        return [tokens.get(text, text) for text in results.record.warnings if text not in told]

    @property
    def rows(self) -> int:
        """Return how many result rows the whole study has."""
        return self.facts.rows * len(self.plan.images)

    def publish(self) -> None:
        """Bring the finished results to where they belong (`ResultPlace.publish`)."""
        self.place.publish(complete=self.complete, anew=self._ran)

    def _parts(self) -> list[PlannedPart]:
        """Return what the part of every shard has to be."""
        facts = self.executor.known
        return self.plan.parts(self._rows_per_image, None if facts is None else facts.references)

    @property
    def _rows_per_image(self) -> int | None:
        """Return how many result rows every image has; None as long as no worker has said so."""
        facts = self.executor.known
        return None if facts is None else facts.rows

    def _accept(self, worker: WorkerRecord) -> bool:
        """Tell whether what evaluated a part is what was required."""
        return not unmet(self._requirements, worker)

    def _collect(self, *, last: bool = False) -> list[int]:
        """Join the finished parts into the result files, with summary, placement and the record of the run.

        Args:
            last: Whether this is all that there will be, though shards be missing.

        Returns:
            Places of shards that have to be done again: their parts were damaged, which is told, or vanished. Then nothing
            but the joined files was written. Empty if `last`.
        """
        with self.clock.stage("join"):
            joined = join_parts(self.place.parts, self._parts(), self.place.folder, self._accept)
        for error in joined.damaged:
            telling.warn(f"{error.template}; its shard is done again")
            self.place.parts.delete(error.path)
        again = [index for index in joined.missing if index not in self.executor.given_up]
        if again and not last:
            # What depends on the images before it is done again from the gap on.
            return list(range(again[0], len(self.plan.shards))) if self.plan.sequential else again
        self.place.wrote(joined.files)
        self._write_record(complete=False, workers=joined.workers)  # placement and models are read from it
        with self.clock.stage("statistics"):
            results = self.results()
            complete = not joined.missing
            if complete:
                self._require_every_image(results)
            clipping = tuple(read_clipping(self.place.folder / CLIPPING))
            columns = ((model, results.columns(model)) for model in results.models)
            figures = summarise(columns, results.references, self.options.non_inferior_to, clipping)
            summary = {"complete": complete} | figures
        self.place.write(SUMMARY, readable_json(summary))
        placements = {
            model.bundle.model_id: {name: ran.placement.to_json(nodes=True) for name, ran in model.deployed.items()}
            for model in self.facts.models
        }
        self.place.write(PLACEMENT, readable_json(placements))
        told = Summary(crossings=tuple(Crossing(**found) for found in summary["crossings"]), clipping=clipping)
        self._write_record(complete=complete, workers=joined.workers, summary=told)
        self.complete = complete
        if complete:
            self.place.finish()
        return []

    def _require_every_image(self, results: Results) -> None:
        """Make sure, before it is said that results are complete, that every planned image has its rows in them."""
        counts = pc.value_counts(results.read(RESULTS, columns=["image"])["image"]).to_pylist()
        found = {item["values"]: item["counts"] for item in counts}
        each = self._rows_per_image or 0
        wanted = {name: times * each for name, times in Counter(image.name for image in self.plan.images).items()}
        if found != wanted:
            odd = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
            raise RuntimeError(
                f"{self.place}/{RESULTS} does not hold {each} rows of each of {len(wanted)} images: "
                f"{len(odd)} differ, {odd[0]} has {found.get(odd[0], 0)}"
            )

    def _write_record(
        self, *, complete: bool, workers: Sequence[WorkerRecord] = (), summary: Summary = _NO_SUMMARY
    ) -> None:
        seconds = self.clock.seconds
        account = self.account
        hashes = [self.plan.hashes[image.name] for image in self.plan.images]
        record = run_record(
            self.facts, self.plan.conditions, seconds, workers, account, summary, hashes, complete=complete
        )
        self.place.write_record(record)
