import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from own_networks import deep

from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.runtime.bundle import PrecisionEntry, Tap, load_onnx
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


#: Weights of 1 × 1 convolutions on six channels of code 255, in pairs: the sum of the first is 1,785 and saturates to -30,218,
#: that of the second is its opposite, that of the third does not saturate.
SATURATING = np.array([[127, 127, -127, 0, -120, 0], [-127, -127, 127, 0, 120, 0], [9, 1, 2, 3, 1, 1]], np.int8)


def saturating_graph():
    """Return tap codes → Conv → ReLU → mean → logits, one class for each channel, with scales of 2^-7 and 2^-4."""
    constants = {
        "one": np.float32(1), "zero": np.uint8(0), "w_scale": np.full(3, 2**-7, np.float32), "w_zero": np.zeros(3, np.int8),
        "y_scale": np.float32(16), "w_q": SATURATING.reshape(3, 6, 1, 1),
    }  # fmt: skip
    nodes = [
        ("QuantizeLinear", ("x", "one", "zero"), "t_q"), ("DequantizeLinear", ("t_q", "one", "zero"), "t"),
        ("DequantizeLinear", ("w_q", "w_scale", "w_zero"), "w"), ("Conv", ("t", "w"), "c"), ("Relu", ("c",), "r"),
        ("QuantizeLinear", ("r", "y_scale", "zero"), "r_q"), ("DequantizeLinear", ("r_q", "y_scale", "zero"), "r_d"),
        ("GlobalAveragePool", ("r_d",), "g"), ("Flatten", ("g",), "logits"),
    ]  # fmt: skip
    made = [helper.make_node(operator, inputs, [output], output) for operator, inputs, output in nodes]
    made[2].attribute.append(helper.make_attribute("axis", 0))
    graph = helper.make_graph(
        made,
        "saturating",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 6, 2, 2])],
        [helper.make_empty_tensor_value_info(name) for name in ("logits", "t_q")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("family", "opened"), [("vnni", [True, False, True]), ("avx2", [False, True, True])])
def test_where_products_saturate_the_exact_code_opens_the_gate(family, opened):
    tap = Tap("t", "t_q", "uint8", 1.0, 0)
    entry = PrecisionEntry("int8", "model.onnx", "", "logits", tap)
    mirror = Mirror(saturating_graph(), entry, arithmetic="integer", family=KERNELS[family], tail_only=True)
    found = mirror.gradient(torch.full((3, 6, 2, 2), 255.0), np.arange(3)).numpy()
    weights = SATURATING.astype(np.float32) * np.float32(2**-7) / 4
    wanted = np.where(np.array(opened)[:, None], weights, 0)[:, :, None, None]
    np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), rtol=1e-6, atol=0)
