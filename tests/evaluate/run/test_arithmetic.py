"""A footer claims of a GPU's arithmetic what its settings hold, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from qcam.evaluate.run.arithmetic import float_arithmetic
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
