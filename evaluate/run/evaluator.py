"""One bundle on a batch of crops: deployed and fake-quant CAMs of every precision, and the rows that compare them."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from qcam.common import telling
from qcam.common.errors import QcamError, in_file
from qcam.common.machine import give_memory_back
from qcam.common.vocabulary import CamMethod, Reference, ReferenceImages, Target, require, words
from qcam.evaluate.maps.cam import Array, enlarge
from qcam.evaluate.maps.measures import drop_and_increase, explanation_crops
from qcam.evaluate.maps.scores import columns, explained_classes, probabilities, top_classes
from qcam.evaluate.results.clipping import ClippedRow
from qcam.evaluate.results.folder import Row, StoredMap
from qcam.evaluate.run.comparing import Compared, SalientObjects
from qcam.evaluate.run.explained import Cams, Run, explain
from qcam.evaluate.run.memory import Arrangement, arranged, parts_of
from qcam.evaluate.run.perturbed import MASKING, PERTURBING, Perturbation, perturbation
from qcam.evaluate.run.protocol import Expected, Finish, Sample
from qcam.evaluate.run.ran import Deployed, Ran
from qcam.evaluate.run.references import Chosen
from qcam.evaluate.run.stages import REOPENING, StageClock
from qcam.runtime.bundle import Bundle, load_onnx, ordered_precisions
from qcam.runtime.clipping import activations
from qcam.runtime.deployed import (
    DeployedModel,
    DeployedOutputs,
    PackedCopies,
    SessionSettings,
    nothing_fits,
    unfit_precisions,
)
from qcam.runtime.devices import telling_full_gpu
from qcam.runtime.session_config import SHARED_ARENA
from qcam.runtime.skimmed import skim

if TYPE_CHECKING:
    from qcam.evaluate.run.options import StudyOptions
    from qcam.evaluate.run.tails import Mirrors


@dataclass(frozen=True)
class Explained:
    """What one precision, as deployed, says of a batch, and why.

    Attributes:
        logits: float32, batch × classes.
        maps: CAMs, float64, batch × height × width of the tap; not negative, not normalised.
        targets: The classes that were explained.
    """

    logits: NDArray[np.float32]
    maps: Array
    targets: NDArray[np.int64]


class BundleEvaluator:
    """Sessions and mirrors of one bundle, reused for every batch.

    Attributes:
        bundle: The bundle.
        preprocessing: The bundle's own.
        sequential: False: images do not depend on each other.
        deployed: Precision → session, in the order of the tables.
        expected: What opening again and an image take of time, as seen while sessions and mirrors were made.
    """

    sequential = False

    def __init__(
        self,
        bundle: Bundle,
        precisions: Sequence[str],
        settings: SessionSettings,
        *,
        target: str = "f32-top1",
        method: str = "gradcam++",
        fake_quant: bool = True,
        null_row: bool = True,
        faithfulness: bool = False,
        references: bool = False,
        apart: Container[str] = (),
        copies: PackedCopies | None = None,
    ) -> None:
        """Open the sessions; the provider is proven here, before PyTorch is even imported.

        Args:
            bundle: The bundle.
            precisions: Those to evaluate, f32 first if it is one of them.
            settings: How sessions are made.
            target: One of `Target`.
            method: One of `CamMethod`.
            fake_quant: Whether the full mirror is run for the fake-quant CAMs.
            null_row: Whether f32, or the first precision where there is none, is run a second time and compared with itself:
                what drifts there is not quantization.
            faithfulness: Whether the deployed model is shown what its CAM leaves of the picture.
            references: Whether there are reference rows of any image.
            apart: Precisions of which session and mirror are there only while they run (`memory.py`).
            copies: Where their sessions keep packed weights from turn to turn; None: nowhere, each packs its own again.

        Raises:
            QcamError: If target or method is unknown, the provider or a file does not do, or f32 is needed and not there.
        """
        self.bundle = bundle
        self.preprocessing = bundle.preprocessing
        self._target = require(Target, target, "target")
        self._method = require(CamMethod, method, "CAM method")
        self._fake_quant = fake_quant
        self._null = null_precision(precisions) if null_row else None
        self._faithfulness = faithfulness
        self._base = null_precision(precisions)
        self._references = references
        if target == "f32-top1" and "f32" not in precisions:
            raise needs_f32(bundle)
        self._apart = frozenset(name for name in precisions if name in apart)
        self._copies = copies
        self._settings = settings
        self.expected = Expected()
        self._perturbed: dict[str, Perturbation] = {}
        self.deployed = {name: self._session(name, settings) for name in precisions}
        self._device = self._built_on = ""
        self._mirrors: dict[str, Mirrors] = {}
        self._enlarge = partial(enlarge, size=self.preprocessing.crop)

    @classmethod
    def of(
        cls, bundle: Bundle, options: StudyOptions, apart: Container[str] = (), copies: PackedCopies | None = None
    ) -> BundleEvaluator:
        """Open what a run's options ask of a bundle.

        Args:
            bundle: The bundle.
            options: The options.
            apart: As in the constructor.
            copies: As in the constructor.

        Raises:
            QcamError: As from the constructor, or a precision was asked for that the bundle does not hold.
        """
        return cls(
            bundle,
            fitting_precisions(bundle, options.precisions, options.settings),
            replace(options.settings, batch=options.batch_size),
            target=options.target_of(bundle.model_id),
            method=options.method,
            fake_quant=options.fake_quant,
            null_row=options.null_row,
            faithfulness=options.faithfulness,
            references=options.references != ReferenceImages.NONE,
            apart=apart,
            copies=copies,
        )

    def _session(self, precision: str, settings: SessionSettings) -> DeployedModel:
        """Make a session, and close it again if it is opened for its turn; then it has memory of its own, to give back."""
        # On a GPU mirrors are asked behind the session: importing torch decides which of CUDA's libraries are loaded.
        judge = None if settings.on_gpu else partial(_refuse_unknown, self.bundle.path(precision))
        if precision not in self._apart:
            session = DeployedModel(self.bundle, precision, settings, judge=judge)
        else:
            own = replace(settings, config={SHARED_ARENA: "0"} | settings.config)
            session = DeployedModel(self.bundle, precision, own, copies=self._copies, judge=judge)
        again = 0.0
        if self._method in PERTURBING:
            self._perturbed[precision] = perturbation(self._method, self.bundle, session, settings.batch)
            again = self._perturbed[precision].seconds
        if precision in self._apart:
            session.close()
            if precision in self._perturbed:
                self._perturbed[precision].close()
            give_memory_back()
            self.expected.opening += session.seconds[0]
        twice = 2 if precision == self._null else 1
        # A mirror takes about twice as long as ONNX Runtime in float.
        self.expected.image += (session.seconds[1] + again) * (twice + 2 * self._fake_quant)
        return session

    def open(self) -> None:
        """Open the sessions that were closed, but for those that are opened for their turn.

        Raises:
            ProviderError: If one cannot be had again as it was.
        """
        for name, session in self.deployed.items():
            if name not in self._apart:
                session.open()
                if name in self._perturbed:
                    self._perturbed[name].open(session)

    def close(self) -> None:
        """Give the memory of the sessions back."""
        for session in self.deployed.values():
            session.close()
        for perturbed in self._perturbed.values():
            perturbed.close()

    @telling_full_gpu("{device} cpu for the mirrors")
    def build(self, device: str) -> None:
        """Build the mirror of every precision on a PyTorch device, where they are not built yet.

        Raises:
            QcamError: If a graph has an operator that the mirror does not know; names the file.
            OutOfMemoryError: If the GPU does not hold the mirrors.
        """
        if self._built_on == device:
            return
        self._device = device
        for name in self.deployed:
            start = time.perf_counter()
            mirrors = self._built_mirrors(name)
            if name not in self._apart:
                self._mirrors[name] = mirrors
                continue
            del mirrors  # it was only to be seen that there is one
            give_memory_back()
            self.expected.opening += time.perf_counter() - start
        self._built_on = device

    def _built_mirrors(self, precision: str) -> Mirrors:
        from qcam.evaluate.run.tails import mirrors_of

        entry, name = self.deployed[precision].entry, f"{self.bundle.model_id} {precision}"
        with in_file(self.bundle.path(precision)):
            model = load_onnx(self.bundle, precision)
            mirrors = mirrors_of(
                model, entry, self._settings, self._device, self.preprocessing, tail_only=not self._fake_quant, name=name,
                floats=self._floats if self._fake_quant else None,
            )  # fmt: skip
        del model
        give_memory_back()
        return mirrors

    @cached_property
    def _floats(self) -> dict[str, tuple[float, float]] | None:
        """What the bundle's float graph limits its tensors to; None if it holds none."""
        return activations(skim(self.bundle.path("f32"))) if any(of.name == "f32" for of in self.bundle.precisions) else None

    @contextmanager
    def _open_session(self, precision: str, clock: StageClock) -> Iterator[DeployedModel]:
        """Have the session of a precision, opened for the block if it is not kept open."""
        session = self.deployed[precision]
        if precision not in self._apart:
            yield session
            return
        try:
            with clock.stage(REOPENING):
                session.open()
            yield session
        finally:
            session.close()
            give_memory_back()

    @contextmanager
    def _again(self, precision: str, clock: StageClock) -> Iterator[None]:
        """Have what the CAM method runs again beside the mirror, opened for the block if it is not kept open."""
        with self._open_session(precision, clock) if self._method in MASKING else nullcontext():
            if precision not in self._perturbed or precision not in self._apart:
                yield
                return
            try:
                with clock.stage(REOPENING):
                    self._perturbed[precision].open(self.deployed[precision])
                yield
            finally:
                self._perturbed[precision].close()
                give_memory_back()

    @contextmanager
    def _built(self, precision: str, clock: StageClock) -> Iterator[None]:
        """Have the mirror of a precision among the others, built for the block if it is not kept."""
        where = in_file(self.bundle.path(precision))  # the mirror refuses some settings of an operator where it computes
        if precision in self._mirrors:
            with where:
                yield
            return
        with clock.stage(REOPENING):
            self._mirrors[precision] = self._built_mirrors(precision)
        try:
            with where:
                yield
        finally:
            del self._mirrors[precision]
            give_memory_back()

    def state(self) -> str:
        """Return nothing: images do not depend on each other."""
        return ""

    def restore(self, text: str) -> None:
        """Do nothing: there is no state."""

    def facts(self) -> dict[str, Ran]:
        """Return precision → file, tap and what ran where."""
        return {name: Deployed(session.entry, session.placement) for name, session in self.deployed.items()}

    def notes(self) -> list[str]:
        """Return nothing: what ran where is told from the placements."""
        return []

    def _comparisons(self, precision: str) -> tuple[str, ...]:
        """Return the comparisons that are made of one precision."""
        made = ["vs_saliency"]
        if "f32" in self.deployed and (precision != "f32" or precision == self._null):
            made.append("vs_f32")
        if "f32" not in self.deployed and precision == self._null:
            made.append("vs_itself")
        if self._fake_quant:
            made.append("fake_quant_vs_deployed")
        if self._faithfulness:
            made.append("on_model")
        return tuple(made)

    def refused(self, name: str, sha256: str, label: int | None, reason: str) -> list[Row]:
        """Return the rows of an image that could not be decoded."""
        return [
            Row(name, sha256, self.bundle.model_id, precision, comparison, label=label, status=f"refused: {reason}")
            for precision in self.deployed
            for comparison in self._comparisons(precision)
        ]

    def refused_references(self, name: str, sha256: str, label: int | None, reason: str) -> list[Row]:
        """Return the reference rows of an image that could not be decoded; empty where none are made."""
        return [
            Row(name, sha256, self.bundle.model_id, self._base, reference, label=label, status=f"refused: {reason}")
            for reference in words(Reference)
            if self._references
        ]

    @telling_full_gpu("a smaller {batch_size}, or {device} cpu for the mirrors")
    def evaluate_all(self, batches: Sequence[Sequence[Sample]], clock: StageClock) -> list[Finish]:
        """Run batches, precision by precision.

        Args:
            batches: The images, each at most a batch.
            clock: Where the time goes.

        Returns:
            What computes rows (image by image, precision, comparison) and CAMs, for each batch.

        Raises:
            OutOfMemoryError: If the memory of a GPU does not hold a batch.
        """
        made = []
        for samples in batches:
            crops = np.stack([sample.crop for sample in samples])
            with clock.stage("normalise"):
                made.append(_Batch(samples, crops, self.preprocessing.normalise(crops)))
        for precision in self.deployed:
            self._run_all(precision, made, clock)
        return [partial(self._finish, batch.done(), clock) for batch in made]

    def _finish(self, batch: _Batch, clock: StageClock) -> tuple[list[Row], list[StoredMap], list[ClippedRow]]:
        with clock.stage("metrics"):
            return self._rows(batch), self._maps(batch), self._clipping(batch)

    def _run_all(self, precision: str, batches: Sequence[_Batch], clock: StageClock) -> None:
        """Run all batches at one precision: first all sessions' part, then all mirrors', so that not both need be there."""
        outputs, again, changed = [], [], []
        with self._open_session(precision, clock) as session:
            own = precision in self._apart
            for batch in batches:
                outputs.append(_passed(session, batch.images, precision, clock, own=own))
                if precision == self._null:
                    again.append(_passed(session, batch.images, f"{precision} again", clock, own=own))
                if precision == self._base:
                    changed.append(self._changed(session, batch, clock, own=own))
        with self._again(precision, clock), self._built(precision, clock):
            for batch, passed in zip(batches, outputs, strict=True):
                f32 = batch.deployed.get("f32")
                run, targets = self._deployed_run(precision, passed, batch.crops, batch.samples, f32, clock)
                batch.deployed[precision], batch.targets[precision] = run, targets
                if self._fake_quant:
                    batch.simulated[precision] = self._simulated_run(
                        precision, passed, batch.images, batch.crops, targets, clock
                    )
            for batch, passed in zip(batches, again, strict=False):
                first = batch.deployed[precision]
                batch.again, _ = self._deployed_run(precision, passed, batch.crops, batch.samples, first, clock)
            for batch, ran in zip(batches, changed, strict=False):
                whole = batch.targets[precision][np.array(batch.chosen.places, np.int64)]
                for name, (samples, crops, passed) in ran.items():
                    # Another picture explains its own class, a changed one that of the picture as it was.
                    told = None if name == Reference.FLOOR else whole
                    batch.references[name], _ = self._deployed_run(
                        precision, passed, crops, samples, None, clock, targets=told
                    )
        if self._faithfulness:
            with self._open_session(precision, clock) as session, clock.stage("explanation on model"):
                for batch in batches:
                    real, targets = batch.deployed[precision], batch.targets[precision]
                    batch.faithfulness[precision] = self._explain(session, batch.crops, real, targets)

    @telling_full_gpu("{device} cpu for the mirrors")
    def explain(self, samples: Sequence[Sample]) -> dict[str, Explained]:
        """Run images as deployed, without comparing anything.

        Args:
            samples: The images, at most a batch.

        Returns:
            Precision → logits and CAMs.

        Raises:
            OutOfMemoryError: If the memory of a GPU does not hold the batch.
        """
        crops = np.stack([sample.crop for sample in samples])
        images = self.preprocessing.normalise(crops)
        found: dict[str, Explained] = {}
        f32: Run | None = None
        clock = StageClock()
        for precision in self.deployed:
            with self._open_session(precision, clock) as session:
                passed = _passed(session, images, precision, clock)
            with self._again(precision, clock), self._built(precision, clock):
                run, targets = self._deployed_run(precision, passed, crops, samples, f32, clock)
            f32 = run if precision == "f32" else f32
            found[precision] = Explained(run.logits, run.maps, targets)
        return found

    def _changed(
        self, session: DeployedModel, batch: _Batch, clock: StageClock, *, own: bool
    ) -> dict[str, tuple[Sequence[Sample], NDArray[np.uint8], DeployedOutputs]]:
        """Run what the reference rows of a batch ask for; return it with the samples and crops that it is of, by name."""
        found: dict[str, tuple[Sequence[Sample], NDArray[np.uint8], DeployedOutputs]] = {}
        for name, (samples, crops) in batch.chosen.inputs().items():
            images = self.preprocessing.normalise(crops)
            found[name] = samples, crops, _passed(session, images, "references", clock, own=own)
        return found

    def _maps(self, batch: _Batch) -> list[StoredMap]:
        return [
            StoredMap.of(run.maps[index], sample.name, self.bundle.model_id, precision, kind)
            for kind, runs in (("deployed", batch.deployed), ("fake_quant", batch.simulated))
            for precision, run in runs.items()
            for index, sample in enumerate(batch.samples)
        ]

    def _clipping(self, batch: _Batch) -> list[ClippedRow]:
        names = [sample.name for sample in batch.samples]
        uniform = {sample.name for sample in batch.samples if sample.uniform}  # they have no figure of maps either
        runs = [(name, run.clipped) for name, run in batch.simulated.items() if run.clipped is not None]
        found = (row for name, clipped in runs for row in clipped.rows(names, self.bundle.model_id, name))
        return [row for row in found if row.image not in uniform]

    def _deployed_run(
        self,
        precision: str,
        outputs: DeployedOutputs,
        crops: NDArray[np.uint8],
        samples: Sequence[Sample],
        f32: Run | None,
        clock: StageClock,
        *,
        targets: NDArray[np.int64] | None = None,
    ) -> tuple[Run, NDArray[np.int64]]:
        """Explain what a session gave; return the run, and the classes that were explained: `targets`, if given."""
        mirror = self._mirrors[precision].deployed
        if targets is None:
            targets = self._targets(outputs.logits, samples, None if f32 is None else f32.logits)
        score = columns(targets, outputs.logits.shape[1])
        values = (outputs.tap, *outputs.skips)
        taps = [mirror.dequantize(tap, each) for tap, each in zip(self.deployed[precision].taps, values, strict=True)]
        if precision in self._perturbed:
            with clock.stage("perturbed runs"):
                session = self.deployed[precision]
                cams = Cams(self._perturbed[precision].deployed(session, outputs, crops, targets), None)
        else:
            cams = explain(mirror, taps[0], score, taps[1:], method=self._method, timed=clock.stage)
        maps, crossings = cams
        return Run(outputs.logits, maps, self._enlarge, crossings=crossings), targets

    def _simulated_run(
        self,
        precision: str,
        outputs: DeployedOutputs,
        images: NDArray[np.float32],
        crops: NDArray[np.uint8],
        targets: NDArray[np.int64],
        clock: StageClock,
    ) -> Run:
        """Run the whole mirror, and explain it; its codes at the tap are held against the session's."""
        from qcam.evaluate.run.clipped import Clipped

        mirror = self._mirrors[precision].simulated
        with clock.stage(f"mirror forward {precision}"):
            clipped = Clipped(mirror, len(images))
            passed = mirror.forward(images, clipped=clipped.values)
        values = (passed.tap, *passed.skips)
        taps = [mirror.dequantize(tap, each) for tap, each in zip(self.deployed[precision].taps, values, strict=True)]
        score = columns(targets, outputs.logits.shape[1])
        timed = partial(_of_mirror, clock)
        if precision in self._perturbed:
            with timed("perturbed runs"):
                logits = passed.logits.cpu().numpy()
                cams = Cams(self._perturbed[precision].simulated(mirror, logits, taps, crops, targets), None)
        else:
            cams = explain(mirror, taps[0], score, taps[1:], method=self._method, timed=timed)
        maps, crossings = cams
        equal = None
        if outputs.tap.dtype.kind != "f":
            codes = passed.tap.cpu().numpy().astype(outputs.tap.dtype)
            equal = tuple(float(np.mean(ours == theirs)) for ours, theirs in zip(outputs.tap, codes, strict=True))
        return Run(passed.logits.cpu().numpy(), maps, self._enlarge, equal, crossings, clipped)

    def _explain(
        self, session: DeployedModel, crops: NDArray[np.uint8], run: Run, targets: NDArray[np.int64]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Show the deployed model what its CAM leaves of each picture; return drop and increase of the class's probability."""
        left = self.preprocessing.normalise(explanation_crops(crops, run.shown))
        after = session.run(left).logits
        places = np.arange(len(targets))
        return drop_and_increase(probabilities(run.logits)[places, targets], probabilities(after)[places, targets])

    def _targets(
        self, logits: NDArray[np.float32], samples: Sequence[Sample], f32: NDArray[np.float32] | None
    ) -> NDArray[np.int64]:
        if self._target == "label":
            # Images without a label have been sorted out before; see `Study`.
            return explained_classes(np.array([sample.label for sample in samples], np.int64), logits.shape[1])
        # For f32 itself there is no earlier run: its own logits are the ones that choose.
        chosen = f32 if self._target == "f32-top1" and f32 is not None else logits
        return explained_classes(top_classes(chosen), chosen.shape[1])

    def _rows(self, batch: _Batch) -> list[Row]:
        found = [(sample.saliency, sample.no_saliency) for sample in batch.samples]
        objects = SalientObjects.of(found, self.preprocessing.crop)
        by_image: list[list[Row]] = [[] for _ in batch.samples]
        for precision in self.deployed:
            for comparison in self._comparisons(precision):
                for rows, row in zip(by_image, self._compare(batch, precision, comparison, objects), strict=True):
                    rows.append(row)
        compared = Compared(self.bundle.model_id, self._base, "", batch.samples, batch.targets[self._base])
        scale = batch.chosen.rows(compared, batch.deployed[self._base], batch.samples, batch.references, objects)
        return [row for rows in by_image for row in rows] + scale

    def _compare(self, batch: _Batch, precision: str, comparison: str, saliency: SalientObjects) -> list[Row]:
        """Return one row per sample."""
        made = Compared(self.bundle.model_id, precision, comparison, batch.samples, batch.targets[precision])
        run = batch.deployed[precision]
        if comparison == "vs_saliency":
            return made.with_objects(run, saliency)
        if comparison == "on_model":
            return made.on_model(run, *batch.faithfulness[precision])
        if comparison == "fake_quant_vs_deployed":
            return made.with_simulation(run, batch.simulated[precision])
        reference = run if comparison == "vs_itself" else batch.deployed["f32"]
        if precision == self._null and batch.again is not None:
            run = batch.again
        return made.with_reference(run, reference)


def arrange(bundles: Sequence[Bundle], options: StudyOptions, room: int | None) -> Arrangement:
    """Estimate what a worker with some bundles takes, and decide what of it is kept open.

    Args:
        bundles: The bundles.
        options: What is run of them.
        room: Memory that a worker may take, in bytes; None for as much as it needs.

    Raises:
        QcamError: If a precision was asked for that a bundle does not hold, or the provider can run none of it.
    """
    precisions = [fitting_precisions(bundle, options.precisions, options.settings) for bundle in bundles]
    return arranged(parts_of(bundles, precisions, options), room)


def deployed_openers(
    bundles: Sequence[Bundle], options: StudyOptions, room: int | None, copies: PackedCopies | None = None
) -> list[Callable[[], BundleEvaluator]]:
    """Return what opens the evaluator of each bundle; arguments and errors as of `arrange` and of `BundleEvaluator`."""
    if room is None:
        return [partial(BundleEvaluator.of, bundle, options) for bundle in bundles]
    arrangement = arrange(bundles, options, room)
    return [partial(BundleEvaluator.of, bundle, options, arrangement.apart_of(bundle), copies) for bundle in bundles]


@dataclass
class _Batch:
    """Samples, what networks take of them, and what was run of them: precision → run."""

    samples: Sequence[Sample]
    crops: NDArray[np.uint8]
    images: NDArray[np.float32]
    deployed: dict[str, Run] = field(default_factory=dict)
    simulated: dict[str, Run] = field(default_factory=dict)
    targets: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    faithfulness: dict[str, tuple[Array, NDArray[np.bool_]]] = field(default_factory=dict)
    again: Run | None = None
    references: dict[str, Run] = field(default_factory=dict)

    @cached_property
    def chosen(self) -> Chosen:
        """The images of which there are reference rows."""
        return Chosen.of(self.samples)

    def done(self) -> _Batch:
        """Return the batch without the pictures: what is compared later takes none of their memory."""
        return replace(self, crops=self.crops[:0], images=self.images[:0])


def _passed(
    session: DeployedModel, images: NDArray[np.float32], named: str, clock: StageClock, *, own: bool = False
) -> DeployedOutputs:
    """Run a session; its time counts under the name of its run.

    Args:
        session: The session.
        images: What it runs.
        named: The name.
        clock: Where its time goes.
        own: Whether the results get memory of their own: as they come, they keep all of their session's from being freed.
    """
    passed = session.run(images, lambda part: clock.stage(f"{part} {named}"))
    if not own:
        return passed
    return DeployedOutputs(passed.logits.copy(), passed.tap.copy(), tuple(skip.copy() for skip in passed.skips))


def _of_mirror(clock: StageClock, stage: str) -> AbstractContextManager[None]:
    return clock.stage(f"mirror {stage}")


def null_precision(precisions: Iterable[str]) -> str:
    """Return the precision of the null row: f32, or without it the first in the order of every table.

    Args:
        precisions: Those that are run, at least one.

    >>> null_precision(["int8-vendor", "int8"]), null_precision(["int8", "f32"])
    ('int8', 'f32')
    """
    return ordered_precisions(precisions)[0]


def needs_f32(bundle: Bundle) -> QcamError:
    """Return the error that f32 cannot choose the class: the bundle holds none, or none was asked for."""
    held = [entry.name for entry in bundle.precisions]
    why, remedy = f"the bundle holds none, only {', '.join(held)}", "use {target} own-top1, or leave it out"
    if "f32" in held:
        why, remedy = "it is not among those that are run", "add {precision} f32, or use {target} own-top1"
    return QcamError(f"{bundle.folder}: {{target}} f32-top1 needs precision f32, and {why}; {remedy}")


def own_choice(bundles: Sequence[Bundle]) -> str:
    """Return the line that tells that precisions of some bundles explain their own choice."""
    models = ", ".join(bundle.model_id for bundle in bundles)
    return f"{models}: no f32 to choose the class, each precision explains its own ({{target}} own-top1)"


def settle_target(options: StudyOptions, bundles: Sequence[Bundle], *, named: bool) -> StudyOptions:
    """Let precisions explain their own choice where no f32 is run that could choose, and tell it.

    Args:
        options: What was asked for.
        bundles: The bundles.
        named: Whether the target was asked for by name.

    Returns:
        The options; of several bundles, those without f32 are named in them.

    Raises:
        QcamError: If f32-top1 was asked for by name and no f32 of a bundle is run, or a precision is not held.
        ProviderError: If the provider can run nothing of a bundle.
    """
    if options.target != Target.F32_TOP1:
        return options
    without = [bundle for bundle in bundles if "f32" not in fitting_precisions(bundle, options.precisions, options.settings)]
    if not without:
        return options
    if named:
        raise needs_f32(without[0])
    telling.note(own_choice(without))
    models = tuple(bundle.model_id for bundle in without)
    if len(without) == len(bundles):
        return replace(options, target=Target.OWN_TOP1.value)
    return replace(options, without_f32=models)


def wanted_precisions(bundle: Bundle, asked: Sequence[str], *, reference: bool = False) -> list[str]:
    """Return the precisions to evaluate, f32 first whatever the order they were asked for in: others explain its class.

    Args:
        bundle: The bundle.
        asked: Those asked for; empty for all that it holds.
        reference: Whether f32 comes along where the bundle holds it: the others are compared with it.

    Raises:
        QcamError: If one was asked for that the bundle does not hold.
    """
    for name in asked:
        bundle.precision(name)
    held = [entry.name for entry in bundle.precisions]
    with_f32 = ["f32"] * (reference and "f32" in held)
    return list(ordered_precisions([*with_f32, *asked] if asked else held))


def fitting_precisions(bundle: Bundle, asked: Sequence[str], settings: SessionSettings) -> list[str]:
    """Return the precisions to evaluate as deployed, f32 with them: of a whole bundle, those that the provider can run.

    What was asked for by name stays in the list: its session refuses it, or takes it with a fallback that is allowed.

    Args:
        bundle: The bundle.
        asked: Those asked for; empty for all that can be run.
        settings: How sessions are made.

    Raises:
        QcamError: If one was asked for that the bundle does not hold.
        ProviderError: If the provider can run none of them.
    """
    wanted = wanted_precisions(bundle, asked, reference=True)
    unfit = left_out(bundle, asked, settings)
    if unfit and not unfit.keys() ^ wanted:
        raise nothing_fits(bundle.folder, unfit, settings.provider)
    return [name for name in wanted if name not in unfit]


def left_out(bundle: Bundle, asked: Sequence[str], settings: SessionSettings) -> dict[str, str]:
    """Return the precisions that nobody asked for by name and the provider does not run itself, with the reasons.

    Args:
        bundle: The bundle.
        asked: Those asked for by name.
        settings: How sessions are made.
    """
    return {} if asked else unfit_precisions(bundle, settings.provider, allow_fallback=settings.allow_fallback)


def told_left_out(bundle: Bundle, asked: Sequence[str], settings: SessionSettings) -> list[str]:
    """Say of each precision that is left out why, and what runs it all the same; arguments as of `left_out`."""
    remedy = "; {precision} with its name and {allow_fallback} run it so all the same" if settings.provider == "CUDA" else ""
    found = left_out(bundle, asked, settings)
    return [f"{name} of {bundle.model_id} is left out: {reason}{remedy}" for name, reason in found.items()]


def _refuse_unknown(path: Path, model: ModelProto) -> None:
    """Refuse a graph that no mirror can be built of."""
    from qcam.runtime.mirror.known import refuse_unknown_operators

    with in_file(path):
        refuse_unknown_operators(model)
