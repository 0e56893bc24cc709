"""Building a mirror: what turns the nodes of an ONNX graph into steps, needed no longer than until the mirror is made.

One node of a model keeps the whole model in memory, all of its weights with it. What a mirror runs on (programs, kernels,
names) therefore refers to no node of the model that it was made of: a `Building` does, and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

import qcam.runtime.mirror.operators  # noqa: F401 - registers the operators
from qcam.common.errors import BundleError, UnsupportedGraphError
from qcam.runtime.apart import takes_images_apart
from qcam.runtime.bundle import PrecisionEntry
from qcam.runtime.codes import Codes, quantized_tensors
from qcam.runtime.graph import Graph, GraphTail
from qcam.runtime.grouping import KernelGroup
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.loaded import LoadedGraph, followed
from qcam.runtime.loaded.islands import Island, IslandSession, find_islands, rounds_once
from qcam.runtime.loaded.means import MEANS, Means
from qcam.runtime.mirror import integer
from qcam.runtime.mirror.clipped import counting
from qcam.runtime.mirror.fused import FakeQuantize, compose_lookups, find_pairs
from qcam.runtime.mirror.integer.degree import Deployment
from qcam.runtime.mirror.integer.kernel import Setting, stored_type, within_code
from qcam.runtime.mirror.integer.kernel import straight_through as with_gradient_of
from qcam.runtime.mirror.operators.quantization import BYTES
from qcam.runtime.mirror.products_of_codes import by_codes
from qcam.runtime.mirror.registry import Resolved, resolve
from qcam.runtime.mirror.steps import Program, Step, channels_last, in_order, placing
from qcam.runtime.mirror.tail import Tail
from qcam.runtime.normal import normalised
from qcam.runtime.tables import PASSING_OPERATORS, SHAPE_OPERATORS

#: Operators whose products of bytes saturate in some kernels.
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Forward:
    """The whole graph, ready to run.

    Attributes:
        program: Its steps.
        stepwise: The same, such that all tensors of codes can be observed.
        quantized: Names of all tensors of codes that the results depend on and the file has, in graph order.
        delegated: Float operators between quantizers that ONNX Runtime's own float kernels compute, each in words.
        unordered: Those whose additions are in PyTorch's order, likewise.
        apart: Whether a batch may be cut between its images.
    """

    program: Program
    stepwise: Program
    quantized: tuple[str, ...]
    delegated: tuple[str, ...] = ()
    unordered: tuple[str, ...] = ()
    apart: bool = False


class Building:
    """A graph, and what computes each of its nodes.

    Attributes:
        graph: The file's, or what ONNX Runtime makes of it when it loads the file.
        groups: What is computed as one integer kernel each.
        last: The quantizer that the logits come out of; None if there is none.
        image_input: Name of the one input.
        cut: What lies behind the tap; None if a graph as loaded has no such tail from there on as the bundle describes.
        entries: Names under which the tail reads the tap's activation.
        constants: What does not depend on the images.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        entry: PrecisionEntry,
        device: torch.device,
        arithmetic: str,
        family: KernelFamily,
        *,
        tail_only: bool = False,
        loaded: LoadedGraph | None = None,
        settings: Mapping[str, str] | None = None,
        deployment: Deployment | None = None,
    ) -> None:
        """Look up all operators, then compute what depends on constants alone. Arguments and errors are those of `Mirror`.

        `deployment` is how the deployed session runs; the mirror keeps it up to date.
        """
        given, model = model, normalised(model)
        quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        self._entry = entry
        self._device = device
        self._family = family
        self._arithmetic = arithmetic
        self._settings = dict(entry.session if settings is None else settings)
        self._of_file = {name for node in given.graph.node for name in node.output}
        self.groups: tuple[KernelGroup, ...] = ()
        self._blocked: frozenset[str] = frozenset()
        means = Means({})
        self._deployment = deployment or Deployment()
        if arithmetic == "integer" and quantized:
            loaded = loaded or followed(given, self._settings, family)
            model, self.groups = loaded.model, loaded.groups
            self._blocked, means = loaded.blocked, loaded.means
        self._means = means
        self.graph = graph = Graph(model)
        self.image_input = graph.image_input
        opsets = {imported.domain if imported.domain != "ai.onnx" else "": imported.version for imported in model.opset_import}
        self._rounding = rounding = family if arithmetic == "integer" and quantized else None
        # All of them, before anything runs.
        self._resolved = {id(node): resolve(node, opsets, rounding) for node in model.graph.node}
        for node in model.graph.node:
            if rounding is not None:
                self._resolved[id(node)] = self._as_deployed(node, self._resolved[id(node)])
        self.last = _last_quantizer(graph, entry.logits)
        self.cut = _cut(graph, entry, followed=loaded is not None)
        self.entries = _entries(graph, entry)
        nodes = () if self.cut is None else self.cut.nodes
        self._behind = [node for node in nodes if node.output[0] not in self.entries]
        self.constants = self._fold(self._behind if tail_only else None)
        self._kernels = self._build_kernels({id(node) for node in self._behind} if tail_only else None)

    def _as_deployed(self, node: onnx.NodeProto, resolved: Resolved) -> Resolved:
        """Return an operator as its kernel computes it; where its order is not known, it is not called exact."""
        name, means = node.output[0], self._means
        exact = resolved.exact and name not in means.unordered | means.unknown | self._blocked
        if node.op_type not in MEANS:
            return replace(resolved, exact=exact)
        told: dict[str, Any] = {"deployment": self._deployment, "layout": means.turned.get(name, ())}
        return replace(resolved, attributes=resolved.attributes | told, exact=exact)

    @property
    def live(self) -> list[onnx.NodeProto]:
        """Return the nodes that compute something from the images."""
        return [node for node in self.graph.model.graph.node if any(output not in self.constants for output in node.output)]

    @property
    def wanted(self) -> list[str]:
        """Return the tensors that the whole graph is run for."""
        entry = self._entry
        return [entry.logits, entry.tap.output, *(skip.output for skip in entry.skips)]

    def tail(self) -> Tail:
        """Return the part behind the tap, of which gradients are taken."""
        steps = by_codes(self.steps(self._behind, straight_through=True), self.graph, self._device)
        return Tail(steps, self.entries, self._entry.logits, self.constants, whole=self._arithmetic == "integer")

    def forward(self, *, float_kernels: bool) -> Forward:
        """Return the whole graph.

        Args:
            float_kernels: Whether ONNX Runtime's own float kernels compute what is not ordered here.
        """
        live, wanted = self.live, self.wanted
        islands = self._islands(live, wanted) if self._rounding is not None else ()
        operators = tuple(_label(node) for island in islands for node in island.unordered)
        steps = self.steps(live, straight_through=False)
        if float_kernels:
            steps = self._delegate(steps, [island for island in islands if island.unordered])
        constants = self.by_channels(live)
        stepwise = Program(steps, wanted, constants)
        fused = self._fused(live, wanted) if self._arithmetic == "fake_quant" else compose_lookups(stepwise.steps)
        computed = {name for step in stepwise.steps for name in step.outputs}
        names = tuple(name for name in quantized_tensors(self.graph) if name in computed and name in self._of_file)
        delegated, unordered = (operators, ()) if float_kernels else ((), operators)
        if float_kernels:  # a kernel alone has its operand as the file has it
            unordered = tuple(_label(node) for node in live if node.output[0] in self._means.unknown)
        # Not so where ONNX Runtime's float kernels compute: they may add in another order for another number of images.
        apart = not delegated and takes_images_apart(self.graph.model, wanted)
        return Forward(Program(fused, wanted, constants), stepwise, names, delegated, unordered, apart)

    def by_channels(self, nodes: Iterable[onnx.NodeProto]) -> dict[str, torch.Tensor]:
        """Return the constants of a full forward, the weights of convolutions channels last, which is faster.

        The tail keeps those that it has: with other ones its gradients would be added in another order.
        """
        weights = {node.input[1] for node in nodes if node.op_type == "Conv"}
        return {name: channels_last(value) if name in weights else value for name, value in self.constants.items()}

    def steps(self, nodes: Iterable[onnx.NodeProto], *, straight_through: bool) -> list[Step]:
        """Put nodes into steps, groups as one each; with their float simulation beside them if gradients shall flow."""
        last = {id(group.inner[-1] if group.inner else group.node): group for group in self.groups}
        inside = {id(node) for group in self.groups for node in (group.node, *group.inner)}
        sums = {
            id(group.node): (group, group.output)
            for group in self.groups
            if straight_through and group.output is not None and self._saturates(group)
        }
        steps = []
        for node in nodes:
            group = last.get(id(node))
            if id(node) in sums:
                steps += self._saturated(*sums[id(node)])
                continue
            if group is None:
                if straight_through or id(node) not in inside:
                    step = self._step(node, straight_through=straight_through)
                    narrow = self._rounding is not None and not straight_through and node.op_type == "QuantizeLinear"
                    steps.append(replace(step, compute=_narrowed(step.compute)) if narrow else step)
                continue
            operands = tuple(
                codes.tensor for codes in group.inputs if codes is not None and codes.tensor not in self.graph.fixed
            )
            kernel = self._kernels[group.result]
            named = (group.node.op_type, group.node.name or group.result)
            if straight_through:
                simulated = f"{group.result}/simulated"
                steps.append(replace(self._step(node, straight_through=True), outputs=(simulated,)))
                if id(group.node) in sums:
                    steps.append(Step(with_gradient_of, {}, (simulated, f"{group.result}/exact"), (group.result,), *named))
                    continue
                step = Step(_exact(kernel, group, operands), {}, (simulated, *operands), (group.result,), *named)
            else:
                step = Step(kernel, {}, operands, (group.result,), *named)
            others = tuple(group.node.input[1:]) if group.node.op_type in PASSING_OPERATORS else ()
            steps.append(replace(step, inputs=(*step.inputs, *others)))
        return steps

    def _saturates(self, group: KernelGroup) -> bool:
        """Tell whether a group's sums may be other numbers than float32 has, and its codes tell on which side of its gates."""
        *between, quantizer = group.inner or (group.node,)
        return (
            self._family.pairs_saturate
            and group.node.op_type in _PRODUCTS
            and group.output is not None
            and group.output.scale.size == 1
            and quantizer.op_type == "QuantizeLinear"
            and quantizer is not self.last
            and all(node.op_type == "Relu" for node in between)
        )

    def _saturated(self, group: KernelGroup, output: Codes) -> list[Step]:
        """Return the steps of a sum that may saturate: simulated, exact, and the simulated one where the exact code has it."""
        (summed,) = group.node.output
        simulated, exact = f"{summed}/simulated", f"{group.result}/exact"
        operands = tuple(codes.tensor for codes in group.inputs if codes is not None and codes.tensor not in self.graph.fixed)
        kernel, named = self._kernels[group.result], (group.node.op_type, group.node.name or group.result)
        floor = int(output.zero_point) if len(group.inner) > 1 else None
        return [
            replace(self._step(group.node, straight_through=True), outputs=(simulated,)),
            Step(_forward_only(kernel, group, operands), {}, operands, (exact,), *named),
            Step(partial(within_code, output=output, floor=floor), {}, (simulated, exact), (summed,), *named),
        ]

    def _fold(self, nodes: Iterable[onnx.NodeProto] | None) -> dict[str, torch.Tensor]:
        """Compute what depends on constants alone: all of it, or as far as some nodes need it."""
        graph = self.graph
        wanted = graph.fixed
        if nodes is not None:
            wanted = wanted.intersection(name for node in nodes for name in (*node.input, *node.output))
        needed = graph.upstream(wanted)
        place = placing(self._device)
        constants = {name: place(_constant(name, tensor)) for name, tensor in graph.initializers.items() if name in needed}
        fixed = [node for node in graph.model.graph.node if all(output in graph.fixed for output in node.output)]
        with torch.no_grad():
            values = Program([self._step(node) for node in fixed], wanted, constants).run({}, place)
        return constants | values

    def _build_kernels(self, nodes: set[int] | None) -> dict[str, Callable[..., torch.Tensor]]:
        """Build the integer kernel of each group, or of those of some nodes; result → kernel."""
        kernels = {}
        for group in self.groups:
            if nodes is not None and id(group.node) not in nodes:
                continue
            resolved = self._resolved[id(group.node)]
            names = [codes.tensor for codes in group.inputs if codes is not None]
            if len(names) < len(group.inputs):
                names.append(group.node.input[len(group.inputs) - 1])
            held = {name: self.constants[name].cpu().numpy() for name in names if name in self.constants}
            setting = Setting(group.alone(), resolved.attributes, resolved.function, held, self._family, self._device)
            kernels[group.result] = integer.build(setting)
        return kernels

    def _islands(self, nodes: Sequence[onnx.NodeProto], wanted: Sequence[str]) -> tuple[Island, ...]:
        """Cut the float operators between quantizers into islands.

        Args:
            nodes: The nodes.
            wanted: Tensors that are handed out.
        """
        return find_islands(
            nodes,
            # Means that are turned bound islands like kernels: alone, ONNX Runtime would not turn them.
            grouped={id(node) for group in self.groups for node in (group.node, *group.inner)}
            | {id(node) for node in nodes if node.output[0] in self._means.turned},
            fixed=self.graph.fixed,
            wanted=wanted,
            ordered=lambda node: rounds_once(node) or self._resolved[id(node)].exact,
        )

    def _delegate(self, steps: list[Step], islands: Sequence[Island]) -> list[Step]:
        """Let ONNX Runtime compute islands; the steps come in an order in which they can run."""
        if not islands:
            return steps
        inside = {name for island in islands for node in island.nodes for name in node.output if name}
        kept = [step for step in steps if not inside.intersection(step.outputs)]
        for island in islands:
            read = {name for node in island.nodes for name in node.input}
            held = {name: value.cpu().numpy() for name, value in self.constants.items() if name in read}
            blocked = any(name in self._blocked for node in island.unordered for name in node.output)
            threads = torch.get_num_threads()
            session = IslandSession(island, held, self.graph.model, self._settings, threads, blocked=blocked)
            kept.append(Step(_run_island(session), {}, island.inputs, island.outputs, "island", _label(island.nodes[0])))
        return in_order(kept)

    def _step(self, node: onnx.NodeProto, *, straight_through: bool = False) -> Step:
        resolved = self._resolved[id(node)]
        name = node.name or node.output[0]
        function: Callable[..., Any] = resolved.function
        counts = ""
        if straight_through and node is self.last:
            function = partial(function, clamped_gradient=False)
        elif node.op_type == "QuantizeLinear" and self._rounding is None and not straight_through:
            function, counts = counting(function), node.output[0]
        return Step(function, resolved.attributes, tuple(node.input), tuple(node.output), node.op_type, name, counts=counts)

    def _fused(self, nodes: Iterable[onnx.NodeProto], wanted: Iterable[str]) -> list[Step]:
        """Put nodes into steps, each quantizer with the dequantizers behind it as one."""
        pairs = {pair.quantizer.output[0]: pair for pair in find_pairs(self.graph, wanted)}
        renamed = {other: pair.results[0] for pair in pairs.values() for other in pair.results[1:]}
        dequantized = {result for pair in pairs.values() for result in pair.results}
        steps = []
        for node in nodes:
            if node.output[0] in dequantized:
                continue
            step = self._step(node)
            pair = pairs.get(node.output[0])
            if pair is not None:
                compute = FakeQuantize(pair.codes, self._device)
                step = Step(
                    compute, {}, (node.input[0],), (pair.results[0],), step.operator, step.name,
                    in_place=compute.in_place, counts=node.output[0],
                )  # fmt: skip
            steps.append(replace(step, inputs=tuple(renamed.get(name, name) for name in step.inputs)))
        return steps


def _cut(graph: Graph, entry: PrecisionEntry, *, followed: bool) -> GraphTail | None:
    """Cut the graph at the tap; None if a graph as loaded has no such tail from there on as the bundle describes."""
    try:
        tail = graph.tail(entry.tap.output, entry.logits)
    except BundleError:
        if followed:
            return None
        raise
    described = set(tail.skips.values()) <= {skip.output for skip in entry.skips}
    return tail if described or not followed else None


def _entries(graph: Graph, entry: PrecisionEntry) -> list[str]:
    """Return where the tail starts: behind the tap's DequantizeLinear; gradients are taken at the activation, not at codes.

    Raises:
        UnsupportedGraphError: If something else reads the codes.
    """
    if entry.tap.dtype == "float32":
        return [entry.tap.output]
    readers = graph.consumers.get(entry.tap.output, [])
    if any(node.op_type != "DequantizeLinear" for node in readers):
        raise UnsupportedGraphError(f"the codes of {entry.tap.tensor} are read by something else than DequantizeLinear")
    return [node.output[0] for node in readers]


def _last_quantizer(graph: Graph, logits: str) -> onnx.NodeProto | None:
    """Return the quantizer that the logits come out of, if only dequantizing and reshaping stand between them."""
    node = graph.producer.get(logits)
    while node is not None and (node.op_type == "DequantizeLinear" or node.op_type in SHAPE_OPERATORS):
        node = graph.producer.get(node.input[0])
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def _constant(name: str, tensor: onnx.TensorProto) -> torch.Tensor:
    try:
        return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
    except TypeError as error:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise UnsupportedGraphError(f"the mirror cannot hold constant {name} of type {kind}") from error


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def _run_island(session: IslandSession) -> Callable[..., Any]:
    """Return a function of the island's inputs: its outputs, as PyTorch has them."""

    def compute(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = session.run(*(np.ascontiguousarray(value.cpu().numpy()) for value in values))
        return tuple(torch.from_numpy(result) for result in results)

    return compute


def _narrowed(quantize: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a quantizer whose codes have the type that integer kernels take; NaN is the lowest code, as everywhere."""

    def compute(x: torch.Tensor, *parameters: torch.Tensor, **attributes: Any) -> torch.Tensor:
        zero_point = parameters[1] if len(parameters) > 1 else None
        kind = torch.uint8 if zero_point is None else zero_point.dtype
        codes = quantize(x, *parameters, **attributes)
        if bool(codes.sum().isnan()):
            codes = codes.nan_to_num(nan=float(torch.iinfo(kind).min))
        return codes.to(kind) if kind in BYTES else codes

    return compute


def _forward_only(
    kernel: Callable[..., torch.Tensor], group: KernelGroup, operands: Sequence[str]
) -> Callable[..., torch.Tensor]:
    """Return a function of the kernel's operands: its codes as float32, without a gradient; arguments as of `_exact`."""
    kinds = {codes.tensor: stored_type(codes) for codes in group.inputs if codes is not None}

    def compute(*given: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            codes = [value.to(kinds[name]) for name, value in zip(operands, given, strict=True)]
            return kernel(*codes).to(torch.float32)

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
        return with_gradient_of(simulated, exact)

    return compute
