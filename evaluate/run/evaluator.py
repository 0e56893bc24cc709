"""One bundle on a batch of crops: deployed and fake-quant CAMs of every precision, and the rows that compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qcam.common.errors import QcamError
from qcam.common.vocabulary import CamMethod, Target, require, words
from qcam.evaluate.maps.cam import Array, cam, normalise, upsample
from qcam.evaluate.maps.measures import (
    area_average,
    drop_and_increase,
    energy_in_object,
    explanation_crops,
    logit_error,
    overlap,
    rank_correlation,
)
from qcam.evaluate.maps.metrics import all_metrics, is_constant
from qcam.evaluate.results.folder import Row, StoredMap
from qcam.evaluate.run.stages import StageClock
from qcam.runtime.bundle import Bundle, load_onnx, ordered_precisions
from qcam.runtime.deployed import DeployedModel, SessionSettings

if TYPE_CHECKING:
    import torch

    from qcam.evaluate.run.options import StudyOptions
    from qcam.images.preprocessing import Preprocessing
    from qcam.runtime.mirror import Mirror

#: Which class is explained, by the name that `--target` takes.
TARGETS = tuple(words(Target))


@dataclass(frozen=True)
class Sample:
    """One image as a model sees it.

    Attributes:
        name: The image's name in its set.
        sha256: Fingerprint of its file.
        label: True class where known.
        remark: What was chosen when it was decoded.
        crop: uint8, height × width × 3.
        saliency: Salient-object map under the same crop, float32, height × width, or None.
        no_saliency: Why there is none, as a row's status says it.
        size: The whole image's width and height, in pixels.
    """

    name: str
    sha256: str
    label: int | None
    remark: str
    crop: NDArray[np.uint8]
    saliency: NDArray[np.float32] | None
    no_saliency: str = ""
    size: tuple[int, int] = (0, 0)


#: Computes the rest of a batch that has been run: rows, image by image, and CAMs.
Finish = Callable[[], tuple[list[Row], list[StoredMap]]]


class Evaluator(Protocol):
    """What a study drives: one bundle under one protocol, on batches of samples.

    Attributes:
        bundle: The bundle.
        preprocessing: How photographs become its inputs under this protocol.
        sequential: Whether an image's figures depend on the images before it: then shards run in order, and each part
            carries the state that the next one starts from.
    """

    bundle: Bundle
    preprocessing: Preprocessing
    sequential: bool

    def build(self, device: str) -> None:
        """Build what needs PyTorch, on a PyTorch device, before anything is written."""
        ...

    def refused(self, name: str, sha256: str, label: int | None, reason: str) -> list[Row]:
        """Return the rows of an image that could not be decoded."""
        ...

    def evaluate(self, samples: Sequence[Sample], clock: StageClock) -> Finish:
        """Run a batch; return what computes its rows (image by image) and CAMs, in whatever thread it is called."""
        ...

    def state(self) -> str:
        """Return what the images so far have left behind; empty where `sequential` is false."""
        ...

    def restore(self, text: str) -> None:
        """Go on from a state."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return precision → what was run, JSON-ready."""
        ...

    def notes(self) -> list[str]:
        """Return what has to be said below a table."""
        ...


@dataclass(frozen=True)
class _Run:
    """Maps and logits of one precision over a batch, deployed or fake-quant."""

    logits: NDArray[np.float32]
    maps: Array  # at the tap's resolution
    codes: NDArray[Any]
    size: tuple[int, int]  # the network's input's

    @cached_property
    def shown(self) -> Array:
        """Return the maps at the network's input size, 0..1."""
        return normalise(upsample(self.maps, self.size))


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
    ) -> None:
        """Open the sessions; the provider is proven here, before PyTorch is even imported.

        Args:
            bundle: The bundle.
            precisions: Those to evaluate, f32 first if it is one of them.
            settings: How sessions are made.
            target: One of `Target`.
            method: One of `CamMethod`.
            fake_quant: Whether the full mirror is run for the fake-quant CAMs.
            null_row: Whether f32 is run a second time and compared with itself: what drifts there is not quantization.
            faithfulness: Whether the deployed model is shown what its CAM leaves of the picture.

        Raises:
            QcamError: If target or method is unknown, the provider or a file does not do, or f32 is needed and not there.
        """
        self.bundle = bundle
        self.preprocessing = bundle.preprocessing
        self._target = require(Target, target, "target")
        self._method = require(CamMethod, method, "CAM method")
        self._fake_quant = fake_quant
        self._null_row = null_row
        self._faithfulness = faithfulness
        if target == "f32-top1" and "f32" not in precisions:
            raise QcamError(f"{bundle.folder}: --target f32-top1 needs precision f32; add it, or use --target own-top1")
        self.deployed = {name: DeployedModel(bundle, name, settings) for name in precisions}
        self._mirrors: dict[str, Mirror] = {}

    @classmethod
    def of(cls, bundle: Bundle, options: StudyOptions) -> BundleEvaluator:
        """Open what a run's options ask of a bundle.

        Raises:
            QcamError: As from the constructor, or a precision was asked for that the bundle does not hold.
        """
        return cls(
            bundle,
            wanted_precisions(bundle, options.precisions),
            options.settings,
            target=options.target,
            method=options.method,
            fake_quant=options.fake_quant,
            null_row=options.null_row,
            faithfulness=options.faithfulness,
        )

    def build(self, device: str) -> None:
        """Build the mirror of every precision on a PyTorch device.

        Raises:
            QcamError: If a graph has an operator that the mirror does not know.
        """
        from qcam.runtime.mirror import Mirror

        for name, session in self.deployed.items():
            model = load_onnx(self.bundle, name)
            self._mirrors[name] = Mirror(model, session.entry, device, tail_only=not self._fake_quant)

    def state(self) -> str:
        """Return nothing: images do not depend on each other."""
        return ""

    def restore(self, text: str) -> None:
        """Do nothing: there is no state."""

    def facts(self) -> dict[str, Any]:
        """Return precision → file, tap and what ran where."""
        return {
            name: {"sha256": session.entry.sha256, "tap": session.entry.tap.tensor} | session.placement.to_json()
            for name, session in self.deployed.items()
        }

    def notes(self) -> list[str]:
        """Return nothing: what ran where is told from the placements."""
        return []

    def _comparisons(self, precision: str) -> tuple[str, ...]:
        """Return the comparisons that are made of one precision."""
        made = ["vs_saliency"]
        if "f32" in self.deployed and (precision != "f32" or self._null_row):
            made.append("vs_f32")
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

    def evaluate(self, samples: Sequence[Sample], clock: StageClock) -> Finish:
        """Run images.

        Args:
            samples: The images, at most a batch.
            clock: Where the time goes.

        Returns:
            What computes rows (image by image, precision, comparison) and CAMs.
        """
        crops = np.stack([sample.crop for sample in samples])
        with clock.stage("normalise"):
            images = self.preprocessing.normalise(crops)
        batch = _Batch(samples, {}, {}, {}, {})
        for precision in self.deployed:
            real, fake, targets = self._run(precision, images, samples, batch.deployed.get("f32"), clock)
            batch.deployed[precision], batch.targets[precision] = real, targets
            if fake is not None:
                batch.simulated[precision] = fake
            if self._faithfulness:
                with clock.stage("explanation on model"):
                    batch.faithfulness[precision] = self._explain(precision, crops, real, targets)
        if self._null_row and "f32" in self.deployed:
            batch.again, _, _ = self._run("f32", images, samples, batch.deployed["f32"], clock, again=True)

        def finish() -> tuple[list[Row], list[StoredMap]]:
            with clock.stage("metrics"):
                return self._rows(batch), self._maps(batch)

        return finish

    def explain(self, samples: Sequence[Sample]) -> dict[str, Explained]:
        """Run images as deployed, without comparing anything.

        Args:
            samples: The images, at most a batch.

        Returns:
            Precision → logits and CAMs.
        """
        images = self.preprocessing.normalise(np.stack([sample.crop for sample in samples]))
        found: dict[str, Explained] = {}
        f32: _Run | None = None
        for precision in self.deployed:
            run, _, targets = self._run(precision, images, samples, f32, StageClock(), again=True)
            f32 = run if precision == "f32" else f32
            found[precision] = Explained(run.logits, run.maps, targets)
        return found

    def _maps(self, batch: _Batch) -> list[StoredMap]:
        return [
            StoredMap.of(run.maps[index], sample.name, self.bundle.model_id, precision, kind)
            for kind, runs in (("deployed", batch.deployed), ("fake_quant", batch.simulated))
            for precision, run in runs.items()
            for index, sample in enumerate(batch.samples)
        ]

    def _run(
        self,
        precision: str,
        images: NDArray[np.float32],
        samples: Sequence[Sample],
        f32: _Run | None,
        clock: StageClock,
        *,
        again: bool = False,
    ) -> tuple[_Run, _Run | None, NDArray[np.int64]]:
        session, mirror = self.deployed[precision], self._mirrors[precision]
        with clock.stage(f"deployed {precision}" + " again" * again):
            outputs = session.run(images)
        targets = self._targets(outputs.logits, samples, None if f32 is None else f32.logits)
        taps = [mirror.dequantize(tap, values) for tap, values in zip(session.taps, (outputs.tap, *outputs.skips), strict=True)]
        maps = self._cam(mirror, taps[0], taps[1:], targets, clock, "tail gradient")
        real = _Run(outputs.logits, maps, outputs.tap, self.preprocessing.crop)
        if not self._fake_quant or again:
            return real, None, targets
        with clock.stage(f"mirror forward {precision}"):
            passed = mirror.forward(images)
        taps = [mirror.dequantize(tap, values) for tap, values in zip(session.taps, (passed.tap, *passed.skips), strict=True)]
        maps = self._cam(mirror, taps[0], taps[1:], targets, clock, "mirror tail gradient")
        codes = passed.tap.cpu().numpy().astype(outputs.tap.dtype)
        return real, _Run(passed.logits.cpu().numpy(), maps, codes, self.preprocessing.crop), targets

    def _explain(
        self, precision: str, crops: NDArray[np.uint8], run: _Run, targets: NDArray[np.int64]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Show the deployed model what its CAM leaves of each picture; return drop and increase of the class's probability."""
        left = self.preprocessing.normalise(explanation_crops(crops, run.shown))
        after = self.deployed[precision].run(left).logits
        places = np.arange(len(targets))
        return drop_and_increase(_softmax(run.logits)[places, targets], _softmax(after)[places, targets])

    def _cam(
        self,
        mirror: Mirror,
        activation: torch.Tensor,
        skips: Sequence[torch.Tensor],
        targets: NDArray[np.int64],
        clock: StageClock,
        stage: str,
    ) -> Array:
        with clock.stage(stage):
            gradient = mirror.gradient(activation, targets, skips)
        with clock.stage("cam"):
            return cam(activation.cpu().numpy(), gradient.cpu().numpy(), self._method)

    def _targets(
        self, logits: NDArray[np.float32], samples: Sequence[Sample], f32: NDArray[np.float32] | None
    ) -> NDArray[np.int64]:
        if self._target == "label":
            # Images without a label have been sorted out before; see `Study`.
            return np.array([sample.label for sample in samples], np.int64)
        # For f32 itself there is no earlier run: its own logits are the ones that choose.
        chosen = f32 if self._target == "f32-top1" and f32 is not None else logits
        classes: NDArray[np.int64] = chosen.argmax(axis=1).astype(np.int64)
        return classes

    def _rows(self, batch: _Batch) -> list[Row]:
        blank = np.zeros(self.preprocessing.crop)
        saliency = normalise(
            np.stack([blank if sample.saliency is None else sample.saliency.astype(np.float64) for sample in batch.samples])
        )
        by_image: list[list[Row]] = [[] for _ in batch.samples]
        for precision in self.deployed:
            for comparison in self._comparisons(precision):
                for rows, row in zip(by_image, self._compare(batch, precision, comparison, saliency), strict=True):
                    rows.append(row)
        return [row for rows in by_image for row in rows]

    def _compare(self, batch: _Batch, precision: str, comparison: str, saliency: Array) -> list[Row]:
        """Return one row per sample."""
        run = batch.deployed[precision]
        evaluated, other, references = run, None, saliency
        if comparison == "vs_f32":
            other = batch.deployed["f32"]
            if precision == "f32":
                assert batch.again is not None
                run = evaluated = batch.again  # the null row
            references = other.shown
        elif comparison == "fake_quant_vs_deployed":
            evaluated = other = batch.simulated[precision]
            references = run.shown
        top1 = run.logits.argmax(axis=1)
        values: dict[str, NDArray[Any]] = {}
        constant = reference_constant = np.zeros(len(batch.samples), bool)
        if comparison == "on_model":
            values["drop"], values["increase"] = batch.faithfulness[precision]
            constant = is_constant(run.shown)
        else:
            values |= all_metrics(evaluated.shown, references)
            small = area_average(saliency, run.maps.shape[1:]) if other is None else (run if other is evaluated else other).maps
            values["rank_correlation"] = rank_correlation(evaluated.maps, small)
            values["overlap"] = overlap(evaluated.shown, references)
            if comparison == "vs_saliency":
                values["energy_in_object"] = energy_in_object(run.shown, saliency)
            constant, reference_constant = is_constant(evaluated.shown), is_constant(references)
        rows = []
        for index, sample in enumerate(batch.samples):
            finite = bool(np.isfinite(run.logits[index]).all() and np.isfinite(run.maps[index]).all())
            status = "ok"
            if not finite or (other is not None and not np.isfinite(other.logits[index]).all()):
                status = "not_finite: the network returned NaN or infinity"
            elif comparison == "vs_saliency" and sample.saliency is None:
                status = sample.no_saliency
            elif constant[index]:
                status = "constant_cam"
            elif reference_constant[index]:
                status = "constant_reference"
            found = {name: column[index].item() for name, column in values.items()} if status == "ok" else {}
            rows.append(
                Row(
                    image=sample.name,
                    image_sha256=sample.sha256,
                    model=self.bundle.model_id,
                    precision=precision,
                    comparison=comparison,
                    **{name: None if value != value else value for name, value in found.items()},
                    target_class=int(batch.targets[precision][index]),
                    top1=int(top1[index]) if finite else None,
                    label=sample.label,
                    top1_agrees=None
                    if other is None or not finite
                    else bool(top1[index] == other.logits[index].argmax()),
                    logit_error=None
                    if other is None or status.startswith("not_finite")
                    else _relative(comparison, run, other, index),
                    codes_equal=_codes_equal(comparison, run, other, index),
                    status=status,
                    remark=sample.remark,
                )
            )
        return rows


@dataclass
class _Batch:
    """What was run of some samples: precision → run."""

    samples: Sequence[Sample]
    deployed: dict[str, _Run]
    simulated: dict[str, _Run]
    targets: dict[str, NDArray[np.int64]]
    faithfulness: dict[str, tuple[Array, NDArray[np.bool_]]]
    again: _Run | None = None


def wanted_precisions(bundle: Bundle, asked: Sequence[str]) -> list[str]:
    """Return the precisions to evaluate, f32 first whatever the order they were asked for in: others explain its class.

    Raises:
        QcamError: If one was asked for that the bundle does not hold.
    """
    for name in asked:
        bundle.precision(name)
    return list(ordered_precisions(asked or [entry.name for entry in bundle.precisions]))


def _softmax(logits: NDArray[np.float32]) -> Array:
    from scipy.special import softmax

    result: Array = softmax(logits.astype(np.float64), axis=1)
    return result


def _relative(comparison: str, run: _Run, other: _Run, index: int) -> float:
    """Return the relative error; the reference is f32, or the deployed run for the fake-quant one."""
    reference = other if comparison == "vs_f32" else run
    return logit_error(run.logits[index], other.logits[index], reference.logits[index])


def _codes_equal(comparison: str, run: _Run, other: _Run | None, index: int) -> float | None:
    if comparison != "fake_quant_vs_deployed" or other is None or run.codes.dtype.kind == "f":
        return None
    return float(np.mean(run.codes[index] == other.codes[index]))
