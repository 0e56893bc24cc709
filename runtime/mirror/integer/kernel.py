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
from qcam.runtime.mirror import compiled
from qcam.runtime.mirror.parallel import across, laid_out_as, memory, parts_of

#: Maps the codes of the operands that are no constants to the result: codes (`stored_type` tells their type), or float values.
Kernel = Callable[..., torch.Tensor]

#: Largest magnitude below which float32 holds every whole number.
EXACT_BELOW = 2**24
_STORED = {"uint8": torch.uint8, "int8": torch.int8}


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


def stored_type(codes: Codes) -> torch.dtype:
    """Return the type in which kernels take and return codes: their own for 8 bits, float32 (whole numbers) for 16."""
    return _STORED.get(codes.dtype.name, torch.float32)


def requantize(steps: torch.Tensor, output: Codes) -> torch.Tensor:
    """Return rne(clamp(steps, lo - zp, hi - zp)) + zp; `steps`, real multiples of the output's scale, are overwritten.

    Args:
        steps: float32 or float64.
        output: What the codes mean.
    """
    low, high = limits(output)
    zero = int(output.zero_point)
    return steps.clamp_(low - zero, high - zero).round_().add_(zero).to(stored_type(output))


def requantize_sums(sums: torch.Tensor, multiplier: torch.Tensor, output: Codes, into: torch.Tensor) -> None:
    """Write rne(clamp(sums · multiplier, lo - zp, hi - zp)) + zp; sums are overwritten.

    Args:
        sums: float32, batch × channels × height × width.
        multiplier: float32, channels.
        output: What the codes mean, of 8 bits.
        into: Where to; of the shape of the sums, channels last.
    """
    low, high = limits(output)
    zero = int(output.zero_point)
    loops = compiled.loops_for(into)
    whole = sums.dtype == torch.float32 and all(each.is_contiguous(memory_format=torch.channels_last) for each in (sums, into))
    if loops is None or not whole:
        into.copy_(sums.mul_(multiplier.reshape(-1, 1, 1)).clamp_(low - zero, high - zero).round_().add_(zero))
        return
    rows, codes = (each.permute(0, 2, 3, 1).reshape(-1, len(multiplier)) for each in (sums, into))
    loops.requantize(rows.numpy(), multiplier.numpy(), low - zero, high - zero, zero, compiled.in_bytes(codes))


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
    """A kernel that maps each code of 8 bits through a table.

    Attributes:
        table: One result for each code, in ascending order; in the type of the results.
        low: The smallest code: 0 or -128.
    """

    def __init__(self, table: torch.Tensor, low: int) -> None:
        self.table = table
        self.low = low
        self._by_byte = table.roll(low)  # -128 is the byte 128

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the results, in the shape of `codes` and laid out as they are."""
        flat = memory(codes)
        if flat is None:
            return take(self.table, codes.to(torch.int32) - self.low if self.low else codes)
        result, written = laid_out_as(codes, self.table.dtype)
        loops = compiled.loops_for(flat, self.table)

        def work(part: slice) -> None:
            if loops is not None:
                loops.look_up(*map(compiled.in_bytes, (self._by_byte, flat[part], written[part])))
            else:
                torch.take(self._by_byte, flat[part].view(torch.uint8).to(torch.int64), out=written[part])

        across(parts_of(len(written), 1, written.device), work)
        return result


def take(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return table[places], places being whole numbers of any type and layout."""
    return table.take(places.to(torch.int64))


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


def within_code(simulated: torch.Tensor, exact: torch.Tensor, *, output: Codes, floor: int | None) -> torch.Tensor:
    """Return a simulated sum that lies where the exact code says it does, with its own gradient.

    The sum of a kernel that saturates is not known to float32, but its code is. A code between the ends of its range was passed
    by ReLU and clamp: the sum is put into the interval that rounds to it. At an end, a simulated sum that does not round to it
    is put beyond it, where ReLU and clamp let no gradient pass; one that does stays as it is.

    Args:
        simulated: The sum in float32.
        exact: Its codes, whole numbers in float32, of the same shape.
        output: What they mean, of one scale.
        floor: The code that stands for 0, if a ReLU stands behind the sum.
    """
    low, high = limits(output)
    low = low if floor is None else max(low, floor)
    scale, zero = float(output.scale), int(output.zero_point)
    with torch.no_grad():
        least, most = ((exact - zero + half) * scale for half in (-0.5, 0.5))
        value = simulated.clamp(least, most)
        value = torch.where(exact <= low, torch.where(simulated <= most, simulated, least), value)
        value = torch.where(exact >= high, torch.where(simulated >= least, simulated, most), value)
    return straight_through(simulated, value)
