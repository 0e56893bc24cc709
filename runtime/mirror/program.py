"""The mirror of one ONNX file: every node as a PyTorch operation, in graph order, on the file's own scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

import qcam.runtime.mirror.operators  # noqa: F401 - registers the operators
from qcam.common.errors import BundleError, QcamError, UnsupportedGraphError
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.codes import quantized_tensors
from qcam.runtime.graph import Graph, GraphTail
from qcam.runtime.grouping import KernelGroup
from qcam.runtime.kernels import KERNELS, KernelFamily
from qcam.runtime.loaded import LoadedGraph, followed
from qcam.runtime.loaded.islands import Island, IslandSession, find_islands, rounds_once
from qcam.runtime.mirror import integer
from qcam.runtime.mirror.fused import FakeQuantize, compose_lookups, find_pairs
from qcam.runtime.mirror.integer.kernel import Setting, stored_type, straight_through
from qcam.runtime.mirror.operators.quantization import BYTES
from qcam.runtime.mirror.products_of_codes import by_codes
from qcam.runtime.mirror.registry import Resolved, resolve
from qcam.runtime.mirror.steps import Observer, Program, Step, in_order
from qcam.runtime.mirror.tail import Tail
from qcam.runtime.normal import normalised
from qcam.runtime.tables import PASSING_OPERATORS, SHAPE_OPERATORS

#: How a mirror can compute: `fake_quant` is float32 between quantizers, what a researcher simulates; `integer` is what integer
#: kernels compute, code for code.
ARITHMETICS = ("fake_quant", "integer")


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
    """A PyTorch graph built node by node from one precision of a bundle.

    Attributes:
        entry: The precision.
        device: Where it computes.
        arithmetic: One of `ARITHMETICS`.
        family: The kernel family whose arithmetic `integer` follows.
        groups: What it computes as one integer kernel each; empty for `fake_quant`.
        delegated: Float operators between quantizers that ONNX Runtime's own float kernels compute, each in words.
        unordered: Float operators between quantizers whose additions are in PyTorch's order, not in ONNX Runtime's: codes
            behind them may be one apart. None for `fake_quant`, where no order is promised.
        quantized_scores: Whether the logits come out of a quantizer; its gradient then passes where a score is saturated, too.
        quantized: Names of all tensors of codes that the logits or the tap depend on, in graph order; none of a tail only. Of a
            graph as loaded, those that the file has, too.
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
        given, model = model, normalised(model)
        quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        self._settings = dict(entry.session if settings is None else settings)
        self.groups: tuple[KernelGroup, ...] = ()
        self._blocked: frozenset[str] = frozenset()
        of_file = {name for node in given.graph.node for name in node.output}
        if arithmetic == "integer" and quantized:
            loaded = loaded or followed(given, self._settings, family)
            model, self.groups, self._blocked = loaded.model, loaded.groups, loaded.blocked
        self._graph = graph = Graph(model)
        self._input = graph.image_input
        opsets = {imported.domain if imported.domain != "ai.onnx" else "": imported.version for imported in model.opset_import}
        self._rounding = rounding = family if arithmetic == "integer" and quantized else None
        # All of them, before anything runs.
        self._resolved = {id(node): resolve(node, opsets, rounding) for node in model.graph.node}
        self._last = _last_quantizer(graph, entry.logits)
        self.quantized_scores = self._last is not None
        self.quantized: tuple[str, ...] = ()
        self.delegated: tuple[str, ...] = ()
        self.unordered: tuple[str, ...] = ()
        taps = [entry.tap.output, *(skip.output for skip in entry.skips)]
        self._instead: Mirror | None = None
        tail = self._tail_of(graph, entry, followed=loaded is not None)
        if tail is None:
            # ONNX Runtime has moved what the tail reads: the file's own tail has the gradient.
            self._instead = Mirror(given, entry, device, tail_only=True, preprocessing=preprocessing)
            tail = GraphTail((), {})
        self._skip_reads = tail.skips
        # The tail starts behind the tap's DequantizeLinear: the gradient is taken at the activation, not at its codes.
        self._entries = [entry.tap.output]
        if entry.tap.dtype != "float32":
            readers = graph.consumers.get(entry.tap.output, [])
            if any(node.op_type != "DequantizeLinear" for node in readers):
                raise UnsupportedGraphError(f"the codes of {entry.tap.tensor} are read by something else than DequantizeLinear")
            self._entries = [node.output[0] for node in readers]

        behind = [node for node in tail.nodes if node.output[0] not in self._entries]
        if tail_only:
            constants = self._fold(behind)
            self._kernels = self._build_kernels(constants, {id(node) for node in behind})
        else:
            constants = self._fold()
            self._kernels = self._build_kernels(constants)
            live = [node for node in model.graph.node if any(output not in constants for output in node.output)]
            wanted = [entry.logits, *taps]
            islands = self._islands(live, wanted, float_kernels) if rounding is not None else ()
            operators = tuple(_label(node) for island in islands for node in island.unordered)
            self.delegated, self.unordered = (operators, ()) if float_kernels else ((), operators)
            steps = self._steps(live, straight_through=False)
            if float_kernels:
                steps = self._delegate(steps, [island for island in islands if island.unordered], constants)
            placed = self._by_channels(live, constants)
            self._stepwise = Program(steps, wanted, placed)
            fused = self._fused(live, wanted) if arithmetic == "fake_quant" else compose_lookups(self._stepwise.steps)
            self._forward = Program(fused, wanted, placed)
            computed = {name for step in self._stepwise.steps for name in step.outputs}
            self.quantized = tuple(name for name in quantized_tensors(graph) if name in computed and name in of_file)
            self._observed = frozenset(self.quantized)
        steps = by_codes(self._steps(behind, straight_through=True), graph, self.device)
        self._tail = Tail(steps, self._entries, entry.logits, constants, whole=arithmetic == "integer")

    @staticmethod
    def _tail_of(graph: Graph, entry: PrecisionEntry, *, followed: bool) -> GraphTail | None:
        """Cut the graph at the tap; None if a graph as loaded has no such tail from there on as the bundle describes."""
        try:
            tail = graph.tail(entry.tap.output, entry.logits)
        except BundleError:
            if followed:
                return None
            raise
        described = set(tail.skips.values()) <= {skip.output for skip in entry.skips}
        return tail if described or not followed else None

    def forward(self, images: torch.Tensor | NDArray[np.float32], observe: Observer | None = None) -> MirrorOutputs:
        """Run the whole graph, without gradients.

        Args:
            images: float32, batch × 3 × height × width, preprocessed.
            observe: Called with each tensor of `quantized` as it is computed; what it returns, if anything, takes its place.
                With a file of a fixed batch, it sees the images given, and no more than such a batch can be given.

        Raises:
            QcamError: If there are more images than can be observed, or the file takes pixels that the images are not made of.
        """
        told = self.entry.input
        if told.plain and told.batch is None:
            return self._forward_once(torch.as_tensor(images), observe)
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
            outputs = self._forward_once(chunk, seen)
            found.append([value[:count] for value in (outputs.logits, outputs.tap, *outputs.skips)])
        logits, tap, *skips = (values[0] if len(values) == 1 else torch.cat(values) for values in zip(*found, strict=True))
        return MirrorOutputs(logits, tap, tuple(skips))

    def _forward_once(self, images: torch.Tensor, observe: Observer | None) -> MirrorOutputs:
        """Run as many images as the file takes at a time, as it takes them."""
        # Inference mode belongs to a thread, and others take part here.
        with torch.inference_mode(mode=False), torch.no_grad():
            images = images.clone() if images.is_inference() else images
            values = {self._input: _channels_last(images.to(self.device))}
            if observe is None:
                values = self._forward.run(values, self._placed)
            else:
                values = self._stepwise.run(values, self._placed, observe, self._observed)
        entry = self.entry
        logits, tap, *skips = (
            values[name].to(torch.float32).contiguous()
            for name in (entry.logits, entry.tap.output, *(skip.output for skip in entry.skips))
        )
        return MirrorOutputs(logits, tap, tuple(skips))

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
        return self._tail.gradient(given, torch.as_tensor(targets, device=self.device).long(), values, self._placed)

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
        if isinstance(values, np.ndarray):
            return torch.from_numpy(tap.dequantize(values)).to(self.device)
        return (values - tap.zero_point) * torch.tensor(np.float32(tap.scale), device=values.device)

    def _fold(self, nodes: Iterable[onnx.NodeProto] | None = None) -> dict[str, torch.Tensor]:
        """Compute what depends on constants alone: all of it, or as far as some nodes need it."""
        graph = self._graph
        wanted = graph.fixed
        if nodes is not None:
            wanted = wanted.intersection(name for node in nodes for name in (*node.input, *node.output))
        needed = graph.upstream(wanted)
        constants = {name: self._constant(name, tensor) for name, tensor in graph.initializers.items() if name in needed}
        fixed = [node for node in graph.model.graph.node if all(output in graph.fixed for output in node.output)]
        with torch.no_grad():
            values = Program([self._step(node) for node in fixed], wanted, constants).run({}, self._placed)
        return constants | values

    @staticmethod
    def _by_channels(nodes: Iterable[onnx.NodeProto], constants: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the constants of a full forward, the weights of convolutions channels last, which is faster.

        The tail keeps those that it has: with other ones its gradients would be added in another order.
        """
        weights = {node.input[1] for node in nodes if node.op_type == "Conv"}
        return {name: _channels_last(value) if name in weights else value for name, value in constants.items()}

    def _build_kernels(
        self, constants: dict[str, torch.Tensor], nodes: set[int] | None = None
    ) -> dict[str, Callable[..., torch.Tensor]]:
        """Build the integer kernel of each group, or of those of some nodes; result → kernel."""
        kernels = {}
        for group in self.groups:
            if nodes is not None and id(group.node) not in nodes:
                continue
            resolved = self._resolved[id(group.node)]
            names = [codes.tensor for codes in group.inputs if codes is not None]
            if len(names) < len(group.inputs):
                names.append(group.node.input[len(group.inputs) - 1])
            held = {name: constants[name].cpu().numpy() for name in names if name in constants}
            setting = Setting(group, resolved.attributes, resolved.function, held, self.family, self.device)
            kernels[group.result] = integer.build(setting)
        return kernels

    def _steps(self, nodes: Iterable[onnx.NodeProto], *, straight_through: bool) -> list[Step]:
        """Put nodes into steps, groups as one each; with their float simulation beside them if gradients shall flow."""
        last = {id(group.inner[-1] if group.inner else group.node): group for group in self.groups}
        inside = {id(node) for group in self.groups for node in (group.node, *group.inner)}
        steps = []
        for node in nodes:
            group = last.get(id(node))
            if group is None:
                if straight_through or id(node) not in inside:
                    step = self._step(node, straight_through=straight_through)
                    narrow = self._rounding is not None and not straight_through and node.op_type == "QuantizeLinear"
                    steps.append(replace(step, compute=_narrowed(step.compute)) if narrow else step)
                continue
            operands = tuple(
                codes.tensor for codes in group.inputs if codes is not None and codes.tensor not in self._graph.fixed
            )
            kernel = self._kernels[group.result]
            named = (group.node.op_type, group.node.name or group.result)
            if straight_through:
                simulated = f"{group.result}/simulated"
                steps.append(replace(self._step(node, straight_through=True), outputs=(simulated,)))
                step = Step(_exact(kernel, group, operands), {}, (simulated, *operands), (group.result,), *named)
            else:
                step = Step(kernel, {}, operands, (group.result,), *named)
            others = tuple(group.node.input[1:]) if group.node.op_type in PASSING_OPERATORS else ()
            steps.append(replace(step, inputs=(*step.inputs, *others)))
        return steps

    def _islands(self, nodes: Sequence[onnx.NodeProto], wanted: Sequence[str], runtime: bool) -> tuple[Island, ...]:
        """Cut the float operators between quantizers into islands.

        Args:
            nodes: The nodes.
            wanted: Tensors that are handed out.
            runtime: Whether ONNX Runtime's own kernels can be had: a mean over positions in float64 is only nearly its own.
        """
        return find_islands(
            nodes,
            grouped={id(node) for group in self.groups for node in (group.node, *group.inner)},
            fixed=self._graph.fixed,
            wanted=wanted,
            ordered=lambda node: (
                rounds_once(node) or (self._resolved[id(node)].exact and not (runtime and node.op_type == "GlobalAveragePool"))
            ),
        )

    def _delegate(self, steps: list[Step], islands: Sequence[Island], constants: Mapping[str, torch.Tensor]) -> list[Step]:
        """Let ONNX Runtime compute islands; the steps come in an order in which they can run."""
        if not islands:
            return steps
        inside = {name for island in islands for node in island.nodes for name in node.output if name}
        kept = [step for step in steps if not inside.intersection(step.outputs)]
        for island in islands:
            read = {name for node in island.nodes for name in node.input}
            held = {name: value.cpu().numpy() for name, value in constants.items() if name in read}
            blocked = any(name in self._blocked for node in island.unordered for name in node.output)
            threads = torch.get_num_threads()
            session = IslandSession(island, held, self._graph.model, self._settings, threads, blocked=blocked)
            kept.append(Step(_run_island(session), {}, island.inputs, island.outputs, "island", _label(island.nodes[0])))
        return in_order(kept)

    def _step(self, node: onnx.NodeProto, *, straight_through: bool = False) -> Step:
        resolved: Resolved = self._resolved[id(node)]
        name = node.name or node.output[0]
        if straight_through and node is self._last:
            function = partial(resolved.function, clamped_gradient=False)
            return Step(function, resolved.attributes, tuple(node.input), tuple(node.output), node.op_type, name)
        return Step(resolved.function, resolved.attributes, tuple(node.input), tuple(node.output), node.op_type, name)

    def _fused(self, nodes: Iterable[onnx.NodeProto], wanted: Iterable[str]) -> list[Step]:
        """Put nodes into steps, each quantizer with the dequantizers behind it as one."""
        pairs = {pair.quantizer.output[0]: pair for pair in find_pairs(self._graph, wanted)}
        renamed = {other: pair.results[0] for pair in pairs.values() for other in pair.results[1:]}
        dequantized = {result for pair in pairs.values() for result in pair.results}
        steps = []
        for node in nodes:
            if node.output[0] in dequantized:
                continue
            step = self._step(node)
            pair = pairs.get(node.output[0])
            if pair is not None:
                compute = FakeQuantize(pair.codes, self.device)
                step = Step(
                    compute, {}, (node.input[0],), (pair.results[0],), step.operator, step.name, in_place=compute.in_place
                )
            steps.append(replace(step, inputs=tuple(renamed.get(name, name) for name in step.inputs)))
        return steps

    def _constant(self, name: str, tensor: onnx.TensorProto) -> torch.Tensor:
        try:
            value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        except TypeError as error:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            raise UnsupportedGraphError(f"the mirror cannot hold constant {name} of type {kind}") from error
        return self._placed(value)

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        """Put a value where it is read: shapes and axes are read by Python, not by the device."""
        return value if value.dtype == torch.int64 else value.to(self.device)


def _last_quantizer(graph: Graph, logits: str) -> onnx.NodeProto | None:
    """Return the quantizer that the logits come out of, if only dequantizing and reshaping stand between them."""
    node = graph.producer.get(logits)
    while node is not None and (node.op_type == "DequantizeLinear" or node.op_type in SHAPE_OPERATORS):
        node = graph.producer.get(node.input[0])
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    """Lay an image or the weights of a convolution out with its channels last."""
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def _run_island(session: IslandSession) -> Callable[..., Any]:
    """Return a function of the island's inputs: its outputs, as PyTorch has them."""

    def compute(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = session.run(*(np.ascontiguousarray(value.cpu().numpy()) for value in values))
        return tuple(torch.from_numpy(result) for result in results)

    return compute


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


def _narrowed(quantize: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a quantizer whose codes have the type that integer kernels take."""

    def compute(x: torch.Tensor, *parameters: torch.Tensor, **attributes: Any) -> torch.Tensor:
        zero_point = parameters[1] if len(parameters) > 1 else None
        kind = torch.uint8 if zero_point is None else zero_point.dtype
        codes = quantize(x, *parameters, **attributes)
        return codes.to(kind) if kind in BYTES else codes

    return compute


def _exact(kernel: Callable[..., torch.Tensor], group: KernelGroup, operands: Sequence[str]) -> Callable[..., torch.Tensor]:
    """Return a function of the simulated result and the kernel's operands: the exact result with the simulation's gradient.

    Args:
        kernel: The kernel.
        group: What it computes.
        operands: Names of its operands; what it reads behind them are no codes.
    """
    kinds = {codes.tensor: stored_type(codes) for codes in group.inputs if codes is not None}

    def compute(simulated: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            codes = [value.to(kinds[name]) for name, value in zip(operands, given, strict=False)]
            exact = kernel(*codes, *given[len(operands) :]).to(torch.float32)
        return straight_through(simulated, exact)

    return compute
