"""Class activation maps from an activation and the gradient of a class score at it, in float64.

Grad-CAM++ after Chattopadhyay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks" (WACV
2018), equation 19, with A the activation and g = d score / d A, the score being the logit:

    alpha_kij = g² / (2 g² + (sum_ab A_kab) g³), 0 where g = 0;  w_k = sum_ij alpha_kij relu(g_kij);
    map = relu(sum_k w_k A_k)

Where activations can be negative, the denominator 2 + (sum_ab A_kab) g can come to 0 and below: weights explode and change
their sign. `common.denominators` counts where; `gradcam++-relu` takes sum_ab relu(A_kab) instead, and is the same where none is
negative.

Methods without a weight for each channel:

- HiResCAM (Draelos and Carin, arXiv 2011.08891, 2020): map = relu(sum_k g_kij A_kij).
- LayerCAM (Jiang et al., IEEE Transactions on Image Processing, 2021): map = relu(sum_k relu(g_kij) A_kij).
- Eigen-CAM (Muhammad and Yeasin, IJCNN 2020): `eigen_map`. It has neither a class nor a gradient.

Methods that run the network again are not computed from a gradient; Ablation-CAM's weights are here (`ablation_weights`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qcam.common.errors import QcamError
from qcam.common.vocabulary import CamMethod, require

Array = NDArray[np.float64]


def gradcam_plus_plus_weights(activation: Array, gradient: Array, epsilon: float = 0.0, *, rectified: bool = False) -> Array:
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


def hires_map(activation: Array, gradient: Array) -> Array:
    """Return HiResCAM's map before its relu: the sum over channels of gradient times activation, batch × height × width."""
    result: Array = (gradient * activation).sum(axis=1)
    return result


def layer_map(activation: Array, gradient: Array) -> Array:
    """Return LayerCAM's map before its relu: as HiResCAM's, of positive gradients alone, batch × height × width."""
    return hires_map(activation, np.maximum(gradient, 0.0))


def eigen_map(activation: Array) -> Array:
    """Return Eigen-CAM's map before its relu: each position's place on the first principal axis of all positions.

    With X the matrix of positions × channels, each channel's mean over positions taken out (as pytorch-grad-cam does; the paper
    leaves it in), and v the first right singular vector of X: map = X v. A singular vector has no sign of its own, and v is
    taken with sum_k v_k ≥ 0. As Xᵀ(X v) is a positive multiple of v, the map then correlates positively, or not at all, with
    the activation summed over channels: it is large where the layer is active. pytorch-grad-cam takes the sign that the library
    gives it.

    Args:
        activation: float64, batch × channels × height × width.

    Returns:
        float64, batch × height × width, of mean 0; NaN where the activation is not finite.
    """
    batch, channels, height, width = activation.shape
    maps = np.full((batch, height, width), np.nan)
    for found, given in zip(maps, activation, strict=True):
        if not np.isfinite(given).all():
            continue
        positions = given.reshape(channels, -1).T
        positions = positions - positions.mean(axis=0)
        axis = np.linalg.svd(positions, full_matrices=False)[2][0]
        found[:] = (positions @ (axis if axis.sum() >= 0 else -axis)).reshape(height, width)
    return maps


def ablation_weights(scores: Array, without: Array) -> Array:
    """Return Ablation-CAM's weights: the part of the score that goes with a channel, (y - y_k) / y.

    Desai and Ramaswamy, "Ablation-CAM" (WACV 2020), with the sign as it comes out, as in pytorch-grad-cam: of a score below 0
    the map shows what lowers it.

    Args:
        scores: y, float64, batch × channels.
        without: y_k, the score without the channel, same shape.

    Returns:
        float64, batch × channels; 0 where y is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        weights: Array = np.where(scores == 0, 0.0, (scores - without) / scores)
    return weights


#: CAM methods that weigh channels, by name.
METHODS: dict[CamMethod, Callable[[Array, Array], Array]] = {
    CamMethod.GRADCAM_PLUS_PLUS: gradcam_plus_plus_weights,
    CamMethod.GRADCAM_PLUS_PLUS_RELU: partial(gradcam_plus_plus_weights, rectified=True),
    CamMethod.GRADCAM: gradcam_weights,
    CamMethod.TORCHCAM: torchcam_weights,
}
#: Methods that have no weight for each channel; they return the map before its relu.
_MAPS: dict[CamMethod, Callable[[Array, Array], Array]] = {CamMethod.HIRESCAM: hires_map, CamMethod.LAYERCAM: layer_map}
_FORMULAS = {*METHODS, *_MAPS, CamMethod.EIGENCAM}


def cam(activation: NDArray[np.floating], gradient: NDArray[np.floating] | None = None, method: str = "gradcam++") -> Array:
    """Compute class activation maps.

    Args:
        activation: Activation at the tap, batch × channels × height × width.
        gradient: d logit / d activation, same shape; a view that repeats one value for each channel is read once. None for
            eigencam, which does not look at it.
        method: One of `CamMethod`.

    Returns:
        float64, batch × height × width, not negative, not normalised; all zero where nothing speaks for the class.

    Raises:
        QcamError: If the method is unknown, needs a gradient and has none, or runs the network again.
    """
    chosen = require(CamMethod, method, "CAM method")
    if chosen not in _FORMULAS:
        raise QcamError(f"CAM method {chosen} runs the network again; activation and gradient do not tell its map")
    if gradient is None and chosen != CamMethod.EIGENCAM:
        raise QcamError(f"CAM method {chosen} needs a gradient")
    batch, _, height, width = activation.shape
    maps = np.empty((batch, height, width))
    if gradient is not None and gradient.strides[2:] == (0, 0):
        gradient = gradient[:, :, :1, :1]
    for index in range(batch):  # one by one: in float64 a batch would leave the processor's cache
        # In one order in memory whatever the caller's: sums round by it.
        a = activation[index : index + 1].astype(np.float64, order="C")
        if gradient is None or chosen == CamMethod.EIGENCAM:
            maps[index] = eigen_map(a)[0]
            continue
        g = gradient[index : index + 1].astype(np.float64, order="C")
        if chosen in _MAPS:
            maps[index] = _MAPS[chosen](a, g)[0]
        else:
            maps[index] = _weighted(METHODS[chosen](a, g), a)[0]
    return np.maximum(maps, 0.0, out=maps)


def weighted_map(weights: Array, activation: NDArray[np.floating]) -> Array:
    """Return relu(sum_k w_k A_k), float64, batch × height × width, for weights of batch × channels."""
    a = activation.astype(np.float64, order="C")
    return np.concatenate([np.maximum(_weighted(weights[i : i + 1], a[i : i + 1]), 0.0) for i in range(len(a))])


def _weighted(weights: Array, a: Array) -> Array:
    """Return sum_k w_k A_k of one image, 1 × height × width."""
    _, channels, height, width = a.shape
    result: Array = (weights @ a.reshape(channels, height * width)).reshape(1, height, width)
    return result


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
