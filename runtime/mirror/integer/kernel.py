"""The registry of integer kernels, and what all of them share: operands, requantization, exact rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.codes import Codes
from qcam.runtime.grouping import KernelGroup
from qcam.runtime.kernels import KernelFamily

#: Maps the codes of the operands that are no constants to the result: codes as float32, or float values.
Kernel = Callable[..., torch.Tensor]

#: Largest magnitude below which float32 holds every whole number.
EXACT_BELOW = 2**24
#: Codes that are looked up at a time: their indices stay in the processor's cache.
_PART = 2**18


@dataclass(frozen=True)
class Setting:
    """What a kernel is built from.

    Attributes:
        group: The group.
        attributes: The operator's attributes, by the names of its function.
        function: The operator as plain PyTorch.
        constants: Codes of constant operands and float constants, by tensor name.
        family: The arithmetic.
        device: Where it computes.
    """

    group: KernelGroup
    attributes: dict[str, Any]
    function: Callable[..., Any]
    constants: dict[str, NDArray[Any]]
    family: KernelFamily
    device: torch.device

    @property
    def inputs(self) -> tuple[Codes, ...]:
        """Return the operands that carry codes."""
        return tuple(codes for codes in self.group.inputs if codes is not None)

    @property
    def output(self) -> Codes:
        """Return what the result's codes mean.

        Raises:
            UnsupportedGraphError: If the result is float.
        """
        if self.group.output is None:
            raise UnsupportedGraphError(f"the mirror's {self.group.kernel} cannot return float32, at {self.group.label}")
        return self.group.output

    def constant(self, index: int) -> NDArray[Any] | None:
        """Return a constant operand's codes, or None if it is computed or absent."""
        codes = self.inputs[index] if index < len(self.inputs) else None
        return None if codes is None else self.constants.get(codes.tensor)

    def tensor(self, value: NDArray[Any]) -> torch.Tensor:
        """Put numbers on the device."""
        return torch.from_numpy(np.array(value)).to(self.device)  # a copy: constants may not be writable


_BUILDERS: dict[str, Callable[[Setting], Kernel]] = {}


def kernel(*operators: str) -> Callable[[Callable[[Setting], Kernel]], Callable[[Setting], Kernel]]:
    """Register the builder of an operator's integer kernel.

    Raises:
        ValueError: If another builder has registered it.
    """

    def register(builder: Callable[[Setting], Kernel]) -> Callable[[Setting], Kernel]:
        for name in operators:
            if name in _BUILDERS:
                raise ValueError(f"the integer kernel of {name} is registered twice")
            _BUILDERS[name] = builder
        return builder

    return register


def build(setting: Setting) -> Kernel:
    """Build the kernel of a group.

    Raises:
        UnsupportedGraphError: If there is none for its operator, or its attributes are not supported.
    """
    name = setting.group.node.op_type
    if name not in _BUILDERS:
        raise UnsupportedGraphError(f"the mirror has no integer kernel for {setting.group.label}")
    return _BUILDERS[name](setting)


def limits(codes: Codes) -> tuple[int, int]:
    """Return the smallest and the largest code."""
    information = np.iinfo(codes.dtype.name)
    return int(information.min), int(information.max)


def multipliers(x: Codes, w: Codes, y: Codes | None) -> NDArray[np.float32]:
    """Return (x_scale · w_scale) / y_scale in float32, in that order: rounding depends on it."""
    product: NDArray[np.float32] = x.scale * w.scale
    return product if y is None else product / y.scale


def requantize(steps: torch.Tensor, output: Codes) -> torch.Tensor:
    """Return rne(clamp(steps, lo - zp, hi - zp)) + zp, in place; `steps` are real multiples of the output's scale."""
    low, high = limits(output)
    zero = int(output.zero_point)
    return steps.clamp_(low - zero, high - zero).round_().add_(zero)


def all_codes(codes: Codes) -> NDArray[np.int64]:
    """Return every code of a type in ascending order."""
    low, high = limits(codes)
    return np.arange(low, high + 1)


def quantize_values(values: NDArray[np.float32], output: Codes) -> NDArray[np.float32]:
    """Return the codes of real values as QuantizeLinear computes them: divided in float32, clamped, rounded half to even."""
    low, high = limits(output)
    zero = int(output.zero_point)
    steps = values.astype(np.float32) / output.scale
    codes: NDArray[np.float32] = np.rint(np.clip(steps, np.float32(low - zero), np.float32(high - zero))) + np.float32(zero)
    return codes


def dequantize_codes(codes: NDArray[np.int64], meaning: Codes) -> NDArray[np.float32]:
    """Return (code - zero_point) · scale in float32."""
    values: NDArray[np.float32] = (codes - int(meaning.zero_point)).astype(np.float32) * meaning.scale
    return values


def fused_multiply_add(a: Any, b: Any, c: Any) -> NDArray[np.float32]:
    """Return a · b + c rounded once to float32: the product of two float32 is exact in float64."""
    return (np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)).astype(np.float32)


class Lookup:
    """A kernel that maps each code through a table.

    Attributes:
        table: float32; one result for each code, in ascending order.
        low: The smallest code.
    """

    def __init__(self, table: torch.Tensor, low: int) -> None:
        self.table = table
        self.low = low

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the results, float32, in the shape of `codes`."""
        return take(self.table, codes - self.low if self.low else codes)


def take(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return table[places], places being whole numbers in float32; in parts, since as indices they take twice the memory."""
    if places.device.type != "cpu" or places.numel() <= _PART:
        return table.take(places.to(torch.int64))
    flat = places.reshape(-1)
    result = torch.empty_like(flat)
    indices = torch.empty(_PART, dtype=torch.int64)
    for start in range(0, len(flat), _PART):
        part = flat[start : start + _PART]
        torch.take(table, indices[: len(part)].copy_(part), out=result[start : start + _PART])
    return result.view(places.shape)


def straight_through(simulated: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Return the exact value with the gradient of its simulation."""
    result: torch.Tensor = _StraightThrough.apply(simulated, exact)
    return result


class _StraightThrough(torch.autograd.Function):
    """The exact value, with the gradient of its float simulation."""

    @staticmethod
    def forward(ctx: Any, simulated: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None
