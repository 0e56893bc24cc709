"""What only real weights and real photographs can show: EfficientNet-Lite0 on the 20 ImageNet photographs of foolbox."""

from __future__ import annotations

import numpy as np
import pytest

from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.saliency import open_saliency
from qcam.evaluate.study.study import Study
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.probe import saturates_in_pairs
from qcam.runtime.mirror import Mirror

pytestmark = pytest.mark.slow

#: The integer kernels' exact sums on every x86 CPU; changes nothing on one whose kernels do not saturate.
EXACT = {"session.x64quantprecision": "1"}


@pytest.fixture(scope="module")
def entries(lite0_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")

    def run(config):
        options = StudyOptions(("f32", "int16", "int8"), SessionSettings(config=config), saliency="u2netp")
        source = open_saliency("u2netp") if config else None
        study = Study([lite0_bundle], evaluation_photographs(), source, options, folder / str(len(config)))
        study = study.prepare("cpu", force=True)
        study.run()
        return {(e["precision"], e["comparison"], e["metric"]): e for e in study.results().summary["entries"]}

    return {"exact": run(EXACT), "default": run({})}


def test_the_float_model_knows_the_photographs(entries):
    accuracy = entries["exact"][("f32", "vs_label", "accuracy")]
    assert accuracy["n"] == 20
    assert accuracy["mean"] >= 17 / 20


def test_calibrated_int16_moves_no_cam(entries):
    for run in entries.values():
        assert run[("int16", "vs_f32", "CC")]["mean"] >= 0.999


def test_the_null_row_is_exactly_one(entries):
    """The same f32 model, run a second time: whatever drifts elsewhere in the table is not the runtime's mood."""
    for run in entries.values():
        for metric in ("SIM", "CC"):
            found = run[("f32", "vs_f32", metric)]
            assert (found["n"], found["undefined"], found["mean"], found["std"]) == (20, 0, 1.0, 0.0)
        assert run[("f32", "vs_f32", "logit_error")]["mean"] == 0.0


def test_per_channel_int8_moves_cams_little(entries):
    """With exact integer sums, as CPUs with VNNI compute; saturating kernels (AVX2) are the next test's."""
    found = entries["exact"][("int8", "vs_f32", "CC")]
    assert (found["n"], found["undefined"]) == (20, 0)
    assert found["mean"] >= 0.99
    assert entries["exact"][("int8", "fake_quant_vs_deployed", "CC")]["mean"] >= 0.995


def test_a_cpu_whose_kernels_saturate_shows_it(entries):
    exact = entries["exact"][("int8", "fake_quant_vs_deployed", "logit_error")]["mean"]
    default = entries["default"][("int8", "fake_quant_vs_deployed", "logit_error")]["mean"]
    if saturates_in_pairs():
        assert default > 2 * exact
    else:
        assert default == pytest.approx(exact, rel=1e-6)


def test_reduced_range_makes_a_bundle_immune_to_saturation(reduced_lite0_bundle):
    bundle = reduced_lite0_bundle
    crops = [bundle.preprocessing.crop_image(decode(image.path).image) for image in evaluation_photographs()[:8]]
    images = bundle.preprocessing.normalise(np.stack(crops))
    default, exact = (DeployedModel(bundle, "int8", SessionSettings(config=config)).run(images) for config in ({}, EXACT))
    np.testing.assert_array_equal(default.tap, exact.tap)
    np.testing.assert_array_equal(default.logits, exact.logits)


def test_no_gradient_vanishes_because_a_logit_saturated(lite0_bundle):
    """Every class of every photograph has a gradient, also where the logits exceed what calibration saw."""
    crops = [lite0_bundle.preprocessing.crop_image(decode(image.path).image) for image in evaluation_photographs()]
    images = lite0_bundle.preprocessing.normalise(np.stack(crops))
    session = DeployedModel(lite0_bundle, "int8", SessionSettings())
    outputs = session.run(images)
    mirror = Mirror(load_onnx(lite0_bundle, "int8"), session.entry)
    activation = mirror.dequantize(session.entry.tap, outputs.tap)
    gradient = mirror.gradient(activation, outputs.logits.argmax(axis=1))
    assert (gradient.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_salient_objects_are_found_and_the_maps_agree_with_them_somewhat(entries):
    """A sanity bar, not a result: Grad-CAM++ of a trained net looks at the object more than chance would."""
    for precision in ("f32", "int16", "int8"):
        found = entries["exact"][(precision, "vs_saliency", "CC")]
        assert (found["n"], found["undefined"]) == (20, 0)
        assert found["mean"] > 0.3
