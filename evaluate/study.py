"""The run of `qcam-eval`: images through bundles, shard by shard, so that a killed run goes on where it stopped.

A shard is a number of images. Each finished shard is one Parquet file below `parts/` that appears whole or not at all
(`parts.py`). The plan (bundles, images, options, versions) stands in `run.json`; a folder with another plan is refused, so
results of different settings never mix. Memory is bounded by the shard: parts are joined one by one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from qcam.calibration.images import ImageFile
from qcam.common import console, machine
from qcam.common.errors import QcamError
from qcam.common.files import fingerprint, readable_json, write_atomically
from qcam.evaluate.evaluator import BundleEvaluator, Evaluator, Finish
from qcam.evaluate.loader import LoadedBatch, Loader
from qcam.evaluate.parts import PARTS, ImageOutcome, join_parts, part_path, read_state, remove_leftovers, write_part
from qcam.evaluate.pipeline import overlapped
from qcam.evaluate.plan import (
    StudyOptions,
    differences,
    fingerprint_images,
    image_differences,
    shard_keys,
    write_images,
)
from qcam.evaluate.record import run_record
from qcam.evaluate.results import IMAGES, MAPS, PICTURES, PLACEMENT, PROFILE, REPORT, RESULTS, RUN, SUMMARY, TABLE, Results
from qcam.evaluate.saliency import SaliencySource
from qcam.evaluate.stages import StageClock
from qcam.evaluate.summary import summarise
from qcam.runtime.bundle import PRECISIONS, Bundle
from qcam.runtime.deployed.probe import KernelProbe, probe_kernels, saturates_in_pairs

#: What a complete run has left.
FILES = (RESULTS, MAPS, PICTURES, IMAGES, SUMMARY, PLACEMENT)
#: Images between two safe points.
SHARD_SIZE = 16


class Study:
    """Images × bundles × precisions, and the folder the results go to.

    Attributes:
        folder: Where results go.
        options: What can change a figure.
        evaluators: One per bundle.
        clock: Where the time goes.
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
            spans: Whether the clock keeps every span, for a profile.
        """
        self.folder = folder
        self._images = list(images)
        self._saliency = saliency
        self.options = options
        self.clock = StageClock(spans=spans)
        # A shard holds whole batches: a smaller one would cut the batch that was asked for.
        size = -(-SHARD_SIZE // options.batch_size) * options.batch_size
        self._shards = [self._images[start : start + size] for start in range(0, len(self._images), size)]
        self._shard_size = size
        ids = [bundle.model_id for bundle in bundles]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise QcamError(f"two bundles of the same model ({', '.join(twice)}) cannot share one table; evaluate them apart")
        with self.clock.stage("open sessions"):
            self.evaluators: list[Evaluator] = [
                (make or self._deployed)(bundle, _wanted(bundle, options.precisions)) for bundle in bundles
            ]
        self._sequential = any(evaluator.sequential for evaluator in self.evaluators)

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
        self._plan = {
            "bundles": {e.bundle.model_id: e.bundle.fingerprint for e in self.evaluators},
            "images": {"count": len(content), "fingerprint": fingerprint(content)},
            "saliency": None if self._saliency is None else self._saliency.fingerprint,
            "options": self.options.to_json(),
            "device": device,
            "shard_size": self._shard_size,
            "cpu_features": machine.cpu_features(),
            "kernels": None if self.kernels is None else self.kernels.name,
            "versions": machine.versions(),
        }
        self._keys = shard_keys(self._shards, self._hashes, self._plan, chained=self._sequential)
        path = self.folder / RUN
        self._anew = force or not path.exists()
        if self._anew:
            if not force and any((self.folder / name).exists() for name in (RESULTS, SUMMARY, PARTS)):
                raise QcamError(f"{self.folder} holds results without a {RUN}; use --force to replace them, or --output")
            return True
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise QcamError(f"cannot read {path}: {error}; use --force to start anew") from error
        if not isinstance(before, dict) or not isinstance(before.get("plan"), dict):
            raise QcamError(f"{path} is not the record of a run; use --force to start anew")
        differing = differences(before["plan"], json.loads(json.dumps(self._plan)))
        if differing:
            differing += image_differences(self.folder, self._images, self._hashes)
            raise QcamError(
                f"{self.folder} holds results of other settings ({'; '.join(differing)}); "
                "use --force to replace them, or --output for another folder"
            )
        return not (before.get("complete") and all((self.folder / name).exists() for name in FILES))

    @property
    def todo(self) -> list[int]:
        """Return the places of the shards that are not finished; after `prepare`."""
        if self._anew:
            return list(range(len(self._shards)))
        missing = [index for index in range(len(self._shards)) if not self._part(index).exists()]
        # Where images depend on those before them, everything behind a gap is to be done again.
        return list(range(missing[0], len(self._shards))) if missing and self._sequential else missing

    @property
    def shards(self) -> list[list[ImageFile]]:
        """Return the images of every shard."""
        return self._shards

    def build(self) -> None:
        """Build what needs PyTorch.

        Raises:
            QcamError: If a graph cannot be mirrored.
        """
        with self.clock.stage("build mirrors"):
            for evaluator in self.evaluators:
                evaluator.build(self._device)

    def run(self) -> None:
        """Evaluate every shard that is not finished yet, then write the results.

        Nothing is written, nor old results deleted, before every graph has been mirrored.

        Raises:
            QcamError: If a graph cannot be mirrored, or the disk refuses.
            KeyboardInterrupt: If interrupted; what is finished has been written, readable, before.
        """
        self.build()
        todo = self.todo
        if self._anew:
            self._delete_results()
            write_images(self.folder, self._images, self._hashes)
            self._write_run(complete=False)
        else:
            remove_leftovers(self.folder)
        if len(todo) < len(self._shards):
            console.note(f"{len(self._shards) - len(todo)} of {len(self._shards)} shards are done already; going on")
        self._restore(todo)
        try:
            steps = sum(len(self._shards[index]) for index in todo) * len(self.evaluators)
            with console.progress("images × models", steps) as advance:
                evaluated = self.evaluate([self._shards[index] for index in todo], advance)
                with closing(evaluated):
                    for index, (outcomes, state) in zip(todo, evaluated, strict=True):
                        with self.clock.stage("write"):
                            write_part(self._part(index), self._keys[index], outcomes, state)
        except KeyboardInterrupt:
            self._collect(complete=False)
            raise
        self._collect(complete=True)

    def evaluate(
        self, shards: Sequence[Sequence[ImageFile]], advance: Callable[[int], None]
    ) -> Generator[tuple[list[ImageOutcome], str], None, None]:
        """Evaluate shards with every model, each image decoded once, and write nothing.

        Batches are loaded ahead, and their metrics computed behind, while one runs (`pipeline.py`).

        Args:
            shards: The images of each.
            advance: Told the number of images × models done.

        Yields:
            For each shard one outcome per image, in their order, and the state that it leaves to the next (`Evaluator.state`).

        Raises:
            QcamError: If an image is not what it was when it was fingerprinted.
        """
        loader = Loader(self.evaluators, self._saliency, self._hashes, self.clock, labelled=self.options.target == "label")
        size = self.options.batch_size
        batches = [shard[start : start + size] for shard in shards for start in range(0, len(shard), size)]

        def run(batch: LoadedBatch) -> tuple[LoadedBatch, list[Finish], str]:
            finishes = []
            for evaluator in self.evaluators:
                samples = batch.samples[evaluator.bundle.model_id]
                if samples:
                    finishes.append(evaluator.evaluate(samples, self.clock))
                advance(len(batch.images))
            return batch, finishes, self._state()

        finished = overlapped(batches, loader.load, run, lambda ran: (self._outcomes(*ran[:2]), ran[2]))
        with closing(finished):
            for shard in shards:
                outcomes, state = [], ""
                for _ in range(0, len(shard), size):
                    found, state = next(finished)
                    outcomes += found
                yield outcomes, state

    def results(self) -> Results:
        """Read the results back, as far as they are asked for."""
        return Results(self.folder)

    @property
    def statistics_rows(self) -> int:
        """Return how many result rows the whole study has."""
        rows = sum(len(evaluator.refused("", "", None, "")) for evaluator in self.evaluators)
        return rows * len(self._images)

    def _deployed(self, bundle: Bundle, precisions: list[str]) -> BundleEvaluator:
        options = self.options
        return BundleEvaluator(
            bundle,
            precisions,
            options.settings,
            target=options.target,
            method=options.method,
            fake_quant=options.fake_quant,
            null_row=options.null_row,
            faithfulness=options.faithfulness,
        )

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

    def _state(self) -> str:
        """Return what the images so far leave to the next."""
        return json.dumps([evaluator.state() for evaluator in self.evaluators]) if self._sequential else ""

    def _restore(self, todo: Sequence[int]) -> None:
        """Put evaluators whose images depend on each other where the first shard to do expects them."""
        if not self._sequential or not todo or todo[0] == 0:
            return
        states = json.loads(read_state(self._part(todo[0] - 1), self._keys[todo[0] - 1]))
        for evaluator, state in zip(self.evaluators, states, strict=True):
            evaluator.restore(state)

    def _part(self, index: int) -> Path:
        return part_path(self.folder, index, self._keys[index])

    def _collect(self, *, complete: bool) -> None:
        """Join the finished parts into the result files, and the record of the run."""
        parts = [self._part(index) for index in range(len(self._shards))]
        done = [part for part in parts if part.exists()]
        if complete and len(done) < len(parts):
            raise QcamError(
                f"{len(parts) - len(done)} of {len(parts)} parts in {self.folder} are gone; run the same command again"
            )
        with self.clock.stage("join"):
            join_parts(done, self.folder)
        self._write_run(complete=False)  # placement and models are read from it
        with self.clock.stage("statistics"):
            results = self.results()
            summary = {"complete": complete} | summarise((model, results.columns(model)) for model in results.models)
        write_atomically(self.folder / SUMMARY, readable_json(summary))
        placements = {e.bundle.model_id: _placements(e) for e in self.evaluators}
        write_atomically(self.folder / PLACEMENT, readable_json(placements))
        self._write_run(complete=complete)
        if complete:
            shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def _write_run(self, *, complete: bool) -> None:
        write_atomically(self.folder / RUN, readable_json(run_record(self, self._plan, self.clock.seconds, complete=complete)))

    @cached_property
    def kernels(self) -> KernelProbe | None:
        """Return what the CPU provider's kernels answered; None if no session computes on it."""
        sessions = [session for e in self.evaluators if isinstance(e, BundleEvaluator) for session in e.deployed.values()]
        if not sessions or (
            self.options.settings.provider != "CPU" and not any(session.placement.fallback for session in sessions)
        ):
            return None
        return probe_kernels(self.options.settings.config)

    @property
    def saturates(self) -> bool:
        """Tell whether a figure of this run depends on 16-bit saturation in this CPU's int8 kernels."""
        return self.kernels is not None and any(
            session.placement.integer
            and session.entry.quantization.get("activation") == "UINT8"
            and not session.entry.quantization.get("weight_reduced_range")
            for evaluator in self.evaluators
            if isinstance(evaluator, BundleEvaluator)
            for session in evaluator.deployed.values()
        ) and saturates_in_pairs(self.options.settings.config)

    def _delete_results(self) -> None:
        """Remove this program's own files from the folder; anything else in it is not ours to delete."""
        ours = [*FILES, RUN, TABLE, REPORT, PROFILE, "table.csv", "table.tex"]
        ours += [path.name for path in self.folder.glob("grid-*.png")]
        for kind in ("overview", "distribution-*", "depth-*", "grid-*"):
            ours += [f"figures/{path.name}" for path in self.folder.glob(f"figures/{kind}.*")]
        remove_leftovers(self.folder)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        for name in ours:
            (self.folder / name).unlink(missing_ok=True)


def _wanted(bundle: Bundle, asked: Sequence[str]) -> list[str]:
    """Return the precisions to evaluate, f32 first whatever the order they were asked for in: others explain its class.

    Raises:
        QcamError: If one was asked for that the bundle does not hold.
    """
    for name in asked:
        bundle.precision(name)
    held = [entry.name for entry in bundle.precisions]
    return [name for name in PRECISIONS if name in (asked or held) and name in held]


def _placements(evaluator: Evaluator) -> dict[str, Any]:
    if not isinstance(evaluator, BundleEvaluator):
        return {}
    return {name: session.placement.to_json(nodes=True) for name, session in evaluator.deployed.items()}
