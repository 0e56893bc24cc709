"""What several workers bring, and what an engine costs: images a second against workers, threads and engines.

    python benchmarks/cluster.py [--model mobilenet_v2] [--images 320] [--repeat 3] [--json FILE]

Every figure is a process of its own that evaluates the same photographs (those that foolbox ships, repeated with augmentation)
at three precisions, alternating, several rounds; the median counts. The rate is taken between the first and the last finished
shard of each worker, so that start-up, which is told apart, is not in it. Ray Data runs the same worker class through
`map_batches`, one shard a row, one long-lived actor a slot: beside the actors that qcam drives itself, it shows what choosing
one or the other costs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from memory import augment

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import readable_json, write_atomically
from qcam.evaluate.engine.choice import EngineOptions, crew_for
from qcam.evaluate.engine.messages import Shard
from qcam.evaluate.engine.worker import Destination, SaliencyRequest, Worker, WorkerSpec
from qcam.evaluate.run.facts import WorkerFacts
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.study.executor import ThisProcess, by_crew
from qcam.evaluate.study.plan import StudyPlan
from qcam.evaluate.study.study import Study
from qcam.images.listing import find_images
from qcam.runtime.bundle import load_bundle
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.devices import torch_device

#: Name → engine, workers, threads of each.
RUNS = {
    "local, 1 process, 1 thread": ("local", 1, 1),
    "local, 1 process, 2 threads": ("local", 1, 2),
    "local, 2 processes, 1 thread each": ("local", 2, 1),
    "Ray actors, 1 worker, 1 thread": ("ray", 1, 1),
    "Ray actors, 2 workers, 1 thread each": ("ray", 2, 1),
    "Ray Data, 1 worker, 1 thread": ("ray-data", 1, 1),
    "Ray Data, 2 workers, 1 thread each": ("ray-data", 2, 1),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", default="mobilenet_v2", show_default=True, help="As for qcam-export; weights are seeded.")
@click.option("--images", default=320, show_default=True, type=click.IntRange(32), help="Photographs.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="Rounds.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
@click.option("--one", type=(str, int, int), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    model: str, images: int, repeat: int, json_path: Path | None, one: tuple[str, int, int] | None, folder: Path | None
) -> None:
    """Measure engines."""
    if one is not None and folder is not None:
        print(json.dumps(run_one(*one, folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        augment(folder / "images", images)
        export = ["-m", "qcam.commands.export", model, "--weights", "random:0", "--output", str(folder / "bundles")]
        subprocess.run([sys.executable, *export], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
        for number in range(repeat):
            for name in list(RUNS)[:: -1 if number % 2 else 1]:
                arguments = [*map(str, RUNS[name]), "--folder", str(folder)]
                done = subprocess.run(
                    [sys.executable, __file__, "--one", *arguments], check=True, stdout=subprocess.PIPE, text=True
                )
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
                console.err.print(f"round {number + 1}: {name}: {found[name][-1]['rate']:.2f} images/s", markup=False)
    medians = {
        name: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]} for name, rounds in found.items()
    }
    base = medians["local, 1 process, 1 thread"]["rate"]
    print(f"{'engine':40} {'images/s':>9} {'of the first':>13} {'min':>8} {'max':>8} {'start, s':>9} {'peak, MiB':>10}")
    for name, each in medians.items():
        rates = [one["rate"] for one in found[name]]
        print(
            f"{name:40} {each['rate']:9.2f} {each['rate'] / base:13.3f} {min(rates):8.2f} {max(rates):8.2f} "
            f"{each['start']:9.1f} {each['peak_mib']:10.0f}"
        )
    if json_path is not None:
        value = {"model": model, "images": images, "runs": found, "machine": machine.describe(), "versions": machine.versions()}
        write_atomically(json_path, readable_json(value))


class TimedStudy(Study):
    """A study that notes when each shard was finished."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.times: list[tuple[float, int]] = []
        evaluate = self.executor.evaluate

        def timed(plan: StudyPlan, *rest: Any) -> Generator[int, None, None]:
            for index in evaluate(plan, *rest):
                self.times.append((time.perf_counter(), len(plan.shards[index])))
                yield index

        self.executor.evaluate = timed  # type: ignore[method-assign]


class DataDispatcher:
    """The same workers through Ray Data; no retries, no quarantine."""

    where = "Ray Data"

    def __init__(self, spec: WorkerSpec, destination: Destination, workers: int) -> None:
        import ray

        ray.init(log_to_driver=False, include_dashboard=False, num_cpus=workers)
        ray.data.DataContext.get_current().enable_progress_bars = False
        self._spec, self._destination, self._workers = spec, destination, workers
        self.quarantined: dict[int, tuple[Shard, str]] = {}

    def bug_behind(self, shards: Iterable[int]) -> None:
        """Return nothing: no shard is quarantined."""

    def open(self) -> WorkerFacts:
        """Return the facts of a worker in this process: Ray Data's actors start with the run."""
        if not hasattr(self, "facts"):
            self.facts = opened(self._spec).facts
        return self.facts

    def run(self, shards: Sequence[Shard]) -> Generator[Shard, None, None]:
        """Evaluate shards."""
        import ray

        by_index = {shard.index: shard for shard in shards}
        rows = ray.data.from_items([{"index": shard.index} for shard in shards], override_num_blocks=len(shards))
        done = rows.map_batches(
            DataWorker,
            fn_constructor_args=(self._spec, self._destination, by_index),
            concurrency=self._workers,
            batch_size=1,
            num_cpus=self._spec.options.settings.threads,
        )
        for row in done.iter_rows():
            yield by_index[row["index"]]

    def close(self) -> None:
        """Leave the cluster."""
        import ray

        ray.shutdown()


class DataWorker:
    """What runs in an actor of Ray Data."""

    def __init__(self, spec: WorkerSpec, destination: Destination, shards: dict[int, Shard]) -> None:
        self._worker, self._destination, self._shards = opened(spec), destination, shards

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Evaluate the shards of a batch."""
        for index in batch["index"]:
            list(self._worker.evaluate([self._shards[int(index)]], self._destination))
        return batch


def opened(spec: WorkerSpec) -> Worker:
    """Open a worker in this process."""
    steps = Worker.opening(spec)
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            worker: Worker = ended.value
            return worker


def run_one(engine: str, workers: int, threads: int, folder: Path) -> dict[str, float]:
    """Evaluate in this process or from it; return images a second, seconds to the first finished shard, peak memory."""
    (place,) = (folder / "bundles").iterdir()
    bundle = load_bundle(place)
    options = StudyOptions((), SessionSettings(threads=threads), saliency="spectral")
    request = SaliencyRequest("spectral")
    source = request.open(threads, "cpu")
    crew: Any = None
    if engine != "ray-data":
        crew = crew_for(EngineOptions(engine, workers), [bundle], [], options, request, source, "cpu", "cpu")
    else:
        spec = WorkerSpec(
            bundles=(bundle.folder,),
            fingerprints={bundle.model_id: bundle.fingerprint},
            options=options,
            saliency=request,
            saliency_fingerprint=None if source is None else source.fingerprint,
            saliency_device="cpu",
            device="cpu",
            versions=machine.versions(),
        )

        def crew(destination: Destination) -> Any:
            return DataDispatcher(spec, destination, workers)

    images = find_images(folder / "images")
    with tempfile.TemporaryDirectory() as results:
        start = time.perf_counter()
        executor = ThisProcess if crew is None else by_crew(crew)
        study = TimedStudy([bundle], images, source, replace(options), Path(results) / "out", executor=executor)
        if crew is None:
            torch_device("cpu", threads)
        study.prepare("cpu", force=False).run()
    times = study.times
    # Every worker's first shard holds what warms it up.
    first, last = times[workers - 1][0], times[-1][0]
    rate = sum(count for _, count in times[workers:]) / (last - first)
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rate": rate, "start": times[0][0] - start, "peak_mib": own}


if __name__ == "__main__":
    main()
