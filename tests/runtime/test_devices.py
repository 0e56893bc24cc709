"""A GPU that is not there, as far as settings go: what PyTorch is told before it computes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from qcam.common.errors import OutOfMemoryError, ProviderError
from qcam.runtime.devices import numbered, telling_full_gpu, tf32_in_torch, torch_device
from qcam.runtime.tf32 import refuse_tf32_override

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """PyTorch believes in two GPUs; yields those that were made current. Settings of the process are put back."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in (CUBLAS, "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever becomes of it
        monkeypatch.delenv(name)
    matmul, cudnn, threads = torch.backends.cuda.matmul, torch.backends.cudnn, torch.get_num_threads()
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    yield chosen
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
    torch.set_num_threads(threads)


def settings() -> tuple[bool, bool, bool, bool]:
    backends = torch.backends
    return (
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.deterministic, backends.cudnn.benchmark
    )  # fmt: skip


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_computes_in_float32_and_repeats_itself(two_gpus, wanted) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    assert torch_device(wanted, 1) == "cuda"
    assert settings() == (False, False, True, False)
    assert not tf32_in_torch()
    assert os.environ[CUBLAS] == ":4096:8"
    assert two_gpus == [0]


def test_tf32_is_allowed_where_it_is_asked_for(two_gpus) -> None:
    assert torch_device("auto", 1, tf32=True, index=1) == "cuda"
    assert settings() == (True, True, True, False)
    assert two_gpus == [1]


def test_the_cpu_leaves_pytorch_and_the_environment_alone(two_gpus) -> None:
    before = settings()
    assert torch_device("cpu", 1) == "cpu"
    assert settings() == before
    assert CUBLAS not in os.environ
    assert two_gpus == []


def test_a_gpu_that_pytorch_does_not_see_is_refused(two_gpus) -> None:
    with pytest.raises(ProviderError, match="device_id=2: PyTorch finds 2 GPUs, counted from 0"):
        torch_device("auto", 1, index=2)
    assert two_gpus == []


def test_an_environment_in_which_cublas_does_not_repeat_itself_is_refused(two_gpus, monkeypatch) -> None:
    monkeypatch.setenv(CUBLAS, ":16:8")
    assert torch_device("auto", 1) == "cuda"
    monkeypatch.setenv(CUBLAS, ":0:0")
    with pytest.raises(ProviderError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0 .*; unset it, or choose :4096:8 or :16:8"):
        torch_device("auto", 1)
    assert torch_device("cpu", 1) == "cpu"


@pytest.mark.parametrize(
    ("name", "value", "tf32", "message"),
    [
        ("NVIDIA_TF32_OVERRIDE", "1", False, r"makes a GPU compute in TF32 .*; unset it, or allow it by tf32=True"),
        ("NVIDIA_TF32_OVERRIDE", "0", True, "forbids TF32, and tf32=True asks for it"),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", False, "makes a GPU compute in TF32"),
        ("NVIDIA_TF32_OVERRIDE", "false", False, "is neither 0 nor 1, .*; give 0 or 1"),
        ("NVIDIA_TF32_OVERRIDE", " 0", True, "is neither 0 nor 1"),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "yes", True, "is neither 0 nor 1"),
        ("NVIDIA_TF32_OVERRIDE", "0", False, None),
        ("NVIDIA_TF32_OVERRIDE", "1", True, None),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "0", False, None),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "0", True, None),
    ],
)
def test_an_environment_that_overrides_what_is_asked_for_is_refused(two_gpus, monkeypatch, name, value, tf32, message) -> None:
    monkeypatch.setenv(name, value)
    if message is None:
        refuse_tf32_override(tf32=tf32)
        assert torch_device("auto", 1, tf32=tf32) == "cuda"
        return
    with pytest.raises(ProviderError, match=f"{name}='?{value}'? {message}"):
        torch_device("auto", 1, tf32=tf32)


def test_pytorch_that_takes_tf32_all_the_same_is_refused(two_gpus, monkeypatch) -> None:
    monkeypatch.setattr("qcam.runtime.devices.tf32_in_torch", lambda: True)
    with pytest.raises(ProviderError, match="PyTorch computes in TF32 although it was told not to"):
        torch_device("auto", 1)
    assert torch_device("auto", 1, tf32=True) == "cuda"


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ],
)
def test_a_full_gpu_is_told_in_one_line_with_what_to_do(error) -> None:
    @telling_full_gpu("a smaller {batch_size}, or {device} cpu for the mirrors")
    def run() -> None:
        raise error

    with pytest.raises(OutOfMemoryError) as told:
        run()
    first = str(error).splitlines()[0]
    assert str(told.value) == (
        f"PyTorch's memory on the GPU is full ({first}); take a smaller batch_size, or device cpu for the mirrors"
    )


def test_other_errors_of_pytorch_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="must match the size"), telling_full_gpu("{device} cpu"):
        torch.zeros(2) + torch.zeros(3)


def test_only_a_gpu_has_a_number() -> None:
    assert (numbered("cuda", 1), numbered("cpu", 1)) == ("cuda:1", "cpu")
