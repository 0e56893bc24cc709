"""What an execution provider is told besides its name: which options there are, what they may be, and what qcam sets itself.

The keys are those of ONNX Runtime 1.24 to 1.32. One that is not in a table is refused, since ONNX Runtime reports some of them
late and others never; one that is a program's (streams, pointers) or qcam's own is refused as well, with the option to use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from qcam.common.errors import QcamError
from qcam.common.vocabulary import near, words

#: Providers that compute on an NVIDIA GPU.
NVIDIA = ("CUDA", "TensorRT", "NvTensorRTRTX")
#: Providers that build an engine of a file → what the options of its shapes begin with.
ENGINES = {"TensorRT": "trt", "NvTensorRTRTX": "nv"}
#: Provider → the one that is listed behind it: it takes what the first cannot, and that is told.
BEHIND = {"TensorRT": "CUDA"}


class ArenaExtendStrategy(StrEnum):
    """How a GPU's arena of memory grows: by what is asked for, or by ever larger pieces."""

    SAME_AS_REQUESTED = "kSameAsRequested"
    NEXT_POWER_OF_TWO = "kNextPowerOfTwo"


class ConvAlgorithmSearch(StrEnum):
    """How cuDNN's convolution is chosen: by rules, by what was fastest just now, or always the same."""

    HEURISTIC = "HEURISTIC"
    EXHAUSTIVE = "EXHAUSTIVE"
    DEFAULT = "DEFAULT"


class OpenVinoPrecision(StrEnum):
    """What OpenVINO computes float32 in."""

    FP32 = "FP32"
    FP16 = "FP16"
    ACCURACY = "ACCURACY"


class OpenVinoPriority(StrEnum):
    """Which network of OpenVINO comes first."""

    DEFAULT = "DEFAULT"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


class CoreMlFormat(StrEnum):
    """What CoreML is given."""

    NEURAL_NETWORK = "NeuralNetwork"
    ML_PROGRAM = "MLProgram"


class CoreMlUnits(StrEnum):
    """Where CoreML computes."""

    ALL = "ALL"
    CPU_ONLY = "CPUOnly"
    CPU_AND_NEURAL_ENGINE = "CPUAndNeuralEngine"
    CPU_AND_GPU = "CPUAndGPU"


#: No number of ONNX Runtime has more: the largest is 2**64 - 1.
_MOST_DIGITS = 20


@dataclass(frozen=True)
class _Whole:
    """A whole number.

    Attributes:
        least: The smallest.
        most: The largest; None without a limit.
    """

    least: int = 0
    most: int | None = None

    def read(self, text: str) -> str | None:
        """Return the value as ONNX Runtime takes it; None if it is none."""
        sign, digits = text[:1] == "-", text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS):
            return None
        value = -int(digits) if sign else int(digits)
        return str(value) if value >= self.least and (self.most is None or value <= self.most) else None

    def __str__(self) -> str:
        return f"a whole number, {self.least} or more" if self.most is None else f"a whole number, {self.least} to {self.most}"


@dataclass(frozen=True)
class _Flag:
    """Yes or no.

    Attributes:
        no: How ONNX Runtime spells it.
        yes: Likewise.
    """

    no: str = "0"
    yes: str = "1"

    def read(self, text: str) -> str | None:
        """Return the value as ONNX Runtime takes it; None if it is none."""
        return {"0": self.no, "false": self.no, "1": self.yes, "true": self.yes}.get(text.lower())

    def __str__(self) -> str:
        return "0 or 1"


@dataclass(frozen=True)
class _Word:
    """A word of a vocabulary.

    Attributes:
        vocabulary: All words.
    """

    vocabulary: type[StrEnum]

    def read(self, text: str) -> str | None:
        """Return the value as ONNX Runtime takes it, whatever its case; None if it is none."""
        return {word.lower(): word for word in words(self.vocabulary)}.get(text.lower())

    def __str__(self) -> str:
        return f"one of {', '.join(words(self.vocabulary))}"


@dataclass(frozen=True)
class _Text:
    """Any text but none."""

    def read(self, text: str) -> str | None:
        """Return the value as ONNX Runtime takes it; None if it is none."""
        return text.strip() or None

    def __str__(self) -> str:
        return "a text that is not empty"


_Kind = _Whole | _Flag | _Word | _Text
_NUMBER, _FLAG, _TEXT = _Whole(), _Flag(), _Text()
_BYTES = _Whole(1)
_SPELLED = _Flag("false", "true")

_OPTIONS: dict[str, dict[str, _Kind]] = {
    "CUDA": {
        "device_id": _NUMBER,
        "gpu_mem_limit": _Whole(1, 2**64 - 1),
        "arena_extend_strategy": _Word(ArenaExtendStrategy),
        "prefer_nhwc": _FLAG,
        "cudnn_conv_algo_search": _Word(ConvAlgorithmSearch),
        "cudnn_conv_use_max_workspace": _FLAG,
        "cudnn_conv1d_pad_to_nc1d": _FLAG,
        "do_copy_in_default_stream": _FLAG,
        "use_ep_level_unified_stream": _FLAG,
        "fuse_conv_bias": _FLAG,
        "enable_skip_layer_norm_strict_mode": _FLAG,
        "sdpa_kernel": _NUMBER,
    },
    "TensorRT": {
        "device_id": _NUMBER,
        "trt_max_partition_iterations": _BYTES,
        "trt_min_subgraph_size": _BYTES,
        "trt_max_workspace_size": _NUMBER,
        "trt_fp16_enable": _FLAG,
        "trt_bf16_enable": _FLAG,
        "trt_dla_enable": _FLAG,
        "trt_dla_core": _NUMBER,
        "trt_layer_norm_fp32_fallback": _FLAG,
        "trt_builder_optimization_level": _Whole(0, 5),
        "trt_build_heuristics_enable": _FLAG,
        "trt_auxiliary_streams": _Whole(-1),
        "trt_sparsity_enable": _FLAG,
        "trt_tactic_sources": _TEXT,
        "trt_op_types_to_exclude": _TEXT,
        "trt_context_memory_sharing_enable": _FLAG,
        "trt_force_sequential_engine_build": _FLAG,
        "trt_detailed_build_log": _FLAG,
    },
    "NvTensorRTRTX": {
        "device_id": _NUMBER,
        "nv_max_workspace_size": _NUMBER,
        "nv_max_shared_mem_size": _NUMBER,
        "nv_detailed_build_log": _FLAG,
        "nv_op_types_to_exclude": _TEXT,
    },
    "OpenVINO": {
        "device_type": _TEXT,
        "precision": _Word(OpenVinoPrecision),
        "num_of_threads": _BYTES,
        "num_streams": _BYTES,
        "cache_dir": _TEXT,
        "load_config": _TEXT,
        "model_priority": _Word(OpenVinoPriority),
        "enable_opencl_throttling": _SPELLED,
        "enable_qdq_optimizer": _SPELLED,
        "disable_dynamic_shapes": _SPELLED,
    },
    "CoreML": {
        "ModelFormat": _Word(CoreMlFormat),
        "MLComputeUnits": _Word(CoreMlUnits),
        "RequireStaticInputShapes": _FLAG,
    },
    "DirectML": {"device_id": _NUMBER},
    "MIGraphX": {"device_id": _NUMBER},
    "QNN": {"backend_path": _TEXT},
    "XNNPACK": {"intra_op_num_threads": _BYTES},
}

#: Options that are refused though there are such → why, and what to do.
_OWN = {
    **dict.fromkeys(("use_tf32",), "qcam sets it; allow TF32 by {tf32}"),
    **dict.fromkeys(("trt_int8_enable",), "qcam sets it for quantized files"),
    **dict.fromkeys(
        (
            *(f"trt_profile_{which}_shapes" for which in ("min", "opt", "max")),
            *(f"nv_profile_{which}_shapes" for which in ("min", "opt", "max")),
        ),
        "qcam sets them, for batches of 1 to {batch_size}",
    ),
    **dict.fromkeys(
        (
            "trt_engine_cache_enable", "trt_engine_cache_path", "trt_engine_cache_prefix", "trt_timing_cache_enable",
            "trt_timing_cache_path", "trt_force_timing_cache", "nv_runtime_cache_path",
        ),
        "qcam keeps engines itself, by file, GPU and versions, in the user's cache folder",
    ),
    **dict.fromkeys(
        (
            "user_compute_stream", "has_user_compute_stream", "gpu_external_alloc", "gpu_external_free",
            "gpu_external_empty_cache", "default_memory_arena_cfg",
        ),
        "it is an address in a program's memory",
    ),
    **dict.fromkeys(
        ("enable_cuda_graph", "trt_cuda_graph_enable"), "a graph of kernels is of one size, and batches are not"
    ),
    **dict.fromkeys(
        ("tunable_op_enable", "tunable_op_tuning_enable", "tunable_op_max_tuning_duration_ms"),
        "kernels that are chosen by time differ from run to run",
    ),
}  # fmt: skip

#: What qcam tells a provider where nothing else is asked for.
_DEFAULTS: dict[str, dict[str, str]] = {
    "CUDA": {
        # Pieces that double would take twice of what three sessions need.
        "arena_extend_strategy": ArenaExtendStrategy.SAME_AS_REQUESTED.value,
        # ONNX Runtime's own choice is what was fastest just now: another kernel in the next run, and other bits.
        "cudnn_conv_algo_search": ConvAlgorithmSearch.HEURISTIC.value,
    },
}


def checked_options(provider: str, given: Mapping[str, str]) -> dict[str, str]:
    """Check options, and spell them as ONNX Runtime does.

    Args:
        provider: Short name of the provider.
        given: Key → value.

    Returns:
        The same keys, in the order of their names.

    Raises:
        QcamError: If a key is unknown, with those most like it, or is not to be set, or a value is none that it may have.
    """
    table = _OPTIONS.get(provider, {})
    found = {}
    for key in sorted(given):
        value, kind = given[key], table.get(key)
        named = f"{{provider_option}} {key[:80]}"
        if kind is None:
            raise QcamError(f"{named}: {_why_not(provider, key, table)}")
        read = kind.read(value) if isinstance(value, str) else None
        if read is None:
            raise QcamError(f"{named}={str(value)[:80]}: give {kind}, as text")
        found[key] = read
    return found


def options_in_effect(provider: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return what a provider is told by a run's settings, as a plan records it.

    What follows from other entries of the plan (TF32, the precision, the batch size) and where caches lie is left out.

    Args:
        provider: Short name of the provider.
        given: What was asked for, checked.
    """
    return dict(sorted((_DEFAULTS.get(provider, {}) | dict(given)).items()))


def device_index(given: Mapping[str, str]) -> int:
    """Return which GPU was asked for, of those that this process sees."""
    text = given.get("device_id", "0")
    return int(text) if text.isdigit() else 0


def cuda_options(provider: str, given: Mapping[str, str], *, tf32: bool) -> dict[str, str]:
    """Return what the CUDA provider is told: the one that was asked for, or the one behind another.

    Args:
        provider: The provider that was asked for.
        given: What was asked for, checked.
        tf32: Whether TF32 is allowed.
    """
    own = dict(given) if provider == "CUDA" else {key: value for key, value in given.items() if key == "device_id"}
    return options_in_effect("CUDA", own) | {"use_tf32": str(int(tf32))}


def _why_not(provider: str, key: str, table: Mapping[str, _Kind]) -> str:
    """Say why a key is not taken."""
    if key in _OWN:
        return f"{_OWN[key]}; leave it out"
    if not table:
        return f"qcam passes no options to {provider}; leave it out"
    others = [name for name in _OPTIONS if key in _OPTIONS[name]]
    close = near(key, table)
    advice = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(table)}"
    return f"{provider} has no such option{f', {others[0]} has' if others else ''}; {advice}"
