import numpy as np
import pytest
import torch
from own_networks import deep

from qcam.common.errors import UnsupportedGraphError
from qcam.evaluate.run import tails
from qcam.evaluate.run.evaluator import BundleEvaluator
from qcam.evaluate.run.explained import explain
from qcam.evaluate.run.protocol import Sample
from qcam.evaluate.run.tails import mirrors_of
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.runtime import mirror as mirrors
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.kernels import KERNELS


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A network whose CAM layer is its first one, in all precisions."""
    options = ExportOptions(cam_layer="stem", precisions=("f32", "int16", "int8"))
    return export_bundle(deep(), calibration_photographs()[:3], options, tmp_path_factory.mktemp("early") / "bundle")


def made(bundle, precision="int8", *, settings=None, tail_only=True):
    entry = bundle.precision(precision)
    return mirrors_of(
        load_onnx(bundle, precision), entry, settings or SessionSettings(), "cpu", bundle.preprocessing, tail_only=tail_only,
        name="early int8",
    )  # fmt: skip


def test_the_deployed_cam_takes_its_gates_from_the_kernels_that_ran(early, known_cpu):
    samples = []
    for photograph in evaluation_photographs()[:4]:
        crop = early.preprocessing.crop_image(decode(photograph.path).image)
        samples.append(Sample(photograph.name, "", None, "", crop, None))
    evaluator = BundleEvaluator(early, ["int8"], SessionSettings(threads=2), target="own-top1", fake_quant=True, null_row=False)
    evaluator.build("cpu")
    found = evaluator.explain(samples)["int8"]
    outputs = evaluator.deployed["int8"].run(early.preprocessing.normalise(np.stack([sample.crop for sample in samples])))
    model, entry = load_onnx(early, "int8"), early.precision("int8")
    exact = mirrors.Mirror(model, entry, arithmetic="integer", family=KERNELS[known_cpu])
    plain = mirrors.Mirror(model, entry)
    activation = exact.dequantize(entry.tap, outputs.tap)
    ours, theirs = (explain(mirror, activation, found.targets).maps for mirror in (exact, plain))
    np.testing.assert_array_equal(found.maps, ours)
    assert np.any(found.maps != theirs)
    simulated = evaluator._mirrors["int8"].simulated
    assert torch.equal(simulated.gradient(activation, found.targets), plain.gradient(activation, found.targets))


def test_where_the_gates_are_the_same_one_mirror_does_both(tiny_bundle, early, known_cpu):
    for found in (made(tiny_bundle), made(early, "f32"), made(early, "int16")):
        assert found.deployed is found.simulated
        assert found.deployed.arithmetic == "fake_quant"
    elsewhere = made(early, settings=SessionSettings(provider="CUDA"))
    assert elsewhere.deployed is elsewhere.simulated
    assert elsewhere.deployed.arithmetic == "fake_quant"
    both = made(early, tail_only=False)
    assert (both.simulated.arithmetic, both.deployed.arithmetic) == ("fake_quant", "integer")
    assert str(both.deployed.family) == known_cpu


def test_kernels_that_cannot_be_followed_are_told(early, known_cpu, monkeypatch):
    whole = mirrors.Mirror

    def refusing(model, entry, device="cpu", arithmetic="fake_quant", *others, **options):
        if arithmetic == "integer":
            raise UnsupportedGraphError("no kernel for it")
        return whole(model, entry, device, arithmetic, *others, **options)

    monkeypatch.setattr(mirrors, "Mirror", refusing)
    told = []
    monkeypatch.setattr(tails.telling, "warn", told.append)
    found = made(early)
    assert found.deployed is found.simulated
    (sentence,) = told
    assert sentence.startswith("early int8: behind the CAM layer, gradients pass where float32 lets them")
    assert sentence.endswith(f"not the {known_cpu} kernels: no kernel for it")
