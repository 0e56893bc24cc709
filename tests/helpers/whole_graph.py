"""A mirror's whole graph, differentiable: the proof of the gradient that its tail gives, at many times the cost."""

from __future__ import annotations

import onnx
import torch

from qcam.runtime.mirror import Mirror
from qcam.runtime.mirror.building import Building
from qcam.runtime.mirror.steps import Program, channels_last, placing


class WholeGraph:
    """All steps of a mirror, from the images to the logits, with straight-through estimators.

    Attributes:
        program: The steps.
    """

    def __init__(self, mirror: Mirror, model: onnx.ModelProto) -> None:
        """Build the mirror's graph again, from the model that it was made of."""
        self._mirror = mirror
        building = Building(model, mirror.entry, mirror.device, mirror.arithmetic, mirror.family)
        self._input, self._place = building.image_input, placing(mirror.device)
        # Laid out as the mirror's forward: float32 sums added in another order give another activation, and other maxima.
        by_channels = building.by_channels(building.live)
        self.program = Program(building.steps(building.live, straight_through=True), building.wanted, by_channels)

    def _run(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        given = channels_last(images.to(self._mirror.device))
        return self.program.run({self._input: given}, self._place)

    def tap(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the tap carries: codes, or float32."""
        return self._run(images)[self._mirror.entry.tap.output].detach()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return batch × classes, differentiable."""
        return self._run(images)[self._mirror.entry.logits]

    def gradient(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return what `Mirror.gradient` does, by autograd through everything.

        Args:
            images: float32, batch × 3 × height × width, preprocessed.
            targets: Class to explain for each image, int64, batch.

        Returns:
            d logit[target] / d activation at the tap, float32.
        """
        mirror = self._mirror
        tap = mirror.entry.tap
        values = self._run(images.detach().clone().requires_grad_())
        scores = values[mirror.entry.logits].gather(1, targets.to(mirror.device)[:, None])
        (gradient,) = torch.autograd.grad(scores.sum(), values[tap.output])
        return gradient / tap.scale if tap.dtype != "float32" else gradient
