"""A worker: sessions and mirrors opened once, shards evaluated one after the other, a part written for each."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from qcam.common import machine
from qcam.common.errors import QcamError, ResultsError, first_line
from qcam.common.files import fingerprint
from qcam.common.records import read_record
from qcam.common.storage import Location, is_url, reason, shown
from qcam.evaluate.engine.messages import Finished, Joined, Lost, Message, Opening, Refused, Returned, Shard, Started
from qcam.evaluate.engine.requirements import unmet
from qcam.evaluate.results.folder import RUN
from qcam.evaluate.results.parts import PartStore, PlannedPart, write_part
from qcam.evaluate.run.differing import differences
from qcam.evaluate.run.evaluator import deployed_openers
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.run.pace import LONGEST
from qcam.evaluate.run.runner import ShardRunner
from qcam.evaluate.saliency import SaliencySource, open_saliency
from qcam.runtime.bundle import Bundle, load_bundle
from qcam.runtime.deployed import PackedCopies
from qcam.runtime.devices import numbered, torch_device

#: Seconds between tries where a bundle behind a URL cannot be read.
_PAUSES = (1.0, 5.0)


@dataclass(frozen=True)
class SaliencyRequest:
    """What `open_saliency` is asked for; fields as its arguments.

    Attributes:
        text: As on the command line, folders and files absolute.
        preset: Of a network.
        options: Of a network.
        trust_remote_code: Whether a model's own code may run.
        cache: Where maps are kept.
        mask_classes: Of a folder of masks.
        mask_void: Of a folder of masks.
    """

    text: str
    preset: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    trust_remote_code: bool = False
    cache: Path | None = None
    mask_classes: str | None = None
    mask_void: str | None = None

    def open(self, threads: int, device: str) -> SaliencySource | None:
        """Open the source (errors as from `open_saliency`).

        Args:
            threads: Threads of an ONNX network's session.
            device: PyTorch's name of the device that birefnet runs on.
        """
        return open_saliency(
            self.text,
            threads,
            preset=self.preset,
            options=self.options,
            trust_remote_code=self.trust_remote_code,
            cache=self.cache,
            device=device,
            mask_classes=self.mask_classes,
            mask_void=self.mask_void,
        )


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker has to know before its first shard.

    Attributes:
        bundles: Where the bundles are; a path means the same on every machine.
        fingerprints: Model id → fingerprint of its bundle, as the driver knows it.
        options: What can change a figure.
        saliency: Where salient-object maps come from.
        saliency_fingerprint: The driver's; None without saliency.
        saliency_device: PyTorch device of a saliency network that runs in PyTorch.
        device: PyTorch device of the mirrors.
        requirements: What a worker must be: (key, value), see `requirements.py`.
        versions: The driver's.
        room: Memory that a worker may take, in bytes; None for as much as it needs.
        patience: Seconds without a word after which a worker counts as hung, if they were given.
    """

    bundles: tuple[str | Path, ...]
    fingerprints: Mapping[str, str]
    options: StudyOptions
    saliency: SaliencyRequest
    saliency_fingerprint: str | None
    saliency_device: str
    device: str
    requirements: tuple[tuple[str, str], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    room: int | None = None
    patience: float | None = None


@dataclass(frozen=True)
class Destination:
    """Where parts go, and how a worker tells that it sees the driver's folder and not one of the same name.

    Attributes:
        parts: The parts.
        record: The run's run.json, a path or a location behind a URL.
        plan: Fingerprint of the plan in it.
    """

    parts: PartStore
    record: Location
    plan: str

    def check(self) -> str:
        """Return why this place is not the driver's; empty if it is.

        Raises:
            QcamError: If that cannot be told just now.
        """
        try:
            plan = read_record(self.record.read_bytes(), _Planned, shown(self.record)).plan
        except (FileNotFoundError, NotADirectoryError, ResultsError):
            plan = None
        except Exception as error:  # file systems behind URLs have their own
            raise QcamError(f"cannot read {shown(self.record)}: {reason(error)}") from error
        if plan is not None and fingerprint(plan) == self.plan:
            return ""
        return (
            f"{shown(self.record.parent)} is not the driver's folder here (no {RUN} of this run in it); "
            "give an {output} that every machine shares, or a URL"
        )


@dataclass(frozen=True)
class _Planned:
    """What a worker asks of run.json: the plan as it stands there, of which it looks at the fingerprint alone."""

    plan: dict[str, object]


class Worker:
    """Evaluators of all models in this process.

    Attributes:
        runner: What evaluates.
    """

    def __init__(self, runner: ShardRunner) -> None:
        """Take what evaluates, with open sessions (`opening`)."""
        self._checked = False
        self.runner = runner
        self.facts = runner.facts

    @classmethod
    def opening(cls, spec: WorkerSpec, copies: PackedCopies | None = None) -> Generator[Opening, None, Worker]:
        """Open everything.

        Args:
            spec: What there is to know.
            copies: Where sessions that take turns keep packed weights; None: nowhere.

        Yields:
            What is opened next.

        Returns:
            The worker.

        Raises:
            QcamError: If this process cannot take part in the run: another bundle, other versions, no such provider, a
                requirement that does not hold.
        """
        here = _packages(machine.versions())
        theirs = _packages(spec.versions)
        both = here.keys() & theirs.keys()
        differing = differences({name: theirs[name] for name in sorted(both)}, {name: here[name] for name in sorted(both)})
        if differing:
            raise QcamError(f"packages differ from the driver's: {'; '.join(differing)}; install the same everywhere")
        node = platform.node()
        bundles = []
        for location in spec.bundles:
            yield Opening(node, shown(location))
            bundles.append(_load(location))
        for bundle in bundles:
            if spec.fingerprints.get(bundle.model_id) != bundle.fingerprint:
                raise QcamError(f"{bundle.folder} is not the driver's bundle of that name; share one folder, or give a URL")
        options = spec.options
        request, settings = spec.saliency, options.settings
        on_device = partial(torch_device, threads=settings.threads, tf32=settings.tf32, index=settings.device_index)
        saliency_device = spec.saliency_device
        if saliency_device != "cpu":  # before its network is loaded: its maps go by PyTorch's settings
            saliency_device = on_device(saliency_device)
        yield Opening(node, f"{{saliency}} {request.text}")
        saliency = request.open(settings.threads, numbered(saliency_device, settings.device_index))
        if (None if saliency is None else saliency.fingerprint) != spec.saliency_fingerprint:
            raise QcamError(f"saliency {request.text} is not the driver's here; share one folder or file")
        longest = LONGEST if spec.patience is None else min(LONGEST, spec.patience / 4)
        runner = ShardRunner((), saliency, options, longest=longest)
        for bundle, opener in zip(bundles, deployed_openers(bundles, options, spec.room, copies), strict=True):
            yield Opening(node, f"the sessions of {bundle.folder}")
            runner.add(opener)
        device = on_device(spec.device)
        runner.settle(device)
        worker = cls(runner)
        missing = unmet(spec.requirements, worker.facts)
        if missing:
            raise QcamError(missing)
        yield Opening(node, f"the mirrors of {', '.join(str(bundle.folder) for bundle in bundles)}")
        runner.build(device)
        return worker

    def evaluate(self, lease: Sequence[Shard], destination: Destination) -> Iterator[Message]:
        """Evaluate shards and write their parts.

        Args:
            lease: The shards.
            destination: Where parts go.

        Yields:
            `Started`, `Finished` for each shard whose part is written, and one `Returned` in the end; `Refused` if this worker
            does not see the results' folder.
        """
        if not self._checked:
            try:
                wrong = destination.check()
            except QcamError as error:
                yield Returned(error.template)
                return
            if wrong:
                yield Refused(wrong)
                return
            self._checked = True
        yield Started()
        hashes = {name: value for shard in lease for name, value in shard.hashes.items()}
        about = self.facts.record
        try:
            references = [shard.references for shard in lease]
            evaluated = self.runner.evaluate([shard.images for shard in lease], hashes, lambda _: None, references)
            with closing(evaluated):
                for shard, (outcomes, state) in zip(lease, evaluated, strict=True):
                    part = PlannedPart(shard.index, shard.key, tuple(image.name for image in shard.images))
                    path = write_part(destination.parts, part, outcomes, state, about)
                    yield Finished(shard.index, path.name)
        except Exception as error:  # whatever it is, the driver retries the shard elsewhere, then names it
            text, kind = first_line(error), type(error).__name__
            known = isinstance(error, (QcamError, MemoryError, OSError))  # what another machine may not lack
            where = "" if known else "".join(traceback.format_exception(error))
            yield Returned(text if isinstance(error, QcamError) or text == kind else f"{kind}: {text}", where)
            return
        yield Returned()


def open_worker(spec: WorkerSpec, copies: PackedCopies | None = None) -> Generator[Message, None, Worker | None]:
    """Open a worker.

    Args:
        spec: As of `Worker.opening`.
        copies: As of `Worker.opening`.

    Yields:
        What to tell the driver: `Opening` before each step, in the end `Joined`, `Refused` or `Lost`.

    Returns:
        The worker; None if it cannot be opened.
    """
    try:
        worker = yield from Worker.opening(spec, copies)
    except QcamError as error:
        yield Refused(error.template)
        return None
    except Exception as error:  # a fault of this program or machine: the driver tells it, and tries elsewhere
        yield Lost(f"{type(error).__name__}: {reason(error)}")
        return None
    yield Joined(worker.facts)
    return worker


def _load(location: str | Path) -> Bundle:
    """Load a bundle; one behind a URL is asked for again, since what cannot open has no other chance to take part."""
    for pause in _PAUSES if isinstance(location, str) and is_url(location) else ():
        try:
            return load_bundle(location)
        except QcamError:
            time.sleep(pause)
    return load_bundle(location)


def _packages(versions: Mapping[str, str]) -> dict[str, str]:
    """Return versions by package, ONNX Runtime's under one name whatever provider it was built for."""
    return {("onnxruntime" if name.startswith("onnxruntime") else name): version for name, version in versions.items()}
