"""Float32 arithmetic that PyTorch has no operator for: a product and a sum that are rounded once, together."""

from __future__ import annotations

import torch

#: Of float64's bits those that float32 does not have, and what they are half way between two of its values.
_FURTHER, _HALF_WAY = (1 << 29) - 1, 1 << 28


def multiply_add(one: torch.Tensor, other: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """Return one · other + added in one rounding, as fused multiply-add instructions do.

    A product of two float32 is exact in float64, a sum is not always. Rounded twice, it differs where float64 ends half way
    between two values of float32 and had rounded before: there it is rounded to odd instead (Boldo and Melquiond 2008).

    Args:
        one: float32; shapes are broadcast.
        other: float32.
        added: float32.

    Returns:
        float32, with the gradient of the product and the sum.
    """
    product, wide = one.double() * other.double(), added.double()
    total = product + wide
    rounded = total.detach()
    doubtful = (rounded.view(torch.int64) & _FURTHER) == _HALF_WAY
    if bool(doubtful.any()):
        product, wide = product.detach(), wide.detach()
        again = rounded - product
        lost = (product - (rounded - again)) + (wide - again)  # what the sum has lost, exactly (Knuth's TwoSum)
        # Half way's last bit is 0: the next odd number is one further out, or one further in.
        step = torch.where((lost > 0) == (rounded > 0), 1, -1) * (doubtful & (lost != 0))
        total = total + ((rounded.view(torch.int64) + step).view(torch.float64) - rounded)
    result: torch.Tensor = total.float()
    return result
