"""Which precisions a provider is not to run: the reason, and what to do about it."""

from dataclasses import replace

import pytest

from qcam.common.errors import BundleError, ProviderError
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import fitness
from qcam.runtime.deployed.fitness import refuse_unfit, unfit_precisions, why_unfit
from qcam.runtime.described import Quantization


def test_sixteen_bits_on_cuda_are_refused_with_what_they_would_cost(tiny_bundle):
    path, entry = tiny_bundle.path("int16"), tiny_bundle.precision("int16")
    reason = why_unfit(path, entry, "CUDA")
    assert reason.startswith("CUDA has no kernels for 16-bit quantization: ")
    found = fitness.foretell(path)
    assert f"{found.quantizers_on_cpu} of its Q/DQ run on the CPU, with {found.copies} copies for each batch" in reason
    assert why_unfit(path, entry, "CUDA", allow_fallback=True) == ""
    with pytest.raises(ProviderError, match=r"int16\.onnx: CUDA has no kernels .*; leave int16 out .*, or allow_fallback=True"):
        refuse_unfit(path, entry, "CUDA", allow_fallback=False)


def test_a_file_of_another_tool_is_judged_by_the_type_of_its_tap(tiny_bundle):
    entry = replace(tiny_bundle.precision("int16"), name="a16w8", quantization=Quantization())
    assert why_unfit(tiny_bundle.path("int16"), entry, "CUDA").startswith("CUDA has no kernels for 16-bit")


def test_a_file_that_cannot_be_loaded_is_left_to_the_session_that_says_why(tiny_bundle, tmp_path):
    model = load_onnx(tiny_bundle, "int16")
    model.graph.node[0].op_type = "Nonsense"
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    assert why_unfit(tmp_path / "odd.onnx", tiny_bundle.precision("int16"), "CUDA") == ""
    (tmp_path / "none.onnx").write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"cannot read .*none\.onnx as an ONNX file"):
        why_unfit(tmp_path / "none.onnx", tiny_bundle.precision("int16"), "CUDA")


def test_where_the_cpu_is_left_nothing_nothing_is_refused(tiny_bundle):
    assert unfit_precisions(tiny_bundle, "CPU") == {}
    assert set(unfit_precisions(tiny_bundle, "CUDA")) == {"int16"}
    assert unfit_precisions(tiny_bundle, "CUDA", allow_fallback=True) == {}
    for name in ("f32", "int8"):
        refuse_unfit(tiny_bundle.path(name), tiny_bundle.precision(name), "CUDA", allow_fallback=False)


def test_a_partition_is_foretold_once_for_a_file(tiny_bundle, monkeypatch):
    entry = tiny_bundle.precision("int16")
    reason = why_unfit(tiny_bundle.path("int16"), entry, "CUDA")
    monkeypatch.setattr(fitness, "foretell", lambda path: pytest.fail("foretold again"))
    assert why_unfit(tiny_bundle.path("int16"), entry, "CUDA") == reason
