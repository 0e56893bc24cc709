"""What is measured when a mirror is held against a deployed run: tensor by tensor, image by image, and as figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from qcam.common.errors import BundleError
from qcam.evaluate.maps.metrics import METRICS

#: Name under which the logits stand among the tensors.
LOGITS = "logits"
#: What `source_label` ends with for operators that compute in float.
FLOAT = "(float)"
#: Relative error of logits up to which two float programs are taken to compute the same: float32 rounding through a deep
#: network stays below a tenth of it, a scale that is off by 1 % is a hundred times more.
FLOAT_ROUNDING = 1e-4


@dataclass
class TensorResult:
    """One tensor, simulated against deployed, over all images.

    Attributes:
        name: Its name; `LOGITS` for the class scores.
        operator: The operator that it comes from.
        elements: How many values were compared.
        equal: How many were the same when the mirror ran from the images on.
        forced: How many were the same when the operator was fed with the deployed codes; None if that was not tried.
        largest: Largest difference of the first kind, in codes (in the logits' own unit for the logits).
        forced_largest: Likewise of the second.
    """

    name: str
    operator: str
    elements: int = 0
    equal: int = 0
    forced: int | None = None
    largest: float = 0.0
    forced_largest: float = 0.0

    def add(self, simulated: torch.Tensor, deployed: torch.Tensor, *, forced: bool = False) -> None:
        """Count one batch; with `forced`, `add` has counted its elements before.

        Raises:
            BundleError: If the two differ in shape.
        """
        if simulated.shape != deployed.shape:
            raise BundleError(
                f"{self.name} has shape {tuple(deployed.shape)} in the file that was run and {tuple(simulated.shape)} in the "
                "bundle's: their values cannot be compared"
            )
        same = int((simulated == deployed).sum())
        largest = 0.0
        if same < simulated.numel():
            # What is no number on one side is infinitely far off.
            largest = float((simulated.double() - deployed.double()).abs().nan_to_num(nan=math.inf, posinf=math.inf).max())
        if forced:
            self.forced = (self.forced or 0) + same
            self.forced_largest = max(self.forced_largest, largest)
        else:
            self.elements += simulated.numel()
            self.equal += same
            self.largest = max(self.largest, largest)

    @property
    def share(self) -> float:
        """Return the share of equal values."""
        return self.equal / self.elements if self.elements else float("nan")

    @property
    def forced_share(self) -> float | None:
        """Return the share of equal values of the operator fed with the deployed codes."""
        return None if self.forced is None else self.forced / self.elements


@dataclass(frozen=True)
class ImageResult:
    """One image, simulated against deployed.

    Attributes:
        image: Its name.
        tap: Share of equal codes at the tap; None for float.
        logit_error: Norm of the logits' difference by the norm of the deployed ones.
        logits_equal: Whether the logits are the same, bit for bit.
        top1: Whether both choose the same class.
        metrics: SIM, CC and KLD of the simulated CAM against the deployed one; None where one of them is constant.
    """

    image: str
    tap: float | None
    logit_error: float
    logits_equal: bool
    top1: bool
    metrics: dict[str, float | None]

    @property
    def logits_close(self) -> bool:
        """Tell whether the logits are the same within float rounding."""
        return self.logits_equal or self.logit_error <= FLOAT_ROUNDING


@dataclass
class CheckResult:
    """One precision of one bundle in one arithmetic.

    Attributes:
        model: Model id.
        precision: f32, int16, int8, or a name of another tool's.
        arithmetic: The mirror's; `float` where there are no codes.
        kernel: Kernel family that `integer` followed; empty otherwise.
        provider: Where the deployed run was.
        exact: Whether the mirror promises equal codes here.
        images: Image by image.
        tensors: Tensor by tensor in graph order, the logits last.
        missing: Tensors that the deployed file does not have.
        remarks: What the reader has to know.
    """

    model: str
    precision: str
    arithmetic: str
    kernel: str
    provider: str
    exact: bool
    images: list[ImageResult] = field(default_factory=list)
    tensors: list[TensorResult] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    remarks: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Return model, precision and arithmetic in words."""
        arithmetic = f"{self.arithmetic} ({self.kernel})" if self.kernel else self.arithmetic
        return f"{self.model} {self.precision}, {arithmetic}"

    @property
    def coded(self) -> list[TensorResult]:
        """Return the tensors of codes."""
        return [tensor for tensor in self.tensors if tensor.name != LOGITS]

    @property
    def figures(self) -> dict[str, float | None]:
        """Return what can be gated on, by name: shares, means over images, and minima; None where undefined."""
        elements = sum(tensor.elements for tensor in self.coded)
        taps = [image.tap for image in self.images if image.tap is not None]
        values: dict[str, float | None] = {
            "codes": sum(tensor.equal for tensor in self.coded) / elements if elements else None,
            "tap": float(np.mean(taps)) if taps else None,
            "logits": float(np.mean([image.logits_equal for image in self.images])),
            "logits_close": float(np.mean([image.logits_close for image in self.images])),
            "top1": float(np.mean([image.top1 for image in self.images])),
        }
        for name in METRICS:
            defined = [value for image in self.images if (value := image.metrics[name]) is not None]
            worst = max if name == "KLD" else min
            values[name.lower()] = float(np.mean(defined)) if defined else None
            values[f"{name.lower()}_{'max' if name == 'KLD' else 'min'}"] = worst(defined) if defined else None
        return values

    @property
    def undefined(self) -> int:
        """Return for how many images a CAM was constant."""
        return sum(image.metrics["CC"] is None for image in self.images)

    @property
    def largest_difference(self) -> float | None:
        """Return the largest difference between two codes."""
        return max((tensor.largest for tensor in self.coded), default=None)

    @property
    def float_logits(self) -> bool:
        """Tell whether float operators compute the logits: equal within float rounding at best."""
        return self.tensors[-1].operator.endswith(FLOAT)

    def first_difference(self) -> TensorResult | None:
        """Return the first tensor whose own operator differs, told from those that only inherit a difference.

        Without the operators having been fed with the deployed codes, the first tensor that differs at all: nothing before it
        did, so it cannot have inherited that.
        """
        for tensor in self.tensors:
            # No codes differ when it comes to the logits: all of their difference is their own operator's.
            if tensor.name == LOGITS and self.float_logits and all(image.logits_close for image in self.images):
                continue
            share = tensor.share if tensor.forced_share is None else tensor.forced_share
            if share < 1:
                return tensor
        return None

    def worst_images(self, count: int = 5) -> list[ImageResult]:
        """Return the images whose CAMs agree least."""
        defined = [image for image in self.images if image.metrics["CC"] is not None]
        return sorted(defined, key=lambda image: (image.metrics["CC"], image.image))[:count]
