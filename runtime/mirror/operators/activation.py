"""Activation functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from qcam.runtime.mirror.registry import operator


@operator("Relu", versions=(6, 13, 14))
def relu(x: torch.Tensor) -> torch.Tensor:
    """Return max(x, 0)."""
    return F.relu(x)


@operator("LeakyRelu", versions=(6, 16))
def leaky_relu(x: torch.Tensor, *, alpha: float = 0.01) -> torch.Tensor:
    """Return x where positive, alpha · x elsewhere."""
    return F.leaky_relu(x, alpha)


@operator("PRelu", versions=(7, 9, 16))
def parametric_relu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Return x where positive, slope · x elsewhere."""
    return torch.where(x >= 0, x, slope * x)


@operator("Clip", versions=(11, 12, 13))
def clip(x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None) -> torch.Tensor:
    """Return x limited to [low, high]; an absent limit does not limit."""
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Sigmoid", versions=(6, 13))
def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@operator("HardSigmoid", versions=(6, 22))
def hard_sigmoid(x: torch.Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> torch.Tensor:
    """Return max(0, min(1, alpha · x + beta))."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("HardSwish", versions=(14, 22))
def hard_swish(x: torch.Tensor) -> torch.Tensor:
    """Return x · max(0, min(1, x / 6 + 0.5))."""
    return x * torch.clamp(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)


@operator("Tanh", versions=(6, 13))
def tanh(x: torch.Tensor) -> torch.Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


@operator("Elu", versions=(6, 22))
def elu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """Return x where positive, alpha · (exp(x) - 1) elsewhere."""
    return F.elu(x, alpha)


@operator("Softplus", versions=(1, 22))
def softplus(x: torch.Tensor) -> torch.Tensor:
    """Return log(1 + exp(x)), written so that exp cannot overflow."""
    return -F.logsigmoid(-x)


@operator("Mish", versions=(18, 22))
def mish(x: torch.Tensor) -> torch.Tensor:
    """Return x · tanh(softplus(x))."""
    return F.mish(x)


@operator("Gelu", versions=(20,))
def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """Gaussian error linear unit."""
    return F.gelu(x, approximate=approximate)


@operator("Softmax", versions=(13,))
def softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """Softmax along one axis."""
    return torch.softmax(x, axis)
