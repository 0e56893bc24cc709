"""The mirror of one ONNX file: every node as a PyTorch operation, in graph order, on the file's own scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from qcam.common.errors import QcamError, UnsupportedGraphError
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.clipping import QuantizerRange, quantizer_ranges
from qcam.runtime.grouping import KernelGroup
from qcam.runtime.kernels import KERNELS, KernelFamily
from qcam.runtime.loaded import LoadedGraph
from qcam.runtime.mirror.building import Building
from qcam.runtime.mirror.clipped import ClippedPart, ClippedValues
from qcam.runtime.mirror.integer.degree import Deployment
from qcam.runtime.mirror.parallel import across
from qcam.runtime.mirror.steps import Observer, Observers, channels_last, placing
from qcam.runtime.positions import Limits

#: How a mirror can compute: `fake_quant` is float32 between quantizers, what a researcher simulates; `integer` is what integer
#: kernels compute, code for code.
ARITHMETICS = ("fake_quant", "integer")
#: Images that a thread takes through a fake-quant graph at a time, as long as there are so many: float sums may depend on it.
#: Through an integer graph it takes a multiple: in which order a row of four-byte numbers is added depends on where in 16 bytes
#: it begins, and so on how many images lie in front of it.
_IMAGES = 4


@dataclass(frozen=True)
class MirrorOutputs:
    """What a full forward pass gave, all on the mirror's device.

    Attributes:
        logits: float32, batch × classes.
        tap: Values at the tap: codes as whole float32 numbers for a QDQ graph, the activation otherwise.
        skips: Likewise the skip tensors.
    """

    logits: torch.Tensor
    tap: torch.Tensor
    skips: tuple[torch.Tensor, ...]


class Mirror:
    """A PyTorch graph built node by node from one precision of a bundle; it keeps nothing of the ONNX model that it is made of.

    Attributes:
        entry: The precision.
        device: Where it computes.
        arithmetic: One of `ARITHMETICS`.
        family: The kernel family whose arithmetic `integer` follows.
        groups: What it computes as one integer kernel each, with nodes of their own; empty for `fake_quant`.
        delegated: Float operators between quantizers that ONNX Runtime's own float kernels compute, each in words.
        unordered: Float operators between quantizers whose additions are in PyTorch's order, not in ONNX Runtime's: codes
            behind them may be one apart. None for `fake_quant`, where no order is promised.
        quantized_scores: Whether the logits come out of a quantizer; its gradient then passes where a score is saturated, too.
        quantized: Names of all tensors of codes that the logits or the tap depend on, in graph order; none of a tail only. Of a
            graph as loaded, those that the file has, too.
        ranges: Of the quantizers of `quantized` with one scale, in graph order, for `fake_quant`: what can be counted of.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        entry: PrecisionEntry,
        device: str = "cpu",
        arithmetic: str = "fake_quant",
        family: KernelFamily = KERNELS["vnni"],
        *,
        tail_only: bool = False,
        loaded: LoadedGraph | None = None,
        settings: Mapping[str, str] | None = None,
        float_kernels: bool = False,
        preprocessing: Preprocessing | None = None,
        threads: int = 0,
        floats: Mapping[str, Limits] | None = None,
    ) -> None:
        """Build the graph; nothing runs but what depends on constants alone.

        `integer` follows the graph that ONNX Runtime itself makes of the file when it loads it. Products of 16 by 16 bits, of
        which it has no integer kernels, are computed as an integer accelerator would, from the file.

        Args:
            model: The ONNX file of the precision.
            entry: The precision, with its tap; what it says of the file holds (`check_agreement`, by which `load_onnx` reads).
            device: PyTorch device.
            arithmetic: One of `ARITHMETICS`.
            family: Kernel family, for `integer`.
            tail_only: Whether only `gradient` will be asked for: the weights in front of the tap are not even read then.
            loaded: The graph that `integer` follows, asked for before (`followed`); None: it is asked for where that is needed.
            settings: Session configuration of the deployed session, for `integer`; None: what the precision says.
            float_kernels: Whether, for `integer`, ONNX Runtime's own float kernels compute float operators of which the order
                of additions is not known here: right for this processor, and for no other.
            preprocessing: What images were normalised by; needed for a file that normalises by itself.
            threads: Of the deployed session, for `integer`: some float sums depend on how many there are; 0 for as many as ONNX
                Runtime takes by itself.
            floats: What the float graph that the file was made of limits its tensors to (`activations`), for `ranges`; None:
                not known.

        Raises:
            QcamError: If the arithmetic is unknown.
            UnsupportedGraphError: If an operator, an attribute or a constant's type is unknown, before anything runs; if ONNX
                Runtime does not load the file.
        """
        if arithmetic not in ARITHMETICS:
            raise QcamError(f"mirror arithmetic {arithmetic!r} is unknown; choose one of {', '.join(ARITHMETICS)}")
        self.entry = entry
        self._preprocessing = preprocessing
        self.device = torch.device(device)
        self.arithmetic = arithmetic
        self.family = family
        self._placed = placing(self.device)
        self._deployment = Deployment(threads)
        building = Building(
            model, entry, self.device, arithmetic, family, tail_only=tail_only, loaded=loaded, settings=settings,
            deployment=self._deployment,
        )  # fmt: skip
        self.groups: tuple[KernelGroup, ...] = tuple(group.alone() for group in building.groups)
        self.quantized_scores = building.last is not None
        self.quantized: tuple[str, ...] = ()
        self.delegated: tuple[str, ...] = ()
        self.unordered: tuple[str, ...] = ()
        self.ranges: tuple[QuantizerRange, ...] = ()
        self._input = building.image_input
        if not tail_only:
            whole = building.forward(float_kernels=float_kernels)
            self._forward, self._stepwise, self.quantized = whole.program, whole.stepwise, whole.quantized
            self._observed = frozenset(whole.quantized)
            self.delegated, self.unordered, self._apart = whole.delegated, whole.unordered, whole.apart
            if arithmetic == "fake_quant":
                ranges = quantizer_ranges(building.graph, floats)
                self.ranges = tuple(each for each in ranges if each.codes in self._observed)
        self._tail = building.tail()
        self._skip_reads = {} if building.cut is None else building.cut.skips
        self._instead: Mirror | None = None
        if building.cut is None:
            # ONNX Runtime has moved what the tail reads: the file's own tail has the gradient.
            self._instead = Mirror(model, entry, device, tail_only=True, preprocessing=preprocessing)

    def forward(
        self,
        images: torch.Tensor | NDArray[np.float32],
        observe: Observer | None = None,
        *,
        observers: Observers | None = None,
        clipped: ClippedValues | None = None,
    ) -> MirrorOutputs:
        """Run the whole graph, without gradients.

        Args:
            images: float32, batch × 3 × height × width, preprocessed.
            observe: Called with each tensor of `quantized` as it is computed; what it returns, if anything, takes its place.
                With a file of a fixed batch, it sees the images given, and no more than such a batch can be given.
            observers: In its place, for parts of the images that are cut as they are without an observer: faster, and the sums
                of float32 are those of `forward(images)`; of files that do not take plain images, all are one part. A tensor
                that is not made of the images is seen with each part.
            clipped: Counts what the quantizers clip, of `fake_quant` only; the results are the same.

        Raises:
            QcamError: If there are more images than can be observed, or the file takes pixels that the images are not made of.
        """
        told = self.entry.input
        if told.plain and told.batch is None:
            return self._forward_once(torch.as_tensor(images), observe, observers, clipped)
        if observers is not None:
            observe = observers(slice(0, len(images)))
        given = images.cpu().numpy() if isinstance(images, torch.Tensor) else images
        fed = told.feed(given, self._preprocessing)
        parts = list(told.chunks(len(fed)))
        if observe is not None and len(parts) > 1:
            raise QcamError(f"a file of {told.batch} images at a time shows its tensors for no more, and was given {len(fed)}")
        found = []
        for part in parts:
            chunk = torch.as_tensor(told.filled(fed[part]))
            count = part.stop - part.start
            seen = observe if observe is None or count == len(chunk) else _without_filling(observe, count, len(chunk))
            counts = None if clipped is None else clipped.apart(len(chunk))
            outputs = self._forward_once(chunk, seen, clipped=counts)
            if clipped is not None and counts is not None:
                clipped.take(part, counts)
            found.append([value[:count] for value in (outputs.logits, outputs.tap, *outputs.skips)])
        logits, tap, *skips = (values[0] if len(values) == 1 else torch.cat(values) for values in zip(*found, strict=True))
        return MirrorOutputs(logits, tap, tuple(skips))

    def _forward_once(
        self,
        images: torch.Tensor,
        observe: Observer | None,
        observers: Observers | None = None,
        clipped: ClippedValues | None = None,
    ) -> MirrorOutputs:
        """Run as many images as the file takes at a time, as it takes them."""
        # Inference mode belongs to a thread, and others take part here.
        with torch.inference_mode(mode=False), torch.no_grad():
            images = images.clone() if images.is_inference() else images
            values = {self._input: channels_last(images.to(self.device))}
            self._deployment.images = len(images)
            cut = observe is None and self.entry.input.batch is None
            shared = self._by_parts(values[self._input], observers, clipped) if cut else None
            every = slice(0, len(images))
            values = shared or self._run(values, observe if observers is None else observers(every), _part(clipped, every))
        entry = self.entry
        logits, tap, *skips = (
            values[name].to(torch.float32).contiguous()
            for name in (entry.logits, entry.tap.output, *(skip.output for skip in entry.skips))
        )
        return MirrorOutputs(logits, tap, tuple(skips))

    def _run(
        self, values: dict[str, torch.Tensor], observe: Observer | None, clipped: ClippedPart | None = None
    ) -> dict[str, torch.Tensor]:
        if observe is None:
            return self._forward.run(values, self._placed, clipped=clipped)
        return self._stepwise.run(values, self._placed, observe, self._observed, clipped)

    def _by_parts(
        self, images: torch.Tensor, observers: Observers | None, clipped: ClippedValues | None
    ) -> dict[str, torch.Tensor] | None:
        """Return logits, tap and skips of a batch that threads took part by part through the whole graph; None if they may not.

        What a thread works on then stays in its cache, and no thread waits for others after each step.
        """
        count = len(images)
        share = 1 if self.arithmetic == "fake_quant" else -(-count // torch.get_num_threads())
        step = -(-share // _IMAGES) * _IMAGES
        few = -(-count // step) < torch.get_num_threads() // 2  # operators that split themselves use more of them
        if step >= count or few or not self._apart or self.device.type != "cpu":
            return None
        # None of a single image: over one alone, ONNX Runtime averages in another order than over several.
        starts = range(0, count - 1, step)
        parts = [slice(start, count if start == starts[-1] else start + step) for start in starts]
        entry = self.entry
        names = (entry.logits, entry.tap.output, *(skip.output for skip in entry.skips))
        found: dict[int, dict[str, torch.Tensor]] = {}

        def work(part: slice) -> None:
            observe = None if observers is None else observers(part)
            values = self._run({self._input: images[part]}, observe, _part(clipped, part))
            found[part.start] = {name: values[name] for name in names}

        across(parts, work)
        return {name: torch.cat([found[part.start][name] for part in parts]) for name in names}

    def follows(self, family: KernelFamily) -> bool:
        """Tell whether `gradient` opens the gates behind the tap as the integer kernels of a family do (`Tail.follows`)."""
        if self.arithmetic == "integer" or self._instead is not None:
            return self._instead is None and family == self.family
        return self._tail.follows(family)

    def gradient(
        self,
        activation: torch.Tensor,
        targets: torch.Tensor | NDArray[np.int64],
        skips: Iterable[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Return the gradient of each image's class score at the tap; only the tail from there to the logits runs.

        Args:
            activation: The tap's activation (dequantized), float32, batch × channels × height × width.
            targets: Class to explain for each image, int64, batch.
            skips: Dequantized values of the skip tensors, in the manifest's order.

        Returns:
            d logit[target] / d activation, float32, the shape of `activation`; where the tail begins with the mean over all
            positions, a view that repeats one value for each channel.
        """
        if self._instead is not None:
            return self._instead.gradient(activation, targets, skips)
        fixed = self.entry.input.batch
        if fixed is not None and len(activation) != fixed:
            return self._gradient_by_chunks(activation, torch.as_tensor(targets), tuple(skips))
        given, wanted, values = self._behind(activation, targets, skips)
        return self._tail.gradient(given, wanted, values, self._placed)

    @property
    def pools(self) -> bool:
        """Tell whether the tail begins with the mean over all positions: then `scores` takes means, 1 × 1, as well."""
        return self._tail.pools if self._instead is None else self._instead.pools

    def scores(
        self, activation: torch.Tensor, targets: torch.Tensor | NDArray[np.int64], skips: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        """Return each image's class score from its activation at the tap; only the tail runs.

        Args:
            activation: As of `gradient`; of 1 × 1 positions where the tail pools.
            targets: As of `gradient`.
            skips: As of `gradient`.

        Returns:
            logit[target], float32, batch.
        """
        if self._instead is not None:
            return self._instead.scores(activation, targets, skips)
        fixed, count = self.entry.input.batch, len(activation)
        if fixed is not None and count != fixed:
            wanted, found = torch.as_tensor(targets), []
            for part in self.entry.input.chunks(count):
                chunk, classes, *others = (_filled(value[part], fixed) for value in (activation, wanted, *skips))
                found.append(self.scores(chunk, classes, others)[: part.stop - part.start])
            return torch.cat(found)
        given, classes, values = self._behind(activation, targets, skips)
        return self._tail.scores(given, classes, values, self._placed)

    def _behind(
        self, activation: torch.Tensor, targets: torch.Tensor | NDArray[np.int64], skips: Iterable[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Return what the tail reads, on its device: activation, classes, and the skip tensors by name; as of `gradient`."""
        given = activation.detach().to(self.device)
        values: dict[str, torch.Tensor] = {}
        by_source = {skip.output: value.detach() for skip, value in zip(self.entry.skips, skips, strict=True)}
        for read, source in self._skip_reads.items():
            if source not in by_source:
                raise UnsupportedGraphError(f"the tail to {self.entry.logits} reads {source}, of which the bundle says nothing")
            values[read] = by_source[source].to(self.device)
        if self.arithmetic == "integer":  # kernels read codes
            for tap, value in ((self.entry.tap, given), *((skip, by_source[skip.output]) for skip in self.entry.skips)):
                if tap.dtype != "float32":
                    values[tap.output] = (value.to(self.device) / float(np.float32(tap.scale))).round_() + tap.zero_point
        return given, torch.as_tensor(targets, device=self.device).long(), values

    def _gradient_by_chunks(
        self, activation: torch.Tensor, targets: torch.Tensor, skips: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Return the gradients of any number of images where the file takes so many at a time; arguments as of `gradient`."""
        told, found = self.entry.input, []
        for part in told.chunks(len(activation)):
            count = part.stop - part.start
            chunk, wanted, *others = (_filled(value[part], told.batch or count) for value in (activation, targets, *skips))
            found.append(self.gradient(chunk, wanted, others)[:count])
        return found[0] if len(found) == 1 else torch.cat(found)

    def dequantize(self, tap: Tap, values: torch.Tensor | NDArray[Any]) -> torch.Tensor:
        """Return the activation that codes stand for, float32 on the mirror's device, as `Tap.dequantize` does."""
        if tap.dtype == "float32":
            return torch.as_tensor(values).to(self.device)
        if isinstance(values, np.ndarray):  # in place: as `Tap.dequantize`, which has no PyTorch, in fewer passes over memory
            plain = values.flags.writeable and values.dtype.isnative and all(stride >= 0 for stride in values.strides)
            stored = torch.from_numpy(values if plain else values.astype(values.dtype.newbyteorder("="), order="C"))
            steps = stored.to(self.device).to(torch.float32, copy=True)
            return (steps.sub_(tap.zero_point) if tap.zero_point else steps).mul_(float(np.float32(tap.scale)))
        return (values.to(torch.float32) - tap.zero_point) * torch.tensor(np.float32(tap.scale), device=values.device)


def _part(clipped: ClippedValues | None, images: slice) -> ClippedPart | None:
    return None if clipped is None else clipped.part(images)


def _filled(values: torch.Tensor, count: int) -> torch.Tensor:
    """Fill a chunk up with copies of its last image."""
    return torch.cat([values, values[-1:].expand(count - len(values), *values.shape[1:])])


def _without_filling(observe: Observer, count: int, whole: int) -> Observer:
    """Return an observer that is shown the images given, not the copies that fill them up, in tensors that begin with them."""

    def seen(name: str, codes: torch.Tensor) -> torch.Tensor | None:
        if codes.shape[:1] != (whole,):
            return observe(name, codes)
        given = observe(name, codes[:count])
        return None if given is None else torch.cat([given, codes[count:].to(given)])

    return seen
