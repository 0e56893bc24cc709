"""The mirror of one ONNX file: every node as a PyTorch operation, in graph order, on the file's own scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

import qcam.runtime.mirror.operators  # noqa: F401 - registers the operators
from qcam.common.errors import QcamError
from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.graph import Graph
from qcam.runtime.mirror.registry import resolve

#: How a mirror can compute: `fake_quant` is float32 between quantizers, what a researcher simulates.
ARITHMETICS = ("fake_quant",)


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


@dataclass(frozen=True)
class _Step:
    """One node, ready to run."""

    compute: Callable[..., Any]
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    label: str
    done_with: tuple[str, ...]


class Mirror:
    """A PyTorch graph built node by node from one precision of a bundle.

    Attributes:
        entry: The precision.
        device: Where it computes.
    """

    def __init__(
        self, model: onnx.ModelProto, entry: PrecisionEntry, device: str = "cpu", arithmetic: str = "fake_quant"
    ) -> None:
        """Build the graph; nothing runs but what depends on constants alone.

        Args:
            model: The ONNX file of the precision.
            entry: The precision, with its tap.
            device: PyTorch device.
            arithmetic: One of `ARITHMETICS`.

        Raises:
            QcamError: If the arithmetic, an operator, an attribute or a constant's type is unknown, before anything runs.
        """
        if arithmetic not in ARITHMETICS:
            raise QcamError(f"mirror arithmetic {arithmetic!r} is unknown; choose one of {', '.join(ARITHMETICS)}")
        self.entry = entry
        self.device = torch.device(device)
        graph = Graph(model)
        self._input = graph.input
        opsets = {imported.domain if imported.domain != "ai.onnx" else "": imported.version for imported in model.opset_import}
        resolved = {id(node): resolve(node, opsets) for node in model.graph.node}  # all of them, before anything runs
        self._constants = {name: self._constant(name, tensor) for name, tensor in graph.initializers.items()}

        def steps(nodes: Iterable[onnx.NodeProto], keep: Iterable[str]) -> list[_Step]:
            return _schedule([(node, resolved[id(node)]) for node in nodes], {*keep, *self._constants})

        fixed = graph.constants()
        folded = [node for node in model.graph.node if all(output in fixed for output in node.output)]
        with torch.no_grad():
            self._run(steps(folded, fixed), self._constants)
        live = [node for node in model.graph.node if node not in folded]
        needed = graph.upstream([entry.logits, entry.tap.output, *(skip.output for skip in entry.skips)])
        taps = [entry.tap.output, *(skip.output for skip in entry.skips)]
        self._forward = steps((node for node in live if needed.intersection(node.output)), [entry.logits, *taps])

        for tap in (entry.tap, *entry.skips):
            _check_tap(graph, tap)
        tail = graph.tail(entry.tap.output, entry.logits)
        self._skip_reads = tail.skips
        # The tail starts behind the tap's DequantizeLinear: the gradient is taken at the activation, not at its codes.
        self._entries = [entry.tap.output]
        if entry.tap.dtype != "float32":
            readers = graph.consumers.get(entry.tap.output, [])
            if any(node.op_type != "DequantizeLinear" for node in readers):
                raise QcamError(f"the codes of {entry.tap.tensor} are read by something else than DequantizeLinear")
            self._entries = [node.output[0] for node in readers]
        self._tail = steps((node for node in tail.nodes if node.output[0] not in self._entries), [entry.logits])
        self._drop_what_no_step_reads()

    def forward(self, images: torch.Tensor | NDArray[np.float32]) -> MirrorOutputs:
        """Run the whole graph, without gradients.

        Args:
            images: float32, batch × 3 × height × width, preprocessed.
        """
        with torch.no_grad():
            values = {self._input: torch.as_tensor(images).to(self.device)}
            values = self._run(self._forward, values)
        entry = self.entry
        return MirrorOutputs(values[entry.logits], values[entry.tap.output], tuple(values[skip.output] for skip in entry.skips))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Run the whole graph differentiably, by straight-through estimator; returns batch × classes."""
        return self._run(self._forward, {self._input: images.to(self.device)})[self.entry.logits]

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
            d logit[target] / d activation, float32, the shape of `activation`.
        """
        leaf = activation.detach().to(self.device).requires_grad_()
        values: dict[str, torch.Tensor] = dict.fromkeys(self._entries, leaf)
        by_source = {skip.output: value for skip, value in zip(self.entry.skips, skips, strict=True)}
        for read, source in self._skip_reads.items():
            values[read] = by_source[source].detach().to(self.device)
        logits = self._run(self._tail, values)[self.entry.logits]
        chosen = torch.as_tensor(targets, device=self.device).long()
        scores = logits.gather(1, chosen[:, None])
        # Images do not share anything in evaluation mode: the sum's gradient is each image's own.
        (gradient,) = torch.autograd.grad(scores.sum(), leaf)
        return gradient

    def gradient_by_whole_graph(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the same gradient by autograd through the whole graph: the proof of `gradient`, at many times its cost.

        Args:
            images: float32, batch × 3 × height × width, preprocessed.
            targets: Class to explain for each image, int64, batch.

        Returns:
            d logit[target] / d activation at the tap, float32.
        """
        values = self._run(self._forward, {self._input: images.to(self.device).requires_grad_()})
        tap = self.entry.tap
        scores = values[self.entry.logits].gather(1, targets.to(self.device)[:, None])
        (gradient,) = torch.autograd.grad(scores.sum(), values[tap.output])
        return gradient / tap.scale if tap.dtype != "float32" else gradient

    def dequantize(self, tap: Tap, values: torch.Tensor | NDArray[Any]) -> torch.Tensor:
        """Return the activation that codes stand for, float32 on the mirror's device, as `Tap.dequantize` does."""
        if tap.dtype == "float32":
            return torch.as_tensor(values).to(self.device)
        if isinstance(values, np.ndarray):
            return torch.from_numpy(tap.dequantize(values)).to(self.device)
        return (values - tap.zero_point) * torch.tensor(np.float32(tap.scale), device=values.device)

    def _run(self, steps: list[_Step], values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the steps; values that nothing reads any more are dropped on the way."""
        constants = self._constants
        for step in steps:
            arguments = [None if not name else values[name] if name in values else constants[name] for name in step.inputs]
            try:
                result = step.compute(*arguments, **step.attributes)
            except RuntimeError as error:
                raise QcamError(f"the mirror cannot compute {step.label}: {str(error).splitlines()[0]}") from error
            results = result if isinstance(result, tuple) else (result,)
            if any(step.outputs[len(results) :]):
                raise QcamError(f"the mirror computes only the first {len(results)} outputs of {step.label}")
            for name, value in zip(step.outputs, results, strict=False):
                values[name] = self._placed(value)
            for name in step.done_with:
                values.pop(name, None)
        return values

    def _constant(self, name: str, tensor: onnx.TensorProto) -> torch.Tensor:
        try:
            value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        except TypeError as error:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            raise QcamError(f"the mirror cannot hold constant {name} of type {kind}") from error
        return self._placed(value)

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        """Put a value where it is read: shapes and axes are read by Python, not by the device."""
        return value if value.dtype == torch.int64 else value.to(self.device)

    def _drop_what_no_step_reads(self) -> None:
        """Forget constants that only served to compute others (integer weights that were dequantized)."""
        read = {name for step in (*self._forward, *self._tail) for name in step.inputs}
        self._constants = {name: value for name, value in self._constants.items() if name in read}


def _check_tap(graph: Graph, tap: Tap) -> None:
    """Hold the manifest's scale and zero point against the file, which is the source of truth."""
    node = graph.producer.get(tap.output)
    if node is None or node.op_type != "QuantizeLinear":
        agrees = tap.dtype == "float32"
    else:
        scale, zero_point = graph.array(node.input[1]), graph.array(node.input[2])
        found = (str(zero_point.dtype), float(scale), int(zero_point))
        agrees = found == (tap.dtype, tap.scale, tap.zero_point)
    if not agrees:
        raise QcamError(f"bundle.json and the ONNX file disagree on the tap {tap.output}; export the bundle again")


def _schedule(nodes: list[tuple[onnx.NodeProto, Any]], keep: set[str]) -> list[_Step]:
    """Put nodes into steps, each with the values that are dead behind it."""
    last_reader: dict[str, int] = {}
    for index, (node, _) in enumerate(nodes):
        for name in (*node.input, *node.output):  # an output that nothing reads dies at once
            if name and name not in keep:
                last_reader[name] = index
    dead: dict[int, list[str]] = {}
    for name, index in last_reader.items():
        dead.setdefault(index, []).append(name)
    return [
        _Step(
            resolved.function,
            resolved.attributes,
            tuple(node.input),
            tuple(node.output),
            f"{node.op_type} {node.name or node.output[0]}",
            tuple(dead.get(index, ())),
        )
        for index, (node, resolved) in enumerate(nodes)
    ]
