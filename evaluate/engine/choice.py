"""From the command line's words to what evaluates: this process, processes beside it, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qcam.common import machine
from qcam.common.arguments import whole_or_none
from qcam.common.errors import QcamError
from qcam.common.storage import is_url
from qcam.common.vocabulary import Device, Engine, require
from qcam.evaluate.run.evaluator import arrange
from qcam.evaluate.run.memory import ROOM

if TYPE_CHECKING:
    from qcam.evaluate.engine.dispatcher import Dispatcher
    from qcam.evaluate.engine.worker import Destination, SaliencyRequest
    from qcam.evaluate.run.options import StudyOptions
    from qcam.evaluate.saliency import SaliencySource
    from qcam.runtime.bundle import Bundle
    from qcam.runtime.deployed import SessionSettings

#: Fewer images than this are evaluated in one process unless asked otherwise.
FEW = 200


@dataclass(frozen=True)
class EngineOptions:
    """How the work is spread; nothing of it changes a figure.

    Attributes:
        name: One of `Engine`.
        workers: Number of workers; None for as many as the cores deserve, or as the cluster has room for.
        address: Of the Ray cluster.
        gpus: GPUs of each worker.
        requirements: What a worker must be.
        patience: Seconds without a word after which a worker counts as hung; None follows the shards.
        room: Memory that a worker may take, in bytes; None for as much as it needs.
    """

    name: str = "local"
    workers: int | None = None
    address: str | None = None
    gpus: float = 0.0
    requirements: tuple[tuple[str, str], ...] = ()
    patience: float | None = None
    room: int | None = None

    def __post_init__(self) -> None:
        """Refuse an engine or a number of workers that there is not.

        Raises:
            QcamError: If the name is unknown, with the choices; or there are to be fewer workers than 1.
        """
        object.__setattr__(self, "workers", whole_or_none(self.workers, "{workers}"))
        require(Engine, self.name, "engine")


def refuse_workers_without_gpus(options: EngineOptions, settings: SessionSettings, device: str) -> None:
    """Refuse workers that would meet on one GPU, or find none, where a GPU is asked for by name.

    Args:
        options: As asked for.
        settings: How sessions are made.
        device: Where PyTorch computes, one of `Device`.

    Raises:
        QcamError: Says what to give instead.
    """
    asked = f"{{provider}} {settings.provider}" if settings.on_gpu else f"{{device}} {device}" if device == Device.CUDA else ""
    if not asked:
        return
    if options.name == Engine.RAY and not options.gpus:
        raise QcamError(
            f"{asked} on Ray with 0 GPUs for each worker: Ray would start workers where there is none, or several on one; give "
            "{gpus_per_worker} 1, or a part of one"
        )
    if options.name == Engine.RAY and settings.device_index:
        raise QcamError(
            f"{{provider_option}} device_id={settings.device_index}: on Ray each worker sees its own GPUs alone, counted from "
            "0; leave it out"
        )
    if options.name == Engine.LOCAL and (options.workers or 1) > 1:
        raise QcamError(
            f"{asked} with {{workers}} {options.workers}: all would share one GPU; leave it out, or use {{engine}} ray with "
            "{gpus_per_worker}"
        )


def settle(
    options: EngineOptions,
    threads: int | None,
    images: int,
    bundles: Sequence[Bundle],
    study: StudyOptions | None,
    *,
    on_cpu: bool,
) -> tuple[EngineOptions, int]:
    """Decide how many workers there are, how many threads each has, and how much memory it may take.

    Two processes of one thread evaluate more images than one of two threads (docs/scale.md): much of a run is small operations
    that no second thread helps. So there is one for each core, as far as memory reaches. The number of threads, which counts
    among what can change a figure, does not depend on the memory.

    Several networks share `ROOM` in a worker; one network takes what it needs, unless memory is short.

    Args:
        options: As asked for.
        threads: As asked for; None follows.
        images: Number of images: few are not worth a second process.
        bundles: What each worker holds.
        study: What is run of them; None for what has no sessions, whose memory is not known.
        on_cpu: Whether all is computed on CPUs: several processes on one GPU only get in each other's way.

    Returns:
        The options, with workers and room, and the threads of each worker.

    Raises:
        QcamError: If options do not go together.
    """
    if options.name != "ray" and (options.address is not None or options.gpus):
        raise QcamError("{ray_address} and {gpus_per_worker} belong to {engine} ray; add it, or leave them out")
    if options.gpus > 1 and options.gpus != int(options.gpus):
        raise QcamError(f"{{gpus_per_worker}} {options.gpus:g}: give a whole number, or a part of one")
    known = study if on_cpu else None
    shared = ROOM if known is not None and len(bundles) > 1 else None
    if options.name == "ray":
        return replace(options, room=shared), threads or 1
    cores = machine.available_cores()
    workers = options.workers
    if workers is None and (images < FEW or not on_cpu):
        workers = 1
    elif workers is None:
        threads = threads or 1
        workers = cores // threads or 1
    if known is None:
        return replace(options, workers=workers), threads or max(1, cores // workers)
    memory = machine.available_memory()
    room = min(memory // workers, shared or memory)
    if options.workers is None and workers > 1:
        workers = max(1, min(workers, memory // arrange(bundles, known, room).all_bytes))
    return replace(options, workers=workers, room=room), threads or max(1, cores // workers)


def crew_for(
    engine: EngineOptions,
    bundles: Sequence[Bundle],
    given: Sequence[str],
    options: StudyOptions,
    request: SaliencyRequest,
    source: SaliencySource | None,
    device: str,
    saliency_device: str,
) -> Callable[[Destination], Dispatcher]:
    """Return what starts the workers.

    Args:
        engine: Settled.
        bundles: The bundles.
        given: Where the user said they are; empty if by default.
        options: What can change a figure.
        request: Where workers get salient-object maps from.
        source: The driver's source of them.
        device: PyTorch device of the mirrors.
        saliency_device: PyTorch device of a saliency network that runs in PyTorch.
    """
    from qcam.evaluate.engine.dispatcher import Dispatcher
    from qcam.evaluate.engine.inspection import inspector
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
        saliency_device=saliency_device,
        device=device,
        requirements=engine.requirements,
        versions=machine.versions(),
        room=engine.room,
        patience=engine.patience,
    )

    def crew(destination: Destination) -> Dispatcher:
        pool: Any
        if engine.name == "ray":
            from qcam.evaluate.engine.cluster import RayPool

            pool = RayPool(spec, destination, address=engine.address, workers=engine.workers, gpus=engine.gpus)
        else:
            from qcam.evaluate.engine.processes import ProcessPool

            pool = ProcessPool(spec, destination, engine.workers or 1)
        return Dispatcher(pool, inspector(destination.parts), patience=engine.patience)

    return crew
