import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from qcam.calibration.ranges import load_calibration_set
from qcam.common.errors import QcamError
from qcam.common.files import sha256_file
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.embedded import calibration_photographs
from qcam.models.sources import load_model
from qcam.runtime.bundle import Tap, load_bundle, load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.graph import Graph
from qcam.runtime.mirror import Mirror

#: Without 16-bit saturation, on any x86 CPU.
EXACT = {"session.x64quantprecision": "1"}
IMAGES = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)


def test_a_bundle_is_complete_and_reads_back_equal(tiny_bundle):
    read = load_bundle(tiny_bundle.folder)
    assert read == tiny_bundle
    assert [entry.name for entry in read.precisions] == ["f32", "int16", "int8"]
    assert {path.name for path in tiny_bundle.folder.iterdir()} == {"bundle.json", "f32.onnx", "int16.onnx", "int8.onnx"}
    for entry in read.precisions:
        assert sha256_file(read.path(entry.name)) == entry.sha256
        onnx.checker.check_model(load_onnx(read, entry.name), full_check=True)


def test_the_tap_of_a_quantized_graph_is_the_integer_codes(tiny_bundle):
    for precision, dtype in (("f32", "float32"), ("int16", "uint16"), ("int8", "uint8")):
        outputs = DeployedModel(tiny_bundle, precision, SessionSettings()).run(IMAGES)
        assert outputs.tap.dtype == np.dtype(dtype)
        assert outputs.tap.shape == (3, 16, 8, 8)
        assert outputs.logits.shape == (3, 10)


def test_dequantized_codes_are_the_activation(tiny_bundle):
    """On the calibration photographs, where nothing is clipped."""
    photographs = load_calibration_set(calibration_photographs(), tiny_bundle.preprocessing)
    (images,) = photographs.normalised_batches(tiny_bundle.preprocessing, 100)
    wanted = DeployedModel(tiny_bundle, "f32", SessionSettings()).run(images).tap
    for precision, bound in (("int16", 2e-3), ("int8", 5e-2)):
        session = DeployedModel(tiny_bundle, precision, SessionSettings(config=EXACT))
        found = session.entry.tap.dequantize(session.run(images).tap)
        assert np.abs(found - wanted).max() / wanted.max() < bound, precision


@pytest.mark.parametrize("precision", ["int16", "int8"])
def test_logits_are_not_quantized(tiny_bundle, precision):
    graph = Graph(load_onnx(tiny_bundle, precision))
    assert graph.producer["logits"].op_type == "Gemm"
    assert graph.quantize_of("logits") is None


def test_weights_are_quantized_per_channel(tiny_bundle):
    graph = Graph(load_onnx(tiny_bundle, "int8"))
    convolutions = [node for node in graph.model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    for node in convolutions:
        dequantizer = graph.producer[node.input[1]]
        assert graph.array(dequantizer.input[1]).size == graph.array(dequantizer.input[0]).shape[0]
        assert not graph.array(dequantizer.input[2]).any()


def test_int32_bias_scale_is_the_product_of_the_scales(tiny_bundle):
    graph = Graph(load_onnx(tiny_bundle, "int8"))
    for node in graph.model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            x, w, b = (graph.producer[name] for name in node.input)
            product = graph.array(x.input[1]).astype(np.float32) * graph.array(w.input[1]).astype(np.float32)
            np.testing.assert_array_equal(graph.array(b.input[1]), product)


def test_the_symmetric_scheme_has_zero_point_zero_everywhere(export_tiny, tmp_path):
    bundle = export_tiny(tmp_path / "b", scheme="s8s8", precisions=("f32", "int8"))
    entry = bundle.precision("int8")
    assert entry.quantization.scheme == "s8s8"
    assert entry.quantization.activation_symmetric is True
    graph = Graph(load_onnx(bundle, "int8"))
    zero_points = [graph.array(n.input[2]) for n in graph.model.graph.node if n.op_type == "QuantizeLinear"]
    assert zero_points
    assert all(point.dtype == np.int8 and not point.any() for point in zero_points)
    placement = DeployedModel(bundle, "int8", SessionSettings()).placement
    assert (placement.integer_kernels, placement.float_kernels) == (4, 0)


def test_reduced_range_keeps_weights_to_seven_bits(export_tiny, tmp_path):
    bundle = export_tiny(tmp_path / "b", reduce_range=True, precisions=("f32", "int8"))
    graph = Graph(load_onnx(bundle, "int8"))
    weights = [t for t in bundle_weights(graph)]
    assert len(weights) == 4
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) <= 64
    assert bundle.precision("int8").quantization.weight_reduced_range is True


def bundle_weights(graph):
    for node in graph.model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            yield graph.array(graph.producer[node.input[1]].input[0])


def test_opset_18_uses_the_contributed_16_bit_operators_and_still_mirrors(export_tiny, tmp_path):
    bundle = export_tiny(tmp_path / "b", opset=18)
    model = load_onnx(bundle, "int16")
    assert {node.domain for node in model.graph.node if node.op_type == "QuantizeLinear"} == {"com.microsoft"}
    session = DeployedModel(bundle, "int16", SessionSettings())
    mirror = Mirror(model, session.entry)
    outputs = session.run(IMAGES)
    # Mirrored from the same scales: codes differ at most where float sums round apart.
    assert np.abs(mirror.forward(IMAGES).tap.numpy() - outputs.tap).max() <= 1
    np.testing.assert_allclose(mirror.forward(IMAGES).logits.numpy(), outputs.logits, rtol=1e-3, atol=1e-3)


def test_an_existing_bundle_is_refused_and_replaced_only_by_force(export_tiny, tmp_path):
    first = export_tiny(tmp_path / "b", precisions=("f32",))
    with pytest.raises(QcamError, match="exists already"):
        export_tiny(tmp_path / "b", precisions=("f32",))
    second = export_tiny(tmp_path / "b", seed=1, precisions=("f32",), force=True)
    assert second.precision("f32").sha256 != first.precision("f32").sha256
    assert load_bundle(tmp_path / "b") == second
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_failing_export_leaves_nothing_and_keeps_the_old_bundle(export_tiny, tmp_path):
    with pytest.raises(QcamError, match="does not exist"):
        export_tiny(tmp_path / "b", cam_layer="no.such.layer")
    assert list(tmp_path.iterdir()) == []
    before = export_tiny(tmp_path / "b", precisions=("f32",))
    with pytest.raises(QcamError, match="does not exist"):
        export_tiny(tmp_path / "b", cam_layer="no.such.layer", force=True)
    assert load_bundle(tmp_path / "b") == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_tap_inside_a_branch_hands_out_the_skip_connection(export_tiny, tmp_path):
    bundle = export_tiny(tmp_path / "b", cam_layer="branch")
    for precision in ("f32", "int8"):
        session = DeployedModel(bundle, precision, SessionSettings())
        assert len(session.entry.skips) == 1, precision
        outputs = session.run(IMAGES)
        mirror = Mirror(load_onnx(bundle, precision), session.entry)
        taps = [mirror.dequantize(t, v) for t, v in zip(session.taps, (outputs.tap, *outputs.skips), strict=True)]
        gradient = mirror.gradient(taps[0], np.array([1, 2, 3]), taps[1:])
        assert gradient.shape == (3, 8, 16, 16)
        assert bool(gradient.abs().amax(dim=(1, 2, 3)).gt(0).all())


def test_the_file_names_nothing_of_this_machine(tiny_bundle):
    for path in tiny_bundle.folder.iterdir():
        data = path.read_bytes()
        assert b"site-packages" not in data
        assert str(Path.home()).encode() + b"/" not in data
        assert str(Path(__file__).parents[2]).encode() not in data


@pytest.mark.slow
def test_exporting_twice_gives_the_same_hashes(tmp_path):
    """In two processes with different string hashing, so that no order of a set can hide."""
    for seed in ("1", "2"):
        subprocess.run(
            [
                sys.executable,
                *("-m", "qcam.commands.export", "squeezenet1_1", "--weights", "random:0", "--calibration-limit", "2"),
                *("--output", tmp_path / seed),
            ],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
    for path in sorted((tmp_path / "1" / "squeezenet1_1").iterdir()):
        assert path.read_bytes() == (tmp_path / "2" / "squeezenet1_1" / path.name).read_bytes(), path.name


def test_float_taps_dequantize_to_themselves():
    values = np.array([1.5, -2.0], np.float32)
    np.testing.assert_array_equal(Tap("a", "a", "float32").dequantize(values), values)
    np.testing.assert_array_equal(Tap("a", "q", "uint8", 0.5, 3).dequantize(np.array([3, 5], np.uint8)), [0.0, 1.0])


def test_force_replaces_bundles_only(export_tiny, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work")
    with pytest.raises(QcamError, match="is no bundle; force=True replaces bundles only"):
        export_tiny(tmp_path / "b", precisions=("f32",), force=True)
    assert (tmp_path / "b" / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_a_cam_layer_that_no_quantized_operator_reads_still_carries_codes(seeded_bundle):
    """MobileNet-V3 ends in a HardSwish that only the pooling reads."""
    bundle = seeded_bundle("timm:mobilenetv3_small_050")
    for precision, dtype in (("int16", "uint16"), ("int8", "uint8")):
        assert bundle.precision(precision).tap.dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_vit", "rearranged dimensions|no feature map"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_at_export(name, message, tmp_path):
    loaded = load_model(name, "random:0")
    with pytest.raises(QcamError, match=message):
        export_bundle(loaded, calibration_photographs()[:2], ExportOptions(precisions=("f32",)), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_no_file_holds_is_refused_before_anything_is_calibrated(export_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("qcam.exporters.export._MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("qcam.exporters.export.load_calibration_set", None)
    with pytest.raises(QcamError, match=r"the network's weights take 0.0 GiB, and one ONNX file holds 2 GiB"):
        export_tiny(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
