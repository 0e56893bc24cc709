"""ONNX Runtime's own static quantizer, with its options."""

from __future__ import annotations

from typing import Any

from job import Job, Reader

NAME = "ONNX Runtime"
REQUIREMENTS = ["onnxruntime==1.32.0", "onnx==1.23.2", "sympy"]


def _quantize(job: Job, **options: Any) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(Reader, CalibrationDataReader):  # type: ignore[misc]
        pass

    for name in ("activation_type", "weight_type"):
        if name in options:
            options[name] = getattr(QuantType, options[name])
    prepared = job.output.with_suffix(".prepared.onnx")
    quant_pre_process(str(job.model), str(prepared))
    quantize_static(str(prepared), str(job.output), Pictures(job), **options)
    prepared.unlink()


def _qoperator(job: Job) -> None:
    from onnxruntime.quantization import QuantFormat

    _quantize(job, quant_format=QuantFormat.QOperator, activation_type="QUInt8")


U8S8 = {"activation_type": "QUInt8", "weight_type": "QInt8"}


def _variant(words: str, **options: Any) -> tuple[str, Any]:
    return words, lambda job: _quantize(job, **options)


VARIANTS = {
    "default": _variant("quantize_static as it is (s8 activations, s8 weights)"),
    "u8s8": _variant("activation_type=QUInt8", **U8S8),
    "u8u8": _variant("activation_type=QUInt8, weight_type=QUInt8", activation_type="QUInt8", weight_type="QUInt8"),
    "perchannel": _variant("activation_type=QUInt8, per_channel=True", **U8S8, per_channel=True),
    "s8s8perchannel": _variant(
        "per_channel=True, ActivationSymmetric", per_channel=True, extra_options={"ActivationSymmetric": True}
    ),
    "dedicated": _variant("activation_type=QUInt8, DedicatedQDQPair", **U8S8, extra_options={"DedicatedQDQPair": True}),
    "pairtoweight": _variant("activation_type=QUInt8, AddQDQPairToWeight", **U8S8, extra_options={"AddQDQPairToWeight": True}),
    "forceinput": _variant(
        "activation_type=QUInt8, ForceQuantizeNoInputCheck", **U8S8, extra_options={"ForceQuantizeNoInputCheck": True}
    ),
    "floatbias": _variant("activation_type=QUInt8, QuantizeBias=False", **U8S8, extra_options={"QuantizeBias": False}),
    "a16w8": _variant("activation_type=QUInt16, weight_type=QInt8", activation_type="QUInt16", weight_type="QInt8"),
    "a16w16": _variant("activation_type=QUInt16, weight_type=QInt16", activation_type="QUInt16", weight_type="QInt16"),
    "a16w8ms": _variant(
        "activation_type=QUInt16, UseQDQContribOps", activation_type="QUInt16", extra_options={"UseQDQContribOps": True}
    ),
    "u8s8ms": _variant("activation_type=QUInt8, UseQDQContribOps", **U8S8, extra_options={"UseQDQContribOps": True}),
    "qoperator": ("quant_format=QOperator, activation_type=QUInt8", _qoperator),
}
