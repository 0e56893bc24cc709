"""Operators that ONNX Runtime's optimizers make of several: they stand in graphs as loaded, not in files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.operators.activation import hard_sigmoid, leaky_relu
from qcam.runtime.mirror.operators.convolution import conv
from qcam.runtime.mirror.operators.matrix import gemm
from qcam.runtime.mirror.registry import MICROSOFT, operator

_PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "": lambda x: x, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh,
}  # fmt: skip


@operator("FusedConv", versions=(1,), domain=MICROSOFT)
def fused_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    added: torch.Tensor | None = None,
    *,
    activation: str = "",
    activation_params: list[float] | None = None,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> torch.Tensor:
    """Return activation(convolution + added)."""
    settings: dict[str, Any] = {"auto_pad": auto_pad, "dilations": dilations, "group": group, "pads": pads, "strides": strides}
    result = conv(x, weight, bias, **settings)
    return _activated(result if added is None else result + added, activation, activation_params or [])


@operator("FusedGemm", versions=(1,), domain=MICROSOFT)
def fused_gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    activation: str = "",
    activation_alpha: float = 0.0,
    activation_beta: float = 0.0,
    activation_gamma: float = 0.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> torch.Tensor:
    """Return activation(alpha · A·B + beta · C)."""
    result = gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return _activated(result, activation, [activation_alpha, activation_beta])


@operator("FusedMatMul", versions=(1,), domain=MICROSOFT)
def fused_matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> torch.Tensor:
    """Return alpha · A·B, the last two dimensions transposed if asked for."""
    if transBatchA or transBatchB:
        raise UnsupportedGraphError("FusedMatMul with transposed batches is not supported")
    left = a.transpose(-1, -2) if transA and a.dim() > 1 else a
    right = b.transpose(-1, -2) if transB and b.dim() > 1 else b
    return alpha * torch.matmul(left, right)


@operator("Gelu", versions=(1,), domain=MICROSOFT)
def gelu(x: torch.Tensor) -> torch.Tensor:
    """Gaussian error linear unit."""
    return F.gelu(x)


@operator("BiasGelu", versions=(1,), domain=MICROSOFT)
def bias_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Gaussian error linear unit of x + bias."""
    return F.gelu(x + bias)


@operator("FastGelu", versions=(1,), domain=MICROSOFT)
def fast_gelu(x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Gaussian error linear unit by the hyperbolic tangent, of x + bias."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", versions=(1,), domain=MICROSOFT)
def quick_gelu(x: torch.Tensor, *, alpha: float = 1.702) -> torch.Tensor:
    """Return x · sigmoid(alpha · x); SiLU where alpha is 1."""
    return x * torch.sigmoid(alpha * x)


def _activated(x: torch.Tensor, activation: str, parameters: list[float]) -> torch.Tensor:
    result: torch.Tensor
    if activation == "HardSigmoid":
        result = hard_sigmoid(x, alpha=parameters[0], beta=parameters[1])
    elif activation == "LeakyRelu":
        result = leaky_relu(x, alpha=parameters[0])
    elif activation == "Clip":
        result = torch.clamp(x, parameters[0], parameters[1])
    elif activation in _PLAIN:
        result = _PLAIN[activation](x)
    else:
        raise UnsupportedGraphError(f"an activation {activation} that is fused into an operator is not supported")
    return result
