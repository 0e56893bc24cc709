"""What ONNX Runtime is really given for a GPU, and what becomes of nodes that fall to the provider behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from qcam.common.errors import ProviderError, QcamError
from qcam.runtime.bundle import Bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.engines import engine_folder, profile_shapes
from qcam.runtime.gpu import Gpu

T4 = Gpu("Tesla T4", "7.5", "580.65.06", "13.0", "9.10.2", "10.13.3")
H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.65.06", "13.0", "9.10.2", "10.13.3")
GROWS = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
REAL = onnxruntime.InferenceSession


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")  # put back, whatever becomes of it
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    monkeypatch.setattr("qcam.runtime.tf32._own", False)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Make ONNX Runtime believe in NVIDIA's providers; return (providers, options) of every session, on the CPU in truth."""
    names = ["TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    seen: list[tuple[Any, Any]] = []

    class Node:
        def __init__(self, node: Any) -> None:
            self.name, self.op_type = node.name, node.op_type

    class Part:
        def __init__(self, provider: str, nodes: list[Node]) -> None:
            self.ep_name, self._nodes = provider, nodes

        def get_nodes(self) -> list[Node]:
            return self._nodes

    class Session:
        """A session on the CPU that says where its nodes are: on the first provider, but Gemm on the last one listed."""

        def __init__(self, path: Any, options: Any, providers: Any, **more: Any) -> None:
            seen.append((providers, options))
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")  # the CPU cannot keep itself out
            self._session = REAL(path, options, providers=["CPUExecutionProvider"], **more)
            self._listed = [entry if isinstance(entry, str) else entry[0] for entry in providers]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def get_providers(self) -> list[str]:
            return [*self._listed, "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> list[Part]:
            found = [node for part in self._session.get_provider_graph_assignment_info() for node in part.get_nodes()]
            parts = [Part(self._listed[0], [Node(node) for node in found if "Gemm" not in node.op_type])]
            return [*parts, Part(self._listed[-1], [Node(node) for node in found if "Gemm" in node.op_type])]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr("qcam.runtime.deployed.listed.read_gpu", lambda index: T4)
    monkeypatch.setattr("qcam.runtime.deployed.listed.gpu_names", list)
    return seen


@pytest.fixture(scope="module")
def symmetric(export_tiny: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("symmetric") / "bundle", scheme="s8s8", precisions=("f32", "int8"))


def test_a_session_on_the_cpu_is_given_what_it_was_given_before(tiny_bundle, opened) -> None:
    DeployedModel(tiny_bundle, "int8", SessionSettings())
    ((providers, options),) = opened
    assert providers == ["CPUExecutionProvider"]
    assert options.use_deterministic_compute is False


def test_cuda_is_told_to_compute_in_float32_and_the_same_each_time(tiny_bundle, opened) -> None:
    DeployedModel(tiny_bundle, "f32", SessionSettings("CUDA"))
    DeployedModel(tiny_bundle, "f32", SessionSettings("CUDA", tf32=True, provider_options={"device_id": "1"}))
    (plain, options), (allowed, _) = opened
    assert plain == [("CUDAExecutionProvider", GROWS | {"use_tf32": "0"})]
    assert allowed == [("CUDAExecutionProvider", GROWS | {"device_id": "1", "use_tf32": "1"})]
    assert options.use_deterministic_compute is True
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ


def test_a_gpu_that_is_not_there_is_refused_before_a_session_opens(tiny_bundle, opened, monkeypatch) -> None:
    monkeypatch.setattr("qcam.runtime.deployed.listed.gpu_names", lambda: ["Tesla T4", "NVIDIA L4"])
    settings = [SessionSettings("CUDA", provider_options={"device_id": number}) for number in "12"]
    DeployedModel(tiny_bundle, "f32", settings[0])
    with pytest.raises(ProviderError, match=r"device_id=2: there is no such GPU; .* sees 0 \(Tesla T4\), 1 \(NVIDIA L4\): "):
        DeployedModel(tiny_bundle, "f32", settings[1])
    assert len(opened) == 1


def test_an_environment_that_overrides_tf32_is_refused_before_a_session_opens(tiny_bundle, opened, monkeypatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(ProviderError, match="NVIDIA_TF32_OVERRIDE=1 makes a GPU compute in TF32"):
        DeployedModel(tiny_bundle, "f32", SessionSettings("CUDA"))
    assert opened == []
    DeployedModel(tiny_bundle, "f32", SessionSettings())


def test_settings_refuse_what_a_provider_cannot_be_told(tiny_bundle) -> None:
    with pytest.raises(QcamError, match="qcam passes no options to CPU"):
        SessionSettings(provider_options={"device_id": "0"})
    with pytest.raises(QcamError, match="tf32=True 'no': give True or False"):
        SessionSettings("CUDA", tf32="no")  # type: ignore[arg-type]
    with pytest.raises(QcamError, match="batch_size 0: give a whole number"):
        SessionSettings("CUDA", batch=0)


@pytest.mark.parametrize("provider", ["TensorRT", "NvTensorRTRTX"])
def test_what_tensorrt_has_no_kernels_for_is_refused_by_name(tiny_bundle, opened, provider) -> None:
    with pytest.raises(ProviderError, match=f"int16.onnx: {provider} has no 16-bit quantization"):
        DeployedModel(tiny_bundle, "int16", SessionSettings(provider))
    with pytest.raises(ProviderError, match=f"^{provider} takes symmetric activations only.*scheme u8s8"):
        DeployedModel(tiny_bundle, "int8", SessionSettings(provider))
    assert opened == []


def test_tensorrt_builds_for_the_batch_that_runs_keeps_its_engine_and_has_cuda_behind_it(symmetric, opened, tmp_path) -> None:
    session = DeployedModel(symmetric, "int8", SessionSettings("TensorRT", batch=4))
    ((providers, options),) = opened
    (first, told), (second, behind) = providers
    folder = Path(told.pop("trt_engine_cache_path"))
    assert folder.is_dir()
    assert folder.parent == tmp_path / "cache" / "tensorrt"
    assert told == {
        "trt_int8_enable": "1",
        "trt_profile_min_shapes": "images:1x3x32x32",
        "trt_profile_opt_shapes": "images:4x3x32x32",
        "trt_profile_max_shapes": "images:4x3x32x32",
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert behind == GROWS | {"use_tf32": "0"}
    assert options.use_deterministic_compute is True
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert session.placement.fallback.startswith("1 of 32 nodes of ")
    assert "are not on TensorRT but on CUDAExecutionProvider (1 Gemm; first: node_linear)" in session.placement.fallback


def test_a_process_in_which_tensorrt_was_forbidden_tf32_says_that_it_did_so_itself(symmetric, opened, monkeypatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    for provider in ("TensorRT", "CUDA"):  # it stood so before: not ours, whatever is opened
        DeployedModel(symmetric, "f32", SessionSettings(provider))
    with pytest.raises(ProviderError, match="asks for it; unset the one or leave out the other"):
        DeployedModel(symmetric, "f32", SessionSettings("CUDA", tf32=True))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    DeployedModel(symmetric, "f32", SessionSettings("TensorRT"))
    with pytest.raises(ProviderError, match=r"qcam set it itself, for a session on TensorRT .*; ask in a new process"):
        DeployedModel(symmetric, "f32", SessionSettings("CUDA", tf32=True))


def test_the_batch_that_runs_is_proven_and_multiplications_are_those_of_one_image(symmetric, opened, monkeypatch) -> None:
    ran: list[int] = []
    real = DeployedModel.run
    monkeypatch.setattr(DeployedModel, "run", lambda self, images: (ran.append(len(images)), real(self, images))[1])
    on_cpu = DeployedModel(symmetric, "f32", SessionSettings(batch=4)).placement
    placed = DeployedModel(symmetric, "f32", SessionSettings("TensorRT", batch=4)).placement
    assert ran == [1, 4]
    assert [node.macs for node in placed.nodes] == [node.macs for node in on_cpu.nodes]
    assert placed.coverage.total_macs
    assert "trt_int8_enable" not in opened[1][0][0][1]


def test_a_larger_batch_than_an_engine_was_built_for_is_refused(symmetric, opened) -> None:
    """TensorRT would build another engine in the midst of a run, and say nothing."""
    session = DeployedModel(symmetric, "f32", SessionSettings("TensorRT", batch=2))
    with pytest.raises(ProviderError, match=r"f32\.onnx was built for batches of at most 2 on TensorRT, and was given 3"):
        session.run(np.zeros((3, 3, 32, 32), np.float32))


def test_tensorrt_rtx_has_shapes_and_nothing_behind_it(symmetric, opened) -> None:
    DeployedModel(symmetric, "f32", SessionSettings("NvTensorRTRTX", batch=2, allow_fallback=True))
    (providers, _) = opened[0]
    assert [name for name, _ in providers] == ["NvTensorRTRTXExecutionProvider"]
    assert set(providers[0][1]) == {f"nv_profile_{which}_shapes" for which in ("min", "opt", "max")}


def test_without_a_gpu_no_engine_is_kept_and_the_loader_has_the_word(symmetric, opened, monkeypatch, tmp_path) -> None:
    def nobody(index: int) -> Gpu:
        raise ProviderError("nobody tells")

    monkeypatch.setattr("qcam.runtime.deployed.listed.read_gpu", nobody)
    DeployedModel(symmetric, "f32", SessionSettings("TensorRT"))
    ((providers, _),) = opened
    assert not [key for key in providers[0][1] if "cache" in key]
    assert not (tmp_path / "cache").exists()


def test_a_graph_that_fixes_its_batch_has_no_profile() -> None:
    assert profile_shapes({"x": (1, 3, 8, 8)}, 4, (3, 8, 8), "trt") == {}
    assert profile_shapes({"x": (0, 3, 8, 8)}, 4, (3, 8, 8), "nv")["nv_profile_max_shapes"] == "x:4x3x8x8"


def test_an_engine_is_found_again_by_all_that_it_was_built_from(tmp_path) -> None:
    def place(sha256: str = "a", gpu: Gpu = T4, told: dict[str, str] | None = None, *, tf32: bool = False) -> Path:
        return engine_folder(sha256, gpu, told or {}, tf32=tf32)

    others = [place("b"), place(gpu=H100), place(told={"trt_fp16_enable": "1"}), place(tf32=True)]
    assert place() == place()
    assert len({place(), *others}) == 5


def test_engines_that_cannot_be_kept_are_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(QcamError, match=r"cannot keep TensorRT's engines in .*set QCAM_CACHE to a folder that can be written"):
        engine_folder("a", T4, {}, tf32=False)
