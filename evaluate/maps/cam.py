"""Class activation maps from an activation and the gradient of a class score at it, in float64.

Grad-CAM++ after Chattopadhyay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks" (WACV
2018), equation 19, with A the activation and g = d score / d A, the score being the logit:

    alpha_kij = g² / (2 g² + (sum_ab A_kab) g³), 0 where g = 0;  w_k = sum_ij alpha_kij relu(g_kij);
    map = relu(sum_k w_k A_k)

Where activations can be negative, the denominator 2 + (sum_ab A_kab) g can come to 0 and below: weights explode and change
their sign. `common.denominators` counts where; `gradcam++-relu` takes sum_ab relu(A_kab) instead, and is the same where none is
negative.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qcam.common.vocabulary import CamMethod, require

Array = NDArray[np.float64]


def gradcam_plus_plus_weights(
    activation: Array, gradient: Array, epsilon: float = 0.0, *, rectified: bool = False
) -> Array:
    """Return Grad-CAM++'s weight of each channel.

    Args:
        activation: float64, batch × channels × height × width.
        gradient: d logit / d activation, same shape, or batch × channels × 1 × 1 where all positions are alike.
        epsilon: Added to the denominator of alpha. 0 is the formula; pytorch-grad-cam adds 1e-6, which is not
            negligible, since gradients are often around 1e-3 and so their squares around 1e-6.
        rectified: Whether the sum of the activation in the denominator is that of its positive values.

    Returns:
        float64, batch × channels.
    """
    square = gradient * gradient
    total = (np.maximum(activation, 0.0) if rectified else activation).sum(axis=(2, 3), keepdims=True)
    denominator = 2.0 * square + total * square * gradient + epsilon
    positive = gradient > 0  # relu(g) makes all others vanish, whatever their alpha
    with np.errstate(divide="ignore", invalid="ignore"):
        # With epsilon 0, g² cancels: 1 / (2 + total · g) does not lose g² to underflow.
        alpha = square / denominator if epsilon else 1.0 / (2.0 + total * gradient)
    alpha = np.where(positive & np.isfinite(alpha), alpha, 0.0)
    return _sum(np.where(positive, alpha * gradient, 0.0), activation)


def gradcam_weights(activation: Array, gradient: Array) -> Array:
    """Return plain Grad-CAM's weights: the gradient's mean over positions (Selvaraju et al., ICCV 2017), batch × channels."""
    weights: Array = gradient.mean(axis=(2, 3))
    return weights


def torchcam_weights(activation: Array, gradient: Array) -> Array:
    """Return the weights that torch-cam's Grad-CAM++ really computes, the ones the paper ran: sum of g² relu(g).

    Alpha never reaches its result: it is divided in place on an index copy.
    """
    return _sum(gradient**2 * np.maximum(gradient, 0.0), activation)


def _sum(values: Array, activation: Array) -> Array:
    """Return the sum over the activation's positions of values that may be given once for all of them."""
    alike = activation.shape[2] * activation.shape[3] // (values.shape[2] * values.shape[3])
    total: Array = values.sum(axis=(2, 3)) * alike
    return total


#: CAM methods by name.
METHODS: dict[CamMethod, Callable[[Array, Array], Array]] = {
    CamMethod.GRADCAM_PLUS_PLUS: gradcam_plus_plus_weights,
    CamMethod.GRADCAM_PLUS_PLUS_RELU: partial(gradcam_plus_plus_weights, rectified=True),
    CamMethod.GRADCAM: gradcam_weights,
    CamMethod.TORCHCAM: torchcam_weights,
}


def cam(activation: NDArray[np.floating], gradient: NDArray[np.floating], method: str = "gradcam++") -> Array:
    """Compute class activation maps.

    Args:
        activation: Activation at the tap, batch × channels × height × width.
        gradient: d logit / d activation, same shape; a view that repeats one value for each channel is read once.
        method: One of `CamMethod`.

    Returns:
        float64, batch × height × width, not negative, not normalised; all zero where nothing speaks for the class.

    Raises:
        QcamError: If the method is unknown.
    """
    weigh = METHODS[require(CamMethod, method, "CAM method")]
    if gradient.strides[2:] == (0, 0):
        gradient = gradient[:, :, :1, :1]
    batch, channels, height, width = activation.shape
    maps = np.empty((batch, height, width))
    for index in range(batch):  # one by one: in float64 a batch would leave the processor's cache
        # In one order in memory whatever the caller's: sums round by it.
        a, g = (values[index : index + 1].astype(np.float64, order="C") for values in (activation, gradient))
        weights = weigh(a, g)
        maps[index] = (weights @ a.reshape(channels, height * width)).reshape(height, width)
    return np.maximum(maps, 0.0, out=maps)


def normalise(maps: Array) -> Array:
    """Stretch each map to 0..1 (min-max); a constant map becomes all zero.

    Args:
        maps: batch × height × width.
    """
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    with np.errstate(divide="ignore", invalid="ignore"):
        stretched: Array = np.where(span > 0, (maps - low) / span, 0.0)
    return stretched


def upsample(maps: Array, size: tuple[int, int]) -> Array:
    """Enlarge maps bilinearly, pixel centres aligned as in `torch.nn.functional.interpolate(align_corners=False)`.

    Args:
        maps: batch × height × width.
        size: Height and width of the result.

    Returns:
        float64, batch × size.
    """
    rows, columns = _bilinear(maps.shape[1], size[0]), _bilinear(maps.shape[2], size[1])
    enlarged: Array = rows @ maps @ columns.T
    return enlarged


def closest(maps: Array, size: tuple[int, ...]) -> Array:
    """Return the maps of a coarser grid that, enlarged, are closest to these maps in squares: none has a larger CC with them.

    Enlarged maps are a linear space that holds the constants: least squares and Pearson's correlation have the same best.

    Args:
        maps: batch × height × width.
        size: Height and width of the grid.

    Returns:
        float64, batch × size; values may be negative.
    """
    rows, columns = (_bilinear(length, target) for length, target in zip(size, maps.shape[1:], strict=True))
    found: Array = np.linalg.pinv(rows) @ maps @ np.linalg.pinv(columns).T
    return found


def enlarge(maps: Array, size: tuple[int, int]) -> Array:
    """Return maps as they are shown and compared: enlarged to `size`, height and width, then each stretched to 0..1.

    Args:
        maps: batch × height × width.
        size: Height and width of the result.

    Returns:
        float64, batch × size.
    """
    enlarged = np.empty((len(maps), *size))
    for index in range(len(maps)):  # one by one, as above
        enlarged[index] = normalise(upsample(maps[index : index + 1], size))[0]
    return enlarged


def _bilinear(length: int, target: int) -> Array:
    """Return the matrix (target × length) that resamples one axis; positions beyond the centres repeat the edge."""
    position = np.clip((np.arange(target) + 0.5) * length / target - 0.5, 0, length - 1)
    lower = np.minimum(np.floor(position).astype(int), max(length - 2, 0))
    fraction = position - lower
    matrix = np.zeros((target, length))
    matrix[np.arange(target), lower] = 1.0 - fraction
    matrix[np.arange(target), np.minimum(lower + 1, length - 1)] += fraction
    return matrix
