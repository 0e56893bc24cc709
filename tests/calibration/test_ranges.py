"""Activation ranges of a tiny convolution, against what ONNX's reference evaluator computes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization.calibrate import create_calibrator
from PIL import Image

from qcam.calibration import ranges
from qcam.calibration.ranges import CalibrationSet, collect_ranges, load_calibration_set, quantizable_operators
from qcam.common.errors import QcamError
from qcam.common.files import sha256_file
from qcam.common.vocabulary import CalibrationMethod
from qcam.images.preprocessing import Preprocessing
from qcam.images.sources import ImageFile
from qcam.runtime.described import Calibration

SETTINGS = Preprocessing(12, (12, 12), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
TENSORS = ("input", "convolved", "rectified")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A convolution with negative and positive results, then ReLU, then a global mean."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["rectified"]),
        helper.make_node("GlobalAveragePool", ["rectified"], ["logits"]),
    ]
    shapes = {"input": ["batch", 3, 12, 12], "convolved": ["batch", 4, 12, 12], "rectified": ["batch", 4, 12, 12]}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [infos["input"]],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 1, 1])],
        [numpy_helper.from_array(weight, "weight")],
        value_info=[infos["convolved"], infos["rectified"]],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def calibration_set(crops: NDArray[np.uint8]) -> CalibrationSet:
    names = tuple(f"{index}.png" for index in range(len(crops)))
    return CalibrationSet(crops, names, tuple(name * 3 for name in names), ())


@pytest.fixture(scope="module")
def calibration() -> CalibrationSet:
    # 19 images: no batch size but 1 and 19 divides that. The first and the last hold the extremes.
    crops = np.random.default_rng(1).integers(60, 190, (19, 12, 12, 3), np.uint8)
    crops[0] = np.where(np.indices((12, 12)).sum(0)[..., None] % 2, 0, 255)
    crops[-1, 4:8, 4:8] = (255, 0, 255)
    return calibration_set(crops)


@pytest.fixture(scope="module")
def truth(model: onnx.ModelProto, calibration: CalibrationSet) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each tensor over all images, by another implementation."""
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    open_model.graph.output.extend(open_model.graph.value_info)
    batch = SETTINGS.normalise(calibration.crops)
    results = ReferenceEvaluator(open_model).run(["convolved", "rectified"], {"input": batch})
    return {name: (float(value.min()), float(value.max())) for name, value in zip(TENSORS, [batch, *results], strict=True)}


def found(model: onnx.ModelProto, calibration: CalibrationSet, method: str) -> dict[str, tuple[float, float]]:
    data = collect_ranges(model, calibration, SETTINGS, method, symmetric=True)
    return {name: tuple(float(np.asarray(edge).item()) for edge in data[name].range_value) for name in TENSORS}


@pytest.mark.parametrize("batch", [1, 2, 5, 8, 18, 19, 100])
def test_minmax_is_the_true_range_whatever_the_batch(
    model: onnx.ModelProto,
    calibration: CalibrationSet,
    truth: dict[str, tuple[float, float]],
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ranges._BATCH, "minmax", batch)
    measured = found(model, calibration, "minmax")
    assert measured["input"] == truth["input"]
    for name in TENSORS:
        assert measured[name] == pytest.approx(truth[name], rel=1e-6)  # two convolutions in float32


def test_what_a_relu_alone_reads_gets_its_results_range_unless_it_will_carry_codes(
    model: onnx.ModelProto, calibration: CalibrationSet, truth: dict[str, tuple[float, float]]
) -> None:
    plain = collect_ranges(model, calibration, SETTINGS, "minmax")
    assert plain["convolved"].range_value == plain["rectified"].range_value
    assert plain["rectified"].range_value == pytest.approx(truth["rectified"], rel=1e-6)
    kept = collect_ranges(model, calibration, SETTINGS, "minmax", cam_tensor="convolved")
    assert kept["convolved"].range_value == pytest.approx(truth["convolved"], rel=1e-6)


@pytest.mark.parametrize("opset", [17, 18, 21])
def test_minmax_agrees_with_onnx_runtimes_own_calibrator(
    model: onnx.ModelProto, calibration: CalibrationSet, tmp_path: Path, opset: int
) -> None:
    other = onnx.version_converter.convert_version(model, opset)
    onnx.save(other, tmp_path / "model.onnx")
    calibrator = create_calibrator(tmp_path / "model.onnx", augmented_model_path=str(tmp_path / "augmented.onnx"))
    for batch in calibration.normalised_batches(SETTINGS, 4):
        calibrator.collect_data(ranges._OneBatch("input", batch))
    theirs = calibrator.compute_data()
    ours = collect_ranges(other, calibration, SETTINGS, "minmax", symmetric=True)
    assert set(theirs.keys()) <= set(ours.keys())
    for name in theirs.keys():  # noqa: SIM118 - not a dict
        found = [float(np.asarray(edge).item()) for edge in theirs[name].range_value]
        assert [float(edge) for edge in ours[name].range_value] == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_minmax_does_not_depend_on_the_order(
    model: onnx.ModelProto, calibration: CalibrationSet, truth: dict[str, tuple[float, float]], order: slice
) -> None:
    measured = found(model, calibration_set(calibration.crops[order]), "minmax")
    for name in TENSORS:
        assert measured[name] == pytest.approx(truth[name], rel=1e-6)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_histogram_methods_stay_inside_and_asymmetric(
    model: onnx.ModelProto, calibration: CalibrationSet, truth: dict[str, tuple[float, float]], method: str
) -> None:
    measured = found(model, calibration, method)
    for name in TENSORS:
        (low, high), (least, most) = measured[name], truth[name]
        slack = 1e-6 * max(-least, most)
        assert least - slack <= low < high <= most + slack
        assert high - low > 0.25 * (most - least)
        assert abs(low) != pytest.approx(abs(high), rel=1e-3)
    # Nothing is wasted on negative codes behind a ReLU.
    assert measured["rectified"][0] == pytest.approx(0, abs=1e-6)


def test_the_percentile_cuts_off_rare_values_on_one_side_alone(model: onnx.ModelProto) -> None:
    # One value of 259,200 is black in otherwise bright pictures; 99.999 % leaves out 1.3 on either side.
    crops = np.full((600, 12, 12, 3), 200, np.uint8)
    crops[::2] = 220
    crops[7, 5, 5, 2] = 0
    low, high = found(model, calibration_set(crops), "percentile")["input"]
    everything = found(model, calibration_set(crops), "minmax")["input"]
    assert everything[0] == pytest.approx((0 - 0.6) / 0.3, rel=1e-6)
    # The next darkest is blue at level 200. A symmetric range would reach down to -2 again.
    assert low == pytest.approx((200 / 255 - 0.6) / 0.3, abs=0.1)
    assert high == pytest.approx(everything[1], abs=0.1)


@pytest.mark.parametrize("method", ["distribution", "MinMax", ""])
def test_unknown_methods_are_refused(model: onnx.ModelProto, calibration: CalibrationSet, method: str) -> None:
    with pytest.raises(QcamError, match=f"calibration method '{method}' is unknown; choose one of minmax, entropy, perc"):
        collect_ranges(model, calibration, SETTINGS, method)


@pytest.mark.parametrize("method", CalibrationMethod)
def test_progress_counts_every_image_and_nothing_is_printed(
    model: onnx.ModelProto, calibration: CalibrationSet, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    counts: list[int] = []
    before = logging.getLogger().level
    untouched = model.SerializeToString()
    collect_ranges(model, calibration, SETTINGS, method, counts.append)
    assert sum(counts) == 19
    assert max(counts) <= ranges._BATCH[method]
    assert logging.getLogger().level == before
    assert capfd.readouterr().out == ""
    assert model.SerializeToString() == untouched


def test_the_quantizable_operators_are_those_of_networks() -> None:
    operators = quantizable_operators()
    assert {"Conv", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "GlobalAveragePool"} <= set(operators)
    assert operators == sorted(set(operators))


def files(folder: Path, count: int) -> list[ImageFile]:
    made = []
    for index in range(count):
        path = folder / f"{index}.png"
        pixels = np.random.default_rng(index).integers(0, 256, (20 + index, 30, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        made.append(ImageFile(path.name, path))
    return made


def test_a_calibration_set_names_what_it_could_not_use(tmp_path: Path) -> None:
    good = files(tmp_path, 3)
    (tmp_path / "bad.jpg").write_text("text")
    loaded = load_calibration_set([good[0], ImageFile("bad.jpg", tmp_path / "bad.jpg"), *good[1:]], SETTINGS)
    assert loaded.names == ("0.png", "1.png", "2.png")
    assert loaded.refused == ("bad.jpg: not an image that can be identified",)
    assert loaded.crops.shape == (3, 12, 12, 3)
    for crop, file in zip(loaded.crops, good, strict=True):
        assert np.array_equal(crop, SETTINGS.crop_image(Image.open(file.path)))


@pytest.mark.parametrize(
    ("make", "message"),
    [(list, "none given"), (lambda: [ImageFile("x", Path("/x"))], "x: cannot be read")],
)
def test_a_set_without_one_usable_photograph_is_refused(make: object, message: str) -> None:
    with pytest.raises(QcamError, match=f"no calibration photograph can be used; first refusal: {message}"):
        load_calibration_set(make(), SETTINGS)


def test_the_fingerprint_tells_method_and_photographs_apart(tmp_path: Path) -> None:
    three = load_calibration_set(files(tmp_path, 3), SETTINGS)
    two = load_calibration_set(files(tmp_path, 2), SETTINGS)
    record = three.to_json("minmax")
    assert (record["method"], record["images"], record["names"]) == ("minmax", 3, ["0.png", "1.png", "2.png"])
    assert record["sha256"] == [sha256_file(file.path) for file in files(tmp_path, 3)]
    prints = [record["fingerprint"], three.to_json("entropy")["fingerprint"], two.to_json("minmax")["fingerprint"]]
    assert len(set(prints)) == 3
    assert load_calibration_set(files(tmp_path, 3), SETTINGS).to_json("minmax") == record


def test_the_hashes_of_so_many_photographs_are_kept_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcam.calibration.ranges.MOST_HASHES", 2)
    three = load_calibration_set(files(tmp_path, 3), SETTINGS)
    told = Calibration.of(three.to_json("minmax"), "the calibration")
    assert (told.sha256, told.images, told.hashed_all) == (three.sha256[:2], 3, False)


@pytest.mark.parametrize("size", [1, 2, 19, 50])
def test_batches_are_the_set_in_order(calibration: CalibrationSet, size: int) -> None:
    batches = list(calibration.normalised_batches(SETTINGS, size))
    assert all(len(batch) <= size for batch in batches)
    assert np.array_equal(np.concatenate(batches), SETTINGS.normalise(calibration.crops))
