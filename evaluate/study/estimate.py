"""The dry run: what a study would do, how many bytes it would write and how long it would take, from a measured probe."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from qcam.common import telling
from qcam.common.counted import counted
from qcam.evaluate.results.parts import ImageOutcome, PartStore, PlannedPart, write_part
from qcam.evaluate.results.records import UNKNOWN_WEIGHTS
from qcam.evaluate.run.stages import REOPENING
from qcam.evaluate.study.executor import ThisProcess
from qcam.evaluate.study.study import PlannedStudy


@dataclass(frozen=True)
class Estimate:
    """What is left to do of a study.

    Attributes:
        shards: All shards.
        todo: Those that are not finished.
        images: Images in the latter.
        probed: Images that the probe evaluated.
        seconds_per_image: Measured, all models and precisions together.
        bytes_per_image: Measured size of a finished part by its images.
        all_images: Images of the whole study.
        referenced: Of how many of the images left to do there are reference rows.
        seconds_per_reference: What those of an image take besides.
    """

    shards: int
    todo: int
    images: int
    probed: int
    seconds_per_image: float
    bytes_per_image: float
    all_images: int
    referenced: int = 0
    seconds_per_reference: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the time that the images left to do will take."""
        return self.seconds_per_image * self.images + self.seconds_per_reference * self.referenced

    @property
    def all_bytes(self) -> float:
        """Return the size of the finished results; while parts are joined, twice that is on disk."""
        return self.bytes_per_image * self.all_images


def estimate(study: PlannedStudy) -> Estimate:
    """Evaluate one batch to warm up and one to measure, of those left to do; nothing is written to the result folder.

    Args:
        study: Of this process.

    Raises:
        QcamError: As from a run.
        RuntimeError: If workers carry the study out: they are started for a whole run.
    """
    if not isinstance(study.executor, ThisProcess):
        raise RuntimeError("a study is measured in this process, not by workers: they are started for a whole run")
    runner = study.executor.runner
    study.build()
    todo = study.todo
    images = [image for index in todo for image in study.plan.shards[index]]
    size = study.options.batch_size
    warm, probe = images[:size], images[size : 2 * size] or images[:size]
    referenced = sum(study.plan.references(index) for index in todo)
    seconds, more, weight = 0.0, 0.0, 0.0
    outcomes: list[ImageOutcome] = []

    def measured(references: int) -> float:
        """Return the seconds of an image."""
        nonlocal outcomes
        start, opened = time.perf_counter(), runner.clock.seconds.get(REOPENING, 0.0)
        ((outcomes, _),) = runner.evaluate([probe], study.plan.hashes, lambda _: None, [references])
        # A run opens what it does not keep once for many images, not for each batch.
        opening = runner.clock.seconds.get(REOPENING, 0.0) - opened
        return (time.perf_counter() - start - opening) / len(probe)

    if probe:
        with telling.status("measuring"):
            list(runner.evaluate([warm], study.plan.hashes, lambda _: None))
            more = measured(len(probe)) if referenced else 0.0
            seconds = measured(0)
            more = max(more - seconds, 0.0)
        with tempfile.TemporaryDirectory() as folder:
            part, none = (PlannedPart(0, "0" * 64, tuple(image.name for image in of)) for of in (probe, ()))
            # Less what a file takes whatever it holds: of a few images that would be most of it.
            whole, bare = (write_part(PartStore(Path(folder)), of, held) for of, held in ((part, outcomes), (none, [])))
            weight = (whole.stat().st_size - bare.stat().st_size) / len(probe)
    shards, every = len(study.plan.shards), len(study.plan.images)
    return Estimate(shards, len(todo), len(images), len(probe), seconds, weight, every, referenced, more)


def describe(study: PlannedStudy, found: Estimate, workers: int = 1) -> list[str]:
    """Return the plan and the estimate in lines.

    Args:
        study: The study.
        found: Measured in this process.
        workers: How many will share the work, each with cores of its own.
    """
    options = study.options
    lines = [
        f"results: {study.place}/",
        f"protocol: {options.protocol}; {options.describe()}",
        *map(str, study.account.lines),
        f"images: {found.all_images} in {counted(found.shards, 'shard')} of up to {max(map(len, study.plan.shards))}",
    ]
    for model in study.facts.models:
        bundle = model.bundle
        weights = {True: "", False: " (random weights)", None: f" ({UNKNOWN_WEIGHTS})"}[bundle.weights.trained]
        lines.append(f"model: {bundle.model_id}{weights}, {', '.join(model.precisions)}, bundle {bundle.fingerprint[:12]}")
    lines.append(f"rows: {study.rows:,} in results.parquet")
    units = study.facts.references * sum(map(study.plan.references, range(found.shards)))
    lines += [f"reference rows: {units:,} in references.parquet"] if units else []
    if found.todo < found.shards:
        lines.append(f"done already: {found.shards - found.todo} of {counted(found.shards, 'shard')}")
    if not found.todo:
        return [*lines, "nothing is left to compute"]
    lines.append(f"bytes: about {_bytes(found.all_bytes)} of results, twice that while they are joined")
    shared = f" with {workers} workers" if workers > 1 else ""
    lines.append(
        f"time: about {timedelta(seconds=round(found.seconds / workers))}{shared} for {counted(found.images, 'image')}, "
        f"{1000 * found.seconds_per_image:.0f} ms each in one worker (measured on {found.probed} of them)"
    )
    return lines


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
