"""The run of `qcam-eval`: images through bundles, shard by shard, so that a killed run goes on where it stopped.

A shard is a number of images. Each finished shard is one Parquet file below `parts/` that appears whole or not at all
(`parts.py`). The plan (bundles, images, options, versions) stands in `run.json`; a folder with another plan is refused, so
results of different settings never mix. Memory is bounded by the shard: parts are joined one by one.
"""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from qcam.common import machine, telling
from qcam.common.errors import QcamError
from qcam.common.files import fingerprint, readable_json, sha256_bytes, sha256_file, write_atomically
from qcam.evaluate.engine.messages import Shard
from qcam.evaluate.engine.requirements import unmet
from qcam.evaluate.results.folder import (
    IMAGES,
    MAPS,
    PICTURES,
    PLACEMENT,
    PROFILE,
    REPORT,
    RESULTS,
    RUN,
    SUMMARY,
    TABLE,
    Results,
    read_run,
    unlike,
    write_run,
)
from qcam.evaluate.results.parts import (
    PARTS,
    DamagedPartError,
    PartStore,
    PlannedPart,
    find_part,
    holds_figures,
    join_parts,
    remove_leftovers,
    write_part,
)
from qcam.evaluate.results.replaced import ReplacedResults
from qcam.evaluate.results.summary import summarise
from qcam.evaluate.run.evaluator import BundleEvaluator, Evaluator, wanted_precisions
from qcam.evaluate.run.runner import ShardRunner
from qcam.evaluate.run.stages import StageClock
from qcam.evaluate.saliency import SaliencySource
from qcam.evaluate.study.plan import (
    StudyOptions,
    differences,
    fingerprint_images,
    image_differences,
    settle_machine,
    shard_keys,
    write_images,
)
from qcam.evaluate.study.record import run_record
from qcam.images.sources import ImageFile, absolute_source
from qcam.runtime.bundle import Bundle

if TYPE_CHECKING:
    from qcam.evaluate.engine.dispatcher import Dispatcher
    from qcam.evaluate.engine.worker import Destination
    from qcam.evaluate.results.remote import RemoteFolder
    from qcam.evaluate.run.facts import WorkerFacts

#: What a complete run has left.
FILES = (RESULTS, MAPS, PICTURES, IMAGES, SUMMARY, PLACEMENT)
_PICTURES = ("grid-*.png", "figures/overview.*", "figures/distribution-*", "figures/depth-*", "figures/grid-*")
#: Images between two safe points.
SHARD_SIZE = 16
#: How often shards are done again whose parts were damaged or vanished before they were joined.
_ROUNDS = 3


class Study:
    """Images × bundles × precisions, and the folder the results go to.

    Attributes:
        folder: Where results go.
        options: What can change a figure.
        bundles: The bundles.
        runner: What evaluates in this process; None if others do.
        clock: Where the time goes.
        kept_old: Whether a run that was to replace results brought them back, having evaluated nothing.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        images: Sequence[ImageFile],
        saliency: SaliencySource | None,
        options: StudyOptions,
        folder: Path,
        *,
        make: Callable[[Bundle, list[str]], Evaluator] | None = None,
        crew: Callable[[Destination], Dispatcher] | None = None,
        remote: RemoteFolder | None = None,
        requirements: Sequence[tuple[str, str]] = (),
        spans: bool = False,
    ) -> None:
        """Open every session, so that a provider that cannot be had is refused before anything is written.

        Args:
            bundles: The bundles, of different models.
            images: The image set.
            saliency: Where salient-object maps come from, if anywhere.
            options: What can change a figure.
            folder: Where results go.
            make: Makes the evaluator of a bundle and the precisions wanted of it; by default one of deployed runs.
            crew: Starts the workers that evaluate in place of this process; no session is opened here then.
            remote: The place behind a URL whose copy the folder is, if it is one.
            requirements: What parts that are there already must have been evaluated on (`engine/requirements.py`).
            spans: Whether the clock keeps every span, for a profile.
        """
        self.folder = folder
        self.bundles = list(bundles)
        # Workers have working folders of their own: whatever is local is named from the root.
        self._images = list(images) if crew is None else [replace(image, path=absolute_source(image.path)) for image in images]
        self._saliency = saliency
        self.options = options
        self._crew = crew
        self._remote = remote
        self._requirements = requirements
        self._complete = self._ran = self.kept_old = False
        self._written: dict[str, str] = {}
        self._old = ReplacedResults(folder, self._ours)
        self._parts = PartStore((remote.location if remote else folder.absolute()) / PARTS)
        self._dispatcher: Dispatcher | None = None
        self.clock = StageClock(spans=spans)
        # A shard holds whole batches: a smaller one would cut the batch that was asked for.
        size = -(-SHARD_SIZE // options.batch_size) * options.batch_size
        self._shards = [self._images[start : start + size] for start in range(0, len(self._images), size)]
        self._shard_size = size
        ids = [bundle.model_id for bundle in bundles]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise QcamError(f"two bundles of the same model ({', '.join(twice)}) cannot share one table; evaluate them apart")
        self.runner: ShardRunner | None = None
        if crew is None:
            with self.clock.stage("open sessions"):
                evaluators = [
                    make(bundle, wanted_precisions(bundle, options.precisions)) if make else BundleEvaluator.of(bundle, options)
                    for bundle in bundles
                ]
            self.runner = ShardRunner(evaluators, saliency, options, self.clock)
        self._sequential = self.runner is not None and self.runner.sequential

    def recover(self) -> None:
        """Finish what a killed process began: results that it had set aside come back, unless its own have begun.

        The folder has to be this process's alone (`exclusive`).

        Raises:
            QcamError: If the disk refuses.
        """
        if self._old.there:
            if self._old.whole and self._has_figures():
                self._old.forget()
            else:
                self._old.bring_back()

    def prepare(self, device: str, *, force: bool) -> bool:
        """Fingerprint the images, compare the plan with what the folder holds, and say whether anything is to do.

        Args:
            device: PyTorch device of the mirrors.
            force: Whether results of another plan are deleted.

        Returns:
            False if the folder holds the complete results of this very plan.

        Raises:
            QcamError: If the folder holds something else; names what differs.
        """
        self._device = device
        with self.clock.stage("fingerprint images"):
            self._hashes = fingerprint_images(self._images)
        content = {image.name: [self._hashes[image.name], image.label] for image in self._images}
        kernels = None if self.runner is None else self.runner.facts.kernels
        self._plan = {
            "bundles": {bundle.model_id: bundle.fingerprint for bundle in self.bundles},
            "images": {"count": len(content), "fingerprint": fingerprint(content)},
            "saliency": None if self._saliency is None else self._saliency.fingerprint,
            "options": self.options.to_json(),
            "device": device,
            "shard_size": self._shard_size,
            # Workers may be other machines: each part records its own.
            "cpu_features": None if self.runner is None else machine.cpu_features(),
            "kernels": None if kernels is None else kernels.name,
            "versions": machine.versions(),
        }
        self._keys = shard_keys(self._shards, self._hashes, self._plan, chained=self._sequential)
        path = self.folder / RUN
        if self._remote is not None and not force:
            held = path.read_bytes() if path.exists() else b""
            self._remote.pull(self.folder, (RUN,))
            if not path.exists() or path.read_bytes() != held:  # the copy is another run's
                self._delete_local()
                self._remote.pull(self.folder, (RUN,))
            self._remote.pull(self.folder, (IMAGES,))
        self._anew = force or not path.exists()
        if self._anew:
            if not force and ({RESULTS, SUMMARY} & self._names() or self._parts.listing() or self._parts.outdated()):
                raise QcamError(f"{self.where} holds results without a {RUN}; use --force to replace them, or --output")
            return True
        before = read_run(path)
        settle_machine(before["plan"], self._plan)
        differing = differences(before["plan"], json.loads(json.dumps(self._plan)))
        if differing:
            differing += image_differences(self.folder, self._images, self._hashes)
            raise QcamError(
                f"{self.where} holds results of other settings ({'; '.join(differing)}); "
                "use --force to replace them, or --output for another folder"
            )
        self._written = {str(name): str(held) for name, held in (before.get("files") or {}).items()}
        if not before.get("complete"):
            return True
        for worker in before.get("workers", ()):
            missing = unmet(self._requirements, worker)
            if missing:
                raise QcamError(f"{self.where} holds results that {missing}; use --force to replace them, or --output")
        if self._damaged(before):
            return True
        self._complete = True
        return False

    def _damaged(self, record: dict[str, Any]) -> bool:
        """Name those files of complete results that are gone, or not what the run wrote; tell whether there are any."""
        gone = sorted(set(FILES) - self._names())
        for name in gone:
            telling.warn(f"{self.where}/{name} is gone; the results are computed again")
        if gone:
            return True
        files = record.get("files")
        if self._remote is not None:
            held = files or {}
            stale = [name for name in FILES if name not in held or unlike(self.folder / name, held[name])]
            self._remote.pull(self.folder, [name for name in stale if files is not None or not (self.folder / name).exists()])
        if files is None:
            telling.note(f"{self.where} holds results of an earlier version, without checksums: they are not verified")
            return False
        wrong = [(name, why) for name in FILES if (why := unlike(self.folder / name, files.get(name)))]
        for name, why in wrong:
            telling.warn(f"{self.where}/{name} {why}; the results are computed again")
        return bool(wrong)

    @property
    def where(self) -> str:
        """Return where results go, for messages."""
        return str(self.folder) if self._remote is None else str(self._remote)

    @property
    def todo(self) -> list[int]:
        """Return the places of the shards that are not finished; after `prepare`."""
        if self._anew:
            return list(range(len(self._shards)))
        listing = self._parts.listing()
        if self._sequential:
            # Everything behind the first gap is to be done again, and what lies before it has to be read to go on.
            whole = takewhile(lambda part: find_part(listing, part, [], self._accept) is not None, self._planned())
            return list(range(sum(1 for _ in whole), len(self._shards)))
        missing = [part.index for part in self._planned() if part.place not in listing]
        if self._requirements:
            there = [part for part in self._planned() if part.place in listing]
            missing = sorted([*missing, *(part.index for part in there if find_part(listing, part, [], self._accept) is None)])
        return missing

    @property
    def shards(self) -> list[list[ImageFile]]:
        """Return the images of every shard."""
        return self._shards

    @property
    def hashes(self) -> dict[str, str]:
        """Return image name → fingerprint; after `prepare`."""
        return self._hashes

    @property
    def facts(self) -> WorkerFacts:
        """Return what evaluates: this process, or the first worker that joined."""
        if self.runner is not None:
            return self.runner.facts
        assert self._dispatcher is not None
        return self._dispatcher.open()

    def build(self) -> None:
        """Build what needs PyTorch, or wait for the first worker that has.

        Raises:
            QcamError: If a graph cannot be mirrored, or no worker can take part.
        """
        if self.runner is not None:
            self.runner.build(self._device)
        elif self._dispatcher is not None:
            with self.clock.stage("open sessions"), telling.status("waiting for the first worker"):
                self._dispatcher.open()

    def run(self) -> None:
        """Evaluate every shard that is not finished yet, then write the results.

        Nothing is written, nor old results deleted, before every graph has been mirrored.

        Raises:
            QcamError: If a graph cannot be mirrored, the disk refuses, no worker is left, or shards failed again and again;
                what is finished has been written, readable, before.
            KeyboardInterrupt: If interrupted; likewise.
        """
        if self._crew is None:
            self._run()
            return
        from qcam.evaluate.engine.dispatcher import dispatching
        from qcam.evaluate.engine.worker import Destination

        record = self.folder.absolute() / RUN if self._remote is None else self._remote.location / RUN
        with dispatching(self._crew(Destination(self._parts, record, fingerprint(self._plan)))) as self._dispatcher:
            self._run()

    def _run(self) -> None:
        self._ran = True
        self.build()
        todo = self.todo
        try:
            self._begin()
            if len(todo) < len(self._shards):
                telling.note(f"{len(self._shards) - len(todo)} of {len(self._shards)} shards are done already; going on")
            self._go_on(todo)
        finally:
            if self._old.there:
                self._old.bring_back()
                self.kept_old = True
                telling.note(f"{self.where} holds what it held before")

    def _begin(self) -> None:
        """Make the folder this run's."""
        # What an earlier, interrupted run has joined stays readable until it is joined anew.
        self._written = {name: held for name, held in self._written.items() if not unlike(self.folder / name, held)}
        if self._anew:
            self._written = {}
            self._replace_results()
        else:
            remove_leftovers(self.folder)
        outdated = self._parts.outdated()
        for path in outdated:
            self._parts.delete(path)
        if outdated:
            telling.note(f"{len(outdated)} parts of an earlier version carry no checksum: their shards are done again")
        write_images(self.folder, self._images, self._hashes)
        self._written[IMAGES] = sha256_file(self.folder / IMAGES)
        if self._remote is not None:
            self._remote.push(self.folder, (IMAGES,))
        self._write_run(complete=False)

    def _go_on(self, todo: Sequence[int]) -> None:
        """Evaluate shards, and join all that is finished; shards whose parts do not last until then are done again."""
        for _ in range(_ROUNDS):
            try:
                self._evaluate(todo)
                if self._old.there:
                    raise QcamError(
                        f"not one of {len(self._images)} images could be evaluated; without --force, and to another --output, "
                        "the same command says why for each"
                    )
            except (KeyboardInterrupt, QcamError):
                if not self._old.there:
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
                f"parts in {self.where} are damaged or vanish again and again (shards {', '.join(map(str, todo[:3]))} …); "
                "look at that disk, or give another --output"
            )
        given_up = self._given_up
        if given_up:
            self.publish()
            named = "; ".join(f"shard {index}: {reason}" for index, (_, reason) in sorted(given_up.items())[:3])
            told = (
                f"{len(given_up)} of {len(self._shards)} shards failed again and again ({named}); {self.where} holds the rest, "
                "readable, and the same command tries them again"
            )
            bug = self._dispatcher.bug_behind(given_up) if self._dispatcher is not None else None
            if bug is not None:  # nothing that a user could mend
                raise RuntimeError(told) from bug
            raise QcamError(told)

    @property
    def _given_up(self) -> dict[int, tuple[Shard, str]]:
        """Return the shards that no worker could evaluate, with the last reason."""
        return {} if self._dispatcher is None else self._dispatcher.quarantined

    def _evaluate(self, todo: Sequence[int]) -> None:
        """Evaluate shards, here or by workers, and write their parts."""
        steps = sum(len(self._shards[index]) for index in todo) * len(self.bundles)
        title = "images × models" + ("" if self._dispatcher is None else f", {self._dispatcher.where}")
        with telling.progress(title, steps) as advance, closing(self._finished(todo, advance)) as finished:
            for index in finished:
                if self._old.there and self._has_figures(index):
                    self._old.forget()

    def _finished(self, todo: Sequence[int], advance: Callable[[int], None]) -> Generator[int, None, None]:
        """Evaluate shards, here or by workers; yield their places as their parts are written."""
        if self._dispatcher is not None:
            shards = [
                Shard(
                    index,
                    self._keys[index],
                    tuple(self._shards[index]),
                    {i.name: self._hashes[i.name] for i in self._shards[index]},
                )
                for index in todo
            ]
            with closing(self._dispatcher.run(shards)) as finished:
                for shard in finished:
                    advance(len(shard.images) * len(self.bundles))
                    yield shard.index
            return
        assert self.runner is not None
        self._restore(todo)
        about = self.facts.to_json()
        with closing(self.runner.evaluate([self._shards[index] for index in todo], self._hashes, advance)) as evaluated:
            for index, (outcomes, state) in zip(todo, evaluated, strict=True):
                with self.clock.stage("write"):
                    write_part(self._parts, self._planned_part(index), outcomes, state, about)
                yield index

    def results(self) -> Results:
        """Read the results back, as far as they are asked for."""
        return Results(self.folder)

    @property
    def statistics_rows(self) -> int:
        """Return how many result rows the whole study has."""
        return sum(model.rows for model in self.facts.models) * len(self._images)

    def publish(self) -> None:
        """Bring the finished results to where they belong, if this folder is a copy of a place behind a URL.

        Raises:
            QcamError: If the place refuses.
        """
        if self._remote is None:
            return
        there = set() if self._ran else set(FILES)  # what was pulled needs no pushing
        self._remote.push_all(self.folder, last=RUN, but=there)
        if self._complete:  # not before: they are all that a failed push could be mended from
            self._parts.clear()

    def _restore(self, todo: Sequence[int]) -> None:
        """Put evaluators whose images depend on each other where the first shard to do expects them."""
        if self._sequential and todo and todo[0] and self.runner is not None:
            damaged: list[DamagedPartError] = []
            before = find_part(self._parts.listing(), self._planned_part(todo[0] - 1), damaged)
            if before is None:
                why = str(damaged[0]) if damaged else f"the part of shard {todo[0] - 1} is gone"
                for error in damaged:
                    self._parts.delete(error.path)
                raise QcamError(f"{why}; run the same command again, which goes on before it")
            self.runner.restore(before.state)

    def _planned_part(self, index: int) -> PlannedPart:
        """Return what the part of a shard has to be."""
        names = tuple(image.name for image in self._shards[index])
        return PlannedPart(index, self._keys[index], names, self._rows_per_image)

    def _planned(self) -> list[PlannedPart]:
        return [self._planned_part(index) for index in range(len(self._shards))]

    @property
    def _rows_per_image(self) -> int | None:
        """Return how many result rows every image has; None as long as no worker has said so."""
        known = self.runner is not None or (self._dispatcher is not None and self._dispatcher.facts is not None)
        return sum(model.rows for model in self.facts.models) if known else None

    def _accept(self, worker: Mapping[str, Any]) -> bool:
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
            joined = join_parts(self._parts, self._planned(), self.folder, self._accept)
        for error in joined.damaged:
            telling.warn(f"{error}; its shard is done again")
            self._parts.delete(error.path)
        again = [index for index in joined.missing if index not in self._given_up]
        if again and not last:
            # What depends on the images before it is done again from the gap on.
            return list(range(again[0], len(self._shards))) if self._sequential else again
        self._written |= joined.files
        self._write_run(complete=False, workers=joined.workers)  # placement and models are read from it
        with self.clock.stage("statistics"):
            results = self.results()
            complete = not joined.missing
            if complete:
                self._require_every_image(results)
            summary = {"complete": complete} | summarise((model, results.columns(model)) for model in results.models)
        self._write(SUMMARY, readable_json(summary))
        placements = {
            model.bundle.model_id: {name: ran.placement.to_json(nodes=True) for name, ran in model.deployed.items()}
            for model in self.facts.models
        }
        self._write(PLACEMENT, readable_json(placements))
        self._write_run(complete=complete, workers=joined.workers)
        self._complete = complete
        if complete and self._remote is None:
            self._parts.clear()
        return []

    def _require_every_image(self, results: Results) -> None:
        """Make sure, before it is said that results are complete, that every planned image has its rows in them."""
        counts = pc.value_counts(results.read(RESULTS, columns=["image"])["image"]).to_pylist()
        found = {item["values"]: item["counts"] for item in counts}
        each = self._rows_per_image or 0
        wanted = {name: times * each for name, times in Counter(image.name for image in self._images).items()}
        if found != wanted:
            odd = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
            raise RuntimeError(
                f"{self.where}/{RESULTS} does not hold {each} rows of each of {len(wanted)} images: "
                f"{len(odd)} differ, {odd[0]} has {found.get(odd[0], 0)}"
            )

    def _write(self, name: str, text: str) -> None:
        """Write a file of the results, and take note of its checksum."""
        data = text.encode()
        write_atomically(self.folder / name, data)
        self._written[name] = sha256_bytes(data)

    def _write_run(self, *, complete: bool, workers: Sequence[dict[str, Any]] = ()) -> None:
        record = run_record(self, self._plan, self.clock.seconds, workers, complete=complete)
        write_run(self.folder / RUN, record | {"files": dict(sorted(self._written.items()))})
        if self._remote is not None and not complete:  # once complete, it comes after all it speaks of: see `publish`
            self._remote.push(self.folder, (RUN,))

    def _names(self) -> set[str]:
        """Return the names of all files that are where results go."""
        if self._remote is not None:
            return self._remote.names()
        return {path.relative_to(self.folder).as_posix() for path in self._files()}

    def _has_figures(self, index: int | None = None) -> bool:
        """Tell whether some image was evaluated, of one shard if given."""
        listing = self._parts.listing()
        some = listing.values() if index is None else [listing.get(self._planned_part(index).place, [])]
        return any(holds_figures(path) for paths in some for path in paths)

    def _replace_results(self) -> None:
        """Take this program's own files from where results go; anything else there is not ours to take.

        Local ones are set aside until the new run has evaluated an image. A place behind a URL cannot rename.
        """
        remove_leftovers(self.folder)
        if self._remote is not None:
            self._delete_local()
            self._parts.clear()
            self._remote.delete(sorted(name for name in self._remote.names() if _is_ours(name)))
        elif self._ours() or self._parts.listing() or self._parts.outdated():
            self._old.set_aside()

    def _ours(self) -> list[str]:
        """Return the names of this program's own files in the folder, parts left out."""
        names = [path.relative_to(self.folder).as_posix() for path in self._files()]
        return [name for name in names if _is_ours(name)]

    def _delete_local(self) -> None:
        """Remove this program's own files from the folder."""
        remove_leftovers(self.folder)
        for name in self._ours():
            (self.folder / name).unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Return the files in the folder and in figures/ below it; it may be a large one that holds all sorts of things."""
        patterns = ("*",) if (self.folder / "figures").is_symlink() else ("*", "figures/*")  # behind a link nothing is ours
        return [path for pattern in patterns for path in self.folder.glob(pattern) if path.is_file()]


def _is_ours(name: str) -> bool:
    """Tell whether a file of a result folder, named below it, was written by this program."""
    return name in (*FILES, RUN, TABLE, REPORT, PROFILE, "table.csv", "table.tex") or any(
        fnmatch.fnmatchcase(name, pattern) for pattern in _PICTURES
    )
