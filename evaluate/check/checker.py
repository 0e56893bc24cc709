"""The check: is what the mirror computes what the runtime computes? Codes, logits and CAMs of one precision, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from qcam.common.errors import QcamError
from qcam.evaluate.maps.cam import cam, normalise, upsample
from qcam.evaluate.maps.metrics import METRICS, all_metrics
from qcam.runtime.bundle import Bundle, Tap, load_onnx
from qcam.runtime.deployed.inspection import Inspected
from qcam.runtime.fusion import find_groups, source_label
from qcam.runtime.graph import Graph, attribute
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror import Mirror

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
            QcamError: If the two differ in shape.
        """
        if simulated.shape != deployed.shape:
            raise QcamError(
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
        precision: f32, int16 or int8.
        arithmetic: The mirror's; `float` for f32.
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


_EIGHT_BITS = ("uint8", "int8")
#: Batches of (names, preprocessed images).
Batches = Callable[[], Iterable[tuple[Sequence[str], NDArray[np.float32]]]]


class Runtime(Protocol):
    """The deployed side: something that ran the file and shows every quantized tensor.

    Attributes:
        tensors: Names of the tensors of codes that it shows.
        missing: Names of those that it does not have.
        taps: The tap and the skip tensors, with their scales.
        provider: What it ran on.
    """

    tensors: tuple[str, ...]
    missing: tuple[str, ...]
    taps: tuple[Tap, ...]
    provider: str

    def run(self, images: NDArray[np.float32]) -> Inspected:
        """Run one batch, float32, batch × 3 × height × width, preprocessed."""
        ...


class Checker:
    """The deployed run of one precision, to be held against mirrors of the bundle's file."""

    def __init__(self, bundle: Bundle, precision: str, runtime: Runtime, *, device: str = "cpu") -> None:
        """Take both sides.

        Args:
            bundle: The bundle.
            precision: The precision.
            runtime: The deployed side.
            device: PyTorch device of the mirrors.

        Raises:
            QcamError: If no tensor of the deployed side matches.
        """
        self.bundle = bundle
        self.entry = bundle.precision(precision)
        self._runtime = runtime
        self._device = device
        self._model = load_onnx(bundle, precision)
        if runtime.missing and not runtime.tensors:
            count = len(runtime.missing)
            raise QcamError(f"none of the {count} quantized tensors of {bundle.path(precision)} is in the file that was run")
        graph = Graph(self._model)
        groups = {group.result: group for group in find_groups(graph)}
        sources = [*runtime.tensors, self.entry.logits]
        names = [*runtime.tensors, LOGITS]
        self._sources = {name: source_label(graph, groups, source) for name, source in zip(names, sources, strict=True)}
        self._types = {name: _code_type(graph, name) for name in runtime.tensors}

    def run(
        self,
        batches: Batches,
        arithmetic: str,
        family: KernelFamily | None,
        *,
        exact: bool,
        every_tensor: bool = False,
        advance: Callable[[int], None] = lambda _images: None,
    ) -> CheckResult:
        """Hold one mirror against the deployed run.

        Args:
            batches: The images.
            arithmetic: The mirror's.
            family: Kernel family, for `integer`.
            exact: Whether the mirror promises equal codes here.
            every_tensor: Whether each operator is also fed with the deployed codes.
            advance: Called with the number of images done.

        Returns:
            The result.
        """
        mirror = self._mirror(arithmetic, family)
        quantized = bool(mirror.quantized)
        # 16-bit graphs have no kernel family: their integer result is the same everywhere.
        followed = family is not None and arithmetic == "integer" and self.entry.tap.dtype in _EIGHT_BITS
        result = CheckResult(
            model=self.bundle.model_id,
            precision=self.entry.name,
            arithmetic=arithmetic if quantized else "float",
            kernel=family.name if family is not None and followed else "",
            provider=self._runtime.provider,
            exact=exact and quantized,
            missing=self._runtime.missing,
        )
        result.tensors = [
            TensorResult(name, source) for name, source in self._sources.items() if name == LOGITS or name in mirror.quantized
        ]
        tensors = {tensor.name: tensor for tensor in result.tensors}
        undisturbed = True
        for image_names, images in batches():
            inspected = self._runtime.run(images)
            undisturbed &= inspected.undisturbed
            self._compare(mirror, image_names, images, inspected, tensors, result)
            if every_tensor:
                self._force(mirror, images, inspected, tensors)
            advance(len(image_names))
        if not result.images:
            raise QcamError("no image could be read; nothing was compared")
        if not undisturbed:
            result.remarks.append("exposing every tensor changed the deployed run: codes over all tensors are that other run's")
        return result

    def _mirror(self, arithmetic: str, family: KernelFamily | None) -> Mirror:
        if family is None:
            return Mirror(self._model, self.entry, self._device, arithmetic)
        return Mirror(self._model, self.entry, self._device, arithmetic, family)

    def _compare(
        self,
        mirror: Mirror,
        names: Sequence[str],
        images: NDArray[np.float32],
        inspected: Inspected,
        tensors: dict[str, TensorResult],
        result: CheckResult,
    ) -> None:
        def see(name: str, codes: torch.Tensor) -> None:
            if name in tensors:
                tensors[name].add(codes, self._codes(inspected, name))

        simulated = mirror.forward(images, see)
        deployed = inspected.outputs
        if tuple(simulated.tap.shape) != deployed.tap.shape:
            raise QcamError(
                f"{self.entry.tap.tensor} (the CAM layer) has shape {deployed.tap.shape} in the file that was run and "
                f"{tuple(simulated.tap.shape)} in the bundle's"
            )
        real_logits = torch.from_numpy(deployed.logits).to(self._device)
        tensors[LOGITS].add(simulated.logits, real_logits)
        targets = deployed.logits.argmax(axis=1).astype(np.int64)
        taps = self._runtime.taps
        real = [mirror.dequantize(tap, values) for tap, values in zip(taps, (deployed.tap, *deployed.skips), strict=True)]
        own = (self.entry.tap, *self.entry.skips)
        fake = [mirror.dequantize(tap, values) for tap, values in zip(own, (simulated.tap, *simulated.skips), strict=True)]
        maps = []
        for activation, *skips in (fake, real):
            held = [_representable(tap, value) for tap, value in zip(own, (activation, *skips), strict=True)]
            gradient = mirror.gradient(held[0], targets, held[1:])
            low = cam(activation.cpu().numpy(), gradient.cpu().numpy())
            maps.append(normalise(upsample(low, self.bundle.preprocessing.crop)))
        metrics = all_metrics(*maps)
        same_tap = None
        if self.entry.tap.dtype != "float32":
            stored = torch.from_numpy(deployed.tap.astype(np.float32)).to(self._device)
            same_tap = (simulated.tap == stored).flatten(1).double().mean(dim=1)
        for index, name in enumerate(names):
            difference = (simulated.logits[index] - real_logits[index]).double().norm()
            reference = real_logits[index].double().norm().clamp_min(torch.finfo(torch.float64).tiny)
            values = {metric: float(metrics[metric][index]) for metric in METRICS}
            result.images.append(
                ImageResult(
                    image=name,
                    tap=None if same_tap is None else float(same_tap[index]),
                    logit_error=float(difference / reference),
                    logits_equal=bool((simulated.logits[index] == real_logits[index]).all()),
                    top1=int(simulated.logits[index].argmax()) == int(targets[index]),
                    metrics={metric: None if np.isnan(value) else value for metric, value in values.items()},
                )
            )

    def _force(
        self, mirror: Mirror, images: NDArray[np.float32], inspected: Inspected, tensors: dict[str, TensorResult]
    ) -> None:
        """Run the mirror once more, every operator fed with the deployed codes."""

        def see(name: str, codes: torch.Tensor) -> torch.Tensor | None:
            if name not in tensors:
                return None
            deployed = self._codes(inspected, name)
            tensors[name].add(codes, deployed, forced=True)
            return deployed

        outputs = mirror.forward(images, see)
        tensors[LOGITS].add(outputs.logits, torch.from_numpy(inspected.outputs.logits).to(self._device), forced=True)

    def _codes(self, inspected: Inspected, name: str) -> torch.Tensor:
        codes = inspected.codes[name]
        if codes.dtype.name != self._types[name]:
            raise QcamError(
                f"{name} holds {codes.dtype.name} in the file that was run and {self._types[name]} in the bundle's "
                f"{self.entry.name}: their codes cannot be compared; is it another precision?"
            )
        return torch.from_numpy(codes.astype(np.float32)).to(self._device)


def _representable(tap: Tap, activation: torch.Tensor) -> torch.Tensor:
    """Clamp an activation to what a tap's codes reach: another file's scale may lead beyond, where kernels know no answer."""
    if tap.dtype == "float32":
        return activation
    limits, scale = np.iinfo(tap.dtype), np.float32(tap.scale)
    low, high = (np.float32(limit - tap.zero_point) * scale for limit in (limits.min, limits.max))
    return activation.nan_to_num(nan=0.0).clamp(float(low), float(high))


def _code_type(graph: Graph, tensor: str) -> str:
    """Return the type of a QuantizeLinear's output."""
    node = graph.producer[tensor]
    if len(node.input) > 2 and node.input[2]:
        return graph.array(node.input[2]).dtype.name
    kind = attribute(node, "output_dtype", 0) or onnx.TensorProto.UINT8
    return str(onnx.helper.tensor_dtype_to_np_dtype(int(kind)).name)  # type: ignore[call-overload]
