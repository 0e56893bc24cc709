"""What sessions really compute in, in words: integer or float, and whether they fell back to another provider."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qcam.evaluate.run.facts import ModelFacts
from qcam.evaluate.run.ran import Deployed
from qcam.runtime.bundle import PrecisionEntry
from qcam.runtime.deployed import Placement, SessionSettings
from qcam.runtime.deployed.providers import PROVIDERS
from qcam.runtime.session_config import described
from qcam.runtime.tables import CODE_BITS

#: Options of a provider that make float32 something else → what.
_NARROW = {"trt_fp16_enable": "float16", "trt_bf16_enable": "bfloat16"}


def float_arithmetic(settings: SessionSettings) -> str:
    """Say what a GPU may compute float32 in, and whether its kernels repeat themselves, by what it was told.

    Args:
        settings: How sessions are made; of the mirrors on a GPU, TF32 alone counts.
    """
    told = settings.provider_options
    narrow = [f"{kind} ({key}=1)" for key, kind in _NARROW.items() if told.get(key) == "1"]
    said = "products of float32 in TF32 where it has it" if settings.tf32 else "float32 in float32 (TF32 off)"
    if narrow:
        said = f"float32 also in {' and '.join(narrow)}{', in TF32 where it has it' if settings.tf32 else ''}"
    if told.get("cudnn_conv_algo_search") == "EXHAUSTIVE":
        return f"{said}, kernels chosen by time (cudnn_conv_algo_search=EXHAUSTIVE): another run may take others"
    if settings.provider == "NvTensorRTRTX":
        return f"{said}, kernels of an engine that is not kept: another run may take others"
    return f"{said}, kernels that repeat themselves"


def arithmetic_lines(models: Sequence[ModelFacts], provider: str) -> list[str]:
    """Say for each model and precision what the provider really computes in, and whether it fell back."""
    lines = []
    for model in models:
        if not model.deployed:
            continue
        said = [f"{name}: {_told(session)}" for name, session in model.deployed.items()]
        ran = {name for session in model.deployed.values() for _, name in session.placement.kernels}
        where = provider if not fallback_reasons([model]) else f"{', '.join(sorted(ran))} (asked for {provider})"
        lines.append(f"{model.bundle.model_id} on {where} — " + "; ".join(said))
    return lines


def _told(session: Deployed) -> str:
    """Say what a session computes in, under which settings, and what nobody may take for granted."""
    parts = (_arithmetic(session.entry, session.placement), described(session.placement.config), session.entry.remark)
    return "; ".join(filter(None, parts))


def _arithmetic(entry: PrecisionEntry, placement: Placement) -> str:
    precision = entry.name
    if precision == "f32" and placement.float_kernels:
        return f"float; {placement.copies} copies" if placement.copies else "float"
    said = placement.describe()
    all_float = placement.float_kernels and not placement.integer_kernels
    wide = precision == "int16" or CODE_BITS.get(entry.tap.dtype) == 16
    if wide and all_float and placement.providers == {PROVIDERS["CPU"]}:
        return f"{said}: the CPU provider has no 16-bit integer kernels"
    if PROVIDERS["CUDA"] in placement.providers and all_float:
        return f"{said}: {precision} on CUDA is float arithmetic between Q and DQ, it has no integer kernels"
    return said


def seven_bits(entries: Iterable[PrecisionEntry]) -> str:
    """Say how weights of files come to keep to 7 bits, with tokens for options.

    Args:
        entries: The precisions; imported ones were quantized by other tools.
    """
    imported = {"imported" in entry.quantization.further for entry in entries}
    own = "{qcam-export} {reduce_range}"
    tool = "the tool that made the file (ONNX Runtime: quantize_static(reduce_range=True))"
    other = f"quantize again with weights of 7 bits in {tool}"
    if imported == {True}:
        return other
    return f"{own}, and for imported files: {other}" if True in imported else own


def fallback_reasons(models: Sequence[ModelFacts]) -> list[str]:
    """Return why sessions are not wholly on the provider that was asked for, each reason once."""
    reasons = (session.placement.fallback for model in models for session in model.deployed.values())
    return list(dict.fromkeys(reason for reason in reasons if reason))
