"""Qualcomm's AIMET for ONNX: quantization simulation, exported as QDQ."""

from __future__ import annotations

from typing import Any

from job import Job

NAME = "AIMET"
REQUIREMENTS = ["aimet-onnx==2.42.0", "onnxruntime==1.32.0"]


def _quantize(job: Job, **options: Any) -> None:
    import onnx
    from aimet_onnx.quantsim import QuantizationSimModel

    simulation = QuantizationSimModel(onnx.load(str(job.model)), providers=["CPUExecutionProvider"], **options)
    simulation.compute_encodings(job.feeds())
    onnx.save(simulation.to_onnx_qdq(), str(job.output))


def _variant(words: str, **options: Any) -> tuple[str, Any]:
    return words, lambda job: _quantize(job, **options)


VARIANTS = {
    "a8w8": _variant("param_type=int8, activation_type=int8", param_type="int8", activation_type="int8"),
    "a16w8": _variant("param_type=int8, activation_type=int16", param_type="int8", activation_type="int16"),
    "a16w16": _variant("param_type=int16, activation_type=int16", param_type="int16", activation_type="int16"),
    "htp": _variant(
        "param_type=int8, activation_type=int8, config_file=htp_v81",
        param_type="int8", activation_type="int8", config_file="htp_v81",
    ),
}  # fmt: skip
