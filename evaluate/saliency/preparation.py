"""What every salient-object network shares: an image becomes its input, its output becomes a map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.evaluate.saliency.settings import NetworkSettings
from qcam.evaluate.saliency.source import NoMapError, NoObjectError

#: Part of every network's fingerprint: raised when a change here would change a map.
PROCEDURE = 2
#: How far an output that is called a probability may lie outside 0..1, by rounding.
_ROUNDING = 1e-3


def network_input(image: Image.Image, settings: NetworkSettings, size: tuple[int, int]) -> NDArray[np.float32]:
    """Make a network's input of an image.

    Args:
        image: RGB.
        settings: Filter, scale, mean and standard deviation.
        size: Height and width of the input; the image is squashed to it.

    Returns:
        float32, 1 × 3 × height × width.
    """
    filter_ = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}[settings.resampling]
    pixels = np.asarray(image.resize((size[1], size[0]), filter_), np.float32)
    scaled = pixels / np.float32(max(float(pixels.max()), 1e-6) if settings.scale_by_maximum else 255.0)
    normalised = (scaled - np.asarray(settings.mean, np.float32)) / np.asarray(settings.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])


def finished_map(raw: NDArray[Any], settings: NetworkSettings) -> NDArray[np.float32]:
    """Make a map of a network's output.

    Args:
        raw: The output; height × width, or with further axes of length 1.
        settings: What the output is, background and stretch.

    Returns:
        float32, 0..1, height × width.

    Raises:
        NoObjectError: If no probability reaches `settings.background`. The map is not stretched then: noise would look like
            an object.
        NoMapError: If it is not one map, or its values are not finite, or not what the output was declared to be.
    """
    values = np.squeeze(raw).astype(np.float64)
    if values.ndim != 2:
        raise NoMapError(f"the salient-object network returned shape {values.shape}, not one map")
    if not np.isfinite(values).all():
        raise NoMapError("the salient-object network returned NaN or infinity")
    low, high = float(values.min()), float(values.max())
    reach = f"the salient-object network's output reaches from {low:.3g} to {high:.3g}"
    if settings.output == "logits":
        # Of logits, all in 0..1 would mean that nothing is background and nothing an object.
        if 0 <= low < high <= 1:
            raise NoMapError(f"{reach}, which are no logits; try output=probabilities")
        values = 1.0 / (1.0 + np.exp(-np.clip(values, -700.0, 700.0)))
        low, high = float(values.min()), float(values.max())
    elif settings.output == "bytes":
        if low < 0 or high > 255 or 0 < high <= 1:
            raise NoMapError(f"{reach}, which are no bytes; try output=probabilities or output=logits")
        values, low, high = values / 255.0, low / 255.0, high / 255.0
    elif low < -_ROUNDING or high > 1.0 + _ROUNDING:
        raise NoMapError(f"{reach}, which are no probabilities; try output=logits or output=bytes")
    if high < settings.background:
        raise NoObjectError(f"largest probability {high:.2f}, {settings.background:g} wanted")
    if settings.stretch and high > low:  # a constant one stays as it is, for the caller to count
        values = (values - low) / (high - low)
    result: NDArray[np.float32] = np.clip(values, 0.0, 1.0).astype(np.float32)
    return result
