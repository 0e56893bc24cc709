"""How salient-object networks want their input and give their output: presets, and options that override them.

The presets are what the networks' own repositories do at inference: U²-Net's data_loader.py (ToTensorLab, flag 0) and
u2net_test.py (normPRED), DIS's IS-Net/Inference.py, BiRefNet's model card. rembg feeds IS-Net and BiRefNet otherwise: pixels by
the image's maximum, Lanczos, IS-Net with ImageNet's mean, BiRefNet's map stretched; options can say that too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qcam.common.errors import QcamError
from qcam.evaluate.saliency.source import BACKGROUND

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
#: What a network's output may be; "" is undeclared.
OUTPUTS = ("logits", "probabilities", "bytes")
RESAMPLINGS = ("lanczos", "bilinear")
#: Letters of an option that a message shows.
_SHOWN = 80
#: Longest side of a network's input, in pixels.
LARGEST_SIDE = 4096


@dataclass(frozen=True)
class NetworkSettings:
    """How a salient-object network wants its input and gives its output.

    Attributes:
        mean: Subtracted from R, G, B.
        std: Divides R, G, B.
        scale_by_maximum: Whether pixels are divided by the image's own maximum (U²-Net) rather than by 255.
        index: Index of the output that is the map; negative from the last.
        size: Side of the square input where the file leaves it open.
        resampling: Filter that squashes the image to the input: `lanczos` or `bilinear`, both with antialiasing.
        output: What the output is: `logits`, `probabilities` or `bytes` (0..255); empty: not declared, so that an ONNX graph
            has to say it by ending in a sigmoid.
        stretch: Whether a map in which something was found is stretched to 0..1, as U²-Net's authors do.
        background: Probability that some position has to reach; a map below is all background.
    """

    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    scale_by_maximum: bool = False
    index: int = 0
    size: int = 320
    resampling: str = "lanczos"
    output: str = ""
    stretch: bool = True
    background: float = BACKGROUND


#: Presets: settings by name.
PRESETS = {
    "plain": NetworkSettings(),
    "u2net": NetworkSettings(scale_by_maximum=True, output="probabilities"),
    "u2netp": NetworkSettings(scale_by_maximum=True, output="probabilities"),
    "silueta": NetworkSettings(scale_by_maximum=True, output="probabilities"),
    "isnet": NetworkSettings(mean=(0.5,) * 3, std=(1.0,) * 3, size=1024, resampling="bilinear", output="probabilities"),
    "birefnet": NetworkSettings(index=-1, size=1024, resampling="bilinear", stretch=False, output="logits"),
}


def network_settings(preset: str | None, options: Mapping[str, str]) -> NetworkSettings:
    """Return a preset's settings with some overridden.

    Args:
        preset: One of `PRESETS`; None for `plain`: ImageNet's mean and standard deviation, pixels by 255.
        options: `size`, `mean`, `std` (one number or three with commas), `scale` (255 or maximum), `output` (logits,
            probabilities or bytes), `index` (of the output), `resampling` (lanczos or bilinear), `stretch` (yes or no),
            `background` (0..1), as text. As in earlier versions, `output` may be the index, and `activation` says
            sigmoid (logits) or none (probabilities).

    Raises:
        QcamError: If the preset, an option or its value is unknown.
    """
    if preset is not None and preset not in PRESETS:
        raise QcamError(f"saliency preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    settings = PRESETS[preset or "plain"]
    for key, text in _renamed(options).items():
        if key not in _OPTIONS:
            raise QcamError(f"saliency option {key[:_SHOWN]!r} is unknown; choose one of {', '.join(_OPTIONS)}")
        field, read, wanted = _OPTIONS[key]
        try:
            settings = replace(settings, **{field: read(text)})
        except (ValueError, KeyError) as error:
            raise QcamError(f"saliency option {key}={text[:_SHOWN]}: give {wanted}") from error
    return settings


def _renamed(options: Mapping[str, str]) -> dict[str, str]:
    """Return options by today's names: `output=1` was the index, and `activation` said what the output is.

    Raises:
        QcamError: If an old name and its new one are both there.
    """
    found: dict[str, str] = {}
    for key, text in options.items():
        if key == "output" and text.lstrip("-").isdecimal():
            key = "index"
        elif key == "activation":
            if text == "auto":
                continue
            key, text = "output", {"sigmoid": "logits", "none": "probabilities"}.get(text, text)
        if key in found and found[key] != text:
            raise QcamError(f"saliency option {key} is given twice, as {found[key]} and as {text}; leave one out")
        found[key] = text
    return found


def _colours(text: str) -> tuple[float, float, float]:
    numbers = [float(part) for part in text.split(",")]
    first, second, third = numbers * 3 if len(numbers) == 1 else numbers
    if not all(abs(number) < 1e6 for number in (first, second, third)):
        raise ValueError(text)
    return first, second, third


def _divisors(text: str) -> tuple[float, float, float]:
    found = _colours(text)
    if 0.0 in found:
        raise ValueError(text)
    return found


def _between(low: float, high: float, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return read


def _one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    return {name: name for name in names}.__getitem__


#: Option → field, how its text is read, what to give.
_OPTIONS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "size": ("size", _between(1, LARGEST_SIDE, int), f"the side of the input in pixels, 1 to {LARGEST_SIDE}"),
    "mean": ("mean", _colours, "one number or three with commas"),
    "std": ("std", _divisors, "one number or three with commas, none of them 0"),
    "scale": ("scale_by_maximum", {"255": False, "maximum": True}.__getitem__, "255 or maximum"),
    "output": ("output", _one_of(OUTPUTS), f"what the output is: {', '.join(OUTPUTS)}"),
    "index": ("index", _between(-10_000, 10_000, int), "the index of an output, from 0, or from -1 for the last"),
    "resampling": ("resampling", _one_of(RESAMPLINGS), " or ".join(RESAMPLINGS)),
    "stretch": ("stretch", {"yes": True, "no": False}.__getitem__, "yes or no"),
    "background": ("background", _between(0.0, 1.0, float), "a probability, 0 to 1"),
}
