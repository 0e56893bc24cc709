"""Programs: the operations of a mirror in the order in which they run, and the constants they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from qcam.common.errors import QcamError, UnsupportedGraphError, first_line

#: Sees the codes of a tensor as they are computed (name, codes: whole numbers in float32 or in their own type) and may return
#: others, of the same type and shape, to go on with. What it sees is not to be written to: steps may read the same memory.
Observer = Callable[[str, torch.Tensor], torch.Tensor | None]
#: Makes the observer of a part of a batch, from `start` to `stop`; several may be called at a time, each by a thread.
Observers = Callable[[slice], Observer]


class Counters(Protocol):
    """What counts the values that quantizers clip (`ClippedPart`)."""

    def of(self, codes: str) -> object:
        """Return what counts at a quantizer, by the name of its output; None if it is not looked at."""
        ...


#: Puts a result where the next step reads it.
Place = Callable[[torch.Tensor], torch.Tensor]

#: Operators whose functions always return a tensor of their own, which a next step may overwrite.
_FRESH = frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "Mul", "Relu", "Sigmoid"}
)


@dataclass(frozen=True)
class Step:
    """One operation, ready to run.

    Attributes:
        compute: The function.
        attributes: Its keyword arguments.
        inputs: Names of its arguments; empty for one left out.
        outputs: Names of its results.
        operator: ONNX operator type.
        name: Of its node, for messages.
        in_place: The function over again, writing its result over its first argument; None where there is none.
        done_with: Values that nothing reads behind it.
        counts: Name of the codes whose clipped values the function can count (`clipped.py`); empty for none.
    """

    compute: Callable[..., Any]
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operator: str
    name: str
    in_place: Callable[..., Any] | None = None
    done_with: tuple[str, ...] = ()
    counts: str = ""

    @property
    def label(self) -> str:
        """Return operator and name, for messages."""
        return f"{self.operator} {self.name}"


class Program:
    """Steps that compute some tensors from others, and the constants they read.

    Attributes:
        steps: Those that are needed, in the order in which they run.
        constants: The constants that they read or that are wanted.
    """

    def __init__(self, steps: Sequence[Step], wanted: Iterable[str], constants: dict[str, torch.Tensor]) -> None:
        """Keep what is needed.

        Args:
            steps: In an order in which they can run.
            wanted: The results.
            constants: Values that steps may read.
        """
        keep = set(wanted)
        needed = set(keep)
        used: list[Step] = []
        for step in reversed(steps):
            if needed.intersection(step.outputs):
                used.append(step)
                needed.update(step.inputs)
        self.steps = _in_place(_with_deaths(used[::-1], keep | set(constants)))
        read = {name for step in self.steps for name in step.inputs} | keep
        self.constants = {name: value for name, value in constants.items() if name in read}

    def run(
        self,
        values: dict[str, torch.Tensor],
        place: Place,
        observe: Observer | None = None,
        observed: frozenset[str] = frozenset(),
        clipped: Counters | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute the steps; values that nothing reads any more are dropped on the way.

        Args:
            values: The tensors that steps read and none computes; added to.
            place: Puts a result where the next step reads it.
            observe: Called with each of the `observed` as it is computed; what it returns, if anything, takes its place.
            observed: Names of tensors.
            clipped: Counts what quantizers clip.

        Returns:
            `values`, with the results.

        Raises:
            UnsupportedGraphError: If a step cannot be computed of such values, or should have more results than its function
                gives.
        """
        constants = self.constants
        for step in self.steps:
            arguments = [None if not name else values[name] if name in values else constants[name] for name in step.inputs]
            try:
                if clipped is not None and step.counts:
                    result = step.compute(*arguments, **step.attributes, clipped=clipped.of(step.counts))
                else:
                    result = step.compute(*arguments, **step.attributes)
            except QcamError:
                raise
            except (ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError) as error:
                raise UnsupportedGraphError(f"the mirror cannot compute {step.label}: {first_line(error)}") from error
            results = result if isinstance(result, tuple) else (result,)
            if any(step.outputs[len(results) :]):
                raise UnsupportedGraphError(f"the mirror computes only the first {len(results)} outputs of {step.label}")
            for name, value in zip(step.outputs, results, strict=False):
                values[name] = place(value)
                if observe is not None and name in observed:
                    other = observe(name, values[name])
                    if other is not None:
                        if other.dtype != values[name].dtype or other.shape != values[name].shape:
                            raise UnsupportedGraphError(
                                f"codes in the place of {name} must be {values[name].dtype} of shape "
                                f"{tuple(values[name].shape)}, not {other.dtype} of shape {tuple(other.shape)}"
                            )
                        values[name] = other
            for name in step.done_with:
                values.pop(name, None)
        return values


def placing(device: torch.device) -> Place:
    """Return what puts a value where it is read: shapes and axes are read by Python, not by the device."""
    return lambda value: value if value.dtype == torch.int64 else value.to(device)


def channels_last(value: torch.Tensor) -> torch.Tensor:
    """Lay an image or the weights of a convolution out with its channels last."""
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def in_order(steps: Sequence[Step]) -> list[Step]:
    """Return steps in an order in which they can run, as near as possible to the one given."""
    makers = {name: index for index, step in enumerate(steps) for name in step.outputs}
    ordered: list[Step] = []
    done: set[int] = set()
    for first in range(len(steps)):
        todo = [first]
        while todo:
            index = todo[-1]
            waiting = [makers[name] for name in steps[index].inputs if name in makers and makers[name] not in done]
            if index in done or not waiting:
                todo.pop()
                if index not in done:
                    done.add(index)
                    ordered.append(steps[index])
            else:
                todo += waiting
    return ordered


def _with_deaths(steps: Sequence[Step], keep: set[str]) -> list[Step]:
    """Add to each step the values that are dead behind it."""
    last_reader: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in (*step.inputs, *step.outputs):  # an output that nothing reads dies at once
            if name and name not in keep:
                last_reader[name] = index
    dead: dict[int, list[str]] = {}
    for name, index in last_reader.items():
        dead.setdefault(index, []).append(name)
    return [replace(step, done_with=tuple(dead.get(index, ()))) for index, step in enumerate(steps)]


def _in_place(steps: Sequence[Step]) -> list[Step]:
    """Let steps that can write over their argument where nothing else has it: new memory costs more than arithmetic."""
    maker = {name: step.operator for step in steps for name in step.outputs}
    return [
        replace(step, compute=step.in_place)
        if step.in_place is not None and step.inputs[0] in step.done_with and maker.get(step.inputs[0]) in _FRESH
        else step
        for step in steps
    ]
