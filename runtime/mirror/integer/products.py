"""Products of codes and weights: sums of (x - zp) · w in floating point, or by the processor's own products of bytes.

PyTorch's int8 operators (oneDNN) add products of bytes as int32. Where the processor does that exactly, a layer takes a
fraction of the time of float32. Older x86 processors add pairs of products in 16 bits, which saturates: so it is asked, not
assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import RLock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from qcam.runtime.mirror.operators.padding import split_pads

#: Returns the sums of raw codes, plus a bias of the same type if there is one: float32 or float64.
Product = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
#: Makes the product of a weight (whole numbers, less their zero point) in the floating-point type asked for.
Maker = Callable[[NDArray[Any], torch.dtype], Product]

#: Extreme codes and weights that an exact product of bytes survives.
_CODES, _WEIGHTS = (0, 1, 254, 255), (-128, -127, 127, 126)


@dataclass(frozen=True)
class Window:
    """How a convolution moves over its input.

    Attributes:
        stride: Vertical and horizontal.
        dilation: Likewise.
        groups: Number of groups.
        pads: Height and width of an input → explicit pads [top, left, bottom, right].
    """

    stride: list[int]
    dilation: list[int]
    groups: int
    pads: Callable[[list[int]], list[int]]

    def placed(self, x: torch.Tensor, value: float) -> tuple[torch.Tensor, list[int]]:
        """Return the input and the padding that the operator is left to add; what it cannot is around the input, as `value`."""
        explicit, symmetric = split_pads(self.pads(list(x.shape[2:])))
        return (F.pad(x, explicit, value=value) if explicit else x), symmetric


def convolution(window: Window, zero: int, device: torch.device) -> Maker:
    """Return what makes products of a convolution.

    Args:
        window: How it moves.
        zero: Zero point of the input.
        device: Where it computes.
    """

    def make(weight: NDArray[Any], kind: torch.dtype) -> Product:
        plain = _FloatConvolution(weight, window, zero, device, kind)
        if kind == torch.float32 and of_bytes(weight, device) and _is_common(weight, window):
            return _ByteConvolution(weight, window, zero, plain)
        return plain

    return make


def _is_common(weight: NDArray[Any], window: Window) -> bool:
    """Tell whether a convolution is of the kinds that oneDNN's products of bytes are trusted with.

    With others, PyTorch 2.14 was seen to return wrong sums, and to crash (dilation, groups of several channels).
    """
    alone = window.groups == 1 or weight.shape[:2] == (window.groups, 1)
    square = weight.ndim == 4 and weight.shape[2] == weight.shape[3] and window.stride[0] == window.stride[1]
    return alone and square and set(window.dilation) == {1}


def matrix(zero: int, device: torch.device) -> Maker:
    """Return what makes products of codes (… × inputs) and a matrix (outputs × inputs); arguments as of `convolution`."""

    def make(weight: NDArray[Any], kind: torch.dtype) -> Product:
        if kind == torch.float32 and of_bytes(weight, device):
            return _ByteMatrix(weight, zero)
        held = torch.from_numpy(np.ascontiguousarray(weight)).to(device, kind)

        def product(codes: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            sums = F.linear(centre(codes, zero, kind), held)
            return sums if bias is None else sums.add_(bias)

        return product

    return make


def centre(codes: torch.Tensor, zero: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """Return codes less their zero point, as floating-point numbers."""
    steps = codes.to(kind)
    return steps - zero if zero else steps


def of_bytes(weight: NDArray[Any], device: torch.device) -> bool:
    """Tell whether a weight fits bytes, on a device whose products of bytes are exact."""
    if device.type != "cpu" or weight.size == 0 or weight.min() < -128 or weight.max() > 127:
        return False
    return bytes_are_exact()


@lru_cache(maxsize=1)
def bytes_are_exact() -> bool:
    """Ask whether this processor and this PyTorch multiply bytes exactly, with extreme codes and weights."""
    numbers = np.random.default_rng(0)
    cases = [(64, 48, 1, 1, 1), (48, 32, 3, 1, 1), (32, 32, 3, 32, 2)]  # inputs, outputs, kernel, groups, stride
    cpu = torch.device("cpu")
    try:
        for inputs, outputs, kernel, groups, stride in cases:  # no sum reaches 2^24
            window = Window([stride] * 2, [1, 1], groups, partial(_same, kernel // 2))
            weight = numbers.choice(_WEIGHTS, (outputs, inputs // groups, kernel, kernel)).astype(np.int16)
            weight[0], weight[1] = 127, -128
            codes = torch.from_numpy(numbers.choice(_CODES, (2, inputs, 9, 9)).astype(np.uint8))
            codes[0] = 255
            bias = torch.arange(outputs, dtype=torch.float32) * 4099 - 7
            for zero in (0, 3, 255):
                exact = _FloatConvolution(weight, window, zero, cpu, torch.float64)
                found = _ByteConvolution(weight, window, zero, exact).product(codes, bias)
                if not torch.equal(found.double(), exact(codes, bias.double())):
                    return False
        weight = numbers.choice(_WEIGHTS, (24, 160)).astype(np.int16)
        codes = torch.from_numpy(numbers.choice(_CODES, (33, 160)).astype(np.uint8))
        sums = F.linear(centre(codes, 3, torch.float64), torch.from_numpy(weight).double())
        return torch.equal(_ByteMatrix(weight, 3)(codes, None).double(), sums)
    except (AttributeError, NotImplementedError, RuntimeError):  # a PyTorch without these operators, or for another processor
        return False


def _same(pad: int, _size: list[int]) -> list[int]:
    return [pad] * 4


class _FloatConvolution:
    """Sums of (x - zp) · w plus a bias in float32 or float64."""

    def __init__(self, weight: NDArray[Any], window: Window, zero: int, device: torch.device, kind: torch.dtype) -> None:
        self._given = weight
        self._window, self._zero, self._device, self._kind = window, zero, device, kind
        self._weight: torch.Tensor | None = None

    def __call__(self, codes: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the sums; codes are batch × channels × height × width."""
        if self._weight is None:  # many are never asked
            held = torch.from_numpy(np.ascontiguousarray(self._given)).to(self._device, self._kind)
            self._weight = held.contiguous(memory_format=torch.channels_last)
        window = self._window
        x, padding = window.placed(centre(codes, self._zero, self._kind), 0)
        sums = F.conv2d(x, self._weight, None, window.stride, padding, window.dilation, window.groups)
        # Last, so that it is rounded once: handed to the operator, sums may begin with it, and leave the whole numbers.
        return sums if bias is None else sums.add_(bias.reshape(-1, 1, 1))


class _Bytes:
    """Weights as bytes, packed by oneDNN when the shape of the first input is known."""

    def __init__(self, weight: NDArray[Any], zero: int) -> None:
        self._weight = torch.from_numpy(np.array(weight, np.int8, order="C"))
        self._packed: torch.Tensor | None = None
        self._lock = RLock()
        self._zero = zero
        # Neither operator scales: sums are handed out as they are, with the bias added in float32.
        self._scales = torch.ones(len(weight))
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)

    def _unsigned(self, codes: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Return codes and zero point, 128 higher where they are signed."""
        if codes.dtype == torch.uint8:
            return codes, self._zero
        return codes.view(torch.uint8).bitwise_xor(128), self._zero + 128


class _ByteConvolution(_Bytes):
    """f32(sum of (x - zp) · w) + bias, exact while sums and results stay below 2^24.

    oneDNN chooses its kernel by the shape, and some are wrong (seen: one output column and a step above 1). So each shape that
    comes up for the first time is tried with extreme codes against floating point, which takes over where the two differ.
    """

    def __init__(self, weight: NDArray[Any], window: Window, zero: int, plain: Product) -> None:
        super().__init__(weight, zero)
        self._window = window
        self._plain = plain
        self._right: dict[tuple[int, ...], bool] = {}

    def __call__(self, codes: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the sums, float32, channels last; codes are batch × channels × height × width, of 8 bits."""
        shape = tuple(codes.shape)
        with self._lock:
            if shape not in self._right:
                self._right[shape] = self._try(shape, codes.dtype)
        return self.product(codes, bias) if self._right[shape] else self._plain(codes, bias)

    def product(self, codes: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the sums, untried."""
        window = self._window
        unsigned, zero = self._unsigned(codes)
        x, padding = window.placed(unsigned, zero)
        x = x.contiguous(memory_format=torch.channels_last)
        moved = (window.stride, padding, window.dilation, window.groups)
        with self._lock:
            if self._packed is None:
                shape = list(x.shape)
                self._packed = torch.ops.onednn.qconv_prepack(self._weight, self._scales, 1.0, zero, *moved, shape)
        sums: torch.Tensor = torch.ops.onednn.qconv_pointwise(
            x, 1.0, zero, self._packed, self._scales, self._zeros, bias, *moved, 1.0, 0, torch.float32, "none", [], ""
        )
        return sums

    def _try(self, shape: tuple[int, ...], kind: torch.dtype) -> bool:
        """Tell whether the product is right for inputs of a shape and type."""
        # The kernel of the whole batch, on the same image over and over; floating point has to see it once.
        image = torch.from_numpy(np.random.default_rng(0).choice(np.array(_CODES, np.uint8), (1, *shape[1:])))
        image = image.contiguous(memory_format=torch.channels_last).view(kind)
        sums = self._plain(image, None)
        found = self.product(image.repeat(shape[0], 1, 1, 1).contiguous(memory_format=torch.channels_last), None)
        return all(torch.equal(one, sums[0]) for one in found)


class _ByteMatrix(_Bytes):
    """The same of a matrix."""

    def __call__(self, codes: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the sums, float32, … × outputs; codes are … × inputs, of 8 bits."""
        x, zero = self._unsigned(codes)
        x = x.contiguous()
        with self._lock:
            if self._packed is None:
                self._packed = torch.ops.onednn.qlinear_prepack(self._weight, list(x.shape))
                self._weight = torch.empty(0, dtype=torch.int8)  # it may be large, and is not read again
        sums: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, zero, self._packed, self._scales, self._zeros, bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return sums.reshape(*codes.shape[:-1], len(self._scales))  # of an empty batch, oneDNN drops axes
