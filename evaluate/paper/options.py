"""The slips of the authors' released code, and how each is switched off."""

from __future__ import annotations

from dataclasses import dataclass

from qcam.common.errors import QcamError

#: Slip → what switching it off does, in the order of the ablation.
FIXES = {
    "eval-mode": "evaluation mode: trained BatchNorm statistics, no dropout, no stochastic depth",
    "logits": "the class scores are not fake-quantized: a winning score above the range has no gradient, and its map is empty",
    "calibrated": "activation ranges by min-max over calibration photographs, then frozen; no moving average over the images",
    "8bit": "activations in the whole 8 (16) bits, not in 7 (15)",
    "f32-top1": "every precision explains the class that f32 chose, not its own",
    "alpha": "Grad-CAM++ with its alpha; torch-cam's never reaches the result",
    "crop": "the weights' own resize and centre crop, not a squash",
    "float-maps": "maps in floating point at the network's input size, not 8 bits at the image's",
    "per-channel": "weights quantized per channel, not per tensor (no slip, but what int8 kernels offer)",
}


@dataclass(frozen=True)
class PaperOptions:
    """What is run of the authors' procedure.

    Attributes:
        fixes: Slips that are switched off, names of `FIXES`.
        seed: Of dropout and stochastic depth.
    """

    fixes: frozenset[str] = frozenset()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse unknown names.

        Raises:
            QcamError: Names the choices.
        """
        unknown = sorted(self.fixes - FIXES.keys())
        if unknown:
            raise QcamError(f"{{paper_fix}} {unknown[0]!r} is unknown; choose from {', '.join(FIXES)}")
