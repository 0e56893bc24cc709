"""One bundle on a batch of crops: deployed and fake-quant CAMs of every precision, and the rows that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcam.common.errors import QcamError
from qcam.evaluate.cam import Array, cam, normalise, upsample
from qcam.evaluate.metrics import METRICS, all_metrics, is_constant
from qcam.evaluate.results import Row, StoredMap
from qcam.evaluate.stages import StageClock
from qcam.runtime.bundle import Bundle, load_model
from qcam.runtime.deployed import DeployedModel, SessionSettings

if TYPE_CHECKING:
    import torch

    from qcam.runtime.mirror import Mirror

#: Which class is explained, by the name that `--target` takes.
TARGETS = ("f32-top1", "own-top1", "label")


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
        no_saliency: Why there is none.
    """

    name: str
    sha256: str
    label: int | None
    remark: str
    crop: NDArray[np.uint8]
    saliency: NDArray[np.float32] | None
    no_saliency: str = ""


@dataclass(frozen=True)
class _Run:
    """Maps and logits of one precision over a shard, deployed or fake-quant."""

    logits: NDArray[np.float32]
    maps: Array  # at the tap's resolution
    codes: NDArray[Any]


class BundleEvaluator:
    """Sessions and mirrors of one bundle, reused for every batch.

    Attributes:
        bundle: The bundle.
        deployed: Precision → session, in the order of the tables.
    """

    def __init__(
        self,
        bundle: Bundle,
        precisions: Sequence[str],
        settings: SessionSettings,
        *,
        target: str = "f32-top1",
        method: str = "gradcam++",
        batch_size: int = 8,
        fake_quant: bool = True,
    ) -> None:
        """Open the sessions; the provider is proven here, before PyTorch is even imported.

        Args:
            bundle: The bundle.
            precisions: Those to evaluate, f32 first if it is one of them.
            settings: How sessions are made.
            target: One of `TARGETS`.
            method: CAM method.
            batch_size: Images at a time.
            fake_quant: Whether the full mirror is run for the fake-quant CAMs.

        Raises:
            QcamError: If the provider or a file does not do, or f32 is needed and not there.
        """
        self.bundle = bundle
        self._target = target
        self._method = method
        self._batch_size = batch_size
        self._fake_quant = fake_quant
        if target == "f32-top1" and "f32" not in precisions:
            raise QcamError(f"{bundle.folder}: --target f32-top1 needs precision f32; add it, or use --target own-top1")
        self.deployed = {name: DeployedModel(bundle, name, settings) for name in precisions}
        self._mirrors: dict[str, Mirror] = {}

    def build_mirrors(self, device: str) -> None:
        """Build the mirror of every precision on a PyTorch device.

        Raises:
            QcamError: If a graph has an operator that the mirror does not know.
        """
        from qcam.runtime.mirror import Mirror

        for name, session in self.deployed.items():
            self._mirrors[name] = Mirror(load_model(self.bundle, name), session.entry, device)

    @property
    def comparisons(self) -> tuple[str, ...]:
        """Return the comparisons that are made."""
        first = ("vs_saliency",) + (("vs_f32",) if "f32" in self.deployed else ())
        return first + (("fake_quant_vs_deployed",) if self._fake_quant else ())

    def refused(self, name: str, sha256: str, label: int | None, reason: str) -> list[Row]:
        """Return the rows of an image that could not be decoded."""
        return [
            Row(name, sha256, self.bundle.model_id, precision, comparison, label=label, status=f"refused: {reason}")
            for precision in self.deployed
            for comparison in self.comparisons
        ]

    def evaluate(self, samples: Sequence[Sample], clock: StageClock) -> tuple[list[Row], list[StoredMap]]:
        """Evaluate images.

        Args:
            samples: The images; memory grows with their number.
            clock: Where the time goes.

        Returns:
            Rows (image by image, precision, comparison) and CAMs.
        """
        with clock.stage("normalise"):
            images = self.bundle.preprocessing.normalise(np.stack([sample.crop for sample in samples]))
        deployed: dict[str, _Run] = {}
        simulated: dict[str, _Run] = {}
        targets: dict[str, NDArray[np.int64]] = {}
        for precision in self.deployed:
            deployed[precision], simulated_run, targets[precision] = self._run(
                precision, images, samples, deployed.get("f32"), clock
            )
            if simulated_run is not None:
                simulated[precision] = simulated_run
        with clock.stage("metrics"):
            rows = self._rows(samples, deployed, simulated, targets)
        maps = [
            StoredMap.of(run.maps[index], sample.name, self.bundle.model_id, precision, kind)
            for kind, runs in (("deployed", deployed), ("fake_quant", simulated))
            for precision, run in runs.items()
            for index, sample in enumerate(samples)
        ]
        return rows, maps

    def _run(
        self,
        precision: str,
        images: NDArray[np.float32],
        samples: Sequence[Sample],
        f32: _Run | None,
        clock: StageClock,
    ) -> tuple[_Run, _Run | None, NDArray[np.int64]]:
        session, mirror = self.deployed[precision], self._mirrors[precision]
        real: list[_Run] = []
        fake: list[_Run] = []
        all_targets = []
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size]
            with clock.stage(f"deployed {precision}"):
                outputs = session.run(batch)
            targets = self._targets(
                outputs.logits,
                samples[start : start + len(batch)],
                None if f32 is None else f32.logits[start : start + len(batch)],
            )
            all_targets.append(targets)
            taps = [
                mirror.dequantize(tap, values) for tap, values in zip(session.taps, (outputs.tap, *outputs.skips), strict=True)
            ]
            maps = self._cam(mirror, taps[0], taps[1:], targets, clock, "tail gradient")
            real.append(_Run(outputs.logits, maps, outputs.tap))
            if self._fake_quant:
                with clock.stage(f"mirror forward {precision}"):
                    passed = mirror.forward(batch)
                taps = [
                    mirror.dequantize(tap, values)
                    for tap, values in zip(session.taps, (passed.tap, *passed.skips), strict=True)
                ]
                maps = self._cam(mirror, taps[0], taps[1:], targets, clock, "mirror tail gradient")
                fake.append(_Run(passed.logits.cpu().numpy(), maps, passed.tap.cpu().numpy().astype(outputs.tap.dtype)))
        return _joined(real), _joined(fake) if fake else None, np.concatenate(all_targets)

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

    def _rows(
        self,
        samples: Sequence[Sample],
        deployed: dict[str, _Run],
        simulated: dict[str, _Run],
        targets: dict[str, NDArray[np.int64]],
    ) -> list[Row]:
        size = self.bundle.preprocessing.crop

        def shown(runs: dict[str, _Run]) -> dict[str, Array]:
            return {precision: normalise(upsample(run.maps, size)) for precision, run in runs.items()}

        real, fake = shown(deployed), shown(simulated)
        blank = np.zeros(size)
        saliency = normalise(
            np.stack([blank if sample.saliency is None else sample.saliency.astype(np.float64) for sample in samples])
        )
        by_image: list[list[Row]] = [[] for _ in samples]
        for precision, run in deployed.items():
            top1 = run.logits.argmax(axis=1)
            finite = [bool(np.isfinite(a).all() and np.isfinite(b).all()) for a, b in zip(run.logits, run.maps, strict=True)]
            for comparison in self.comparisons:
                if comparison == "vs_saliency":
                    maps, references, other, other_top1 = real[precision], saliency, None, None
                elif comparison == "vs_f32":
                    other = deployed["f32"]
                    maps, references, other_top1 = real[precision], real["f32"], other.logits.argmax(axis=1)
                else:
                    other = simulated[precision]
                    maps, references, other_top1 = fake[precision], real[precision], other.logits.argmax(axis=1)
                metrics = all_metrics(maps, references)
                constant, reference_constant = is_constant(maps), is_constant(references)
                for index, sample in enumerate(samples):
                    status = "ok"
                    if not finite[index] or (other is not None and not np.isfinite(other.logits[index]).all()):
                        status = "not_finite: the network returned NaN or infinity"
                    elif comparison == "vs_saliency" and sample.saliency is None:
                        status = f"no_reference: {sample.no_saliency}"
                    elif constant[index]:
                        status = "constant_cam"
                    elif reference_constant[index]:
                        status = "constant_reference"
                    by_image[index].append(
                        Row(
                            image=sample.name,
                            image_sha256=sample.sha256,
                            model=self.bundle.model_id,
                            precision=precision,
                            comparison=comparison,
                            **{name: float(metrics[name][index]) if status == "ok" else None for name in METRICS},
                            target_class=int(targets[precision][index]),
                            top1=int(top1[index]) if finite[index] else None,
                            label=sample.label,
                            top1_agrees=None
                            if other_top1 is None or not finite[index]
                            else bool(top1[index] == other_top1[index]),
                            logit_error=None
                            if other is None or status.startswith("not_finite")
                            else _relative(comparison, run, other, index),
                            codes_equal=_codes_equal(comparison, run, other, index),
                            status=status,
                            remark=sample.remark,
                        )
                    )
        return [row for rows in by_image for row in rows]


def _relative(comparison: str, run: _Run, other: _Run, index: int) -> float:
    """Return |difference| / |reference| of the logits; the reference is f32, or the deployed run for the fake-quant one."""
    reference = other.logits[index] if comparison == "vs_f32" else run.logits[index]
    difference = run.logits[index].astype(np.float64) - other.logits[index]
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(reference)), np.finfo(np.float64).tiny))


def _codes_equal(comparison: str, run: _Run, other: _Run | None, index: int) -> float | None:
    if comparison != "fake_quant_vs_deployed" or other is None or run.codes.dtype.kind == "f":
        return None
    return float(np.mean(run.codes[index] == other.codes[index]))


def _joined(runs: Sequence[_Run]) -> _Run:
    return _Run(
        np.concatenate([run.logits for run in runs]),
        np.concatenate([run.maps for run in runs]),
        np.concatenate([run.codes for run in runs]),
    )
