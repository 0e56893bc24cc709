"""A whole bundle on a provider that cannot run all of it: what is left out is told wherever figures are shown."""

import json
import logging

import numpy as np
import onnxruntime
import pytest
from pretended import CPU, CUDA, pretend_cuda

import qcam
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.plan import plan
from qcam.evaluate.run.arithmetic import arithmetic_lines
from qcam.evaluate.run.evaluator import fitting_precisions, left_out
from qcam.evaluate.run.facts import ModelFacts
from qcam.evaluate.run.ran import Deployed
from qcam.runtime.deployed import Placement, SessionSettings

#: What the tiny network's int16 file would leave to the CPU, a Conv, a Relu6 …: worked out in `test_partition`.
REASON = r"CUDA has no kernels for 16-bit quantization: \d+ of its Q/DQ run on the CPU, with \d+ copies for each batch \("


def quantizers_on_cpu(operator, name):
    """Where CUDA's kernels put the nodes of a file of 16 bits."""
    return CPU if "uantizeLinear" in operator else CUDA


def test_int16_that_was_asked_for_by_name_is_refused_with_its_price(tiny_bundle, monkeypatch, some_photographs, tmp_path):
    pretend_cuda(monkeypatch)
    out = tmp_path / "out"
    with pytest.raises(
        qcam.ProviderError, match=rf"int16\.onnx: {REASON}.*; leave int16 out with precisions f32,int8, or allow_"
    ):
        qcam.study(tiny_bundle, images=some_photographs, saliency="none", precisions="int16", provider="CUDA", output=out)
    assert not out.exists()


def test_a_whole_bundle_on_cuda_runs_without_int16_and_says_so(tiny_bundle, monkeypatch, some_photographs, tmp_path, caplog):
    pretended = pretend_cuda(monkeypatch)
    with caplog.at_level(logging.INFO, "qcam"):
        done = qcam.study(
            tiny_bundle, images=some_photographs, saliency="none", provider="CUDA", output=tmp_path / "out", grid_rows=0
        )
    assert {(row["precision"]) for row in done.to_arrow().select(["precision"]).to_pylist()} == {"f32", "int8"}
    told = "int16 of tiny is left out: CUDA has no kernels for 16-bit quantization"
    assert any(told in record.getMessage() and "allow_fallback=True" in record.getMessage() for record in caplog.records)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    (line,) = [item for item in run["account"] if item["topic"] == "precisions"]
    assert line["text"].startswith(told)
    assert line["text"].endswith("--precision with its name and --allow-fallback run it so all the same")
    assert line["counts"] == {"left_out": 1}
    assert list(run["models"]["tiny"]["precisions"]) == ["f32", "int8"]
    for name in ("table.md", "report.html"):
        assert "int16 of tiny is left out" in (tmp_path / "out" / name).read_text()
    on_cuda = [made for made in pretended.made if made["providers"] == [CUDA]]
    assert [(made["strict"], made["enable_fallback"]) for made in on_cuda] == [("1", 0), ("1", 0)]


def test_with_fallback_allowed_int16_runs_and_every_table_says_so(tiny_bundle, monkeypatch, some_photographs, tmp_path):
    pretend_cuda(monkeypatch, placing=quantizers_on_cpu)
    done = qcam.study(
        tiny_bundle, images=some_photographs, saliency="none", precisions="int16", provider="CUDA", allow_fallback=True,
        output=tmp_path / "out", grid_rows=0,
    )  # fmt: skip
    assert done.models == ["tiny"]
    warnings = json.loads((tmp_path / "out" / "run.json").read_text())["warnings"]
    assert any("fallback accepted" in text and "QuantizeLinear" in text for text in warnings)
    assert "NOT WHOLLY ON IT" in (tmp_path / "out" / "table.md").read_text()


def test_tensorrt_leaves_out_what_it_refuses_by_name(tiny_bundle, export_tiny, tmp_path):
    settings = SessionSettings(provider="TensorRT")
    assert set(left_out(tiny_bundle, (), settings)) == {"int16", "int8"}  # u8s8
    assert fitting_precisions(tiny_bundle, (), settings) == ["f32"]
    assert left_out(tiny_bundle, ("int8",), settings) == {}
    symmetric = export_tiny(tmp_path / "s8s8", scheme="s8s8")
    assert fitting_precisions(symmetric, (), settings) == ["f32", "int8"]


def test_a_bundle_of_which_nothing_can_be_run_is_refused(export_tiny, tmp_path):
    bundle = export_tiny(tmp_path / "b", precisions=("int16",))
    with pytest.raises(qcam.ProviderError, match=rf"CUDA can run none of its precisions: {REASON}") as told:
        fitting_precisions(bundle, (), SessionSettings(provider="CUDA"))
    with pytest.raises(qcam.ProviderError) as checked:
        plan([bundle], CheckOptions(settings=SessionSettings(provider="CUDA")))
    assert str(checked.value) == str(told.value)
    assert str(told.value).endswith(
        "; use provider CPU, or a bundle with f32 or int8, or allow_fallback=True to run it so all the same"
    )
    with pytest.raises(qcam.ProviderError, match=r"; use provider CPU, or a bundle with f32$"):
        fitting_precisions(bundle, (), SessionSettings(provider="TensorRT"))


@pytest.mark.parametrize("provider", ["CPU", "OpenVINO"])
def test_other_providers_leave_nothing_out(tiny_bundle, provider):
    assert left_out(tiny_bundle, (), SessionSettings(provider=provider)) == {}


def test_the_footer_says_that_int8_on_cuda_is_float_arithmetic(tiny_bundle):
    kernels = {("Conv", CUDA): 3, ("Gemm", CUDA): 1, ("QuantizeLinear", CUDA): 5, ("DequantizeLinear", CUDA): 9}
    copied = {("Conv", CUDA): 4, ("MemcpyToHost", CUDA): 2}
    placements = {"f32": Placement({("Conv", CUDA): 4}, 4), "int8": Placement(kernels, 4)}
    ran = {name: Deployed(tiny_bundle.precision(name), placement) for name, placement in placements.items()}
    facts = ModelFacts(tiny_bundle, tiny_bundle.preprocessing, ran, [], 1, 0)
    (line,) = arithmetic_lines([facts], "CUDA")
    assert line == (
        "tiny on CUDA — f32: float; int8: float arithmetic between Q and DQ (0 of 4 integer kernels); 0 Q/DQ on CPU, 0 copies: "
        "int8 on CUDA is float arithmetic between Q and DQ, it has no integer kernels"
    )
    ran["f32"] = Deployed(tiny_bundle.precision("f32"), Placement(copied, 4))
    assert "f32: float; 2 copies" in arithmetic_lines([facts], "CUDA")[0]


def test_what_is_pretended_is_no_gpu(tiny_bundle, monkeypatch):
    """The sessions of these tests run on the CPU: no figure of them is one of a GPU."""
    pretend_cuda(monkeypatch)
    session = onnxruntime.InferenceSession(str(tiny_bundle.path("f32")), onnxruntime.SessionOptions(), providers=[CUDA])
    assert session.get_providers() == [CUDA, CPU]
    plain = onnxruntime.InferenceSession(str(tiny_bundle.path("f32")), onnxruntime.SessionOptions(), providers=[CPU])
    image = {session.get_inputs()[0].name: np.zeros((1, 3, 32, 32), np.float32)}
    np.testing.assert_array_equal(session.run(None, image)[0], plain.run(None, image)[0])
