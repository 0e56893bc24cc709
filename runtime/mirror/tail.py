"""The tail of a mirror: from the tap to the score of the explained class, and back.

Only what the explained class needs is computed. Its score reads one row of the last layer's weights, not those of a thousand
classes; and where the tap is first pooled over all positions, the gradient at each position is the pooled value's divided by
their number, so nothing as large as the activation is differentiated. Both leave the gradient as it is: the same products,
without those that vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror.steps import Place, Program, Step
from qcam.runtime.tables import PASSING_OPERATORS, QUANTIZERS, SHAPE_OPERATORS

#: Operators that treat every class alike and apart from the others.
_CLASS_BY_CLASS = frozenset({"Relu", "Identity", "GlobalAveragePool", "ReduceMean", "QuantizeLinear", "DequantizeLinear"})
#: Operators whose result is no new sum: what they give of deployed codes is theirs, whatever the kernels.
_WITHOUT_SUMS = SHAPE_OPERATORS | PASSING_OPERATORS | QUANTIZERS | {
    "AveragePool", "Clip", "Concat", "GlobalAveragePool", "ReduceMean", "Relu",
}  # fmt: skip
#: Operators whose gradient does not depend on the values that they are given.
_WITHOUT_GATES = SHAPE_OPERATORS | {
    "Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Gemm",
    "GlobalAveragePool", "MatMul", "ReduceMean", "Sub",
}  # fmt: skip
#: Computes the output of one class for each image of (the layer's input, the classes).
ClassRows = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Tail:
    """The steps behind a tap, made to give scores and their gradients.

    Attributes:
        program: The steps as the file has them, to the logits of all classes.
    """

    def __init__(
        self, steps: Sequence[Step], entries: Sequence[str], logits: str, constants: dict[str, torch.Tensor], *, whole: bool
    ) -> None:
        """Find what can be left out.

        Args:
            steps: The steps, in an order in which they can run.
            entries: Names under which steps read the tap's activation.
            logits: The tensor they end in.
            constants: Values that steps may read.
            whole: Whether nothing may be left out.
        """
        self.program = Program(steps, [logits], constants)
        self._entries = tuple(entries)
        self._logits = logits
        kept = self.program.steps
        constants = self.program.constants
        self._pool = None if whole else _pooling(kept, self._entries, constants)
        last = None if whole else _last_layer(kept, logits, constants)
        self._last: ClassRows | None = None
        self._read = ""
        self._behind: list[Step] = []
        if last is not None:
            self._last = _rows_of(kept[last], constants)
            self._read = kept[last].inputs[0]
            self._behind = [_flat(step) for step in kept[last + 1 :]]
            kept = kept[:last]
        self._before = Program([step for step in kept if step is not self._pool], [self._read or logits], constants)

    def follows(self, family: KernelFamily) -> bool:
        """Tell whether float32 opens the gates behind the tap as the integer kernels of a family do.

        A gate is whatever lets a gradient pass or not by the value there: ReLU, the clamp of a quantizer, max-pool. Where a sum
        of the deployed codes decides, float32 has the same sum but for its rounding. A second layer reads codes that may be
        others in float32 than deployed. Products that saturate, and sums in fixed point, are others from the first layer on.
        """
        apart: dict[str, int] = {}  # tensor → how far float32 may be from the kernels: 1 rounding, 2 other numbers
        last = self._last_quantizer
        for step in self.program.steps:
            before = max((apart.get(name, 0) for name in step.inputs), default=0)
            if before > 1 and step.operator not in _WITHOUT_GATES and step is not last:
                return False
            other = family.fixed_point_add if step.operator == "Add" else family.pairs_saturate
            known = step.operator in _WITHOUT_SUMS or (not other and getattr(step.compute, "exact_sums", False))
            apart.update(dict.fromkeys(step.outputs, before + (0 if known else 1 + other)))
        return True

    @property
    def _last_quantizer(self) -> Step | None:
        """Return the quantizer that the logits come out of, which gradients pass whatever the value (`Building.last`)."""
        wanted = self._logits
        for step in reversed(self.program.steps):
            if wanted in step.outputs:
                if step.operator not in SHAPE_OPERATORS | {"DequantizeLinear"}:
                    return step if step.operator == "QuantizeLinear" else None
                wanted = step.inputs[0]
        return None

    def gradient(
        self, activation: torch.Tensor, targets: torch.Tensor, others: Mapping[str, torch.Tensor], place: Place
    ) -> torch.Tensor:
        """Return d score / d activation, in the shape of the activation; a view of a smaller tensor where positions are alike.

        Args:
            activation: The tap's activation, float32, batch × channels × height × width.
            targets: Class of each image, int64, batch.
            others: Further values that steps read.
            place: Puts a result where the next step reads it.
        """
        values = dict(others)
        if self._pool is None:
            leaf = activation.requires_grad_()
            values.update(dict.fromkeys(self._entries, leaf))
        else:
            with torch.no_grad():
                leaf = self._pool.compute(activation, *self._constants_of(self._pool)[1:], **self._pool.attributes)
            leaf.requires_grad_()
            values[self._pool.outputs[0]] = leaf
        # Images do not share anything in evaluation mode: the sum's gradient is each image's own.
        score = self._scores(values, targets, place).sum()
        if not score.requires_grad:  # behind a Cast to whole numbers, or a comparison
            raise UnsupportedGraphError(
                f"the class scores {self._logits} have no gradient at the CAM layer: what lies between makes whole numbers or "
                "truth values of it; choose a CAM layer behind that"
            )
        (gradient,) = torch.autograd.grad(score, leaf)
        if self._pool is None:
            return gradient
        batch, channels, height, width = activation.shape
        return (gradient / (height * width)).reshape(batch, channels, 1, 1).expand_as(activation)

    @property
    def pools(self) -> bool:
        """Tell whether it begins with the mean over all positions: then the means, activations of 1 × 1, do as well."""
        return self._pool is not None

    def scores(
        self, activation: torch.Tensor, targets: torch.Tensor, others: Mapping[str, torch.Tensor], place: Place
    ) -> torch.Tensor:
        """Return each image's class score, float32, batch; arguments as of `gradient`."""
        with torch.no_grad():
            values = dict(others)
            if self._pool is None:
                values.update(dict.fromkeys(self._entries, activation))
            else:
                pooled = self._pool.compute(activation, *self._constants_of(self._pool)[1:], **self._pool.attributes)
                values[self._pool.outputs[0]] = pooled
            return self._scores(values, targets, place).flatten()

    def _scores(self, values: dict[str, torch.Tensor], targets: torch.Tensor, place: Place) -> torch.Tensor:
        if self._last is None:
            return self._before.run(values, place)[self._logits].gather(1, targets[:, None])
        result = self._last(self._before.run(values, place)[self._read], targets)
        for step in self._behind:
            result = step.compute(result, *self._constants_of(step)[1:], **step.attributes)
        return result.flatten()

    def _constants_of(self, step: Step) -> list[torch.Tensor | None]:
        return [self.program.constants.get(name) for name in step.inputs]


def _pooling(steps: Sequence[Step], entries: Sequence[str], constants: Mapping[str, torch.Tensor]) -> Step | None:
    """Return the step that pools the tap over all positions, if nothing else reads the tap."""
    readers = [step for step in steps if set(step.inputs).intersection(entries)]
    return readers[0] if len(readers) == 1 and _is_global_mean(readers[0], constants) else None


def _is_global_mean(step: Step, constants: Mapping[str, torch.Tensor]) -> bool:
    if step.operator == "GlobalAveragePool":
        return True
    if step.operator != "ReduceMean":
        return False
    axes = step.attributes.get("axes") or []
    if len(step.inputs) > 1 and step.inputs[1]:
        given = constants.get(step.inputs[1])
        axes = [] if given is None else given.tolist()
    return sorted(int(axis) % 4 for axis in axes) == [2, 3]


def _last_layer(steps: Sequence[Step], logits: str, constants: Mapping[str, torch.Tensor]) -> int | None:
    """Return the place of the layer whose outputs are the classes, if each score depends on one of them alone."""
    wanted = logits
    for index in reversed(range(len(steps))):
        step = steps[index]
        if step.outputs != (wanted,) or any(name not in constants for name in step.inputs[1:] if name):
            return None
        if _rows_of(step, constants) is not None:
            return index
        shapes = step.operator in SHAPE_OPERATORS and step.operator != "Transpose" and wanted == logits
        means = step.operator != "ReduceMean" or _is_global_mean(step, constants)
        scales = [constants[name] for name in step.inputs[1:] if name] if step.operator.endswith("Linear") else []
        alike = step.operator in _CLASS_BY_CLASS and means and all(scale.numel() == 1 for scale in scales)
        if not shapes and not alike:
            return None
        wanted = step.inputs[0]
    return None


def _rows_of(step: Step, constants: Mapping[str, torch.Tensor]) -> ClassRows | None:
    """Return what computes the outputs of some classes alone, one for each image; None if the step is no such layer."""
    if len(step.inputs) < 2 or step.inputs[1] not in constants:
        return None
    weight = constants[step.inputs[1]]
    bias = constants.get(step.inputs[2]) if len(step.inputs) > 2 else None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    if step.operator == "Gemm":
        if not is_linear(step):
            return None
    elif step.operator == "Conv":
        attributes: dict[str, Any] = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1} | step.attributes
        window = attributes["strides"] == [1, 1] and not any(attributes["pads"]) and attributes["group"] == 1
        if weight.shape[2:] != (1, 1) or not window or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
    else:
        return None

    def compute(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = weight[targets].flatten(1)
        if x.dim() == 2:
            result = (x * rows).sum(dim=1, keepdim=True)
        else:
            result = torch.matmul(rows[:, None, :], x.flatten(2)).reshape(len(x), 1, *x.shape[2:])
        return result if bias is None else result + bias[targets].reshape(-1, *[1] * (result.dim() - 1))

    return compute


def is_linear(step: Step) -> bool:
    """Tell whether a step is x · weightᵀ + bias, each row of the weight making one output."""
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | step.attributes
    return step.operator == "Gemm" and plain == {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}


def _flat(step: Step) -> Step:
    """Return a step behind the last layer; one that changes the shape would do so for all classes."""
    if step.operator not in SHAPE_OPERATORS:
        return step
    return replace(step, compute=lambda x: x.flatten(1), attributes={}, inputs=step.inputs[:1])
