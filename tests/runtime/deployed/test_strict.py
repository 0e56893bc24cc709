"""A session is on the provider that was asked for, wholly and for every run, or it is refused by name."""

import logging
import os
import sys

import numpy as np
import onnxruntime
import pytest
from pretended import CPU, CUDA, pretend_cuda

from qcam.common.errors import ProviderError
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed import session as session_module
from qcam.runtime.deployed.loading import Wheels
from qcam.runtime.deployed.providers import PROVIDERS

IMAGES = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
FAILED = "[ONNXRuntimeError] : 11 : EP_FAIL : Non-zero status code returned while running Conv node. CUDNN failure 3"


def test_a_session_that_silently_became_a_cpu_session_is_refused(tiny_bundle, monkeypatch):
    """The package claims CUDA, the session comes without it: what a machine without the libraries does."""
    pretend_cuda(monkeypatch)
    pretending = onnxruntime.InferenceSession

    def silent(model, options, providers, **more):
        session = pretending(model, options, providers=providers, **more)
        session._pretends = False
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", silent)
    refused = "could not be loaded, ONNX Runtime would silently have used.*; or use provider.* CPU, or allow_fallback=True"
    with pytest.raises(ProviderError, match=refused):
        DeployedModel(tiny_bundle, "int8", SessionSettings(provider="CUDA"))
    accepted = DeployedModel(tiny_bundle, "int8", SessionSettings(provider="CUDA", allow_fallback=True))
    assert "could not be loaded" in accepted.placement.fallback
    assert "{allow_fallback}" not in accepted.placement.fallback
    # A loader may have other words the second time; another placement is another session.
    monkeypatch.setattr(session_module, "explain_not_loaded", lambda *told: "in other words")
    accepted.close()
    accepted.open()
    # It is the run that the CPU makes of the file: integer kernels, with their int32 biases.
    assert (accepted.placement.integer_kernels, accepted.folded) == (4, 0)
    plain = DeployedModel(tiny_bundle, "int8", SessionSettings())
    np.testing.assert_array_equal(accepted.run(IMAGES).logits, plain.run(IMAGES).logits)


@pytest.mark.parametrize("bound", [False, True])
def test_a_provider_that_fails_is_an_error_and_no_run_on_the_cpu(tiny_bundle, monkeypatch, bound):
    pretend_cuda(monkeypatch, failing=FAILED)
    with pytest.raises(ProviderError, match=r"int8\.onnx failed on CUDA with a batch of 1: .*EP_FAIL.*CUDNN failure 3"):
        DeployedModel(tiny_bundle, "int8", SessionSettings(provider="CUDA", io_binding=bound))


def test_the_injected_failure_is_one_that_onnx_runtime_hides(tiny_bundle, monkeypatch, capsys):
    """The injection is real: sessions that are made as usual return figures of the CPU for it."""
    pretend_cuda(monkeypatch, failing=FAILED)
    session = onnxruntime.InferenceSession(str(tiny_bundle.path("int8")), onnxruntime.SessionOptions(), providers=[CUDA])
    found = session.run(None, {session.get_inputs()[0].name: IMAGES})
    assert len(found[0]) == len(IMAGES)
    assert session.get_providers() == [CPU]
    assert "Falling back to" in capsys.readouterr().out


def test_a_session_whose_provider_was_replaced_during_the_first_run_is_refused(tiny_bundle, monkeypatch):
    """Whatever version of ONNX Runtime goes back to the CPU all the same; what it printed is in the message."""
    pretend_cuda(monkeypatch, failing=FAILED)
    pretending = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *given, **more: pretending(*given, **(more | {"enable_fallback": 1}))
    )
    replaced = r"gave CUDA up during a run and went on with CPUExecutionProvider.*printed: EP Error: .*CUDNN failure 3"
    with pytest.raises(ProviderError, match=replaced):
        DeployedModel(tiny_bundle, "int8", SessionSettings(provider="CUDA", io_binding=False))


def test_a_smaller_batch_is_advised_for_want_of_memory_only(tiny_bundle, monkeypatch):
    pretend_cuda(monkeypatch, failing=FAILED)
    with pytest.raises(ProviderError) as failed:
        DeployedModel(tiny_bundle, "f32", SessionSettings(provider="CUDA"))
    assert "batch_size" not in str(failed.value)
    monkeypatch.undo()
    memory = (
        "void* onnxruntime::BFCArena::AllocateRawInternal(size_t) Failed to allocate memory for requested buffer of size 8388"
    )
    pretend_cuda(monkeypatch, failing=memory)
    with pytest.raises(ProviderError, match="try a smaller batch_size"):
        DeployedModel(tiny_bundle, "f32", SessionSettings(provider="CUDA"))


def test_a_run_without_cudnn_says_what_is_missing(tiny_bundle, monkeypatch):
    pretend_cuda(monkeypatch, failing="cuDNN is unavailable for CUDA Execution Provider: libcudnn.so.9: cannot open")
    with pytest.raises(ProviderError, match=r"Conv does not run without it: pip install 'onnxruntime-gpu\[cuda,cudnn\]'"):
        DeployedModel(tiny_bundle, "f32", SessionSettings(provider="CUDA"))


@pytest.mark.parametrize("elsewhere", ["Relu", "QuantizeLinear"])
def test_one_node_of_any_kind_on_the_cpu_is_refused(tiny_bundle, monkeypatch, elsewhere):
    pretend_cuda(monkeypatch, placing=lambda operator, name: CPU if operator == elsewhere else CUDA)
    precision = "f32" if elsewhere == "Relu" else "int8"
    refused = rf"\d of \d+ nodes of .* not on CUDA but on CPUEx.* \(\d+ {elsewhere}; first: .*, or allow_fallback=True to go"
    with pytest.raises(ProviderError, match=refused):
        DeployedModel(tiny_bundle, precision, SessionSettings(provider="CUDA"))
    accepted = DeployedModel(tiny_bundle, precision, SessionSettings(provider="CUDA", allow_fallback=True))
    assert elsewhere in accepted.placement.fallback
    # A file has the words of the commands.
    said = accepted.placement.to_json()["fallback"]
    assert said.endswith("): the provider has no kernel for them")


def test_a_session_that_is_placed_otherwise_when_it_is_opened_again_is_refused(tiny_bundle, monkeypatch):
    first = ["Relu"]
    pretend_cuda(monkeypatch, placing=lambda operator, name: CPU if operator in first else CUDA)
    session = DeployedModel(tiny_bundle, "f32", SessionSettings(provider="CUDA", allow_fallback=True))
    session.close()
    first[:] = ["Gemm"]
    with pytest.raises(ProviderError, match=r"opened again is another one: .* Relu; .* before, .* Gemm; .* now"):
        session.open()


def test_a_session_that_is_wholly_on_the_provider_is_taken(tiny_bundle, monkeypatch):
    pretended = pretend_cuda(monkeypatch)
    session = DeployedModel(tiny_bundle, "f32", SessionSettings(provider="CUDA"))
    assert session.placement.fallback == ""
    assert session.run(IMAGES).logits.shape == (3, 10)
    assert [(made["strict"], made["enable_fallback"]) for made in pretended.made] == [("1", 0)]


def test_a_real_provider_without_kernels_is_refused_with_the_operators_it_left(tiny_bundle, monkeypatch):
    """Azure's provider is in every package and has no kernel: ONNX Runtime itself refuses, qcam says what of."""
    monkeypatch.setitem(PROVIDERS, "CUDA", "AzureExecutionProvider")
    if PROVIDERS["CUDA"] not in onnxruntime.get_available_providers():
        pytest.skip("this package of ONNX Runtime has no second provider")
    with pytest.raises(ProviderError, match=r"(\d+) of \1 nodes of .* not on CUDA but on CPUEx.* \(.*4 Conv|3 Conv"):
        DeployedModel(tiny_bundle, "f32", SessionSettings(provider="CUDA"))
    accepted = DeployedModel(tiny_bundle, "f32", SessionSettings(provider="CUDA", allow_fallback=True))
    plain = DeployedModel(tiny_bundle, "f32", SessionSettings())
    np.testing.assert_array_equal(accepted.run(IMAGES).logits, plain.run(IMAGES).logits)


@pytest.mark.parametrize("broken", ["", "No module named 'triton'"])
def test_libraries_that_torch_brings_are_found_by_importing_it_first(tiny_bundle, monkeypatch, caplog, broken):
    """A session that came without CUDA is made again once torch is there, as ONNX Runtime looks again."""
    pretend_cuda(monkeypatch)
    pretending, imported = onnxruntime.InferenceSession, []

    def without_libraries(model, options, providers, **more):
        session = pretending(model, options, providers=providers, **more)
        if not imported or broken:
            session._pretends = False
            os.write(
                2, b"[E:onnxruntime] Failed to load library x.so with error: libcublasLt.so.13: cannot open shared object file"
            )
        return session

    def import_torch():
        imported.append("torch")
        return broken

    monkeypatch.setattr(onnxruntime, "InferenceSession", without_libraries)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(session_module, "import_torch", import_torch)
    monkeypatch.setattr(session_module, "installed_wheels", lambda: Wheels("onnxruntime-gpu 1.31.1", 13, "torch 2.14.1", 13))
    settings = SessionSettings(provider="CUDA")
    if broken:
        reason = r"torch could not be imported for its libraries: No module named 'triton'"
        with pytest.raises(ProviderError, match=rf"libcublasLt\.so\.13 belongs to CUDA.*, which was not found \({reason}\)"):
            DeployedModel(tiny_bundle, "f32", settings)
    else:
        with caplog.at_level(logging.INFO, "qcam"):
            assert DeployedModel(tiny_bundle, "f32", settings).placement.fallback == ""
        assert "torch, which brings them, was imported first" in caplog.text
    assert imported == ["torch"]
