"""Options of execution providers: by table, or refused."""

from __future__ import annotations

import pytest

from qcam.common.errors import QcamError
from qcam.runtime.deployed.provider_options import (
    BEHIND,
    NVIDIA,
    checked_options,
    cuda_options,
    device_index,
    options_in_effect,
)
from qcam.runtime.deployed.providers import PROVIDERS


@pytest.mark.parametrize(
    ("provider", "key", "value", "message"),
    [
        ("CUDA", "gpu_mem_limt", "1", r"CUDA has no such option; did you mean gpu_mem_limit\?"),
        ("CUDA", "trt_fp16_enable", "1", "CUDA has no such option, TensorRT has; choose one of device_id, gpu_mem_limit"),
        ("CPU", "device_id", "0", "qcam passes no options to CPU; leave it out"),
        ("CUDA", "use_tf32", "1", "qcam sets it; allow TF32 by tf32=True; leave it out"),
        ("CUDA", "user_compute_stream", "1", "an address in a program's memory"),
        ("CUDA", "enable_cuda_graph", "1", "is of one size, and batches are not"),
        ("TensorRT", "trt_int8_enable", "1", "qcam sets it for quantized files"),
        ("TensorRT", "trt_profile_max_shapes", "x:1x3x8x8", "for batches of 1 to batch_size"),
        ("TensorRT", "trt_engine_cache_path", "/tmp", "qcam keeps engines itself"),
        ("CUDA", "device_id", "-1", "=-1: give a whole number, 0 or more"),
        ("CUDA", "device_id", "first", "give a whole number, 0 or more"),
        ("CUDA", "device_id", "", "give a whole number, 0 or more"),
        ("CUDA", "device_id", "²", "give a whole number, 0 or more"),
        ("CUDA", "device_id", "9" * 5000, "give a whole number, 0 or more"),
        ("CUDA", "gpu_mem_limit", "4GB", "give a whole number, 1 to 18446744073709551615"),
        ("CUDA", "gpu_mem_limit", "18446744073709551616", "give a whole number, 1 to 18446744073709551615"),
        ("TensorRT", "trt_auxiliary_streams", "-" + "1" * 21, "give a whole number, -1 or more"),
        ("CUDA", "prefer_nhwc", "perhaps", "give 0 or 1"),
        ("CUDA", "arena_extend_strategy", "kBig", "give one of kSameAsRequested, kNextPowerOfTwo"),
        ("TensorRT", "trt_builder_optimization_level", "6", "give a whole number, 0 to 5"),
        ("OpenVINO", "device_id", "0", "OpenVINO has no such option, CUDA has; did you mean device_type"),
        ("OpenVINO", "device_type", " ", "give a text that is not empty"),
        ("OpenVINO", "precision", "INT4", "give one of FP32, FP16, ACCURACY"),
        ("CUDA", "device_id", 1, "give a whole number, 0 or more, as text"),
    ],
)
def test_an_option_that_there_is_not_or_cannot_be_so_is_refused(provider, key, value, message) -> None:
    with pytest.raises(QcamError, match=rf"^provider_options {key}.*{message}"):
        checked_options(provider, {key: value})


def test_values_are_spelled_as_onnx_runtime_does() -> None:
    given = {"prefer_nhwc": "True", "gpu_mem_limit": "0004", "device_id": "1", "arena_extend_strategy": "ksameasrequested"}
    assert checked_options("CUDA", given) == {
        "arena_extend_strategy": "kSameAsRequested", "device_id": "1", "gpu_mem_limit": "4", "prefer_nhwc": "1"
    }  # fmt: skip
    assert checked_options("OpenVINO", {"disable_dynamic_shapes": "1", "device_type": "GPU.0"}) == {
        "device_type": "GPU.0", "disable_dynamic_shapes": "true"
    }  # fmt: skip
    assert checked_options("TensorRT", {"trt_auxiliary_streams": "-1"}) == {"trt_auxiliary_streams": "-1"}


def test_what_is_recorded_is_what_is_in_effect() -> None:
    grows = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
    assert options_in_effect("CUDA", {}) == grows
    assert options_in_effect("CUDA", {"cudnn_conv_algo_search": "DEFAULT", "device_id": "1"}) == {
        "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "DEFAULT", "device_id": "1"
    }  # fmt: skip
    assert options_in_effect("CPU", {}) == {}
    assert options_in_effect("TensorRT", {"trt_fp16_enable": "1"}) == {"trt_fp16_enable": "1"}


def test_tf32_is_off_unless_it_is_allowed() -> None:
    assert cuda_options("CUDA", {}, tf32=False)["use_tf32"] == "0"
    assert cuda_options("CUDA", {"prefer_nhwc": "1"}, tf32=True) == {
        "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "1", "use_tf32": "1"
    }  # fmt: skip
    behind = cuda_options("TensorRT", {"device_id": "1", "trt_fp16_enable": "1"}, tf32=False)
    assert behind == cuda_options("CUDA", {"device_id": "1"}, tf32=False)


def test_the_gpu_that_was_asked_for_is_counted_from_0() -> None:
    assert (device_index({}), device_index({"device_id": "2"}), device_index({"device_id": "GPU.0"})) == (0, 2, 0)


def test_providers_are_known_by_name() -> None:
    assert {*NVIDIA, *BEHIND, *BEHIND.values()} <= set(PROVIDERS)
    assert PROVIDERS["NvTensorRTRTX"] == "NvTensorRTRTXExecutionProvider"
