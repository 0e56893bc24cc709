"""What ONNX Runtime says where a provider does not load, and what a user is told to do.

The texts are those of onnxruntime-gpu 1.31.1 (CUDA 13) on a machine without GPU and driver, its libraries taken away one by
one; those that need a card are from reports of others.
"""

import sys

import pytest

from qcam.runtime.deployed import loading
from qcam.runtime.deployed.loading import (
    Wheels,
    explain_failed_run,
    explain_not_loaded,
    installed_wheels,
    loader_reason,
    provider_failed,
    torch_may_help,
)

CUDA_13 = Wheels("onnxruntime-gpu 1.31.1", 13, "torch 2.14.1", 13)
LIBRARY = (
    "\x1b[1;31m2026-11-26 02:09:28.216480085 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
    "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
    "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
    "/x/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: {library}: cannot open shared object file: "
    "No such file or directory\n\x1b[m\n"
    "\x1b[0;93m2026-11-26 02:09:28.216530794 [W:onnxruntime:Default, onnxruntime_pybind_state.cc:1295 "
    "CreateExecutionProviderFactoryInstance] Failed to create CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*. "
    "Please install all dependencies as mentioned in the GPU requirements page, make sure they're in the PATH, and that your "
    "GPU is supported.\x1b[m\n"
)
PRELOAD = "Failed to load libcublasLt.so.13: libcublasLt.so.13: cannot open shared object file: No such file or directory\n"
TENSORRT = (
    "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void onnxruntime::python::"
    "RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const onnxruntime::ProviderOptions&) Please install TensorRT "
    "libraries as mentioned in the GPU requirements page, make sure they're in the PATH or LD_LIBRARY_PATH, and that your "
    "GPU is supported.\n"
)
OLD_DRIVER = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:122 std::conditional_t<THRW, void, common::Status> "
    "onnxruntime::CudaCall(ERRTYPE, const char*, const char*) CUDA failure 35: CUDA driver version is insufficient for CUDA "
    "runtime version ; GPU=-1 ; hostname=c4327188c000000 ; file=cuda_execution_provider.cc ; line=336 ; "
    "expr=cudaSetDevice(info_.device_id);"
)


def test_the_loaders_own_words_and_the_missing_library_are_told():
    text = explain_not_loaded("CUDA", LIBRARY.format(library="libcublasLt.so.13"), CUDA_13)
    assert "its loader says: libcublasLt.so.13: cannot open shared object file" in text
    assert "libcublasLt.so.13 belongs to CUDA 13" in text
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in text
    assert "\n" not in text


def test_what_preloading_said_is_told_where_the_session_says_nothing():
    assert "libcublasLt.so.13 belongs to CUDA" in explain_not_loaded("CUDA", PRELOAD, CUDA_13)


def test_wheels_of_two_cuda_majors_are_named_and_not_mixed_further():
    wheels = Wheels("onnxruntime-gpu 1.31.1", 13, "torch 2.6.0", 12)
    text = explain_not_loaded("CUDA", LIBRARY.format(library="libcublasLt.so.13"), wheels)
    assert "onnxruntime-gpu 1.31.1 is built for CUDA 13, torch 2.6.0 for CUDA 12" in text
    assert "must not be mixed; install a torch for CUDA 13 or for the CPU, or an onnxruntime-gpu for CUDA 12" in text
    assert "pip install" not in text


@pytest.mark.parametrize("torch_cuda", [12, 13])
def test_a_driver_that_is_too_old_is_the_cause_whatever_wheels_there_are(torch_cuda):
    text = explain_not_loaded("CUDA", OLD_DRIVER, Wheels("onnxruntime-gpu 1.31.1", 13, "torch 2.6.0", torch_cuda))
    assert "its loader says: CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version; " in text
    assert "the NVIDIA driver is older than CUDA 13 needs: update it" in text
    assert provider_failed(OLD_DRIVER)


def test_a_machine_without_a_driver_is_not_told_to_install_cuda():
    text = explain_not_loaded("CUDA", LIBRARY.format(library="libcuda.so.1"), CUDA_13)
    assert "libcuda.so.1 belongs to NVIDIA's driver: this machine has none" in text
    assert "pip install" not in text


def test_a_hidden_card_is_named():
    text = explain_not_loaded("CUDA", "CUDA failure 100: no CUDA-capable device is detected ; GPU=0 ; hostname=x", CUDA_13)
    assert "no NVIDIA GPU can be seen: look at nvidia-smi, and at CUDA_VISIBLE_DEVICES" in text


@pytest.mark.parametrize("torch_cuda", [12, 13])
@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("CUDA failure 101: invalid device ordinal ; GPU=0 ; hostname=x", "there is no GPU of that number"),
        ("provider_info.cc:77 Invalid device ID: 7, must be between 0 (inclusive) and 1", "no GPU of that number"),
        ("CUDA failure 46: all CUDA-capable devices are busy or unavailable ; GPU=0", "another program holds the GPU"),
        ("CUDA failure 209: no kernel image is available for execution on the device", "was not built for this GPU"),
        ("CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0", "the GPU's memory is full"),
    ],
)
def test_what_is_wrong_with_the_card_is_not_blamed_on_wheels(said, remedy, torch_cuda):
    wheels = Wheels("onnxruntime-gpu 1.31.1", 13, "torch 2.6.0", torch_cuda)
    text = explain_not_loaded("CUDA", said, wheels)
    assert remedy in text
    assert "must not be mixed" not in text
    assert provider_failed(said)


@pytest.mark.parametrize("torch_cuda", [12, 13])
def test_an_error_that_nobody_knows_is_told_in_its_own_words_and_no_others(torch_cuda):
    said = "CUDA failure 999: unknown error ; GPU=0 ; hostname=x"
    text = explain_not_loaded("CUDA", said, Wheels("onnxruntime-gpu 1.31.1", 13, "torch 2.6.0", torch_cuda))
    assert text.partition("; or use ")[0].endswith("its loader says: CUDA failure 999: unknown error")


def test_a_device_of_another_maker_is_not_looked_for_by_nvidias_tools():
    assert "nvidia" not in explain_not_loaded("DirectML", "Invalid device ID: 7", Wheels()).lower()


@pytest.mark.parametrize("library", ["libnvinfer.so.10", "libnvonnxparser.so.10", "libnvinfer_plugin.so.10"])
@pytest.mark.parametrize(
    ("cuda", "package"), [(13, "'tensorrt-cu13<11'"), (12, "'tensorrt-cu12<11'"), (None, "'tensorrt-cu12<11' or")]
)
def test_tensorrts_libraries_name_the_package_of_their_major(library, cuda, package):
    said = LIBRARY.format(library=library).replace("providers_cuda", "providers_tensorrt") + TENSORRT
    text = explain_not_loaded("TensorRT", said, Wheels("onnxruntime-gpu 1.31.1", cuda))
    assert f"{library} belongs to TensorRT 10, which is to be installed: pip install {package}" in text
    assert provider_failed(TENSORRT)


def test_tensorrt_wants_cudnn_to_load():
    text = explain_not_loaded("TensorRT", LIBRARY.format(library="libcudnn.so.9") + TENSORRT, CUDA_13)
    assert "libcudnn.so.9 belongs to cuDNN, which was not found" in text


def test_a_provider_without_a_word_is_still_explained():
    assert "its loader gave no reason; check that this machine has an NVIDIA GPU" in explain_not_loaded("CUDA", "", CUDA_13)
    assert "NVIDIA" not in explain_not_loaded("OpenVINO", "", Wheels())


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("CUDA error cudaErrorMemoryAllocation:out of memory", "try a smaller {batch_size}"),
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 8388608000", "smaller"),
        ("cuDNN is unavailable or disabled for CUDA Execution Provider: ", "loads without cuDNN, but Conv does not run"),
        ("A cuDNN handle is required for CUDA reduction.", "loads without cuDNN"),
        (OLD_DRIVER, "the NVIDIA driver is older"),
        ("CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED", "the GPU's memory is full"),
        ("CUDA failure 46: all CUDA-capable devices are busy or unavailable", "another program holds the GPU"),
        ("Got invalid dimensions for input: image", ""),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED", ""),
    ],
)
def test_a_failed_run_is_advised_by_its_cause(said, remedy):
    found = explain_failed_run("CUDA", said)
    assert remedy in found
    assert bool(found) == bool(remedy)


def test_torch_is_tried_where_it_brings_the_library_and_was_not_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    missing = LIBRARY.format(library="libcublasLt.so.13")
    assert torch_may_help("CUDA", missing, CUDA_13)
    assert not torch_may_help("CUDA", missing, Wheels("onnxruntime-gpu 1.31.1", 13, "torch 2.6.0", 12))
    assert not torch_may_help("CUDA", missing, Wheels("onnxruntime-gpu 1.31.1", 13, "torch 2.6.0+cpu", None))
    assert not torch_may_help("CUDA", LIBRARY.format(library="libcuda.so.1"), CUDA_13)
    assert not torch_may_help("TensorRT", LIBRARY.format(library="libnvinfer.so.10"), CUDA_13)
    assert not torch_may_help("CUDA", "", CUDA_13)
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert not torch_may_help("CUDA", missing, CUDA_13)
    assert "which was not found, also with torch 2.14.1 imported first" in explain_not_loaded("CUDA", missing, CUDA_13)


def test_installed_wheels_are_read_without_importing_torch(monkeypatch):
    monkeypatch.setattr(loading, "import_torch", lambda: pytest.fail("torch was imported"))
    import torch

    found = installed_wheels()
    assert found.torch.startswith("torch ")
    assert found.torch_cuda == (int(torch.version.cuda.split(".")[0]) if torch.version.cuda else None)
    assert found.onnxruntime.startswith("onnxruntime")


def test_the_loaders_sentence_is_found_without_stamps_and_stars():
    assert loader_reason("*****\nx y [W:onnxruntime:, a.cc:1 f] the reason\x1b[m\n") == "the reason"
    assert loader_reason("") == ""
