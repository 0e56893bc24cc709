"""The name of a saliency source becomes that source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qcam.common.assets import U2NETP, asset_files
from qcam.common.errors import QcamError
from qcam.evaluate.saliency.birefnet import BirefnetSaliency
from qcam.evaluate.saliency.cache import CachedSaliency
from qcam.evaluate.saliency.mask_levels import MaskRules
from qcam.evaluate.saliency.masks import MaskSaliency
from qcam.evaluate.saliency.network import NetworkSaliency
from qcam.evaluate.saliency.settings import network_settings
from qcam.evaluate.saliency.source import SaliencySource
from qcam.evaluate.saliency.spectral import SpectralSaliency

_CHOICES = "u2netp, birefnet[:WHERE], onnx:FILE, masks:DIR, spectral or none"


def open_saliency(
    text: str,
    threads: int = 0,
    *,
    preset: str | None = None,
    options: Mapping[str, str] | None = None,
    trust_remote_code: bool = False,
    cache: Path | None = None,
    device: str = "cpu",
    mask_classes: str | None = None,
    mask_void: str | None = None,
) -> SaliencySource | None:
    """Make the source of a name.

    Args:
        text: `u2netp`, `birefnet`, `birefnet:FOLDER`, `birefnet:HUB_ID@REVISION`, `onnx:FILE`, `masks:DIR`, `spectral` or
            `none`.
        threads: Threads of an ONNX network's session.
        preset: How a network wants its input (`settings.PRESETS`); for onnx:FILE.
        options: Overrides of single settings; for networks.
        trust_remote_code: Whether the code that a birefnet model brings may run.
        cache: Folder in which networks' maps are kept; None keeps none.
        device: PyTorch's name of the device that birefnet runs on.
        mask_classes: What of masks is the object (`MaskRules.of`).
        mask_void: What of masks counts neither way (`MaskRules.of`).

    Raises:
        QcamError: If it is something else or cannot be had.
    """
    kind, _, where = text.partition(":")
    options = options or {}
    if (preset is not None and kind != "onnx") or (options and kind not in ("onnx", "u2netp", "birefnet")):
        raise QcamError(f"{{saliency_preset}} belongs to onnx:FILE, {{saliency_option}} to a network; {{saliency}} is {text}")
    if (mask_classes is not None or mask_void is not None) and kind != "masks":
        raise QcamError(f"{{mask_classes}} and {{mask_void}} belong to masks:DIR; {{saliency}} is {text}")
    if kind in ("masks", "onnx") and not where.strip():
        needed = "DIR, the folder that holds the masks" if kind == "masks" else "FILE, the network's"
        raise QcamError(f"{{saliency}} {text} names nothing; write {kind}:{needed}")
    if text == "none":
        return None
    if text == "spectral":
        return SpectralSaliency()
    if kind == "masks":
        return MaskSaliency(text, Path(where), MaskRules.of(mask_classes, mask_void))
    if text == "u2netp":
        (file,) = asset_files(U2NETP)
        network = NetworkSaliency(text, file, network_settings("u2netp", options), threads)
        return CachedSaliency(_of_wanted_size(network, options), cache)
    if kind == "onnx":
        network = NetworkSaliency(text, Path(where), network_settings(preset, options), threads)
        return CachedSaliency(_of_wanted_size(network, options), cache)
    if kind == "birefnet" and (where or text == "birefnet"):
        settings = network_settings("birefnet", options)
        model = BirefnetSaliency(text, where, settings, trust_remote_code=trust_remote_code, device=device)
        return CachedSaliency(model, cache)
    raise QcamError(f"saliency {text!r} is unknown; choose {_CHOICES}")


def with_absolute_path(text: str) -> str:
    """Return the name of a source with the folder or file in it absolute, so that it means the same from everywhere."""
    kind, separator, where = text.partition(":")
    return f"{kind}:{Path(where).absolute()}" if separator and where and Path(where).exists() else text


def _of_wanted_size(network: NetworkSaliency, options: Mapping[str, str]) -> NetworkSaliency:
    """Refuse a size that the network's file does not allow; a preset's size gives way to the file's."""
    if "size" in options and network.size != (int(options["size"]),) * 2:
        height, width = network.size
        raise QcamError(
            f"{network.name} takes {width}×{height} pixels only; leave out {{saliency_option}} size={options['size']}"
        )
    return network
