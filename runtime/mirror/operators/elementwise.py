"""Arithmetic element by element, with broadcasting."""

from __future__ import annotations

from functools import reduce

import torch

from qcam.runtime.mirror.registry import operator


@operator("Add", versions=(7, 13, 14))
def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a + b."""
    return a + b


@operator("Sub", versions=(7, 13, 14))
def subtract(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a - b."""
    return a - b


@operator("Mul", versions=(7, 13, 14))
def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a · b."""
    return a * b


@operator("Div", versions=(7, 13, 14))
def divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a / b; whole numbers are divided towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Pow", versions=(7, 12, 13, 15))
def power(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a to the power of b, in the type of a."""
    return torch.pow(a, b).to(a.dtype)


@operator("Max", versions=(8, 12, 13))
def maximum(*values: torch.Tensor) -> torch.Tensor:
    """The largest of several tensors."""
    return reduce(torch.maximum, values)


@operator("Min", versions=(8, 12, 13))
def minimum(*values: torch.Tensor) -> torch.Tensor:
    """The smallest of several tensors."""
    return reduce(torch.minimum, values)


@operator("Neg", versions=(6, 13))
def negative(x: torch.Tensor) -> torch.Tensor:
    """Return -x."""
    return -x


@operator("Abs", versions=(6, 13))
def absolute(x: torch.Tensor) -> torch.Tensor:
    """|x|."""
    return x.abs()


@operator("Sqrt", versions=(6, 13))
def square_root(x: torch.Tensor) -> torch.Tensor:
    """Square root, rounded once: PyTorch's own in float32 is one digit off now and then."""
    return x.double().sqrt().to(x.dtype)


@operator("Reciprocal", versions=(6, 13))
def reciprocal(x: torch.Tensor) -> torch.Tensor:
    """1 / x."""
    return x.reciprocal()


@operator("Exp", versions=(6, 13))
def exponential(x: torch.Tensor) -> torch.Tensor:
    """exp(x)."""
    return x.exp()


@operator("Log", versions=(6, 13))
def logarithm(x: torch.Tensor) -> torch.Tensor:
    """log(x)."""
    return x.log()


@operator("Erf", versions=(9, 13))
def error_function(x: torch.Tensor) -> torch.Tensor:
    """Gaussian error function."""
    return torch.erf(x)


@operator("Where", versions=(9, 16))
def where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a where the condition holds, b elsewhere."""
    return torch.where(condition, a, b)


@operator("Round", versions=(11, 22))
def rounded(x: torch.Tensor) -> torch.Tensor:
    """The nearest whole number, halves to the even one."""
    return x.round()


@operator("Floor", versions=(6, 13))
def floor(x: torch.Tensor) -> torch.Tensor:
    """The next whole number below."""
    return x.floor()


@operator("Ceil", versions=(6, 13))
def ceiling(x: torch.Tensor) -> torch.Tensor:
    """The next whole number above."""
    return x.ceil()


@operator("Sin", versions=(7, 22))
def sine(x: torch.Tensor) -> torch.Tensor:
    """sin(x)."""
    return x.sin()


@operator("Cos", versions=(7, 22))
def cosine(x: torch.Tensor) -> torch.Tensor:
    """cos(x)."""
    return x.cos()


@operator("Equal", versions=(7, 11, 13, 19))
def equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Whether a equals b, as bool."""
    return a == b


@operator("Not", versions=(1,))
def negation(x: torch.Tensor) -> torch.Tensor:
    """Whether x does not hold."""
    return ~x
