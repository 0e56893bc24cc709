"""Weights in files beside the ONNX file: found wherever they are referred to, confined, hashed, and run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import QcamError
from qcam.common.files import sha256_file
from qcam.runtime.bundle import MANIFEST, Bundle, load_bundle, load_onnx, read_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.inspection import InspectedModel
from qcam.runtime.deployed.other_file import other_file
from qcam.runtime.external import every_tensor, external_files, external_hashes, load_external, normal_location, parse_onnx

IMAGES = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
VALUES = np.arange(4, dtype=np.float32)


def outside(name: str = "w", kind: int = TensorProto.FLOAT, dims: tuple[int, ...] = (4,), **said: object) -> TensorProto:
    tensor = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": "w.bin"} | said).items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def graph(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = (), name: str = "g") -> onnx.GraphProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    return helper.make_graph(list(nodes), name, [x], [y], list(initializers))


ADD = helper.make_node("Add", ["x", "w"], ["y"])


def holding(tensor: TensorProto) -> onnx.ModelProto:
    return helper.make_model(graph(ADD, initializers=(tensor,)), opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def save(model: onnx.ModelProto, folder: Path, data: bytes = VALUES.tobytes()) -> Path:
    (folder / "w.bin").write_bytes(data)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def places() -> dict[str, onnx.ModelProto]:
    """One tensor in another file, at every place where a model can hold one."""
    made = {"initializer": holding(outside()), "function": holding(numpy_helper.from_array(-VALUES, "w"))}
    constant = helper.make_node("Constant", [], ["w"], value=outside(""))
    made["constant"] = helper.make_model(graph(constant, ADD))
    made["several"] = helper.make_model(graph(helper.make_node("Custom", ["x"], ["y"], domain="d", held=[outside()])))
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("w", 1, [4])], [outside()])
    plain = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "else", [], [helper.make_tensor_value_info("z", 1, [4])]
    )
    made["subgraph"] = helper.make_model(graph(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=plain)))
    nested = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("w", 1, [4])])
    middle = helper.make_node("If", ["c"], ["m"], then_branch=nested, else_branch=plain)
    outer = helper.make_graph([middle], "middle", [], [helper.make_tensor_value_info("m", 1, [4])])
    made["subgraph of a subgraph"] = helper.make_model(
        graph(helper.make_node("If", ["c"], ["y"], then_branch=outer, else_branch=plain))
    )
    made["graphs"] = helper.make_model(graph(helper.make_node("Custom", ["x"], ["y"], domain="d", parts=[plain, inner])))
    made["function"].functions.append(helper.make_function("d", "f", [], ["w"], [constant], [helper.make_opsetid("", 21)], []))
    made["default of a function"] = holding(numpy_helper.from_array(-VALUES, "w"))
    default = helper.make_function("d", "f", [], [], [], [helper.make_opsetid("", 21)], [])
    default.attribute_proto.append(helper.make_attribute("held", outside()))
    made["default of a function"].functions.append(default)
    indices = outside("", TensorProto.INT64, (2,))
    for name, sparse in (
        ("sparse values", onnx.SparseTensorProto(values=outside(), indices=TensorProto(), dims=[9])),
        ("sparse indices", onnx.SparseTensorProto(values=TensorProto(name="w"), indices=indices, dims=[9])),
    ):
        made[name] = helper.make_model(graph(ADD))
        made[name].graph.sparse_initializer.append(sparse)
        made[f"attribute: {name}"] = helper.make_model(graph(ADD))
        made[f"attribute: {name}"].graph.node[0].attribute.append(helper.make_attribute("held", sparse))
        made[f"attributes: {name}"] = helper.make_model(graph(ADD))
        made[f"attributes: {name}"].graph.node[0].attribute.append(helper.make_attribute("held", [sparse]))
    made["training"] = holding(numpy_helper.from_array(-VALUES, "w"))
    made["training"].training_info.add().algorithm.CopyFrom(graph(constant))
    return made


def read(path: Path) -> onnx.ModelProto:
    """Read a file with all its weights, whatever else is odd about it."""
    model = parse_onnx(path)
    load_external(model, path.parent, str(path))
    return model


@pytest.mark.parametrize("place", places())
def test_no_place_is_overlooked(place: str, tmp_path: Path) -> None:
    path = save(places()[place], tmp_path)
    assert external_files(onnx.load(path, load_external_data=False), tmp_path) == {"w.bin": tmp_path / "w.bin"}
    assert external_hashes(path) == {"w.bin": sha256_file(tmp_path / "w.bin")}
    model = read(path)
    assert external_files(model, tmp_path) == {}
    assert VALUES.tobytes() in [tensor.raw_data for _, tensor in every_tensor(model)]
    (tmp_path / "w.bin").unlink()
    with pytest.raises(QcamError, match=r"m\.onnx: w\.bin, which holds weight .*, is missing; put it beside the ONNX file"):
        read(path)


@pytest.mark.parametrize("place", places())
def test_no_place_may_lead_out_of_the_folder(place: str, tmp_path: Path) -> None:
    path = save(places()[place], tmp_path)
    path.write_bytes(path.read_bytes().replace(b"w.bin", b"../wb"))
    (tmp_path.parent / "wb").write_bytes(VALUES.tobytes())
    for reading in (read, external_hashes):
        with pytest.raises(QcamError, match=r"weight .* would be read from outside the folder \(\.\./wb\); save the file anew"):
            reading(path)


@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
@pytest.mark.parametrize("said", [{}, {"offset": 0}, {"length": 16}, {"offset": 8, "length": 16}, {"checksum": "0" * 40}])
def test_what_is_read_is_what_onnx_reads(place: str, said: dict[str, object], tmp_path: Path) -> None:
    """Fingerprints depend on the bytes of the whole."""
    path = save(places()[place], tmp_path, b"\1" * int(said.get("offset", 0)) + VALUES.tobytes())  # type: ignore[call-overload]
    model = onnx.load(path, load_external_data=False)
    for _, tensor in every_tensor(model):
        for key, value in said.items():
            if tensor.external_data:
                tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    assert read(path).SerializeToString(deterministic=True) == onnx.load(path).SerializeToString(deterministic=True)


def test_many_tensors_in_one_file_are_read_as_onnx_reads_them(external_bundle: Bundle) -> None:
    for entry in external_bundle.precisions:
        path = external_bundle.folder / entry.file
        assert read_onnx(path).SerializeToString(deterministic=True) == onnx.load(path).SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "it is no name of a file"),
        (".", "it is no name of a file"),
        ("w.bin\0", "it is no name of a file"),
        ("a\nb", "it is no name of a file"),
        ("/w.bin", "outside the folder"),
        ("..", "outside the folder"),
        ("a/../w.bin", "outside the folder"),
        ("a\\..\\w.bin", "outside the folder"),
        ("C:w.bin", "outside the folder"),
        ("*/_ORT_MEM_ADDR_/*", "outside the folder"),
        ("x" * 5000, "cannot read weight w from x+: "),
        ("folder", "is no regular file"),
        ("pipe", "is no regular file"),
        ("circle", "cannot read weight w from circle|is missing"),
        ("nowhere.bin", r"nowhere\.bin, which holds weight w, is missing"),
    ],
)
def test_locations_that_lead_nowhere_or_out_are_refused(location: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    path = save(holding(outside(location=location)), tmp_path)
    with pytest.raises(QcamError, match=message) as raised:
        read_onnx(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_location_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = save(holding(outside(location="éé")), tmp_path)
    path.write_bytes(path.read_bytes().replace("éé".encode(), b"\xff\xfe\xff\xfe"))
    with pytest.raises(QcamError, match=r"weight w lies at b'.*': it is no text"):
        read_onnx(path)


def test_links_inside_the_folder_are_followed_and_others_are_not(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    path = save(holding(outside(location="link.bin")), inner)
    (inner / "link.bin").symlink_to("w.bin")
    np.testing.assert_array_equal(numpy_helper.to_array(read_onnx(path).graph.initializer[0]), VALUES)
    for target in (tmp_path / "secret.bin", Path("../secret.bin")):
        (inner / "link.bin").unlink()
        (inner / "link.bin").symlink_to(target)
        with pytest.raises(QcamError, match="outside the folder"):
            read_onnx(path)


@pytest.mark.parametrize("value", ["-1", "", " 0", "0x10", "1e3", "1_0", "٣", "9" * 30])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_numbers_that_are_none_are_refused(key: str, value: str, tmp_path: Path) -> None:
    path = save(holding(outside(**{key: value})), tmp_path)
    with pytest.raises(QcamError, match=f"weight w has {key} '.*', which is no number of bytes"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (outside(offset=1), r"weight w ends at byte 17 of w\.bin, which has 16"),
        (outside(offset=10**18), "which has 16"),
        (outside(length=12), r"weight w has 12 bytes in w\.bin, its shape and type take 16"),
        (outside(length=0), "has 0 bytes"),
        (outside(dims=(1 << 40,)), "which has 16"),
        (outside(dims=(-4,)), r"type FLOAT, shape \[-4\] cannot lie in another file"),
        (outside(kind=TensorProto.STRING), "type STRING"),
        (outside(kind=0), "type UNDEFINED|type 0"),
        (outside(kind=999), "type 999"),
        (outside(kind=TensorProto.INT4, dims=(33,)), "ends at byte 17"),
    ],
)
def test_a_tensor_that_is_not_in_its_file_is_refused(tensor: TensorProto, message: str, tmp_path: Path) -> None:
    path = save(holding(tensor), tmp_path)
    with pytest.raises(QcamError, match=message):
        read_onnx(path)


def test_four_bits_take_half_a_byte(tmp_path: Path) -> None:
    path = save(holding(outside(kind=TensorProto.INT4, dims=(31,), length=16)), tmp_path)
    assert len(read_onnx(path).graph.initializer[0].raw_data) == 16


def test_a_tensor_that_says_two_things_is_refused(tmp_path: Path) -> None:
    twice = outside()
    twice.external_data.add(key="location", value="other.bin")
    with pytest.raises(QcamError, match="weight w says twice where it lies"):
        read_onnx(save(holding(twice), tmp_path))
    both = outside()
    both.raw_data = VALUES.tobytes()
    with pytest.raises(QcamError, match=r"weight w has values inside the file and in 'w\.bin'"):
        read_onnx(save(holding(both), tmp_path))


def test_large_tensors_can_be_left_where_they_are(tmp_path: Path) -> None:
    model = holding(outside())
    model.graph.initializer.append(outside("scale", dims=()))
    save(model, tmp_path)
    load_external(model, tmp_path, largest=4)
    assert [tensor.data_location for tensor in model.graph.initializer] == [TensorProto.EXTERNAL, TensorProto.DEFAULT]


@pytest.mark.parametrize(("written", "normal"), [("./w.bin", "w.bin"), ("a//b/./c", "a/b/c"), ("ä b", "ä b")])
def test_locations_have_one_spelling(written: str, normal: str) -> None:
    assert normal_location(written) == normal


# ---- bundles


@pytest.mark.parametrize("precision", ["f32", "int16", "int8"])
def test_a_bundle_with_weights_outside_runs_as_the_one_with_weights_inside(
    tiny_bundle: Bundle, external_bundle: Bundle, precision: str
) -> None:
    assert external_bundle.precision(precision).external
    assert load_onnx(external_bundle, precision).ByteSize() > 1000
    inside, outside = (DeployedModel(bundle, precision, SessionSettings()) for bundle in (tiny_bundle, external_bundle))
    assert inside.placement.to_json() == outside.placement.to_json()
    for one, other in zip((inside.run(IMAGES),), (outside.run(IMAGES),), strict=True):
        assert np.array_equal(one.logits, other.logits)
        assert np.array_equal(one.tap, other.tap)


def test_the_mirror_and_the_inspection_read_weights_outside(tiny_bundle: Bundle, external_bundle: Bundle) -> None:
    from qcam.runtime.codes import quantized_tensors
    from qcam.runtime.graph import Graph

    names = quantized_tensors(Graph(load_onnx(external_bundle, "int8")))
    for file in (None, external_bundle.path("int8")):  # a foreign file may have weights beside it as well
        other = None if file is None else other_file(external_bundle, "int8", file)
        found = InspectedModel(external_bundle, "int8", SessionSettings(), names, other=other).run(IMAGES)
        wanted = InspectedModel(tiny_bundle, "int8", SessionSettings(), names).run(IMAGES)
        assert np.array_equal(found.outputs.logits, wanted.outputs.logits)
        assert all(np.array_equal(found.codes[name], wanted.codes[name]) for name in names)


@pytest.mark.parametrize("precision", ["f32", "int16", "int8"])
def test_one_changed_byte_of_an_external_file_is_refused_by_name(external_bundle: Bundle, precision: str) -> None:
    path = external_bundle.folder / f"weights/{precision}.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last values are those of the Constant node or of the last initializer
    path.write_bytes(data)
    with pytest.raises(QcamError, match=rf"weights/{precision}\.bin is not the file that was exported"):
        load_bundle(external_bundle.folder)
    path.unlink()
    with pytest.raises(QcamError, match=rf"weights/{precision}\.bin is missing"):
        load_bundle(external_bundle.folder)


def manifest(folder: Path, change: Callable[[dict[str, object]], object]) -> Bundle:
    value = json.loads((folder / MANIFEST).read_text())
    change(value["precisions"][2])
    (folder / MANIFEST).write_text(json.dumps(value))
    return load_bundle(folder, verify=False)


@pytest.mark.parametrize("open_it", [load_onnx, lambda bundle, name: DeployedModel(bundle, name, SessionSettings())])
def test_hashes_and_references_have_to_be_the_same(external_bundle: Bundle, open_it: Callable[[Bundle, str], object]) -> None:
    folder = external_bundle.folder
    bundle = manifest(folder, lambda entry: entry.pop("external"))
    with pytest.raises(
        QcamError, match=r"int8\.onnx keeps weight .* in weights/int8\.bin, of which bundle\.json has no SHA-256; make the"
    ):
        open_it(bundle, "int8")
    (folder / "more.bin").write_bytes(b"")
    known = external_bundle.precision("int8").external | {"more.bin": sha256_file(folder / "more.bin")}
    bundle = manifest(folder, lambda entry: entry.update(external=known))
    with pytest.raises(QcamError, match=r"has a SHA-256 of more\.bin, which .*int8\.onnx does not refer to"):
        open_it(bundle, "int8")


def test_a_constant_that_begins_to_refer_to_another_file_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, record_files: Callable[[Path], None]
) -> None:
    """Its values would not be part of any fingerprint."""
    shutil.copytree(tiny_bundle.folder, tmp_path / "b")
    model = onnx.load(tmp_path / "b/f32.onnx")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["held"], value=outside("")))
    save(model, tmp_path / "b")
    (tmp_path / "b/m.onnx").replace(tmp_path / "b/f32.onnx")
    record_files(tmp_path / "b")
    value = json.loads((tmp_path / "b" / MANIFEST).read_text())
    assert value["precisions"][0].pop("external") == {"w.bin": sha256_file(tmp_path / "b/w.bin")}
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(value))
    bundle = load_bundle(tmp_path / "b")
    with pytest.raises(QcamError, match=r"keeps weight of Constant node held in w\.bin, of which bundle\.json has"):
        DeployedModel(bundle, "f32", SessionSettings())


@pytest.mark.parametrize(
    "external",
    [
        None, [], "w.bin", {"w.bin": None}, {"w.bin": "0" * 63}, {"w.bin": "Z" * 64}, {"w.bin": "A" * 64}, {"": "0" * 64},
        {"../w.bin": "0" * 64}, {"/w.bin": "0" * 64}, {"./w.bin": "0" * 64}, {"a\\b": "0" * 64}, {"a\0": "0" * 64},
    ],
)  # fmt: skip
def test_hashes_in_the_manifest_are_typed_strictly(external_bundle: Bundle, external: object) -> None:
    with pytest.raises(QcamError, match=r"bundle\.json.*: .*(external|NUL).*export the bundle again"):
        manifest(external_bundle.folder, lambda entry: entry.update(external=external))


def test_external_files_lie_inside_the_bundle_and_have_one_content(external_bundle: Bundle, tmp_path: Path) -> None:
    folder = external_bundle.folder
    (tmp_path / "secret.bin").write_bytes(b"")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(QcamError, match=r"names link\.bin, which lies outside the bundle"):
        manifest(folder, lambda entry: entry.update(external={"link.bin": "0" * 64}))
    with pytest.raises(QcamError, match=r"gives two SHA-256 of weights/f32\.bin"):
        manifest(folder, lambda entry: entry.update(external={"weights/f32.bin": "0" * 64}))


def test_external_hashes_are_part_of_the_bundles_fingerprint(external_bundle: Bundle) -> None:
    changed = manifest(external_bundle.folder, lambda entry: entry.update(external={"weights/int8.bin": "0" * 64}))
    assert changed.fingerprint != external_bundle.fingerprint
    assert changed.to_json()["precisions"][2]["external"] == {"weights/int8.bin": "0" * 64}
