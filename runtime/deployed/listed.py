"""Which providers a session lists, and what each of them is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcam.common.errors import ProviderError
from qcam.runtime.deployed.engines import engine_folder, engine_options, profile_shapes
from qcam.runtime.deployed.provider_options import BEHIND, ENGINES, NVIDIA, cuda_options, device_index, options_in_effect
from qcam.runtime.deployed.providers import PROVIDERS
from qcam.runtime.gpu import Gpu, gpu_names, read_gpu
from qcam.runtime.tf32 import forbid_tf32, refuse_tf32_override


@dataclass(frozen=True)
class SessionFile:
    """The file of a session, as far as what a provider is told depends on it.

    Attributes:
        sha256: Returns its fingerprint; asked only where engines are kept.
        quantized: Whether it holds quantizers.
        inputs: Input → its sizes, 0 where one is left open; empty if it cannot be read.
        image: Channels, height and width, in the order of the file's input.
        batch: The largest batch that will run.
    """

    sha256: Callable[[], str]
    quantized: bool
    inputs: Mapping[str, Sequence[int]]
    image: tuple[int, int, int]
    batch: int


def listed_providers(provider: str, given: Mapping[str, str], file: SessionFile, *, tf32: bool) -> list[Any]:
    """Return what a session lists: names, or pairs of name and options, the provider that was asked for first.

    Args:
        provider: Its short name; ONNX Runtime has it.
        given: Options that were asked for, checked.
        file: The file that is run.
        tf32: Whether a GPU may compute in TF32.

    Raises:
        ProviderError: If the environment overrides what is asked for, or there is no GPU of the number that was asked for.
        QcamError: If engines cannot be kept.
    """
    if provider in NVIDIA:
        refuse_tf32_override(tf32=tf32)
        _refuse_missing_gpu(device_index(given))
    told = options_in_effect(provider, given)
    if provider == "CUDA":
        told = cuda_options(provider, given, tf32=tf32)
    if provider in ENGINES:
        if not tf32:  # TensorRT has no option for it, and asks the environment when it is loaded
            forbid_tf32()
        if provider == "TensorRT" and file.quantized:
            told["trt_int8_enable"] = "1"
        told |= profile_shapes(file.inputs, file.batch, file.image, ENGINES[provider])
    if provider == "TensorRT" and (gpu := _known_gpu(device_index(given))) is not None:
        told |= engine_options(engine_folder(file.sha256(), gpu, told, tf32=tf32))
    listed: list[Any] = [(PROVIDERS[provider], told) if told else PROVIDERS[provider]]
    if provider in BEHIND:
        listed.append((PROVIDERS[BEHIND[provider]], cuda_options(provider, given, tf32=tf32)))
    return listed


def _refuse_missing_gpu(index: int) -> None:
    """Refuse the number of a GPU that is not there; where nobody tells of any, the provider's loader says better why.

    Raises:
        ProviderError: Names the GPUs that there are.
    """
    seen = gpu_names() if index else []
    if seen and index >= len(seen):
        listed = ", ".join(f"{number} ({name})" for number, name in enumerate(seen))
        raise ProviderError(
            f"{{provider_option}} device_id={index}: there is no such GPU; this process sees {listed}: choose one of these, or "
            "look at CUDA_VISIBLE_DEVICES"
        )


def _known_gpu(index: int) -> Gpu | None:
    """Return a GPU; None if nobody tells of one: then the provider does not load, and its loader says better why."""
    try:
        return read_gpu(index)
    except ProviderError:
        return None
