"""A whole study, from what was asked for to finished results: the one place that both `qcam.study` and `qcam-eval` call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qcam.common import machine, telling
from qcam.common.arguments import whole_or_none
from qcam.common.counted import counted
from qcam.common.errors import ImageSetError, ProviderError, QcamError
from qcam.common.files import exclusive
from qcam.common.places import refuse_overlap, require_text
from qcam.common.vocabulary import Device, Engine, LabelFormat, Protocol, ReferenceImages, Target, require
from qcam.evaluate.engine.choice import EngineOptions, crew_for, refuse_workers_without_gpus, settle
from qcam.evaluate.engine.requirements import check_requirements, refuse_missing_gpu, unmet
from qcam.evaluate.engine.worker import SaliencyRequest
from qcam.evaluate.gates.asked import Figure, GateRequest, not_asked, refuse_impossible
from qcam.evaluate.results.folder import Results
from qcam.evaluate.results.remote import open_results
from qcam.evaluate.run.evaluator import fitting_precisions, settle_target, told_left_out, wanted_precisions
from qcam.evaluate.run.inputs import find_photographs, load_bundles, read_places
from qcam.evaluate.run.options import FAST, StudyOptions
from qcam.evaluate.run.perturbed import PERTURBING, cost_in_runs
from qcam.evaluate.saliency.masks import MaskSaliency
from qcam.evaluate.study.estimate import describe, estimate
from qcam.evaluate.study.executor import Opening, ThisProcess, by_crew
from qcam.evaluate.study.study import PlannedStudy, Study
from qcam.images.account import Account
from qcam.images.embedded import fits_labels
from qcam.images.labels import Labelled, label_images
from qcam.images.sources import ImageFile
from qcam.runtime.bundle import Bundle
from qcam.runtime.deployed import require_provider
from qcam.runtime.devices import numbered, torch_device

if TYPE_CHECKING:
    from qcam.evaluate.results.remote import RemoteFolder
    from qcam.evaluate.run.protocol import Evaluator


@dataclass(frozen=True)
class StudyRequest:
    """What a study is asked for.

    Attributes:
        bundles: Bundles, or paths and URLs of their folders; empty for all of bundles/.
        images: Where the photographs are; None for the demo's.
        labels: CSV file of true classes; None for class folders.
        label_format: How labels are read, one of `LabelFormat`.
        limit: Take only the first so many images.
        options: What can change a figure; the threads in it are settled here.
        saliency: Where salient-object maps come from.
        threads: Of each worker; None for the cores, shared among the workers.
        device: Where PyTorch computes, one of `Device`.
        engine: How the work is spread.
        paper_weights: Model id → weights file, for the paper's protocol.
        output: Where results go, a path or a URL; None for a folder below out/, named after the image set.
        force: Whether results that exist are replaced.
        profile: Whether to keep every span of time.
        gates: What results are held against; those that no run of the bundles could decide are refused before it begins.
        target_named: Whether the target in the options was asked for by name: then it is refused where it cannot be had.
    """

    bundles: tuple[str | Path | Bundle, ...]
    images: str | Path | None
    options: StudyOptions
    saliency: SaliencyRequest
    labels: Path | None = None
    label_format: str = LabelFormat.AUTO
    limit: int | None = None
    threads: int | None = None
    device: str = Device.AUTO
    engine: EngineOptions = field(default_factory=EngineOptions)
    paper_weights: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None
    force: bool = False
    profile: bool = False
    gates: tuple[GateRequest, ...] = ()
    target_named: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            QcamError: If a limit, or a number of threads, is none from 1.
        """
        object.__setattr__(self, "limit", whole_or_none(self.limit, "{limit}"))
        object.__setattr__(self, "threads", whole_or_none(self.threads, "{threads}"))

    @property
    def paper(self) -> bool:
        """Tell whether the paper's protocol was asked for."""
        return self.options.protocol == Protocol.PAPER

    @property
    def place(self) -> str:
        """Return where results go."""
        return self.output or f"out/{_name_of(self.images)}{'-paper' if self.paper else ''}"


@dataclass(frozen=True)
class _Opened:
    """A study whose sessions are open, before anything is written."""

    study: Study
    folder: Path
    remote: RemoteFolder | None
    device: str
    workers: int


def run_study(request: StudyRequest, finish: Callable[[PlannedStudy, Results], None]) -> Results:
    """Evaluate what is not finished yet; leave whole results.

    Args:
        request: What was asked for.
        finish: Writes tables and pictures beside the results; called while the folder is this process's alone, before
            results behind a URL are published.

    Returns:
        The results.

    Raises:
        QcamError: If something asked for cannot be had, or results of other settings are in the way.
        KeyboardInterrupt: If interrupted; what is finished has been written, readable.
    """
    opened = _open(request)
    with exclusive(opened.folder):
        opened.study.recover()
        study = opened.study.prepare(opened.device, force=request.force)
        if not study.complete:
            try:
                study.run()
            except KeyboardInterrupt:
                if not study.place.kept_old:
                    telling.warn(
                        f"interrupted; {study.place} holds what is finished, readable. The same command goes on from there"
                    )
                    if request.force:
                        telling.note("without {force}, that is: with it, it starts anew")
                raise
        else:
            telling.note(f"{study.place} already holds the complete results of this very run; {{force}} computes them again")
        results = study.results()
        finish(study, results)
        study.publish()
    return results


def plan_study(request: StudyRequest) -> list[str]:
    """Say what a study would do, how many bytes, how long, from a measured probe; write nothing.

    Args:
        request: What was asked for.

    Returns:
        Lines of text.

    Raises:
        QcamError: As from `run_study`.
    """
    opened = _open(request, dry=True)
    with exclusive(opened.folder) if opened.remote is not None else nullcontext():
        study = opened.study.prepare(opened.device, force=request.force)
        if study.complete:
            return [f"{study.place} already holds the complete results of this very run"]
        return list(describe(study, estimate(study), opened.workers))


def _open(request: StudyRequest, *, dry: bool = False) -> _Opened:
    """Check what was asked for, and open every session."""
    _check(request)
    provider = request.options.settings.provider
    if not request.options.settings.allow_fallback and not request.paper and request.engine.name == Engine.LOCAL:
        require_provider(provider)
    bundles = load_bundles(request.bundles)
    for bundle in bundles:
        wanted_precisions(bundle, request.options.precisions)
    options = request.options
    if not request.paper:
        options = settle_target(options, bundles, named=request.target_named)
    if request.gates:
        precisions = {of.model_id: fitting_precisions(of, options.precisions, options.settings) for of in bundles}
        compared = options.references != ReferenceImages.NONE
        refuse_impossible(request.gates, precisions, references=compared, deployed=not request.paper)
        for line in not_asked(request.gates, precisions):
            telling.warn(line)
    refuse_overlap(request.place, read_places(request.bundles, bundles, request.images, request.options.saliency))
    account = Account()
    if not request.paper:
        _tell_left_out(bundles, request.options, account)
    photographs = _photographs(request, bundles, account)
    on_gpu = request.device == Device.CUDA or (request.device == Device.AUTO and machine.has_gpu())
    on_cpu = provider == "CPU" and not on_gpu
    alone = request.paper or request.profile
    images, run = 0 if alone else len(photographs), None if request.paper else options
    spread, threads = settle(request.engine, request.threads, images, bundles, run, on_cpu=on_cpu)
    options = replace(options, settings=replace(options.settings, threads=threads))
    on_device = partial(torch_device, threads=threads, tf32=options.settings.tf32, index=options.settings.device_index)
    saliency_device = "cpu"
    if request.saliency.text.startswith("birefnet") and request.saliency.trust_remote_code:
        saliency_device = on_device(request.device)
    source = request.saliency.open(threads, numbered(saliency_device, options.settings.device_index))
    if isinstance(source, MaskSaliency):
        text, counts = source.account(photographs)
        account.add("masks", text, **counts)
    if source is None:
        _require_comparison(options, bundles)
    folder, remote = open_results(request.place)
    device = ""
    executor: Opening = partial(ThisProcess, room=spread.room)
    if request.paper:
        device = on_device(request.device)
        executor = partial(ThisProcess, make=_paper(options.fixes, request.paper_weights))
    elif spread.name == Engine.RAY:  # the workers' machines count, and there a GPU is asked for by itself
        device = "cuda" if request.device == Device.CUDA or (spread.gpus and request.device == Device.AUTO) else "cpu"
    elif spread.workers != 1:
        device = on_device(request.device) if request.device != Device.CPU and not on_cpu else "cpu"
    if not dry and (spread.name == Engine.RAY or spread.workers != 1):
        given = [str(place.folder if isinstance(place, Bundle) else place) for place in request.bundles]
        executor = by_crew(crew_for(spread, bundles, given, options, request.saliency, source, device, saliency_device))
        if options.method in PERTURBING:  # workers, which measure it, tell nothing here
            telling.note(cost_in_runs(options.method))
    if options.method in PERTURBING and options.references != ReferenceImages.NONE:
        which = f"the first {FAST}" if options.references == ReferenceImages.FAST else "all"
        telling.note(f"reference rows take five maps more of each of {which} images; {{references}} none leaves them out")
    # The sessions come before PyTorch is imported: a provider that cannot be had is told at once.
    with telling.status("opening sessions"):
        study = Study(
            bundles, photographs, source, options, folder,
            executor=executor, remote=remote, requirements=spread.requirements, spans=request.profile, account=account,
        )  # fmt: skip
    if study.executor.here:
        with study.clock.stage("import PyTorch"):
            device = on_device(device or request.device)
        study.executor.settle(device)
        missing = unmet(spread.requirements, study.facts)
        if missing:
            raise ProviderError(missing)
    if options.settings.tf32 and not options.on_gpu(device):
        telling.note("{tf32} changes nothing: no GPU takes part")
    return _Opened(study, folder, remote, device, spread.workers or 1)


def _check(request: StudyRequest) -> None:
    """Refuse what does not go together, before anything is read."""
    require_text(request.place, "{output}")
    require(Device, request.device, "device")
    require(LabelFormat, request.label_format, "label format")
    if not request.paper and (request.options.fixes or request.paper_weights):
        raise QcamError("paper fixes and paper weights belong to protocol paper; ask for it, or leave them out")
    check_requirements(request.engine.requirements)
    if request.engine.name == Engine.LOCAL:
        refuse_missing_gpu(request.engine.requirements)
    refuse_workers_without_gpus(request.engine, request.options.settings, request.device)
    alone = {"protocol paper runs in one process": request.paper, "a profile is of one process": request.profile}
    for what, wanted in alone.items():
        if wanted and (request.engine.name != Engine.LOCAL or (request.engine.workers or 1) != 1):
            raise QcamError(f"{what}; leave out engine and workers")


def _require_comparison(options: StudyOptions, bundles: list[Bundle]) -> None:
    """Refuse a run without salient objects in which a bundle's maps would be compared with nothing.

    Raises:
        QcamError: Names the bundle, and what there is to compare with.
    """
    for bundle in bundles:
        if options.protocol == Protocol.PAPER:
            precisions = wanted_precisions(bundle, options.precisions, reference=True)
        else:
            precisions = fitting_precisions(bundle, options.precisions, options.settings)
        with_f32 = "f32" in precisions and (len(precisions) > 1 or options.protocol == Protocol.PAPER)
        if not (with_f32 or options.null_row or options.fake_quant or options.faithfulness):
            raise QcamError(
                f"{bundle.folder}: there is nothing to compare {', '.join(precisions)} with; "
                "take another precision along, salient-object maps, or the simulation"
            )


def _tell_left_out(bundles: Sequence[Bundle], options: StudyOptions, account: Account) -> None:
    """Tell of each precision that was not asked for by name and is left out, for the provider does not run it itself."""
    for bundle in bundles:
        for text in told_left_out(bundle, options.precisions, options.settings):
            account.add("precisions", text, left_out=1)
            telling.warn(text)


def _name_of(images: str | Path | None) -> str:
    """Return the last part of an image set's location, to name results after."""
    if images is None:
        return "demo"
    text = str(images)
    return (text.rstrip("/").rpartition("/")[2] if "://" in text else Path(text).resolve().name) or "images"


def _paper(fixes: tuple[str, ...], weights: Mapping[str, str]) -> Callable[[Bundle, list[str]], Evaluator]:
    """Return what makes the evaluators of the paper's protocol."""
    from qcam.evaluate.paper import PaperEvaluator, PaperOptions

    options = PaperOptions(frozenset(fixes))

    def make(bundle: Bundle, precisions: list[str]) -> Evaluator:
        return PaperEvaluator(bundle, precisions, options, weights=weights.get(bundle.model_id))

    return make


def _photographs(request: StudyRequest, bundles: list[Bundle], account: Account) -> list[ImageFile]:
    """Return the photographs of a study with their labels, and account for both.

    Raises:
        QcamError: If there are none, labels cannot be read, or a target or gate asks for labels and no image has one.
    """
    labelled = _labelled(find_photographs(request.images, account, request.limit), bundles, request)
    labelled.tell(account, request.limit)
    taken = labelled.images[: request.limit]  # after the labels: class folders count as a whole
    if len(taken) < len(labelled.images):
        account.add("limit", f"the first {counted(len(taken), 'image')} of {len(labelled.images):,}")
    if any(image.label is not None for image in taken):
        return taken
    told = "; ".join(str(line) for line in account.lines if line.topic == "labels")
    for gate in request.gates:
        if gate.figure is Figure.ACCURACY:
            asks = f"gate {gate} asks which classes are right"
            raise ImageSetError(f"{asks}, and no image has a label: {told}; give {{labels}} FILE")
    if request.options.target == Target.LABEL:
        raise ImageSetError(f"target label explains the labelled class, and no image has a label: {told}; give {{labels}} FILE")
    return taken


def _labelled(photographs: list[ImageFile], bundles: list[Bundle], request: StudyRequest) -> Labelled:
    """Give photographs their labels, if these mean the same for every bundle."""
    classes = bundles[0].classes
    same = all(bundle.classes == classes for bundle in bundles)
    bare = [ImageFile(photograph.name, photograph.path) for photograph in photographs]
    if request.labels is not None and not same:
        raise ImageSetError("labels need bundles of the same classes; evaluate them apart")
    if request.images is None and request.labels is None:
        # The demo photographs are labelled with ImageNet's 1,000 classes.
        if request.label_format != LabelFormat.NONE and all(fits_labels(bundle.classes) for bundle in bundles):
            return Labelled(photographs, how="as the demo's are")
        return Labelled(bare, remarks=("the demo's labels are ImageNet's classes",))
    if not same:
        why = "the bundles have different classes: class folders and labels in archives are not taken"
        return Labelled(bare, remarks=(why,))
    return label_images(photographs, classes, request.labels, request.label_format)
