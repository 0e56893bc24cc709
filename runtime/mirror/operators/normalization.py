"""Normalization at inference time."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.registry import operator


@operator("BatchNormalization", versions=(9, 14, 15))
def batch_normalization(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> torch.Tensor:
    """(x - mean) / sqrt(variance + epsilon) · scale + bias, with stored statistics."""
    if training_mode:
        raise UnsupportedGraphError("BatchNormalization in training mode is not supported; export the model in evaluation mode")
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon)


@operator("LayerNormalization", versions=(17,))
def layer_normalization(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> torch.Tensor:
    """Normalize over the axes from `axis` on."""
    shape = list(x.shape[axis:]) if axis < 0 else list(x.shape)[axis:]
    return F.layer_norm(x, shape, scale, bias, epsilon)


@operator("InstanceNormalization", versions=(6, 22))
def instance_normalization(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, epsilon: float = 1e-5) -> torch.Tensor:
    """Normalize each channel of each image over its positions."""
    # F.instance_norm, without its refusal of a single position.
    return torch.instance_norm(x, scale, bias, None, None, True, 0.0, epsilon, torch.backends.cudnn.enabled)


@operator("GroupNormalization", versions=(18,))
def group_normalization_of_groups(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> torch.Tensor:
    """Normalize each group of channels of each image; scale and bias are of groups.

    Raises:
        UnsupportedGraphError: If they are not, if channels do not fall into groups, or with another stash_type than float32.
    """
    _refuse_what_does_not_fit(num_groups, x.shape[1], num_groups, scale, bias, stash_type)
    scale, bias = (value.repeat_interleave(x.shape[1] // num_groups) for value in (scale, bias))
    return _group_normalized(x, num_groups, scale, bias, epsilon)


@operator("GroupNormalization", versions=(21,))
def group_normalization(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> torch.Tensor:
    """Normalize each group of channels of each image; scale and bias are of channels.

    Raises:
        UnsupportedGraphError: If they are not, if channels do not fall into groups, or with another stash_type than float32.
    """
    _refuse_what_does_not_fit(num_groups, x.shape[1], x.shape[1], scale, bias, stash_type)
    return _group_normalized(x, num_groups, scale, bias, epsilon)


def _group_normalized(x: torch.Tensor, groups: int, scale: torch.Tensor, bias: torch.Tensor, epsilon: float) -> torch.Tensor:
    # F.group_norm, without its refusal of a single position.
    return torch.group_norm(x, groups, scale, bias, epsilon, torch.backends.cudnn.enabled)


def _refuse_what_does_not_fit(
    groups: int, channels: int, wanted: int, scale: torch.Tensor, bias: torch.Tensor, stash_type: int
) -> None:
    if stash_type != 1:
        raise UnsupportedGraphError(f"GroupNormalization with stash_type {stash_type} is not supported; only float32 is")
    if groups < 1 or channels % groups:
        raise UnsupportedGraphError(f"GroupNormalization of {channels} channels in {groups} groups is not possible")
    for name, value in (("scale", scale), ("bias", bias)):
        if list(value.shape) != [wanted]:
            raise UnsupportedGraphError(
                f"GroupNormalization of {channels} channels in {groups} groups: its {name} is of shape {list(value.shape)}; "
                f"this version takes [{wanted}]"
            )
