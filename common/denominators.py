"""Where Grad-CAM++'s formula leaves its ground: activations that are negative, and a denominator with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def crossings(activation: NDArray[np.floating], gradient: NDArray[np.floating]) -> NDArray[np.int64]:
    """Count the positions at which Grad-CAM++'s alpha has a denominator that is not positive.

    Alpha is 1 / (2 + sum_ab A_kab · g_kij) at a position with gradient g_kij (Chattopadhyay et al., WACV 2018, equation 19,
    with g² cancelled). With activations that are not negative the denominator is at least 2 wherever the gradient is positive,
    and alpha between 0 and 1/2. Where a channel's sum is negative it can come near 0, where the weight explodes, or below it,
    where the weight changes its sign. Positions with a gradient of 0 or less have no weight, and are not counted.

    Args:
        activation: Batch × channels × height × width.
        gradient: d score / d activation, same shape; a view that repeats one value for each channel is read once.

    Returns:
        int64, batch: positions of all channels together, 0 to channels × height × width.
    """
    alike = 1
    if gradient.strides[2:] == (0, 0):
        alike, gradient = gradient.shape[2] * gradient.shape[3], gradient[:, :, :1, :1]
    counts = np.zeros(len(activation), np.int64)
    for index, (a, g) in enumerate(zip(activation, gradient, strict=True)):
        total = a.sum(axis=(1, 2), dtype=np.float64)
        for channel in np.flatnonzero(total < 0):
            slope = g[channel][g[channel] > 0].astype(np.float64)
            counts[index] += alike * np.count_nonzero(2.0 + total[channel] * slope <= 0)
    return counts
