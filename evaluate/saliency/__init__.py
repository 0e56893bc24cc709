"""Salient-object maps: from networks in ONNX Runtime or transformers, from files, or from the image's own spectrum."""

from qcam.evaluate.saliency.cache import CachedSaliency, default_cache
from qcam.evaluate.saliency.masks import MaskSaliency
from qcam.evaluate.saliency.network import NetworkSaliency
from qcam.evaluate.saliency.opening import open_saliency, with_absolute_path
from qcam.evaluate.saliency.settings import NetworkSettings
from qcam.evaluate.saliency.source import NoMapError, NoObjectError, SaliencySource, crop_map

__all__ = [
    "CachedSaliency",
    "MaskSaliency",
    "NetworkSaliency",
    "NetworkSettings",
    "NoMapError",
    "NoObjectError",
    "SaliencySource",
    "crop_map",
    "default_cache",
    "open_saliency",
    "with_absolute_path",
]
