"""NVIDIA's ModelOpt for ONNX."""

from __future__ import annotations

from typing import Any

from job import Job

NAME = "NVIDIA ModelOpt"
REQUIREMENTS = ["nvidia-modelopt[onnx]==0.47.0", "torch==2.13.0"]


def _quantize(job: Job, **options: Any) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        onnx_path=str(job.model),
        calibration_data={job.input_name: job.pictures},
        calibration_eps=["cpu"],
        output_path=str(job.output),
        **options,
    )


def _variant(words: str, **options: Any) -> tuple[str, Any]:
    return words, lambda job: _quantize(job, **options)


INT8: dict[str, Any] = {"quantize_mode": "int8", "high_precision_dtype": "fp32"}
VARIANTS = {
    "default": _variant("quantize_mode=int8", quantize_mode="int8"),
    "fp32": _variant("quantize_mode=int8, high_precision_dtype=fp32", **INT8),
    "max": _variant("quantize_mode=int8, high_precision_dtype=fp32, calibration_method=max", **INT8, calibration_method="max"),
}
