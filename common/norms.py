"""Norms of logits, which rooms compare that do not know each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def logit_error(logits: NDArray[Any], other: NDArray[Any], reference: NDArray[Any]) -> float:
    """Relative error of one image's logits in the Euclidean norm: |logits - other| / |reference|, 0 or more.

    Args:
        logits: One side, classes.
        other: The other side, classes.
        reference: The side whose norm is the scale, classes; the norm is taken in its own precision.

    Returns:
        float64; NaN where values are not finite on both sides, or where they differ and the reference is zero throughout.

    >>> logit_error(np.float32([3.0, 5.0]), np.float32([3.0, 4.0]), np.float32([3.0, 4.0]))
    0.2
    """
    with np.errstate(invalid="ignore", over="ignore"):
        difference = float(np.linalg.norm(logits.astype(np.float64) - other))
        size = float(np.linalg.norm(reference))
        if np.isinf(size):  # squares of finite logits may be beyond float32
            size = float(np.linalg.norm(reference.astype(np.float64)))
    if size == 0:  # the one score of a network may be 0
        return 0.0 if difference == 0 else float("nan")
    return difference / max(size, float(np.finfo(np.float64).tiny))
