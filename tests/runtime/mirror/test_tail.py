import numpy as np
import pytest
import torch
from own_networks import deep

from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror import Mirror


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    def make(layer, **network):
        options = ExportOptions(cam_layer=layer, precisions=("int8",))
        folder = tmp_path_factory.mktemp("deep") / "bundle"
        return export_bundle(deep(**network), calibration_photographs()[:3], options, folder)

    return make


def following(bundle):
    mirror = Mirror(load_onnx(bundle, "int8"), bundle.precision("int8"), tail_only=True)
    return {name for name, family in KERNELS.items() if mirror.follows(family)}


@pytest.mark.parametrize(
    ("layer", "score_maps", "families"),
    [
        ("body", False, {"vnni", "avx2", "arm64"}),  # a mean and a linear layer: no gate
        ("body", True, {"vnni", "arm64"}),  # ReLU behind one layer of the tap's own codes, whose products may saturate
        ("body.7", False, set()),  # two layers in front of a ReLU
    ],
)
def test_float32_opens_the_gates_of_the_kernels_where_no_second_layer_stands_before_one(export, layer, score_maps, families):
    assert following(export(layer, score_maps=score_maps)) == families


def test_sums_in_fixed_point_are_other_numbers(export_tiny, tmp_path):
    """Behind the branch, an addition stands before a ReLU, and a layer before the next one."""
    assert following(export_tiny(tmp_path / "branch", cam_layer="branch", precisions=("int8",))) == set()


def test_the_integer_tail_computes_forward_what_ran(export, known_cpu):
    """Its logits are the deployed ones bit for bit, and gates that it opens others than float32 has."""
    bundle = export("stem")
    crops = [bundle.preprocessing.crop_image(decode(photograph.path).image) for photograph in evaluation_photographs()[:8]]
    deployed = DeployedModel(bundle, "int8", SessionSettings())
    outputs = deployed.run(bundle.preprocessing.normalise(np.stack(crops)))
    model, entry = load_onnx(bundle, "int8"), deployed.entry
    plain = Mirror(model, entry, tail_only=True)
    exact = Mirror(model, entry, arithmetic="integer", family=KERNELS[known_cpu], tail_only=True)
    assert exact.follows(KERNELS[known_cpu])
    assert not any(exact.follows(family) for name, family in KERNELS.items() if name != known_cpu)
    activation = exact.dequantize(entry.tap, outputs.tap)
    values = dict.fromkeys(exact._tail._entries, activation) | {entry.tap.output: torch.from_numpy(outputs.tap).float()}
    with torch.no_grad():
        found = exact._tail.program.run(values, exact._placed)[entry.logits]
    np.testing.assert_array_equal(found.numpy(), outputs.logits)

    targets = outputs.logits.argmax(axis=1)
    ours, theirs = (mirror.gradient(activation, targets).flatten(1).double() for mirror in (exact, plain))
    apart = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
    assert float(apart.max()) > 1e-3  # rounding alone: 1e-6
