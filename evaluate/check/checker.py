"""Holds mirrors against one deployed run: codes, logits and CAMs of one precision, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from qcam.common.errors import BundleError, ImageSetError, UnsupportedGraphError
from qcam.common.norms import logit_error
from qcam.common.vocabulary import Arithmetic
from qcam.evaluate.check.batches import one_ahead
from qcam.evaluate.check.comparing import same_bits
from qcam.evaluate.check.held import Deployed, Held, Wanted, is_of
from qcam.evaluate.check.reading import Reading
from qcam.evaluate.check.result import LOGITS, CheckResult, ImageResult, TensorResult, ValuesResult
from qcam.evaluate.check.slopes import Slopes, told
from qcam.evaluate.check.timing import CAMS, COMPARING, EXPOSED, FED, SLOPES, WAITING, Stopwatch
from qcam.evaluate.check.words import some
from qcam.evaluate.maps.cam import Array, enlarge
from qcam.evaluate.maps.metrics import METRICS, all_metrics
from qcam.evaluate.maps.scores import columns, top_classes
from qcam.evaluate.run.explained import explain
from qcam.runtime.bundle import Bundle, Tap, load_onnx
from qcam.runtime.codes import Codes
from qcam.runtime.deployed import DeployedOutputs
from qcam.runtime.deployed.inspection import Inspected
from qcam.runtime.deployed.other_file import OtherFile
from qcam.runtime.devices import telling_full_gpu
from qcam.runtime.graph import Graph, attribute
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror import Mirror, MirrorOutputs

_EIGHT_BITS = ("uint8", "int8")
_X86 = frozenset({"vnni", "avx2"})
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

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        runtime: Runtime,
        *,
        device: str = "cpu",
        reading: Reading | None = None,
        own: KernelFamily | None = None,
        other: OtherFile | None = None,
        threads: int = 0,
        slopes: Slopes | None = None,
    ) -> None:
        """Take both sides.

        Args:
            bundle: The bundle.
            precision: The precision.
            runtime: The deployed side.
            device: PyTorch device of the mirrors.
            reading: The precision's file, read before; None: it is read.
            own: The kernel family of this CPU, if the deployed side runs on it: its own float kernels then compute the float
                operators of which the mirror does not know the order of additions.
            other: What the deployed side runs, if that is not the bundle's own file.
            threads: Of the deployed side's sessions; 0 for as many as ONNX Runtime takes by itself.
            slopes: Measures the deployed tail's slopes, for mirrors that are wanted; None: they are not asked for.

        Raises:
            BundleError: If no tensor of the deployed side matches.
        """
        self.bundle = bundle
        self.entry = bundle.precision(precision)
        self._runtime = runtime
        self._device = device
        self._reading = reading or Reading(load_onnx(bundle, precision), self.entry.session, own)
        self._own = own
        self._other = other
        self._threads = threads
        self._slopes = slopes
        if runtime.missing and not runtime.tensors:
            count = len(runtime.missing)
            raise BundleError(f"none of the {count} quantized tensors of {bundle.path(precision)} is in the file that was run")
        labels = self._reading.labels((*runtime.tensors, self.entry.logits))
        self._sources = {name: labels[name] for name in runtime.tensors} | {LOGITS: labels[self.entry.logits]}
        self._types = {name: _code_type(self._reading.graph, name) for name in runtime.tensors}
        self._places = {name: place for place, name in enumerate([*self._reading.tensors, LOGITS])}
        self._meanings = {} if other is None else other.meanings
        #: Tensors whose codes mean the same on both sides, and those that the deployed codes of all operands can be given to.
        self._same = {name for name in runtime.tensors if other is None or other.same(name)}
        self._fed = self._same if other is None else {name for name in (*self._same, LOGITS) if self._feeds(name)}

    @property
    def quantized(self) -> bool:
        """Tell whether the file has any codes."""
        return bool(self._types)

    @property
    def same_codes(self) -> bool:
        """Tell whether codes mean the same on both sides, of any tensor that an operator computes."""
        graph = self._reading.graph
        return any(graph.producer[name].input[0] != graph.image_input for name in self._same)

    @property
    def same_tap(self) -> bool:
        """Tell whether codes at the tap mean the same on both sides."""
        return self.entry.tap.dtype != "float32" and (self._other is None or self.entry.tap.output in self._same)

    @property
    def eight_bit(self) -> bool:
        """Tell whether the file has codes of 8 bits, for which there are integer kernels, whatever the precision's name."""
        return any(kind in _EIGHT_BITS for kind in self._types.values())

    @telling_full_gpu("a smaller {batch_size}, or {device} cpu for the mirrors")
    def run(
        self,
        batches: Batches,
        wanted: Sequence[Wanted],
        *,
        elsewhere: Sequence[KernelFamily] = (),
        advance: Callable[[int], None] = lambda _images: None,
        stopwatch: Stopwatch | None = None,
    ) -> tuple[list[CheckResult], dict[str, CheckResult | UnsupportedGraphError]]:
        """Hold mirrors against the deployed run: each batch is made and run once, and every mirror is held against that.

        Args:
            batches: The images.
            wanted: The mirrors.
            elsewhere: Kernel families of other CPUs whose integer mirrors are run for information.
            advance: Called with the number of images done.
            stopwatch: Where the time goes.

        Returns:
            The results of the mirrors that are wanted, in their order; and family → result of those for information, the error
            where such a mirror cannot compute its graph, which ends that one alone.

        Raises:
            BundleError: If tensors of the two sides differ in shape or type.
            ImageSetError: If there is no image.
            OutOfMemoryError: If the memory of a GPU does not hold a batch.
            UnsupportedGraphError: If a mirror that is wanted cannot compute its graph.
        """
        watch = stopwatch or Stopwatch()
        held = [self._hold(each) for each in wanted]
        others = {family.name: _unless_unknown(partial(self._hold_other, family)) for family in elsewhere}
        count = disturbed = unfaithful = 0
        for names, images in self._at_a_time(watch.each(WAITING, one_ahead(batches()))):
            with watch.stage(EXPOSED):
                inspected = self._runtime.run(images)
            deployed = Deployed(inspected, self.entry.tap.output)
            count += len(names)
            disturbed += 0 if inspected.undisturbed else len(names)
            unfaithful += 0 if inspected.faithful else len(names)
            del inspected  # whose codes are let go one by one
            for each in held:
                self._add(each, names, images, deployed, watch)
            if self._slopes is not None:
                with watch.stage(SLOPES):
                    targets = columns(top_classes(deployed.outputs.logits), deployed.outputs.logits.shape[1])
                    self._slopes.add(deployed.outputs, targets, [(each.mirror, each.result.slopes) for each in held])
            for family, other in others.items():
                if isinstance(other, Held):
                    others[family] = _unless_unknown(partial(self._add, other, names, images, deployed, watch))
            advance(len(names))
        if not count:
            raise ImageSetError("no image could be read; nothing was compared")
        known = {
            family: self._finished(other, disturbed, unfaithful) if isinstance(other, Held) else other
            for family, other in others.items()
        }
        return [self._finished(each, disturbed, unfaithful) for each in held], known

    def _hold_other(self, family: KernelFamily) -> Held:
        return self._hold(Wanted(Arithmetic.INTEGER, family), elsewhere=True)

    def _hold(self, wanted: Wanted, *, elsewhere: bool = False) -> Held:
        """Build a mirror, and its result without any image."""
        arithmetic, family = wanted.arithmetic, wanted.family
        mirror = self._mirror(arithmetic, family)
        own = self._own is not None and family == self._own
        # Alone, float kernels were found to compute what they compute in the whole graph; measured on x86.
        known = not mirror.unordered and (not mirror.delegated or (own and str(family) in _X86))
        quantized = bool(self._reading.tensors)
        # Codes of 16 bits have no kernel family: their integer result is the same everywhere.
        followed = family is not None and arithmetic == "integer" and self.eight_bit
        floats = bool(mirror.delegated) and not followed  # with activations of 16 bits, no operator is integer
        result = CheckResult(
            model=self.bundle.model_id,
            precision=self.entry.name,
            arithmetic=arithmetic if quantized else "float",
            kernel=family.name if family is not None and followed else "float kernels" if floats else "",
            provider=self._runtime.provider,
            exact=wanted.exact and quantized and known and not self._reading.faint,
            float_tap=quantized and self.entry.tap.dtype == "float32" and self._other is None,
            missing=self._runtime.missing,
            slopes=[] if self._slopes is None or elsewhere else self._slopes.empty(),
        )
        result.tensors = [
            TensorResult(name, source, place=self._places[name])
            for name, source in self._sources.items()
            if name == LOGITS or (name in self._same and name in mirror.quantized)
        ]
        if self._other is not None:
            result.ambiguous, result.others = self._other.ambiguous, self._other.others
            result.comparable = self.same_codes or not self.quantized
            result.missing = tuple(name for name in result.missing if name not in result.ambiguous)
            result.values = [
                ValuesResult(name, source, self._other.partners[name], *self._in_words(name), place=self._places[name])
                for name, source in self._sources.items()
                if name != LOGITS and name not in self._same and name in mirror.quantized
            ]
        return Held(wanted, mirror, result, own=own, elsewhere=elsewhere)

    def _add(self, held: Held, names: Sequence[str], images: NDArray[np.float32], deployed: Deployed, watch: Stopwatch) -> Held:
        """Hold a mirror against one batch."""
        with watch.stage(COMPARING):
            self._compare(held, names, images, deployed, watch)
        if held.wanted.every_tensor and deployed.undisturbed:
            self._force(held, images, deployed, watch)
        return held

    def _finished(self, held: Held, disturbed: int, unfaithful: int) -> CheckResult:
        """Return the result when all images are done, with what its reader has to know.

        Args:
            held: The mirror.
            disturbed: Of how many images exposing tensors changed the run.
            unfaithful: Of how many images handing out the CAM layer changed the logits.
        """
        mirror, result = held.mirror, held.result
        quantized = bool(self._reading.tensors)
        if disturbed:
            result.remarks.append(
                f"exposing every tensor changed the deployed run of {disturbed} of {len(result.images)} images: of those, only "
                "tap and logits were compared"
            )
        if unfaithful:
            result.remarks.append(
                f"handing out the CAM layer changed the logits of {unfaithful} of {len(result.images)} images: logits are of "
                "the file as it was given, codes and CAMs of a copy, and nothing is promised"
            )
            result.exact = False
        seen = {tensor.name for tensor in result.tensors if tensor.elements}
        seen |= {tensor.name for tensor in result.values if tensor.elements}
        unseen = [name for name in self._reading.tensors if name not in seen]
        if unseen and quantized and not result.missing and not result.ambiguous:
            result.remarks.append(
                f"{len(unseen)} of {len(self._reading.tensors)} quantized tensors of the file cannot be observed as they are "
                f"deployed: {some(unseen)}"
            )
        if mirror.quantized_scores:
            result.remarks.append("the file quantizes its class scores: their gradient passes where one is saturated, too")
        if result.slopes:
            result.remarks.append(told(result.slopes))
        result.tensors = [tensor for tensor in result.tensors if tensor.elements]
        result.values = [tensor for tensor in result.values if tensor.elements]
        if held.wanted.every_tensor and self._other is not None:
            result.remarks += self._unfed(result)
        if held.wanted.exact and self._reading.faint:
            faint = some(self._reading.faint)
            result.remarks.append(
                f"equal codes are not promised: scales of {faint} are below float32's normal numbers; processors round them "
                "or take them for 0"
            )
        if held.wanted.arithmetic == Arithmetic.INTEGER and quantized:
            result.remarks += _float_remarks(mirror, here=held.own)
        return result

    def _at_a_time(
        self, batches: Iterable[tuple[Sequence[str], NDArray[np.float32]]]
    ) -> Iterator[tuple[Sequence[str], NDArray[np.float32]]]:
        """Cut batches into what a file of a fixed batch takes: all of its tensors are looked at, not only those of an image."""
        for names, images in batches:
            for part in self.entry.input.chunks(len(images)):
                yield names[part], images[part]

    def _mirror(self, arithmetic: str, family: KernelFamily | None) -> Mirror:
        file, preprocessing = self._reading.file, self.bundle.preprocessing
        if family is None or arithmetic != Arithmetic.INTEGER or not self._reading.tensors:
            return Mirror(file, self.entry, self._device, arithmetic, preprocessing=preprocessing)
        return Mirror(
            file,
            self.entry,
            self._device,
            arithmetic,
            family,
            preprocessing=preprocessing,
            loaded=self._reading.loaded(family),
            settings=self._reading.settings,
            float_kernels=family == self._own,
            threads=self._threads,
        )

    def _compare(
        self, held: Held, names: Sequence[str], images: NDArray[np.float32], shown: Deployed, watch: Stopwatch
    ) -> None:
        tap, mirror, result = self.entry.tap.output, held.mirror, held.result

        def see(part: slice, name: str, codes: torch.Tensor) -> None:
            if (not shown.undisturbed and name != tap) or (part.start and not is_of(codes, part)):  # seen with the first part
                return
            if name in held.tensors or name in held.values:
                with comparing.counted():
                    stored = self._stored(shown, name, codes, part)
                    if name in held.tensors:
                        held.tensors[name].add(codes, stored)
                    else:
                        held.values[name].add(*self._values(name, codes.float(), stored.to(self._device).float()))

        with watch.stage(held.stage), watch.within(COMPARING) as comparing:
            simulated = mirror.forward(images, observers=lambda part: partial(see, part))
        deployed = shown.outputs
        if tuple(simulated.tap.shape) != deployed.tap.shape:
            raise BundleError(
                f"{self.entry.tap.tensor} (the CAM layer) has shape {deployed.tap.shape} in the file that was run and "
                f"{tuple(simulated.tap.shape)} in the bundle's"
            )
        held.tensors[LOGITS].add(simulated.logits, torch.from_numpy(deployed.logits))
        targets, chosen = top_classes(deployed.logits), top_classes(simulated.logits.cpu().numpy())
        with watch.stage(CAMS):
            metrics = all_metrics(*self._maps(mirror, simulated, deployed, columns(targets, deployed.logits.shape[1])))
        logits, real_logits = (values.astype(np.float64) for values in (simulated.logits.cpu().numpy(), deployed.logits))
        same_tap = None
        if self.same_tap or result.float_tap:
            stored = torch.from_numpy(deployed.tap.astype(np.float32)).to(self._device)
            same_tap = (simulated.tap == stored).flatten(1).double().mean(dim=1)
        for index, name in enumerate(names):
            figures = {metric: float(metrics[metric][index]) for metric in METRICS}
            result.images.append(
                ImageResult(
                    image=name,
                    tap=None if same_tap is None else float(same_tap[index]),
                    logit_error=logit_error(logits[index], real_logits[index], real_logits[index]),
                    logits_equal=np.array_equal(logits[index], real_logits[index], equal_nan=True),
                    top1=bool(chosen[index] == targets[index]),
                    metrics={metric: None if np.isnan(value) else value for metric, value in figures.items()},
                )
            )

    def _maps(
        self, mirror: Mirror, simulated: MirrorOutputs, deployed: DeployedOutputs, score: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """Return the CAMs of both sides as they are compared; where both sides' values are the same, they are computed once."""
        taps, own = self._runtime.taps, (self.entry.tap, *self.entry.skips)
        real = [mirror.dequantize(tap, values) for tap, values in zip(taps, (deployed.tap, *deployed.skips), strict=True)]
        fake = [mirror.dequantize(tap, values) for tap, values in zip(own, (simulated.tap, *simulated.skips), strict=True)]

        def shown(activation: torch.Tensor, *skips: torch.Tensor) -> Array:
            at = [_representable(tap, value) for tap, value in zip(own, (activation, *skips), strict=True)]
            return enlarge(explain(mirror, activation, score, skips, at=at).maps, self.bundle.preprocessing.crop)

        ours = shown(*fake)
        return ours, ours if all(map(same_bits, fake, real)) else shown(*real)

    def _force(self, held: Held, images: NDArray[np.float32], shown: Deployed, watch: Stopwatch) -> None:
        """Run the mirror once more, every operator fed with the deployed codes."""

        def see(part: slice, name: str, codes: torch.Tensor) -> torch.Tensor | None:
            if name not in held.tensors:
                return None
            with comparing.counted():
                stored = self._stored(shown, name, codes, part)
                if name in self._fed and (not part.start or is_of(codes, part)):
                    held.tensors[name].add(codes, stored, forced=True)
                return torch.empty_like(codes).copy_(stored)  # in the mirror's own order in memory, by which sums round

        with watch.stage(FED), watch.within(COMPARING) as comparing:
            outputs = held.mirror.forward(images, observers=lambda part: partial(see, part))
        if self._other is None or LOGITS in self._fed:
            held.tensors[LOGITS].add(outputs.logits, torch.from_numpy(shown.outputs.logits), forced=True)

    def _stored(self, shown: Deployed, name: str, simulated: torch.Tensor, part: slice) -> torch.Tensor:
        """Return deployed codes; where another file only reshapes, in the bundle's shape."""
        return shown.codes(name, simulated, part, reshaped=self._other is not None)

    def _values(self, name: str, codes: torch.Tensor, stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what simulated and deployed codes of a tensor stand for, and the coarser of their steps."""
        own, other = self._meanings[name]
        scale, zero = _parameters(own, codes.ndim, codes.device)
        other_scale, other_zero = _parameters(other, codes.ndim, codes.device)
        return (codes - zero) * scale, (stored - other_zero) * other_scale, torch.maximum(scale, other_scale)

    def _in_words(self, name: str) -> tuple[str, str]:
        own, other = self._meanings[name]
        return _in_words(own), _in_words(other)

    def _feeds(self, name: str) -> bool:
        """Tell whether every tensor of codes that an operator reads has deployed codes of the same meaning."""
        graph, tensors = self._reading.graph, set(self._reading.tensors)
        result = self.entry.logits if name == LOGITS else name
        node = graph.producer.get(result)
        if node is None:
            return False
        read = graph.upstream(list(node.input), stop=tensors)
        return read.intersection(tensors) <= self._same

    def _unfed(self, result: CheckResult) -> list[str]:
        """Say which operators could not be fed with the deployed codes."""
        left = [tensor.name for tensor in result.tensors if tensor.name not in self._fed]
        if not left or not self.same_codes:
            return []
        return [
            f"{len(left)} of {len(result.tensors)} tensors are not fed with the deployed codes: those of their operands have "
            f"no partner or mean something else ({some(left)})"
        ]


def _unless_unknown(make: Callable[[], Held]) -> Held | UnsupportedGraphError:
    """Return what `make` does, or the error where a mirror cannot compute its graph."""
    try:
        return make()
    except UnsupportedGraphError as error:
        return error


def _parameters(codes: Codes, dimensions: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and zero point in a shape that goes with the codes."""
    found = []
    for values in (codes.scale, codes.zero_point):
        value = torch.from_numpy(values.astype(np.float32)).to(device)
        if value.numel() > 1:
            value = value.reshape([-1 if axis == codes.axis % dimensions else 1 for axis in range(dimensions)])
        found.append(value)
    return found[0], found[1]


def _in_words(codes: Codes) -> str:
    """Say what codes mean."""
    if codes.scale.size > 1:
        return f"{codes.dtype.name}, {codes.scale.size} scales along axis {codes.axis}"
    return f"{codes.dtype.name}, scale {float(codes.scale):.6g}, zero point {int(codes.zero_point)}"


def _float_remarks(mirror: Mirror, *, here: bool) -> list[str]:
    """Say whose arithmetic float operators between quantizers had."""
    if mirror.delegated:
        count = len(mirror.delegated)
        return [f"float kernels: the runtime's own, for {count} float operators between quantizers ({some(mirror.delegated)})"]
    if mirror.unordered:
        where = "here" if here else f"on CPUs of family {mirror.family}"
        return [
            f"{len(mirror.unordered)} float operators between quantizers add in an order that is not known {where} "
            f"({some(mirror.unordered)}): codes behind them may be one apart, and equal codes are not promised"
        ]
    return []


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
