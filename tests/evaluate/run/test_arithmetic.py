"""A footer claims of a GPU's arithmetic what its settings hold, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qcam.evaluate.run.arithmetic import arithmetic_lines, float_arithmetic, seven_bits
from qcam.runtime.deployed import SessionSettings


@pytest.mark.parametrize(
    ("provider", "told", "tf32", "said"),
    [
        ("CUDA", {}, False, "float32 in float32 (TF32 off), kernels that repeat themselves"),
        ("CUDA", {}, True, "products of float32 in TF32 where it has it, kernels that repeat themselves"),
        (
            "CUDA", {"cudnn_conv_algo_search": "EXHAUSTIVE"}, False,
            "float32 in float32 (TF32 off), kernels chosen by time (cudnn_conv_algo_search=EXHAUSTIVE): another run may take "
            "others",
        ),
        ("CUDA", {"cudnn_conv_algo_search": "DEFAULT"}, False, "float32 in float32 (TF32 off), kernels that repeat themselves"),
        (
            "TensorRT", {"trt_fp16_enable": "1", "trt_bf16_enable": "1"}, False,
            "float32 also in float16 (trt_fp16_enable=1) and bfloat16 (trt_bf16_enable=1), kernels that repeat themselves",
        ),
        ("TensorRT", {"trt_fp16_enable": "0"}, False, "float32 in float32 (TF32 off), kernels that repeat themselves"),
        (
            "NvTensorRTRTX", {}, False,
            "float32 in float32 (TF32 off), kernels of an engine that is not kept: another run may take others",
        ),
    ],
)  # fmt: skip
def test_words_follow_what_the_provider_is_told(provider: str, told: dict[str, str], tf32: Any, said: str) -> None:
    assert float_arithmetic(SessionSettings(provider, provider_options=told, tf32=tf32)) == said


@pytest.mark.parametrize(
    ("name", "dtype", "said"), [("a16", "uint16", True), ("int16", "float32", True), ("a8", "uint8", False)]
)
def test_what_has_no_16_bit_kernels_is_told_by_the_tap_and_not_by_the_name_alone(name: str, dtype: str, said: bool) -> None:
    kernels = (("Conv", "CPUExecutionProvider"),)
    placement = SimpleNamespace(
        float_kernels=4, integer_kernels=0, copies=0, providers={"CPUExecutionProvider"}, kernels=kernels, fallback="",
        describe=lambda: "float arithmetic between Q and DQ", config={},
    )  # fmt: skip
    entry = SimpleNamespace(name=name, tap=SimpleNamespace(dtype=dtype), remark="")
    session = SimpleNamespace(entry=entry, placement=placement)
    model = SimpleNamespace(bundle=SimpleNamespace(model_id="net"), deployed={name: session})
    (line,) = arithmetic_lines([model], "CPU")  # type: ignore[list-item]
    assert ("the CPU provider has no 16-bit integer kernels" in line) is said


def test_seven_bits_are_had_from_whoever_quantized_the_file() -> None:
    own, other = (SimpleNamespace(quantization=SimpleNamespace(further=of)) for of in ({}, {"imported": {}}))
    told = "quantize again with weights of 7 bits in the tool that made the file (ONNX Runtime: "
    told += "quantize_static(reduce_range=True))"
    assert seven_bits([own, own]) == seven_bits([]) == "{qcam-export} {reduce_range}"
    assert seven_bits([other]) == told
    assert seven_bits([own, other]) == f"{{qcam-export}} {{reduce_range}}, and for imported files: {told}"
