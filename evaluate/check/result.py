"""What is measured when a mirror is held against a deployed run: tensor by tensor, image by image, and as figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch

from qcam.common.errors import BundleError
from qcam.evaluate.check.comparing import compared
from qcam.evaluate.check.slopes import StepResult, best
from qcam.evaluate.maps.metrics import METRICS

#: Name under which the logits stand among the tensors.
LOGITS = "logits"
#: What `source_label` ends with for operators that compute in float.
FLOAT = "(float)"
#: Relative error of logits up to which two float programs are taken to compute the same: float32 rounding through a deep
#: network stays below a tenth of it, a scale that is off by 1 % is a hundred times more.
FLOAT_ROUNDING = 1e-4
#: What float32 may add to a difference of one step.
_STEP_ROUNDING = 1e-3
#: Whoever counts; threads do, on parts of a batch.
_COUNTING = Lock()


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
        place: Its number in graph order.
    """

    name: str
    operator: str
    elements: int = 0
    equal: int = 0
    forced: int | None = None
    largest: float = 0.0
    forced_largest: float = 0.0
    place: int = 0

    def add(self, simulated: torch.Tensor, deployed: torch.Tensor, *, forced: bool = False) -> None:
        """Count a batch, or a part of it, which threads may do at the same time; with `forced`, `add` has counted it before.

        Raises:
            BundleError: If the two differ in shape.
        """
        require_one_shape(self.name, simulated, deployed)
        same, largest = compared(simulated, deployed, whole=self.name != LOGITS)
        with _COUNTING:
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


@dataclass
class ValuesResult:
    """One tensor whose codes mean something else in the deployed file: what they stand for, simulated against deployed.

    Two roundings of one number to grids of two steps are at most one step of the coarser grid apart. So values within one step
    may be of the same network, and more than one are of another range or of another number.

    Attributes:
        name: Its name in the bundle.
        operator: The operator that it comes from.
        partner: Its name in the deployed file.
        meaning: What its codes mean in the bundle, in words.
        partner_meaning: What they mean in the deployed file.
        elements: How many values were compared.
        within: How many were at most one step of the coarser scale apart.
        largest: Largest difference in such steps.
        place: Its number in graph order.
    """

    name: str
    operator: str
    partner: str
    meaning: str
    partner_meaning: str
    elements: int = 0
    within: int = 0
    largest: float = 0.0
    place: int = 0

    def add(self, simulated: torch.Tensor, deployed: torch.Tensor, step: torch.Tensor) -> None:
        """Count one batch.

        Args:
            simulated: Values, dequantized.
            deployed: Likewise, of the same shape.
            step: The coarser of both steps: one, or one for each channel.

        Raises:
            BundleError: If the two differ in shape.
        """
        require_one_shape(self.name, simulated, deployed)
        steps = ((simulated.double() - deployed.double()) / step.double()).abs().nan_to_num(nan=math.inf, posinf=math.inf)
        within = int((steps <= 1 + _STEP_ROUNDING).sum())
        largest = float(steps.max()) if steps.numel() else 0.0
        with _COUNTING:
            self.elements += steps.numel()
            self.within += within
            self.largest = max(self.largest, largest)

    @property
    def share(self) -> float:
        """Return the share of values that are at most one step apart."""
        return self.within / self.elements if self.elements else float("nan")


def require_one_shape(name: str, simulated: torch.Tensor, deployed: torch.Tensor) -> None:
    """Refuse to compare values of two shapes.

    Raises:
        BundleError: If the two differ in shape.
    """
    if simulated.shape != deployed.shape:
        raise BundleError(
            f"{name} has shape {tuple(deployed.shape)} in the file that was run and {tuple(simulated.shape)} in the "
            "bundle's: their values cannot be compared"
        )


@dataclass(frozen=True)
class ImageResult:
    """One image, simulated against deployed.

    Attributes:
        image: Its name.
        tap: Share of equal values at the tap: codes, or floats where a quantized file has none there; None of a float file.
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
        values: Tensors of which codes mean something else in the deployed file, in graph order.
        missing: Tensors that the deployed file does not have.
        others: Tensors of codes that only the deployed file has.
        ambiguous: Tensors at whose position the deployed file has several.
        comparable: Whether codes of any operator mean the same on both sides; if not, there is no figure of equal codes.
        remarks: What the reader has to know.
        float_tap: Whether the tap of a quantized file holds floats, which are compared as they are.
        slopes: Slopes at the tap, deployed against the mirror's gradient, for each size of steps; empty unless asked for.
    """

    model: str
    precision: str
    arithmetic: str
    kernel: str
    provider: str
    exact: bool
    images: list[ImageResult] = field(default_factory=list)
    tensors: list[TensorResult] = field(default_factory=list)
    values: list[ValuesResult] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    comparable: bool = True
    remarks: list[str] = field(default_factory=list)
    float_tap: bool = False
    slopes: list[StepResult] = field(default_factory=list)

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
        elements = sum(tensor.elements for tensor in self.coded) if self.comparable else 0
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
        chosen = best(self.slopes)
        values["finite_differences"] = None if chosen is None else chosen.correlation
        values["finite_differences_slope"] = None if chosen is None else chosen.slope
        return values

    @property
    def undefined(self) -> int:
        """Return for how many images a CAM was constant."""
        return sum(image.metrics["CC"] is None for image in self.images)

    @property
    def largest_difference(self) -> float | None:
        """Return the largest difference between two codes."""
        return max((tensor.largest for tensor in self.coded if self.comparable), default=None)

    @property
    def float_logits(self) -> bool:
        """Tell whether float operators compute the logits: equal within float rounding at best."""
        return self.tensors[-1].operator.endswith(FLOAT)

    @property
    def values_within(self) -> float | None:
        """Return the share of values within one step, of tensors whose codes mean something else; None if there are none."""
        elements = sum(tensor.elements for tensor in self.values)
        return sum(tensor.within for tensor in self.values) / elements if elements else None

    @property
    def values_largest(self) -> float | None:
        """Return the largest difference between two of those values, in steps."""
        return max((tensor.largest for tensor in self.values), default=None)

    def first_difference(self) -> TensorResult | ValuesResult | None:
        """Return the first tensor whose own operator differs, told from those that only inherit a difference.

        Without the operators having been fed with the deployed codes, the first tensor that differs at all: nothing before it
        did, so it cannot have inherited that. A tensor whose codes mean something else in the deployed file differs by that.
        """
        every: list[TensorResult | ValuesResult] = [*self.tensors, *self.values]
        for tensor in sorted(every, key=lambda tensor: tensor.place):
            if isinstance(tensor, ValuesResult):
                return tensor
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
