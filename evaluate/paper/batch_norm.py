"""BatchNorm whose statistics were folded away, given statistics again.

In training mode BatchNorm normalises with the statistics of its input and then applies its own scale and shift. Weights that
come from a deployed graph have the statistics folded into the convolutions, or into BatchNorm's own scale and shift: running
mean 0, running variance 1. Normalising there applies the statistics a second time, and destroys the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qcam.common.errors import QcamError


def folded_layers(module: nn.Module) -> list[str]:
    """Return the names of the BatchNorm layers whose statistics were folded away, whatever scale and shift are left.

    Such a layer has a running mean of 0 in all channels, or a running variance of 1 to within two epsilons in all of them
    (1 - epsilon makes the scale exactly 1). Training leaves neither.

    Raises:
        QcamError: If a layer keeps no running statistics, or was folded and has no scale and shift of its own.
    """
    return [name for name, layer in _batch_norms(module).items() if _is_folded(name, layer)]


def restore_statistics(module: nn.Module, batches: list[torch.Tensor]) -> None:
    """Give every folded BatchNorm the mean and variance of its inputs, and scale and shift that keep the function, in place.

    With y = k x + b the layer as it is, and m, v the statistics over all images and positions: running mean m, running
    variance v, scale k sqrt(v + epsilon), shift b + k m. In evaluation mode the model computes what it did, up to rounding.
    Layers that have statistics keep them.

    Args:
        module: The model, in evaluation mode.
        batches: Normalised images, each batch × 3 × height × width.

    Raises:
        QcamError: As of `folded_layers`.
    """
    seen: dict[nn.Module, list[Any]] = {}

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].double()
        count, total, squares = seen.get(layer, [0, 0.0, 0.0])
        seen[layer] = [
            count + x.numel() // x.shape[1], total + x.sum((0, 2, 3)), squares + (x * x).sum((0, 2, 3))
        ]  # fmt: skip

    layers = {name: layer for name, layer in _batch_norms(module).items() if _is_folded(name, layer)}
    handles = [layer.register_forward_pre_hook(look) for layer in layers.values()]
    with torch.no_grad():
        for batch in batches:
            module(batch)
        for handle in handles:
            handle.remove()
        for name, layer in layers.items():
            count, total, squares = seen[layer]
            mean = total / count
            variance = (squares / count - mean * mean).clamp_min(0)
            before, spread = _buffers(name, layer)
            slope = layer.weight.double() / (spread.double() + layer.eps).sqrt()
            shift = layer.bias.double() - slope * before.double()
            before.copy_(mean)
            spread.copy_(variance)
            layer.weight.copy_(slope * (variance + layer.eps).sqrt())
            layer.bias.copy_(shift + slope * mean)


def _batch_norms(module: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)}


def _is_folded(name: str, layer: nn.BatchNorm2d) -> bool:
    mean, variance = _buffers(name, layer)
    folded = bool((mean == 0).all() or ((variance - 1).abs() <= 2 * layer.eps).all())
    if folded and not layer.affine:
        raise QcamError(
            f"BatchNorm {name} has neither statistics nor a scale of its own: in training mode it would compute another "
            "network; run it with {paper_fix} eval-mode"
        )
    return folded


def _buffers(name: str, layer: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    mean, variance = layer.running_mean, layer.running_var
    if mean is None or variance is None:
        raise QcamError(f"BatchNorm {name} keeps no running statistics; the paper's protocol needs them")
    return mean, variance
