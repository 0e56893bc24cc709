from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
from pretended import CPU, CUDA, pretend_cuda

from qcam.common import telling
from qcam.common.errors import ImageSetError, ProviderError, UnsupportedGraphError
from qcam.common.wording import in_python
from qcam.evaluate.check.checker import Checker
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.run import run_check
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.gpu import Gpu
from qcam.runtime.mirror import Mirror


@pytest.fixture
def reads(monkeypatch):
    """How often each ONNX file is read; not what ONNX Runtime writes down for the mirror."""
    counted = Counter()
    load = onnx.load

    def counting(path, *arguments, **further):
        if "qcam-loaded-" not in str(path):
            counted[Path(path)] += 1
        return load(path, *arguments, **further)

    monkeypatch.setattr(onnx, "load", counting)
    return counted


def test_each_file_is_read_once(tiny_bundle, reads):
    both = ("integer", "fake_quant")
    run_check([tiny_bundle], evaluation_photographs()[:1], CheckOptions(arithmetics=both, every_tensor=True))
    assert reads == {tiny_bundle.path(name): 1 for name in ("f32", "int16", "int8")}


def test_a_deployed_file_and_the_bundles_are_read_once_each(tiny_bundle, reads, tmp_path):
    other = tmp_path / "vendor.onnx"
    other.write_bytes(tiny_bundle.path("int8").read_bytes())
    found = run_check([tiny_bundle], evaluation_photographs()[:1], CheckOptions(deployed=other))
    assert reads == {tiny_bundle.path("int8"): 1, other: 1}
    assert found.deployed_sha256 == tiny_bundle.precision("int8").sha256
    assert found.holds


def test_warnings_are_told_and_kept_and_nothing_is_printed_or_written(
    tiny_bundle, known_cpu, capsys, caplog, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = run_check([tiny_bundle], evaluation_photographs()[:2], CheckOptions(precisions=("int8",)))
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    told = [record for record in caplog.records if record.name == telling.LOGGER.name]
    assert [record.template for record in told] == list(found.warnings)
    assert [record.getMessage() for record in told] == [in_python(text) for text in found.warnings]
    assert any("this file behaves differently" in warning for warning in found.warnings)
    assert [item.result.title for item in found.judged] == [f"tiny int8, integer ({known_cpu})"]
    assert found.placement()["tiny"]["int8"]["integer_coverage"]["count"] == 1


def test_images_that_calibrated_the_bundle_are_warned_of_once(tiny_bundle, known_cpu):
    images = [*calibration_photographs()[:2], *evaluation_photographs()[:1]]
    found = run_check([tiny_bundle], images, CheckOptions(precisions=("int16", "int8")))
    told = "2 of 3 images calibrated tiny: its ranges fit them; evaluate on others"
    assert [text for text in found.warnings if "calibrated" in text] == [told]


def test_a_photograph_is_decoded_once_for_all_mirrors_of_a_precision_under_one_bar(tiny_bundle, known_cpu, monkeypatch):
    decoded, bars = [], []

    class Listener:
        @contextmanager
        def progress(self, description, total):
            bars.append([description, total])
            yield bars[-1].append

    def counting(source):
        decoded.append(source)
        return decode(source)

    monkeypatch.setattr("qcam.evaluate.check.batches.decode", counting)
    options = CheckOptions(precisions=("int8",), arithmetics=("integer", "fake_quant"), batch_size=2)
    photographs = evaluation_photographs()[:3]
    with telling.listening(Listener()):
        found = run_check([tiny_bundle], photographs, options)
    assert decoded == [photograph.path for photograph in photographs]
    mirrors = 2 + len(found.elsewhere)
    assert mirrors > 2
    assert bars == [[f"tiny int8, {mirrors} mirrors", 3, 2, 1]]


def test_a_cpu_family_whose_graph_is_not_known_is_remarked_and_stops_nothing(tiny_bundle, known_cpu, monkeypatch):
    other = "avx2" if known_cpu != "avx2" else "vnni"
    forward = Mirror.forward

    def fails(mirror, *arguments, **observers):
        if mirror.family.name == other:
            raise UnsupportedGraphError("no {batch_size}")
        return forward(mirror, *arguments, **observers)

    monkeypatch.setattr(Mirror, "forward", fails)
    found = run_check([tiny_bundle], evaluation_photographs()[:1], CheckOptions(precisions=("int8",)))
    assert found.holds
    assert other not in {result.kernel for result in found.elsewhere}
    assert f"tiny int8: what CPUs of family {other} compute is not foretold: no {{batch_size}}" in found.remarks


def test_the_time_is_told_in_shares_and_kept_apart(tiny_bundle):
    found = run_check([tiny_bundle], evaluation_photographs()[:1], CheckOptions(precisions=("f32", "int16")))
    assert found.remarks[-1].startswith("time: ")
    assert "float mirror" in found.remarks[-1]
    seconds = found.to_json()["seconds"]
    assert {name: set(of) for name, of in seconds.items()} == {"tiny": {"f32", "int16"}}
    assert {"preparing", "exposed run", "integer mirror", "comparing"} < set(seconds["tiny"]["int16"])


def test_no_photographs_are_nothing_to_compare(tiny_bundle):
    with pytest.raises(ImageSetError, match="no image to compare"):
        run_check([tiny_bundle], [])


def test_a_check_on_the_cpu_asks_for_no_gpu_and_records_none(tiny_bundle, monkeypatch):
    monkeypatch.setattr("qcam.evaluate.check.run.read_gpu", lambda index: pytest.fail("a GPU was asked for"))
    options = CheckOptions(precisions=("f32",), settings=SessionSettings(threads=1, tf32=True))
    found = run_check([tiny_bundle], evaluation_photographs()[:1], options)
    assert not {"gpu", "tf32", "provider_options"} & set(found.to_json())


def test_a_check_with_a_mirror_on_a_gpu_records_it(tiny_bundle, monkeypatch):
    t4 = Gpu("Tesla T4", "7.5", "580.65.06")
    monkeypatch.setattr("qcam.evaluate.check.run.read_gpu", lambda index: t4)
    on_cpu = lambda *arguments, **named: Checker(*arguments, **named | {"device": "cpu"})  # noqa: E731
    monkeypatch.setattr("qcam.evaluate.check.run.Checker", on_cpu)
    options = CheckOptions(precisions=("f32",), settings=SessionSettings(threads=1), device="cuda")
    found = run_check([tiny_bundle], evaluation_photographs()[:1], options)
    assert found.to_json()["gpu"] == t4.to_json()
    assert found.to_json()["tf32"] is False
    said = "GPU: Tesla T4 (7.5), driver 580.65.06; float32 in float32 (TF32 off), kernels that repeat themselves"
    assert said in found.remarks


def test_a_check_of_a_whole_bundle_on_cuda_leaves_int16_out_and_warns(tiny_bundle, monkeypatch):
    pretend_cuda(monkeypatch)
    monkeypatch.setattr("qcam.evaluate.check.run.read_gpu", lambda index: Gpu("Tesla T4", "7.5", "580.65.06"))
    options = CheckOptions(settings=SessionSettings(provider="CUDA"))
    checked = run_check([tiny_bundle, tiny_bundle], evaluation_photographs()[:1], options)
    assert {item.result.precision for item in checked.judged} == {"f32", "int8"}
    (told,) = [text for text in checked.warnings if "left out" in text]
    assert told.startswith("int16 of tiny is left out: CUDA has no kernels for 16-bit quantization: ")


def test_a_check_with_fallback_allowed_judges_int16_on_cuda_and_warns(tiny_bundle, monkeypatch):
    pretend_cuda(monkeypatch, placing=lambda operator, name: CPU if "uantizeLinear" in operator else CUDA)
    monkeypatch.setattr("qcam.evaluate.check.run.read_gpu", lambda index: Gpu("Tesla T4", "7.5", "580.65.06"))
    photographs = evaluation_photographs()[:1]
    with pytest.raises(ProviderError, match="or allow_fallback=True to run it so all the same"):
        run_check([tiny_bundle], photographs, CheckOptions(precisions=("int16",), settings=SessionSettings(provider="CUDA")))
    settings = SessionSettings(provider="CUDA", allow_fallback=True)
    checked = run_check([tiny_bundle], photographs, CheckOptions(precisions=("int16",), settings=settings))
    assert [item.result.precision for item in checked.judged] == ["int16"]
    (told,) = [text for text in checked.warnings if "fallback accepted" in text]
    assert told.startswith("tiny int16: fallback accepted: ")
    assert "QuantizeLinear" in told


def test_a_check_that_falls_back_to_the_cpu_alone_names_no_gpu(tiny_bundle, monkeypatch):
    monkeypatch.setattr("qcam.evaluate.check.run.read_gpu", lambda index: pytest.fail("a GPU was asked for"))
    options = CheckOptions(precisions=("f32",), settings=SessionSettings(provider="CUDA", allow_fallback=True))
    checked = run_check([tiny_bundle], evaluation_photographs()[:1], options)
    assert checked.gpu is None
    assert any("f32: fallback accepted: " in text for text in checked.warnings)
