"""Files that take pictures otherwise see the very pixels that all others see."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from brought_files import PREPROCESSING, SIZE, brought, network
from onnx import numpy_helper

from qcam.common.errors import BundleError, QcamError
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import Input, load_bundle, load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.inspection import InspectedModel
from qcam.runtime.deployed.probe import probe_kernels
from qcam.runtime.feeding import refuse_lost_pixels
from qcam.runtime.mirror import Mirror

CROPS = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
IMAGES = PREPROCESSING.normalise(CROPS)
TAKEN = [
    {"layout": layout, "dtype": dtype, "values": values, "batch": batch}
    for layout, (dtype, values), batch in itertools.product(
        ("NCHW", "NHWC"),
        (("float32", "normalised"), ("float32", "unit"), ("float32", "pixels"), ("uint8", "pixels")),
        (None, 2),
    )
]

MEANS_AND_STDS = [
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.5,) * 3, (0.5,) * 3),
    ((0.0,) * 3, (1.0,) * 3),
    ((0.0,) * 3, (1 / 255,) * 3),
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ((1.0,) * 3, (-1.0,) * 3),
    ((0.4,), (0.001,)),
    *(
        (tuple(numbers.uniform(-1, 2, 3)), tuple(numbers.uniform(0.001, 2, 3)))
        for numbers in map(np.random.default_rng, range(20))
    ),
]


@pytest.mark.parametrize(("mean", "std"), MEANS_AND_STDS)
def test_all_256_levels_come_back_exactly(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    preprocessing = Preprocessing(resize=None, crop=(16, 16), mean=mean, std=std)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = preprocessing.normalise(np.repeat(levels, 3, axis=3))
    channels = preprocessing.channels
    wanted = np.broadcast_to(levels.transpose(0, 3, 1, 2), (1, channels, 16, 16))
    for dtype, values, expected in (
        ("uint8", "pixels", wanted),
        ("float32", "pixels", wanted.astype(np.float32)),
        ("float32", "unit", wanted.astype(np.float32) / np.float32(255)),
    ):
        given = images.copy()
        fed = Input("x", "NCHW", dtype, (16, 16), channels, None, values).feed(given, preprocessing)
        assert fed.dtype == dtype
        assert np.array_equal(fed, expected)
        assert np.array_equal(given, images), "what other precisions are fed with has changed"
        turned = Input("x", "NHWC", dtype, (16, 16), channels, None, values).feed(images, preprocessing)
        assert np.array_equal(turned, expected.transpose(0, 2, 3, 1))
        assert turned.flags.c_contiguous


def test_a_file_that_takes_normalised_values_is_given_the_very_array() -> None:
    assert Input("x", size=SIZE, channels=3).feed(IMAGES, None) is IMAGES


def test_pixels_that_float32_does_not_hold_are_refused() -> None:
    lost = Preprocessing(resize=None, crop=SIZE, mean=(1e6,) * 3, std=(1.0,) * 3)
    with pytest.raises(QcamError, match=r"^pixels cannot be had back from mean .*1000000.*: float32 does not hold them$"):
        refuse_lost_pixels(lost)
    refuse_lost_pixels(PREPROCESSING)


@pytest.mark.parametrize("value", [9.0, -9.0, np.nan])
def test_images_that_are_no_normalised_photographs_are_refused(value: float) -> None:
    images = np.full((1, 3, *SIZE), value, np.float32)
    with pytest.raises(QcamError, match="no normalised photographs: some of their pixels would lie outside"):
        Input("x", dtype="uint8", values="pixels").feed(images, PREPROCESSING)


def test_pixels_are_not_guessed_without_a_preprocessing() -> None:
    with pytest.raises(QcamError, match="takes unit values, and nothing tells how pictures were normalised"):
        Input("x", values="unit").feed(IMAGES, None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layout": "HWCN"}, "input layout 'HWCN' is unknown; choose one of NCHW, NHWC"),
        ({"dtype": "int8"}, "input type 'int8' is unknown; choose one of float32, uint8"),
        ({"values": "bgr"}, "input values 'bgr' is unknown; choose one of normalised, unit, pixels"),
        ({"dtype": "uint8"}, "an input of uint8 holds pixels; its values cannot be normalised"),
        ({"dtype": "uint8", "values": "unit"}, "an input of uint8 holds pixels; its values cannot be unit"),
        ({"batch": 0}, "input batch 0 is not a number between 1 and 1024"),
        ({"batch": 1025}, "input batch 1025 is not"),
        ({"channels": 4}, "an input of 4 channels takes no photograph"),
        ({"size": (8, 5000)}, "is not a height and a width between 1 and 4096"),
        ({"name": "a\nb"}, r"input name 'a\\nb' cannot be shown"),
    ],
)
def test_an_input_that_cannot_be_is_refused_in_one_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(QcamError, match=words.replace("(", r"\(")) as refused:
        Input(**{"name": "x"} | fields)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """Logits and tap of the plain file, image by image, of ONNX Runtime alone."""
    path = tmp_path_factory.mktemp("plain") / "m.onnx"
    path.write_bytes(network().SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = [session.run(["logits", "r_q"], {"pictures": image[None]}) for image in IMAGES]
    return np.concatenate([logits for logits, _ in found]), np.concatenate([tap for _, tap in found])


@pytest.mark.parametrize("taken", TAKEN, ids=lambda taken: "-".join(map(str, taken.values())))
def test_every_kind_of_input_gives_the_codes_of_the_plain_file(tmp_path: Path, plain: Any, taken: dict[str, Any]) -> None:
    bundle = brought(tmp_path / "b", **taken)
    session = DeployedModel(bundle, "int8-vendor", SessionSettings())
    model = load_onnx(bundle, "int8-vendor")
    family = probe_kernels().family
    assert family is not None
    mirror = Mirror(model, session.entry, preprocessing=bundle.preprocessing)
    exact = Mirror(model, session.entry, "cpu", "integer", family, preprocessing=bundle.preprocessing)
    targets = np.array([0, 1, 2, 3, 0])
    for count in (1, 2, 5):
        found = session.run(IMAGES[:count])
        assert np.array_equal(found.tap, plain[1][:count])
        np.testing.assert_allclose(found.logits, plain[0][:count], rtol=1e-6, atol=1e-6)
        for simulated in (mirror, exact):
            outputs = simulated.forward(IMAGES[:count])
            assert np.array_equal(outputs.tap.numpy(), plain[1][:count])
            np.testing.assert_allclose(outputs.logits.numpy(), plain[0][:count], rtol=1e-5, atol=1e-5)
        one_by_one = [mirror.gradient(mirror.dequantize(session.taps[0], found.tap[[i]]), targets[[i]]) for i in range(count)]
        together = mirror.gradient(mirror.dequantize(session.taps[0], found.tap), targets[:count])
        assert together.shape == found.tap.shape
        torch.testing.assert_close(together, torch.cat(one_by_one))
        assert bool(together.any())


def test_tensors_that_are_looked_at_hold_the_images_given_and_nothing_that_fills_up(tmp_path: Path) -> None:
    fixed, free = brought(tmp_path / "fixed", batch=4), brought(tmp_path / "free")
    tensors = ["x_q", "r_q"]
    seen: dict[str, dict[str, np.ndarray]] = {"fixed": {}, "free": {}, "deployed": {}}
    for name, bundle in (("fixed", fixed), ("free", free)):
        mirror = Mirror(load_onnx(bundle, "int8-vendor"), bundle.precision("int8-vendor"))
        mirror.forward(IMAGES[:3], lambda tensor, codes, name=name: seen[name].update({tensor: codes.numpy().copy()}))
    inspected = InspectedModel(fixed, "int8-vendor", SessionSettings(), tensors).run(IMAGES[:3])
    assert inspected.undisturbed
    assert set(seen["fixed"]) == set(tensors)
    for tensor in tensors:
        assert np.array_equal(seen["fixed"][tensor], seen["free"][tensor])
        assert np.array_equal(seen["fixed"][tensor], inspected.codes[tensor])


def test_codes_that_take_a_tensors_place_reach_the_end_of_a_file_of_a_fixed_batch(tmp_path: Path) -> None:
    bundle = brought(tmp_path / "b", batch=4)
    mirror = Mirror(load_onnx(bundle, "int8-vendor"), bundle.precision("int8-vendor"))
    outputs = mirror.forward(IMAGES[:3], lambda tensor, codes: torch.full_like(codes, 7) if tensor == "r_q" else None)
    assert outputs.tap.shape[0] == outputs.logits.shape[0] == 3
    assert bool((outputs.tap == 7).all())
    assert bool((outputs.logits == outputs.logits[:1]).all())


def test_more_images_than_a_fixed_batch_cannot_be_looked_into_at_once(tmp_path: Path) -> None:
    bundle = brought(tmp_path / "b", batch=2)
    mirror = Mirror(load_onnx(bundle, "int8-vendor"), bundle.precision("int8-vendor"))
    with pytest.raises(QcamError, match="a file of 2 images at a time shows its tensors for no more, and was given 5"):
        mirror.forward(IMAGES, lambda *_: None)


def test_multiply_accumulates_are_those_of_one_image_whatever_the_batch(tmp_path: Path) -> None:
    one, four = (
        DeployedModel(brought(tmp_path / str(batch), batch=batch), "int8-vendor", SessionSettings()).placement
        for batch in (None, 4)
    )
    assert one.coverage.total_macs == four.coverage.total_macs
    assert one.coverage.total_macs


def test_a_file_that_mixes_its_images_is_refused_by_name(tmp_path: Path) -> None:
    bundle = brought(tmp_path / "b", batch=2)
    path = bundle.folder / "int8.onnx"
    model = network(batch=2)
    next(tensor for tensor in model.graph.initializer if tensor.name == "shape").raw_data = np.array([1, 10]).tobytes()
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "g_w")
    weights.CopyFrom(numpy_helper.from_array(np.zeros((4, 10), np.float32), "g_w"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"takes 2 images at a time and returns logits of shape \(1, 4\), which is not one"):
        DeployedModel(load_bundle(bundle.folder, verify=False), "int8-vendor", SessionSettings())
