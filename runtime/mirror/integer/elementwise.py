"""QLinearAdd, QLinearMul, QLinearSigmoid, QLinearLeakyRelu: every answer computed once, then looked up.

With 8-bit operands a unary operator has 256 answers and a binary one 65,536. Computing them when the kernel is built keeps
the arithmetic in one plain formula, and makes the run itself one lookup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.runtime.codes import Codes
from qcam.runtime.mirror import compiled
from qcam.runtime.mirror.integer.kernel import (
    Kernel,
    Lookup,
    Setting,
    all_codes,
    dequantize_codes,
    fused_multiply_add,
    kernel,
    limits,
    quantize_values,
    stored_type,
    take,
)
from qcam.runtime.mirror.parallel import across, laid_out_as, memory, parts_of

_F32 = np.float32
#: Codes of an operand of 8 bits.
_CODES = 256

# Coefficients of the rational approximation of the logistic function in Eigen and MLAS, on [-18, 18]: p(x) / q(x) + 1/2.
_LOGISTIC_NUMERATOR = (
    4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03, 2.48287947061529e-01,
)  # fmt: skip
_LOGISTIC_DENOMINATOR = (
    6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03, 1.16817656904453e-01,
    9.93151921023180e-01,
)  # fmt: skip


@kernel("Add")
def add(setting: Setting) -> Kernel:
    """clamp(rne(fma(a, a_s/y_s, fma(b, b_s/y_s, y_zp - fma(a_s/y_s, a_zp, b_s/y_s · b_zp))))); on ARM64 fixed point."""
    a, b = setting.inputs
    fixed = setting.family.fixed_point_add

    def compute(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float32]:
        if fixed:
            return _fixed_point_sum(x, y, a, b, setting.output)
        return _float_sum(x, y, a, b, setting.output, wraps=True)

    return _binary(setting, compute)


@kernel("Mul")
def multiply(setting: Setting) -> Kernel:
    """clamp(rne(f32((a - a_zp)(b - b_zp)) · ((a_s · b_s) / y_s) + y_zp)): the zero point is added before rounding.

    On ARM64 multiplied and added in one rounding.
    """
    (a, b), output = setting.inputs, setting.output
    ratio = (a.scale * b.scale) / output.scale
    offset = _F32(output.zero_point)

    def compute(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float32]:
        products = ((x - int(a.zero_point)) * (y - int(b.zero_point))).astype(_F32)
        fused = setting.family.fused_batch_norm  # the same instruction
        with np.errstate(over="ignore", invalid="ignore"):
            if fused:
                return _rounded(fused_multiply_add(products, ratio, offset), output)
            return _rounded(products * ratio + offset, output, wraps=True)

    return _binary(setting, compute)


@kernel("Sigmoid")
def sigmoid(setting: Setting) -> Kernel:
    """A table of quantize(logistic(dequantize(code)))."""
    (x,) = setting.inputs
    values = logistic(dequantize_codes(all_codes(x), x))
    return table_of(setting, quantize_values(values, setting.output), x)


@kernel("LeakyRelu")
def leaky_relu(setting: Setting) -> Kernel:
    """A table of quantize(leaky_relu(dequantize(code)))."""
    (x,) = setting.inputs
    values = dequantize_codes(all_codes(x), x)
    slope = _F32(setting.attributes.get("alpha", 0.01))
    return table_of(setting, quantize_values(np.where(values >= 0, values, values * slope), setting.output), x)


def logistic(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)) as ONNX Runtime approximates it: a rational function, every step a fused multiply-add.

    Args:
        x: float32.

    Returns:
        float32 in [0, 1].
    """
    x = np.clip(x, _F32(-18), _F32(18))
    square = x * x

    def polynomial(coefficients: tuple[float, ...]) -> NDArray[np.float32]:
        total = np.full_like(x, _F32(coefficients[0]))
        for coefficient in coefficients[1:]:
            total = fused_multiply_add(total, square, _F32(coefficient))
        return total

    ratio = (polynomial(_LOGISTIC_NUMERATOR) * x) / polynomial(_LOGISTIC_DENOMINATOR)
    result: NDArray[np.float32] = np.clip(ratio + _F32(0.5), _F32(0), _F32(1))
    return result


def _ratios(a: Codes, b: Codes, output: Codes) -> tuple[Any, Any, Any]:
    """Return what either code of a sum is multiplied by, and what is added."""
    left, right = a.scale / output.scale, b.scale / output.scale
    offset = _F32(output.zero_point) - fused_multiply_add(left, _F32(a.zero_point), right * _F32(b.zero_point))
    return left, right, offset


def _float_sum(
    x: NDArray[np.int64], y: NDArray[np.int64], a: Codes, b: Codes, output: Codes, *, wraps: bool = False
) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        left, right, offset = _ratios(a, b, output)
        values = fused_multiply_add(x, left, fused_multiply_add(y, right, offset))
    return _rounded(values, output, wraps=wraps)


def _fixed_point_sum(x: NDArray[np.int64], y: NDArray[np.int64], a: Codes, b: Codes, output: Codes) -> NDArray[np.float32]:
    """The ratios as integers of 21 fractional bits below the larger one; rounded half away from zero."""
    left, right = a.scale / output.scale, b.scale / output.scale
    smallest, largest = min(left, right), max(left, right)
    if not (smallest >= 2.0**-14 and largest < 2.0**8):
        return _float_sum(x, y, a, b, output)
    shift = 21 - int(np.floor(np.log2(np.float64(largest))))
    first, second = (int(np.rint(np.ldexp(np.float64(ratio), shift))) for ratio in (left, right))
    total = (x - int(a.zero_point)) * first + (y - int(b.zero_point)) * second
    total = total - (total < 0)
    codes = ((total + (1 << (shift - 1))) >> shift) + int(output.zero_point)
    return _rounded(codes.astype(_F32), output)


def _rounded(values: NDArray[np.float32], output: Codes, *, wraps: bool = False) -> NDArray[np.float32]:
    """Return clamp(rne(values)).

    Args:
        values: In steps of the output.
        output: The output.
        wraps: Whether what 32 bits do not hold becomes the lowest code, as an x86 converts it (CVTPS2DQ).
    """
    low, high = limits(output)
    whole = np.rint(values)
    if wraps:
        whole = np.where(whole < 2.0**31, whole, _F32(low))
    rounded: NDArray[np.float32] = np.clip(whole, low, high).astype(_F32)
    return rounded


def table_of(setting: Setting, results: NDArray[np.float32], x: Codes) -> Lookup:
    """Return the kernel that maps each code of `x` to one of the results, which are codes of the output."""
    return Lookup(setting.tensor(results).to(stored_type(setting.output)), limits(x)[0])


class PairLookup:
    """A kernel that maps each pair of codes of 8 bits to one of 65,536 results; shapes broadcast.

    Attributes:
        table: The 256 results of the smallest first code, then those of the next; in the type of the results.
        lows: The smallest code of either operand: 0 or -128.
    """

    def __init__(self, table: torch.Tensor, lows: tuple[int, int], constants: tuple[torch.Tensor | None, ...]) -> None:
        """Take a table.

        Args:
            table: See the class.
            lows: See the class.
            constants: The operands that are constants, as codes; None for one that is not.
        """
        self.table = table
        self.lows = lows
        self._constants = constants
        square = table.reshape(_CODES, _CODES)
        for axis, low in enumerate(lows):
            square = square.roll(low, axis)  # by byte: -128 is the byte 128
        self._by_byte = square.reshape(-1).contiguous()

    def __call__(self, *codes: torch.Tensor) -> torch.Tensor:
        """Return the results of the operands that are no constants."""
        rest = iter(codes)
        x, y = (next(rest) if constant is None else constant for constant in self._constants)
        x, y = _alike(x, y)
        result, written = laid_out_as(x, self.table.dtype)
        first, second = (operand.as_strided((x.numel(),), (1,)) for operand in (x, y))

        loops = compiled.loops_for(first, second, written)

        def work(part: slice) -> None:
            if loops is not None:
                loops.look_up_pairs(*map(compiled.in_bytes, (self._by_byte, first[part], second[part], written[part])))
                return
            places = first[part].view(torch.uint8).to(torch.int64).mul_(_CODES).add_(second[part].view(torch.uint8))
            torch.take(self._by_byte, places, out=written[part])

        across(parts_of(len(written), 1, written.device), work)
        return result

    def of_one(self, left: Lookup | None, right: Lookup | None) -> Lookup:
        """Return the kernel of one tensor of codes that the operands are made of.

        Args:
            left: Makes the first operand of it; None if it is the operand itself.
            right: Likewise the second.
        """
        low = left.low if left is not None else right.low if right is not None else self.lows[0]
        codes = torch.arange(low, low + _CODES, device=self.table.device)
        x, y = (codes if way is None else take(way.table, codes - low).to(torch.int64) for way in (left, right))
        return Lookup(take(self.table, (x - self.lows[0]) * _CODES + (y - self.lows[1])), low)


def _alike(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both operands in one shape and one layout without gaps."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    x, y = x.expand(shape), y.expand(shape)
    first, second = memory(x), memory(y)
    if first is not None and second is not None and x.stride() == y.stride():
        return x, y
    layout = torch.contiguous_format
    if x.dim() == 4 and any(operand.is_contiguous(memory_format=torch.channels_last) for operand in (x, y)):
        layout = torch.channels_last
    return x.contiguous(memory_format=layout), y.contiguous(memory_format=layout)


def _binary(setting: Setting, compute: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]) -> Kernel:
    """Build the kernel of two operands, either of which may be a constant."""
    a, b = setting.inputs
    results = setting.tensor(compute(all_codes(a)[:, None], all_codes(b)[None, :]).reshape(-1))
    table = results.to(stored_type(setting.output))
    held = [setting.constant(0), setting.constant(1)]
    constants = tuple(
        None if value is None else setting.tensor(value).to(stored_type(codes))
        for value, codes in zip(held, (a, b), strict=True)
    )
    return PairLookup(table, (limits(a)[0], limits(b)[0]), constants)
