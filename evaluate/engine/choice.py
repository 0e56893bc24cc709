"""From the command line's words to what evaluates: this process, processes beside it, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcam.common import machine
from qcam.common.errors import QcamError
from qcam.common.storage import is_url

if TYPE_CHECKING:
    from qcam.evaluate.engine.dispatcher import Dispatcher
    from qcam.evaluate.engine.worker import Destination, SaliencyRequest
    from qcam.evaluate.plan import StudyOptions
    from qcam.evaluate.saliency import SaliencySource
    from qcam.runtime.bundle import Bundle

#: Engines by the name that `--engine` takes.
ENGINES = ("local", "ray")
#: Memory of a worker: libraries and batches, and what it keeps of each byte of its bundles' files.
WORKER_BYTES, BYTES_A_BYTE = 1 << 30, 4
#: Fewer images than this are evaluated in one process unless asked otherwise.
FEW = 200


@dataclass(frozen=True)
class EngineOptions:
    """How the work is spread; nothing of it changes a figure.

    Attributes:
        name: One of `ENGINES`.
        workers: Number of workers; None for as many as the cores deserve, or as the cluster has room for.
        address: Of the Ray cluster.
        gpus: GPUs of each worker.
        requirements: What a worker must be.
        patience: Seconds without a word after which a worker counts as hung; None follows the shards.
    """

    name: str = "local"
    workers: int | None = None
    address: str | None = None
    gpus: float = 0.0
    requirements: tuple[tuple[str, str], ...] = ()
    patience: float | None = None


def settle(options: EngineOptions, threads: int | None, images: int, bundles: Sequence[Bundle]) -> tuple[EngineOptions, int]:
    """Decide how many workers there are, and how many threads each has.

    Two processes of one thread evaluate up to twice as many images as one of two threads (docs/scale.md): much of a run is
    small operations that no second thread helps. So there is one for each core, as far as memory reaches.

    Args:
        options: As asked for.
        threads: As asked for; None follows.
        images: Number of images: few are not worth a second process.
        bundles: What each worker holds.

    Returns:
        The options, and the threads of each worker.

    Raises:
        QcamError: If options do not go together.
    """
    if options.name != "ray" and (options.address is not None or options.gpus):
        raise QcamError("--ray-address and --gpus-per-worker belong to --engine ray; add it, or leave them out")
    if options.name == "ray":
        return options, threads or 1
    cores = machine.available_cores()
    workers = options.workers
    if workers is None:
        needed = WORKER_BYTES + BYTES_A_BYTE * sum(
            bundle.path(e.name).stat().st_size for bundle in bundles for e in bundle.precisions
        )
        room = machine.available_memory() // needed
        workers = 1 if images < FEW else max(1, min(cores // (threads or 1), room))
    settled = EngineOptions(options.name, workers, requirements=options.requirements, patience=options.patience)
    return settled, threads or max(1, cores // workers)


def crew_for(
    engine: EngineOptions,
    bundles: Sequence[Bundle],
    given: Sequence[str],
    options: StudyOptions,
    request: SaliencyRequest,
    source: SaliencySource | None,
    device: str,
) -> Callable[[Destination], Dispatcher] | None:
    """Return what starts the workers; None if this process evaluates by itself.

    Args:
        engine: Settled.
        bundles: The bundles.
        given: Where the user said they are; empty if by default.
        options: What can change a figure.
        request: Where workers get salient-object maps from.
        source: The driver's source of them.
        device: PyTorch device of the mirrors.
    """
    if engine.name == "local" and engine.workers == 1:
        return None
    from qcam.evaluate.engine.dispatcher import Dispatcher
    from qcam.evaluate.engine.worker import WorkerSpec

    places = given or [""] * len(bundles)
    spec = WorkerSpec(
        bundles=tuple(
            place if is_url(place) else bundle.folder.resolve() for place, bundle in zip(places, bundles, strict=True)
        ),
        fingerprints={bundle.model_id: bundle.fingerprint for bundle in bundles},
        options=options,
        saliency=request,
        saliency_fingerprint=None if source is None else source.fingerprint,
        device=device,
        requirements=engine.requirements,
        versions=machine.versions(),
    )

    def crew(destination: Destination) -> Dispatcher:
        pool: Any
        if engine.name == "ray":
            from qcam.evaluate.engine.cluster import RayPool

            pool = RayPool(spec, destination, address=engine.address, workers=engine.workers, gpus=engine.gpus)
        else:
            from qcam.evaluate.engine.processes import ProcessPool

            pool = ProcessPool(spec, destination, engine.workers or 1)
        return Dispatcher(pool, patience=engine.patience)

    return crew
