"""Schema 2 of the manifest, and what becomes of bundles of schema 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from brought_files import PLAIN, PREPROCESSING, brought, described, manifest, network, written
from onnx import TensorProto, helper

from qcam.common.errors import BundleError, QcamError
from qcam.common.files import sha256_file
from qcam.common.storage import open_location
from qcam.runtime.agreement import check_agreement
from qcam.runtime.bundle import MANIFEST, Bundle, Input, Original, load_bundle, load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.manifest import parse_manifest

#: Written by the code of before schema 2.
OLD = Path(__file__).parent / "schema1"
FINGERPRINTS = {
    "u8s8": "f2f80d9b2ee3ce4fb42e8f2177ae4ab9e4c3b80c7194bc127d32d50a58d37cb3",
    "s8s8": "4db7dc5c86646f33841de16ed14c24a4df2c9a1edbeb4edcd94ecdf70a258628",
}


def old(scheme: str) -> Bundle:
    data = (OLD / "u8s8.json" if scheme == "u8s8" else OLD / "s8s8" / MANIFEST).read_bytes()
    return parse_manifest(data, OLD / scheme, "here")


@pytest.mark.parametrize("scheme", FINGERPRINTS)
def test_a_bundle_of_schema_1_keeps_its_fingerprint_and_its_text(scheme: str) -> None:
    bundle = old(scheme)
    assert bundle.schema == 1
    assert bundle.fingerprint == FINGERPRINTS[scheme]
    text = (OLD / "u8s8.json" if scheme == "u8s8" else OLD / "s8s8" / MANIFEST).read_text()
    assert bundle.manifest_text() == text


@pytest.mark.parametrize("scheme", FINGERPRINTS)
def test_what_schema_1_did_in_silence_is_what_it_says_now(scheme: str) -> None:
    bundle = old(scheme)
    assert {entry.name: entry.session for entry in bundle.precisions} == {
        "f32": {},
        "int16": {},
        "int8": {"session.qdqisint8allowed": "1"} if scheme == "s8s8" else {},
    }
    assert {(entry.input, entry.original, entry.proof) for entry in bundle.precisions} == {(Input(), None, "")}
    assert bundle.precision("int8").input.plain


def test_a_bundle_of_schema_1_opens_and_runs() -> None:
    bundle = load_bundle(OLD / "s8s8")
    session = DeployedModel(bundle, "int8", SessionSettings())
    assert session.config == session.placement.to_json()["session_config"] == {"session.qdqisint8allowed": "1"}
    assert session.placement.integer_kernels == 4
    assert session.placement.float_kernels == 0


def test_weights_of_which_nobody_says_that_they_are_trained_are_unknown_from_schema_2_on(tmp_path: Path) -> None:
    bundle = brought(tmp_path / "b")
    assert bundle.trained is None
    assert "trained: unknown" in bundle._repr_html_()
    assert "RANDOM" not in bundle._repr_html_()
    assert replace(bundle, schema=1).trained is False
    for trained in (True, False):
        known = replace(bundle, weights=replace(bundle.weights, trained=trained))
        assert known.trained is trained
        assert "unknown" not in known._repr_html_()
        assert ("RANDOM" in known._repr_html_()) is not trained


def test_an_export_says_how_its_files_take_pictures_and_how_s8_is_deployed(export_tiny: Any, tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path / "b", scheme="s8s8")
    value = json.loads((bundle.folder / MANIFEST).read_text())
    assert value["schema_version"] == 2
    taken = {**PLAIN, "name": "images", "size": [32, 32]}
    assert [(entry["name"], entry["input"]) for entry in value["precisions"]] == [(n, taken) for n in ("f32", "int16", "int8")]
    assert [entry["session"] for entry in value["precisions"]] == [{}, {}, {"session.qdqisint8allowed": "1"}]
    assert not any({"original", "proof"} & set(entry) for entry in value["precisions"])
    assert load_bundle(bundle.folder) == bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    brought(tmp_path / "b")
    onnx.save(network(tapped=False), tmp_path / "b" / "theirs.onnx")
    return tmp_path / "b"


def test_what_a_manifest_of_schema_2_says_comes_back(folder: Path) -> None:
    original = {"file": "theirs.onnx", "sha256": sha256_file(folder / "theirs.onnx")}
    config = {"session.qdqisint8allowed": "1", "session.x64quantprecision": "1"}
    value = manifest([described(folder, original=original, proof="bitwise", session=config)])
    bundle = written(folder, value)
    entry = bundle.precision("int8-vendor")
    assert entry.input == Input("pictures", size=PREPROCESSING.crop, channels=3)
    assert (entry.session, entry.original, entry.proof) == (config, Original(**original), "bitwise")
    assert bundle.to_json() == json.loads(bundle.manifest_text()) == value
    assert bundle.deployed_path("int8-vendor") == folder / "theirs.onnx"
    assert bundle.path("int8-vendor") == folder / "int8.onnx"


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["input"].update(values="unit"),
        lambda entry: entry["input"].update(layout="NHWC"),
        lambda entry: entry["input"].update(batch=2),
        lambda entry: entry.update(session={"session.qdqisint8allowed": "1"}),
        lambda entry: entry.update(original={"file": "o.onnx", "sha256": "0" * 64}, proof="differs"),
    ],
)
def test_all_that_can_change_a_figure_is_in_the_fingerprint(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = manifest([described(folder)])
    before = parse_manifest(json.dumps(value).encode(), folder, "here").fingerprint
    entry = json.loads(json.dumps(value["precisions"][0]))
    change(entry)
    after = parse_manifest(json.dumps(manifest([entry])).encode(), folder, "here").fingerprint
    assert before != after


def original(**further: Any) -> dict[str, Any]:
    return {"file": "theirs.onnx", "sha256": "0" * 64} | further


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("no input", {"input": None}, r"precisions\[0\]\.input is missing"),
    ("no session", {"session": None}, r"precisions\[0\]\.session is missing"),
    ("input a text", {"input": "NCHW"}, r"precisions\[0\]\.input is text and has to be an object"),
    ("unknown layout", {"input": PLAIN | {"layout": "CHWN"}}, r"\.input: input layout 'CHWN' is unknown; choose one of NCHW"),
    ("long layout", {"input": PLAIN | {"layout": "N" * 10**6}}, r"\.input: input layout 'N{80}' is unknown"),
    ("unknown type", {"input": PLAIN | {"dtype": "float16"}}, r"input type 'float16' is unknown"),
    ("unknown values", {"input": PLAIN | {"values": "imagenet"}}, r"input values 'imagenet' is unknown"),
    ("layout a number", {"input": PLAIN | {"layout": 1}}, r"\.input: layout is a whole number and has to be text"),
    ("one size", {"input": PLAIN | {"size": [8]}}, r"\.input: size has 1 entries, another number"),
    ("size of texts", {"input": PLAIN | {"size": ["8", "6"]}}, r"\.input: size\[0\] is text and has to be a whole number"),
    ("no size", {"input": {k: v for k, v in PLAIN.items() if k != "size"}}, r"\.input: size is missing"),
    ("no batch", {"input": {k: v for k, v in PLAIN.items() if k != "batch"}}, r"\.input: batch is missing"),
    ("batch 0", {"input": PLAIN | {"batch": 0}}, r"input batch 0 is not a number between 1 and 1024"),
    ("batch huge", {"input": PLAIN | {"batch": 10**9}}, r"input batch 1000000000 is not"),
    ("batch true", {"input": PLAIN | {"batch": True}}, r"\.input: batch is a truth value and has to be a whole number"),
    ("no name", {"input": PLAIN | {"name": ""}}, r"\.input has to name the input and to give its size and channels"),
    ("control name", {"input": PLAIN | {"name": "a\x1b[31m"}}, r"input name 'a\\x1b\[31m' cannot be shown"),
    ("more of an input", {"input": PLAIN | {"mean": 1}}, r"\.input says what this qcam does not know: 'mean'"),
    ("normalised uint8", {"input": PLAIN | {"dtype": "uint8"}}, r"an input of uint8 holds pixels"),
    ("other size", {"input": PLAIN | {"size": [6, 8]}}, r"the input of int8-vendor has 3 channels of 6 × 8, and preprocessing"),
    ("other channels", {"input": PLAIN | {"channels": 1}}, r"has 1 channels of 8 × 6, and preprocessing gives 3 of 8 × 6"),
    ("session a list", {"session": ["a=1"]}, r"\.session is a list and has to be an object"),
    ("value a number", {"session": {"session.a": 1}}, r"\.session\.session\.a is a whole number and has to be text"),
    ("empty key", {"session": {"": "1"}}, r"\.session: '' is no name of an entry"),
    ("control key", {"session": {"a\nb": "1"}}, r"\.session: 'a\\nb' is no name of an entry"),
    ("long key", {"session": {"a" * 129: "1"}}, r"\.session: 'a+ is no name of an entry: 1 to 128"),
    ("control value", {"session": {"a": "1\n2"}}, r"\.session: the value of a has control characters, or more than 1024"),
    ("long value", {"session": {"a": "1" * 1025}}, r"\.session: the value of a has control characters, or more than 1024"),
    ("many", {"session": {f"a{n}": "1" for n in range(65)}}, r"\.session: it has 65 entries, more than 64"),
    ("a file", {"session": {"ep.context_file_path": "/x"}}, r"ep\.context_file_path is about files"),
    ("a folder", {"session": {"session.model_external_initializers_file_folder_path": "/"}}, r"is about files: a bundle names"),
    ("qcam's own", {"session": {"session.record_ep_graph_assignment_info": "0"}}, r"qcam needs this one itself"),
    ("original a text", {"original": "theirs.onnx"}, r"\.original is text and has to be an object"),
    ("original without", {"original": {"file": "theirs.onnx"}}, r"precisions\[0\]\.original\.sha256 is missing"),
    ("no hash", {"original": original(sha256="0")}, r"it has to give a file name and its SHA-256"),
    ("no proof", {"original": original()}, r"beside an original, proof is bitwise or differs, .*; it is ''"),
    ("other proof", {"original": original(), "proof": "close"}, r"proof is bitwise or differs, .*; it is 'close'"),
    ("proof alone", {"proof": "bitwise"}, r"there is none without; it is 'bitwise'"),
    (
        "its own copy",
        {"original": original(file="int8.onnx"), "proof": "differs"},
        r"names one file as the original and as its",
    ),
    ("external out", {"original": original(external={"../w": "0" * 64}), "proof": "differs"}, r"external file '\.\./w'"),
    ("original out", {"original": original(file="../x.onnx"), "proof": "differs"}, r"names \.\./x\.onnx, which lies outside"),
    ("original gone", {"original": original(file="gone.onnx"), "proof": "differs"}, r"gone\.onnx is missing"),
    ("original other", {"original": original(), "proof": "bitwise"}, r"theirs\.onnx is not the file that was exported"),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_is_refused_in_one_line(folder: Path, change: dict[str, Any], words: str) -> None:
    entry = described(folder) | change
    entry = {name: value for name, value in entry.items() if value is not None}
    with pytest.raises(BundleError, match=words) as refused:
        written(folder, manifest([entry]))
    assert str(folder) in str(refused.value)
    assert "export the bundle again" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("version", [0, 3, "2", 2.0, True, None, "x" * 1000])
def test_any_other_schema_is_refused_in_one_line(folder: Path, version: object) -> None:
    with pytest.raises(
        BundleError, match=r"has schema version .*, this qcam reads 1 and 2; export the bundle again"
    ) as refused:
        written(folder, manifest([described(folder)], schema_version=version))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["input", "session", "original", "proof"])
def test_schema_1_does_not_know_what_came_with_schema_2(folder: Path, name: str) -> None:
    entry = described(folder)
    entry = {key: value for key, value in entry.items() if key not in ("input", "session")} | {
        name: "" if name == "proof" else {}
    }
    if name == "original":
        entry[name] = original()
    with pytest.raises(
        BundleError, match=rf"precisions\[0\]\.{name} has a meaning from schema version 2 on, and the manifest has 1"
    ):
        written(folder, manifest([entry], schema_version=1))


def test_pixels_that_cannot_be_had_back_are_refused_with_the_bundle(folder: Path) -> None:
    lost = replace(PREPROCESSING, mean=(1e6,) * 3).to_json()
    entry = described(folder, input=PLAIN | {"values": "unit"})
    with pytest.raises(BundleError, match=r"int8-vendor takes pixels, but pixels cannot be had back from mean"):
        written(folder, manifest([entry], preprocessing=lost))
    written(folder, manifest([described(folder)], preprocessing=lost))


@pytest.mark.parametrize(
    ("taken", "told", "words"),
    [
        ({}, {"name": "x"}, r"int8\.onnx has the inputs pictures, bundle\.json names x as the only one"),
        ({}, {"dtype": "uint8", "values": "pixels"}, r"input pictures of .*int8\.onnx is float32, bundle\.json says uint8"),
        ({}, {"layout": "NHWC"}, r"is any × 3 × 8 × 6, bundle\.json says any × 8 × 6 × 3 \(NHWC\)"),
        ({"batch": 2}, {"batch": None}, r"is 2 × 3 × 8 × 6, bundle\.json says any × 3 × 8 × 6 \(NCHW\)"),
        ({"batch": 2}, {"batch": 4}, r"is 2 × 3 × 8 × 6, bundle\.json says 4 × 3 × 8 × 6"),
    ],
)
def test_a_file_that_takes_pictures_otherwise_is_refused(
    tmp_path: Path, taken: dict[str, Any], told: dict[str, Any], words: str
) -> None:
    bundle = brought(tmp_path / "b", **taken)
    bundle = written(bundle.folder, manifest([described(bundle.folder, input=PLAIN | taken | told)]))
    for opened in (load_onnx, lambda bundle, name: DeployedModel(bundle, name, SessionSettings())):
        with pytest.raises(BundleError, match=words) as refused:
            opened(bundle, "int8-vendor")
        assert "\n" not in str(refused.value)


def test_a_file_of_two_inputs_is_refused(tmp_path: Path) -> None:
    bundle, model = brought(tmp_path / "b"), network()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    with pytest.raises(BundleError, match=r"m has the inputs pictures, more, bundle\.json names pictures as the only one"):
        check_agreement(model, bundle.precision("int8-vendor"), "m")


def test_a_file_that_leaves_its_batch_open_may_have_one_inside(tmp_path: Path) -> None:
    model = network(batch=2)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    check_agreement(model, brought(tmp_path / "b", batch=2).precision("int8-vendor"), "m")


@pytest.mark.parametrize("proof", ["differs", "bitwise"])
def test_an_original_is_fetched_with_its_bundle(
    tmp_path: Path, memory_store: str, monkeypatch: pytest.MonkeyPatch, proof: str
) -> None:
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    bundle = brought(tmp_path / "b", original=network(tapped=False), proof=proof)
    for file in bundle.folder.iterdir():
        (open_location(f"{memory_store}/b") / file.name).write_bytes(file.read_bytes())
    fetched = load_bundle(f"{memory_store}/b")
    assert fetched.deployed_path("int8-vendor").read_bytes() == (bundle.folder / "theirs.onnx").read_bytes()
    shutil.rmtree(tmp_path / "cache")
    (open_location(f"{memory_store}/b") / "theirs.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"theirs\.onnx is not the file that was exported"):
        load_bundle(f"{memory_store}/b")
    assert not list((tmp_path / "cache").rglob("*.onnx"))


def test_an_original_that_keeps_weights_in_files_without_a_hash_is_not_fetched(
    tmp_path: Path, memory_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    bundle = brought(tmp_path / "b", original=network(tapped=False), proof="bitwise")
    model = network(tapped=False)
    onnx.save(model, bundle.folder / "theirs.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    told = {"file": "theirs.onnx", "sha256": sha256_file(bundle.folder / "theirs.onnx")}
    written(bundle.folder, manifest([described(bundle.folder, original=told, proof="bitwise")]))
    for file in bundle.folder.iterdir():
        (open_location(f"{memory_store}/b") / file.name).write_bytes(file.read_bytes())
    with pytest.raises(QcamError, match=r"theirs\.onnx .*w\.bin"):
        load_bundle(f"{memory_store}/b")
    hashed = told | {"external": {"w.bin": sha256_file(bundle.folder / "w.bin")}}
    written(bundle.folder, manifest([described(bundle.folder, original=hashed, proof="bitwise")]))
    for name in (MANIFEST, "w.bin"):
        (open_location(f"{memory_store}/b") / name).write_bytes((bundle.folder / name).read_bytes())
    assert (load_bundle(f"{memory_store}/b").folder / "w.bin").is_file()
