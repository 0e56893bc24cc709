"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from qcam.runtime.mirror.registry import operator


@operator("Gemm", versions=(7, 9, 11, 13))
def gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> torch.Tensor:
    """Alpha · A·B + beta · C, A and B transposed if asked for."""
    left = a.T if transA else a
    if transB and alpha == 1.0 and (c is None or (beta == 1.0 and c.dim() == 1)):
        return F.linear(left, b, c)
    product = alpha * (left @ (b.T if transB else b))
    return product if c is None else product + beta * c


@operator("MatMul", versions=(1, 9, 13))
def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Matrix product, batched like numpy.matmul."""
    return torch.matmul(a, b)
