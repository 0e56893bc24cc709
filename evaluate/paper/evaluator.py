"""One model under the paper's protocol: three precisions in PyTorch, their CAMs, and the rows that compare them.

Images are run one by one, as the authors did: in training mode, BatchNorm normalises with the one image's own statistics.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from qcam.common.errors import QcamError, ResultsError
from qcam.common.records import AGAIN
from qcam.evaluate.maps.cam import Array, enlarge, normalise
from qcam.evaluate.paper.batch_norm import folded_layers, restore_statistics
from qcam.evaluate.paper.fake_quant import (
    calibrated,
    code_ranges,
    fake_quantized,
    has_quantized_logits,
    observed_state,
    plain_modules,
    quantized_modules,
    read_states,
    release_logits,
    restore_state,
    state_text,
)
from qcam.evaluate.paper.options import FIXES, PaperOptions
from qcam.evaluate.results.clipping import ClippedRow
from qcam.evaluate.results.folder import Row, StoredMap
from qcam.evaluate.run.comparing import Compared, SalientObjects
from qcam.evaluate.run.explained import Run, explain
from qcam.evaluate.run.protocol import Expected, Finish, Sample
from qcam.evaluate.run.ran import FakeQuantized, InPyTorch, Ran
from qcam.evaluate.run.stages import StageClock
from qcam.evaluate.saliency.source import resized_map
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs
from qcam.images.preprocessing import Preprocessing
from qcam.models.sources import LITE0, load_model
from qcam.models.weights import hash_parameters
from qcam.runtime.bundle import PRECISIONS, Bundle
from qcam.runtime.devices import telling_full_gpu

#: The layers of the authors' code.
CAM_LAYERS = {
    "vgg16": "features.29",
    "resnet50": "layer4.2.conv3",
    "densenet121": "features.denseblock4",
    "mobilenet_v2": "features.18",
    "squeezenet1_0": "features.12",
    "squeezenet1_1": "features.12",
    "efficientnet_b0": "features.8",
}
#: Dropout and stochastic depth that EfficientNet-Lite0 was trained with, as EfficientNet-B0 was; timm leaves them out unless
#: asked, torchvision's EfficientNet has them, and in training mode the authors' code applied them.
_LITE0_TRAINING = {"drop_rate": 0.2, "drop_path_rate": 0.2}
_FILES = (".pth", ".pt", ".bin", ".safetensors")


@dataclass(frozen=True)
class _Layer:
    """The score of one image and the layer's output that led to it.

    Attributes:
        logits: 1 × classes, with their graph.
        output: The layer's output, a leaf of that graph.
    """

    logits: torch.Tensor
    output: torch.Tensor

    def gradient(
        self, activation: torch.Tensor, targets: NDArray[np.int64], skips: Iterable[torch.Tensor] = ()
    ) -> torch.Tensor:
        """Return d score / d output: here the activation is the output, and nothing leads past it."""
        (gradient,) = torch.autograd.grad(self.logits[0, int(targets[0])], self.output)
        return gradient


class PaperEvaluator:
    """The authors' models of one bundle's network and weights.

    Attributes:
        bundle: Names the model and its weights; its ONNX files are not used.
        preprocessing: The bundle's, squashed instead of cropped unless that slip is switched off.
        sequential: Whether observers go on adapting from image to image.
        precisions: Those to run.
        noisy: Whether the float model draws random numbers: dropout or stochastic depth, in training mode. If not, it agrees
            with itself: the null row is 1.
        expected: Nothing: all is kept open.
    """

    def __init__(self, bundle: Bundle, precisions: Sequence[str], options: PaperOptions, *, weights: str | None = None) -> None:
        """Load the model again, and prove that it has the bundle's weights.

        Args:
            bundle: The bundle.
            precisions: Those to run, f32 first.
            options: Which slips are switched off.
            weights: The weights file, if the bundle was made from one.

        Raises:
            QcamError: If the weights are not the bundle's, f32 is missing, a precision is none of qcam's own, or the model's
                CAM layer is not known.
        """
        if "f32" not in precisions:
            raise QcamError(
                f"{{protocol}} paper compares with f32, and {bundle.folder} holds none, only {', '.join(precisions)}: "
                "leave it out"
            )
        for name in precisions:
            if name not in PRECISIONS:
                taken = ",".join(known for known in PRECISIONS if known in precisions)
                raise QcamError(
                    f"{{protocol}} paper knows nothing of precision {name}; leave it out with {{precision}} {taken}"
                )
        self.bundle = bundle
        self.precisions = tuple(precisions)
        self.sequential = "calibrated" not in options.fixes
        self._options = options
        own = bundle.preprocessing
        self.preprocessing: Preprocessing = own if "crop" in options.fixes else replace(own, resize=None)
        if own.channels != 3:
            raise QcamError(
                f"{{protocol}} paper knows networks of RGB pictures; {bundle.model_id} takes grey ones: leave it out"
            )
        self._module, self._layer = _load(bundle, weights)
        if len(bundle.classes) == 2 and _outputs(self._module, self.preprocessing.crop) == 1:
            raise QcamError(
                f"{{protocol}} paper knows networks with a score for each class; {bundle.model_id} has one output: leave it out"
            )
        training = "eval-mode" not in options.fixes
        self.noisy = training and _draws_noise(self._module, self.preprocessing.crop)
        # A fresh initialisation looks the same and has nothing folded; its figures mean nothing either way.
        self._restored = folded_layers(self._module) if training and bundle.trained is not False else []
        self._models: dict[str, nn.Module] = {}
        self.expected = Expected()

    def open(self) -> None:
        """Do nothing: there are no sessions."""

    def close(self) -> None:
        """Do nothing: there are no sessions."""

    @telling_full_gpu("{device} cpu, or fewer bundles")
    def build(self, device: str) -> None:
        """Make the fake-quantized models, where they are not made yet.

        Raises:
            OutOfMemoryError: If the GPU does not hold them.
        """
        if self._models:
            return
        fixes = self._options.fixes
        self._device = device
        self._module.to(device)
        if self._restored:
            restore_statistics(self._module, self._calibration())
        for precision in self.precisions:
            model = plain_modules(self._module) if precision == "f32" else fake_quantized(self._module, precision, fixes)
            model.to(device).train("eval-mode" not in fixes)
            if precision != "f32" and "logits" in fixes:
                release_logits(model, self.preprocessing.crop)
            if precision != "f32" and "calibrated" in fixes:
                with self._noise("calibration", precision):
                    calibrated(model, self._calibration())
            self._models[precision] = model

    def state(self) -> str:
        """Return what the images so far have left in the observers, as JSON text."""
        if not self.sequential:
            return ""
        return state_text({name: observed_state(self._models[name]) for name in self._quantized()})

    def restore(self, text: str) -> None:
        """Put the observers into a state that `state` returned.

        Raises:
            ResultsError: If it is none, or that of other precisions or of another network.
        """
        if not text:
            return
        states, wanted = read_states(text), self._quantized()
        if sorted(states) != sorted(wanted):
            raise ResultsError(f"the state of a part is not of {', '.join(wanted)}; {AGAIN}")
        for name, state in states.items():
            restore_state(self._models[name], state)

    def facts(self) -> dict[str, Ran]:
        """Return precision → what is fake-quantized, and in which codes."""
        return {
            name: InPyTorch(self._layer, None if name == "f32" else FakeQuantized(code_ranges(model), quantized_modules(model)))
            for name, model in self._models.items()
        }

    def notes(self) -> list[str]:
        """Say what was run and what was not."""
        left = [name for name in FIXES if name not in self._options.fixes and name != "per-channel"]
        restored = (
            f"{self.bundle.model_id}: {len(self._restored)} BatchNorm layers of these weights have no statistics, they were "
            "folded away; they get those of the calibration photographs, and scale and shift that keep the trained function"
        )
        noise = (
            "dropout or stochastic depth is active: the null row is not 1, and another seed gives other figures"
            if self.noisy
            else "no dropout and no stochastic depth: the null row is 1, and no seed changes a figure"
        )
        return [
            f"{self.bundle.model_id}: PyTorch modules of prepare_qat, CAM at {self._layer}; nothing of it is deployed",
            f"slips of the authors' code that are in: {', '.join(left) or 'none'}",
            *([f"{self.bundle.model_id}: {noise}"] if "eval-mode" not in self._options.fixes else []),
            *([restored] if self._restored else []),
        ]

    def logits_quantized(self) -> bool:
        """Tell whether class scores go through a fake quantizer, which clamps some of them."""
        return any(has_quantized_logits(self._models[name], self.preprocessing.crop) for name in self._quantized())

    @telling_full_gpu("{device} cpu, or fewer bundles")
    def observe(self, samples: Sequence[Sample]) -> None:
        """Let the observers see images, and evaluate nothing: ranges as they are after a longer run."""
        with torch.no_grad():
            for sample in samples:
                image = torch.from_numpy(self.preprocessing.normalise(sample.crop[None])).to(self._device)
                for precision in self._quantized():
                    with self._noise(sample.sha256, precision, "observed"):
                        self._models[precision](image)

    def refused(self, name: str, sha256: str, label: int | None, reason: str) -> list[Row]:
        """Return the rows of an image that could not be decoded."""
        return [
            Row(name, sha256, self.bundle.model_id, precision, comparison, label=label, status=f"refused: {reason}")
            for precision in self.precisions
            for comparison in ("vs_saliency", "vs_f32")
        ]

    def refused_references(self, name: str, sha256: str, label: int | None, reason: str) -> list[Row]:
        """Return nothing: this protocol has no reference rows."""
        return []

    @telling_full_gpu("{device} cpu, or fewer bundles")
    def evaluate(self, samples: Sequence[Sample], clock: StageClock) -> Finish:
        """Run images one by one.

        Args:
            samples: The images, in the order of the run: observers adapt to each.
            clock: Where the time goes.

        Returns:
            What computes rows (image by image, precision, comparison) and CAMs at the layer's own resolution.

        Raises:
            OutOfMemoryError: If the memory of a GPU does not hold an image.
        """
        ran: list[tuple[Sample, dict[str, Run], Run, dict[str, int]]] = []
        for sample in samples:
            runs: dict[str, Run] = {}
            targets: dict[str, int] = {}
            for precision in self.precisions:
                with clock.stage(f"paper {precision}"):
                    runs[precision], targets[precision] = self._run(precision, sample, "first", targets.get("f32"))
            with clock.stage("paper f32 again"):
                again, _ = self._run("f32", sample, "again", targets["f32"])
            ran.append((sample, runs, again, targets))

        def finish() -> tuple[list[Row], list[StoredMap], list[ClippedRow]]:
            model = self.bundle.model_id
            with clock.stage("metrics"):
                rows = [row for each in ran for row in self._rows(*each)]
            maps = [
                StoredMap.of(run.maps[0], sample.name, model, name, "deployed")
                for sample, runs, _, _ in ran
                for name, run in runs.items()
            ]
            return rows, maps, []

        return finish

    def evaluate_all(self, batches: Sequence[Sequence[Sample]], clock: StageClock) -> list[Finish]:
        """Run batches, one after the other; arguments and errors as of `evaluate`."""
        return [self.evaluate(samples, clock) for samples in batches]

    def _run(self, precision: str, sample: Sample, which: str, f32_target: int | None) -> tuple[Run, int]:
        model = self._models[precision]
        held: list[torch.Tensor] = []

        def tap(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            leaf = output.detach().requires_grad_()
            held.append(leaf)
            return leaf.clone()  # what follows may work in place

        image = torch.from_numpy(self.preprocessing.normalise(sample.crop[None])).to(self._device)
        handle = model.get_submodule(self._layer).register_forward_hook(tap)
        try:
            with self._noise(sample.sha256, precision, which), torch.enable_grad():
                logits = model(image)
        finally:
            handle.remove()
        shared = "f32-top1" in self._options.fixes and f32_target is not None
        target = int(f32_target) if shared and f32_target is not None else int(logits[0].argmax())
        method = "gradcam++" if "alpha" in self._options.fixes else "gradcam++-torchcam"
        maps, crossings = explain(_Layer(logits, held[0]), held[0].detach(), np.array([target]), method=method)
        shown = partial(self._enlarge, self._size(sample))
        return Run(logits.detach().cpu().numpy(), maps, shown, crossings=crossings), target

    def _enlarge(self, size: tuple[int, int], maps: Array) -> Array:
        """Return a map as it is compared: bicubic to the image's size, min-max, 8 bits; or bilinear to the crop's size."""
        if "float-maps" in self._options.fixes:
            return enlarge(maps, self.preprocessing.crop)
        picture = Image.fromarray(normalise(maps)[0].astype(np.float32))
        large = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.float64)
        eighths: Array = np.rint(normalise(large[None]) * 255) / 255
        return eighths

    def _size(self, sample: Sample) -> tuple[int, int]:
        """Return the width and height that maps are compared in: the whole image's, or the crop's if it was cropped."""
        height, width = self.preprocessing.crop
        return (width, height) if "crop" in self._options.fixes or 0 in sample.size else sample.size

    @staticmethod
    def _reference(sample: Sample, size: tuple[int, int]) -> Array | None:
        if sample.saliency is None:
            return None
        return resized_map(sample.saliency, size).astype(np.float64)

    def _rows(self, sample: Sample, runs: dict[str, Run], again: Run, targets: dict[str, int]) -> list[Row]:
        height, width = runs["f32"].shown.shape[1:]
        saliency = SalientObjects.of([(self._reference(sample, (height, width)), sample.no_saliency)], (height, width))
        rows = []
        for precision, run in runs.items():
            classes = np.array([targets[precision]])
            against = [Compared(self.bundle.model_id, precision, name, [sample], classes) for name in ("vs_saliency", "vs_f32")]
            rows += against[0].with_objects(run, saliency)
            rows += against[1].with_reference(again if precision == "f32" else run, runs["f32"])
        return rows

    def _quantized(self) -> list[str]:
        return [name for name in self.precisions if name != "f32"]

    def _calibration(self) -> list[torch.Tensor]:
        found = []
        for photograph in calibration_photographs():
            image = decode(photograph.path).image
            if image is not None:
                batch = self.preprocessing.normalise(self.preprocessing.crop_image(image)[None])
                found.append(torch.from_numpy(batch).to(self._device))
        return found

    @contextmanager
    def _noise(self, *what: str) -> Iterator[None]:
        """Draw dropout and stochastic depth from a seed of their own: no result depends on what ran before."""
        digest = hashlib.sha256(" ".join((str(self._options.seed), self.bundle.model_id, *what)).encode()).digest()
        devices = list(range(torch.cuda.device_count())) if self._device == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int.from_bytes(digest[:7]))
            yield


def _outputs(module: nn.Module, size: tuple[int, int]) -> int:
    """Return how many outputs a network has."""
    with torch.no_grad():
        return int(module(torch.zeros(1, 3, *size)).shape[1])


def _draws_noise(module: nn.Module, size: tuple[int, int]) -> bool:
    """Tell whether a forward pass in training mode moves PyTorch's generator; the module is left as it was."""
    model = copy.deepcopy(module).train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        model(torch.zeros(1, 3, *size))
        return not torch.equal(before, torch.get_rng_state())


def _load(bundle: Bundle, weights: str | None) -> tuple[nn.Module, str]:
    """Return the bundle's network in PyTorch and its CAM layer.

    Raises:
        QcamError: If the weights are not the bundle's, or no layer is known.
    """
    name = bundle.weights.name
    hint = f"give the file that the bundle was exported from: {{paper_weights}} {bundle.model_id}=FILE"
    if weights is None and name is None:
        raise QcamError(f"the manifest of {bundle.folder} does not name its weights; {hint}")
    if weights is None and name and name.endswith(_FILES):
        raise QcamError(f"{bundle.model_id} was exported from the file {name}; {hint}")
    loaded = load_model(bundle.model_id, weights or (None if name in ("embedded", "default") else name))
    if hash_parameters(loaded.module) != bundle.weights.sha256:
        raise QcamError(f"{weights or name} does not hold the weights of {bundle.folder}; {hint}")
    layer = CAM_LAYERS.get(bundle.model_id) or loaded.cam_layer
    if not layer:
        known = ", ".join([*CAM_LAYERS, "efficientnet_lite0"])
        raise QcamError(f"{{protocol}} paper knows no CAM layer of {bundle.model_id}; it knows {known}")
    module = loaded.module
    if bundle.model_id == LITE0:
        import timm

        module = timm.create_model(loaded.source.removeprefix("timm:"), pretrained=False, **_LITE0_TRAINING)
        module.load_state_dict(loaded.module.state_dict())
        module.eval().requires_grad_(False)
    return module, layer
