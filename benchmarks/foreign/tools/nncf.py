"""NNCF's post-training quantization of ONNX files."""

from __future__ import annotations

from typing import Any

from job import Job

NAME = "NNCF"
REQUIREMENTS = ["nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0", "torch==2.13.0"]


def _quantize(job: Job, **options: Any) -> None:
    import nncf
    import onnx

    for name, kind in (("preset", "QuantizationPreset"), ("target_device", "TargetDevice")):
        if name in options:
            options[name] = getattr(getattr(nncf, kind), options[name])
    if "advanced" in options:
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(**options.pop("advanced"))
    model = onnx.load(str(job.model))
    pictures = nncf.Dataset(job.feeds())
    onnx.save(nncf.quantize(model, pictures, subset_size=len(job.pictures), **options), str(job.output))


def _variant(words: str, **options: Any) -> tuple[str, Any]:
    return words, lambda job: _quantize(job, **options)


VARIANTS = {
    "default": _variant("nncf.quantize as it is"),
    "mixed": _variant("preset=MIXED", preset="MIXED"),
    "cpuspr": _variant("target_device=CPU_SPR", target_device="CPU_SPR"),
    "npu": _variant("target_device=NPU", target_device="NPU"),
    "accurate": _variant("fast_bias_correction=False", fast_bias_correction=False),
}
