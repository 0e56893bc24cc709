"""BatchNorm that was folded into the convolutions, given statistics again.

In training mode BatchNorm normalises with the statistics of its input and then applies its own scale and shift. Weights that
come from a deployed graph have these folded into the convolutions: BatchNorm is left as a shift, and normalising in front of
it destroys the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qcam.common.errors import QcamError


def is_folded(module: nn.Module) -> bool:
    """Tell whether a model has BatchNorm, none of which scales: mean 0, scale / sqrt(variance + epsilon) 1."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    return bool(layers) and all(_is_shift(layer) for layer in layers)


def restore_statistics(module: nn.Module, batches: list[torch.Tensor]) -> None:
    """Give every BatchNorm the mean and variance of its inputs, and scale and shift that keep the function, in place.

    With y = k x + b the layer as it is, and m, v the statistics over all images and positions: running mean m, running
    variance v, scale k sqrt(v + epsilon), shift b + k m. In evaluation mode the model computes what it did, up to rounding.

    Args:
        module: The model, in evaluation mode.
        batches: Normalised images, each batch × 3 × height × width.
    """
    seen: dict[nn.Module, list[Any]] = {}

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].double()
        count, total, squares = seen.get(layer, [0, 0.0, 0.0])
        seen[layer] = [
            count + x.numel() // x.shape[1], total + x.sum((0, 2, 3)), squares + (x * x).sum((0, 2, 3))
        ]  # fmt: skip

    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    with torch.no_grad():
        for batch in batches:
            module(batch)
        for handle in handles:
            handle.remove()
        for layer in layers:
            count, total, squares = seen[layer]
            mean = total / count
            variance = (squares / count - mean * mean).clamp_min(0)
            before, spread = _buffers(layer)
            slope = layer.weight.double() / (spread.double() + layer.eps).sqrt()
            shift = layer.bias.double() - slope * before.double()
            before.copy_(mean)
            spread.copy_(variance)
            layer.weight.copy_(slope * (variance + layer.eps).sqrt())
            layer.bias.copy_(shift + slope * mean)


def _is_shift(layer: nn.BatchNorm2d) -> bool:
    mean, variance = _buffers(layer)
    slope = layer.weight / (variance + layer.eps).sqrt()
    return bool((mean == 0).all() and ((slope - 1).abs() < 1e-5).all())


def _buffers(layer: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    mean, variance = layer.running_mean, layer.running_var
    if mean is None or variance is None:
        raise QcamError("a BatchNorm of this model keeps no running statistics; the paper's protocol needs them")
    return mean, variance
