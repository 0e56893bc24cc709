"""Which GPU computes: asked of libraries that are not here, so of others in their place."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from qcam.common.errors import ProviderError
from qcam.runtime import gpu
from qcam.runtime.gpu import Gpu, loaded_versions, read_gpu

CARDS = (("NVIDIA H100 80GB HBM3", 9, 0), ("Tesla T4", 7, 5))
T4 = Gpu("Tesla T4", "7.5", "580.65.06", "13.0", "9.10.2", "")


class Driver:
    """libcuda, as far as it is asked."""

    def cuInit(self, flags):
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = len(CARDS)
        return 0

    def cuDeviceGet(self, device, index):
        if index >= len(CARDS):
            return 101
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, text, size, device):
        text.value = CARDS[device.value][0].encode()
        return 0

    def cuDeviceGetAttribute(self, value, which, device):
        value._obj.value = CARDS[device.value][which - 74]
        return 0


class Nvml:
    def nvmlInit_v2(self):
        return 0

    def nvmlSystemGetDriverVersion(self, text, size):
        text.value = b"580.65.06"
        return 0


def tells(number):
    def answer():
        return number

    return answer


class Cudart:
    def __init__(self, number):
        self.number = number

    def cudaRuntimeGetVersion(self, value):
        value._obj.value = self.number
        return 0


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What is there, path or name → library; empty at first."""
    found: dict[str, object] = {}

    def load(name: str) -> object:
        if name not in found:
            raise OSError(f"{name}: cannot open shared object file")
        return found[name]

    monkeypatch.setattr(gpu, "_library", load)
    monkeypatch.setattr(gpu, "_mapped_files", lambda: {name for name in found if name.startswith("/")})
    return found


def test_no_gpu_is_an_error_that_says_what_to_do(libraries, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ProviderError, match=r"which GPU number 0 is: .*; check the driver with nvidia-smi, or compute on"):
        read_gpu()
    libraries["libcuda.so.1"] = Driver()
    with pytest.raises(ProviderError, match="which GPU number 2 is"):
        read_gpu(2)
    libraries["libcuda.so.1"] = SimpleNamespace(cuInit=lambda flags: 100)
    with pytest.raises(ProviderError, match="which GPU number 0 is"):
        read_gpu()


def test_the_driver_tells_which_gpu_it_is_and_libraries_their_versions(libraries) -> None:
    libraries |= {
        "libcuda.so.1": Driver(),
        "libnvidia-ml.so.1": Nvml(),
        "/x/nvidia/cuda_runtime/lib/libcudart.so.13": Cudart(13000),
        "/x/nvidia/cudnn/lib/libcudnn.so.9": SimpleNamespace(cudnnGetVersion=tells(91002)),
        "/x/nvidia/cudnn/lib/libcudnn_ops.so.9": SimpleNamespace(),
    }
    assert read_gpu(1) == T4
    assert (read_gpu(0).name, read_gpu(0).capability) == ("NVIDIA H100 80GB HBM3", "9.0")
    assert read_gpu(1).describe() == "Tesla T4 (7.5), driver 580.65.06, CUDA 13.0, cuDNN 9.10.2"
    libraries["/x/tensorrt_libs/libnvinfer.so.10"] = SimpleNamespace(getInferLibVersion=tells(101303))
    assert read_gpu(1).tensorrt == "10.13.3"


def test_two_versions_of_one_library_are_both_told(libraries) -> None:
    """What a PyTorch of another CUDA than ONNX Runtime's brings along."""
    libraries |= {"/a/libcudart.so.12": Cudart(12080), "/b/libcudart.so.13": Cudart(13000)}
    assert loaded_versions() == {"cuda": "12.8, 13.0", "cudnn": "", "tensorrt": ""}
    libraries["/b/libcudnn.so.9"] = SimpleNamespace()
    assert loaded_versions()["cudnn"] == "unknown"


def test_pytorch_is_asked_only_where_it_is_loaded_and_the_driver_does_not_answer(libraries, monkeypatch) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1,
        get_device_name=lambda index: "AMD Instinct MI300X", get_device_capability=lambda index: (9, 4),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert read_gpu() == Gpu("AMD Instinct MI300X", "9.4")
    libraries["libcuda.so.1"] = Driver()
    assert read_gpu().name == "NVIDIA H100 80GB HBM3"
    del libraries["libcuda.so.1"]
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(ProviderError):
        read_gpu()
    assert "torch" not in sys.modules


def test_what_differs_between_two_gpus_is_named() -> None:
    assert T4.differences(T4) == []
    other = Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.65.06", "13.0", "", "10.13.3")
    assert T4.differences(other) == [
        "GPU Tesla T4 → NVIDIA H100 80GB HBM3", "compute capability 7.5 → 9.0", "cuDNN 9.10.2 → (none)",
        "TensorRT (none) → 10.13.3",
    ]  # fmt: skip
    assert Gpu(**T4.to_json()) == T4


def test_the_driver_s_own_file_is_read_where_there_is_one(libraries, monkeypatch) -> None:
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: gcc 12\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **_: line)
    libraries["libcuda.so.1"] = Driver()
    assert read_gpu().driver == "580.65.06"


def test_mapped_files_are_those_of_this_process() -> None:
    assert any("libpython" in path or "python" in Path(path).name for path in gpu._mapped_files())
