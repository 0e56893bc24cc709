"""Sessions are what the user deploys: the manifest's settings, the original's logits; what qcam adds changes no code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from brought_files import PLAIN, PREPROCESSING, SIZE, brought, described, manifest, network, written

from qcam.common.errors import BundleError, ProviderError
from qcam.runtime.bundle import Bundle, load_bundle, load_onnx
from qcam.runtime.codes import quantized_tensors
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.inspection import InspectedModel, exposed
from qcam.runtime.graph import Graph
from qcam.runtime.session_config import HARMLESS, S8_AS_IT_IS

IMAGES = np.random.default_rng(2).normal(size=(5, 3, 32, 32)).astype(np.float32)
CROPS = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
#: Written by the code of before schema 2.
OLD = Path(__file__).parents[1] / "schema1" / "s8s8"


@pytest.fixture(params=["u8s8", "s8s8"])
def own(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(OLD) if request.param == "s8s8" else request.getfixturevalue("tiny_bundle")


def everything(bundle: Bundle, **options: Any) -> list[np.ndarray]:
    """Run the int8 file in a session of ONNX Runtime alone: logits, and all codes."""
    model = load_onnx(bundle, "int8")
    tensors = [name for name in quantized_tensors(Graph(model))]
    config, told = options.pop("config", {}), onnxruntime.SessionOptions()
    for name, value in options.items():
        setattr(told, name, value)
    for key, value in (bundle.precision("int8").session | config).items():
        told.add_session_config_entry(key, value)
    data = exposed(model, tensors).SerializeToString()
    session = onnxruntime.InferenceSession(data, told, providers=["CPUExecutionProvider"])
    found = session.run(["logits", *tensors], {"images": IMAGES})
    if options.get("enable_profiling"):
        Path(session.end_profiling()).unlink()
    return list(found)


@pytest.mark.parametrize(
    "options",
    [
        {"config": {"session.force_spinning_stop": "1"}},
        {"config": {"session.intra_op.allow_spinning": "0"}},
        {"config": {"session.inter_op.allow_spinning": "0"}},
        {"config": {"session.use_env_allocators": "1"}},
        {"config": {"session.record_ep_graph_assignment_info": "1"}},
        {"config": {"session.disable_cpu_ep_fallback": "0"}},
        {"enable_cpu_mem_arena": False},
        {"enable_profiling": True, "profile_file_prefix": "profile"},
        {"use_deterministic_compute": True},
        {"intra_op_num_threads": 1},
        {"intra_op_num_threads": 2},
    ],
    ids=str,
)
def test_what_qcam_sets_by_itself_changes_no_bit(
    own: Bundle, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    DeployedModel(own, "int8", SessionSettings())  # the arena that sessions share is there
    assert set(options.get("config", {})) <= HARMLESS
    plain, other = everything(own), everything(own, **options)
    assert len(plain) == 1 + len(quantized_tensors(Graph(load_onnx(own, "int8"))))
    for found, wanted in zip(other, plain, strict=True):
        assert np.array_equal(found, wanted)


def test_every_entry_that_counts_as_harmless_is_shown_to_be(request: pytest.FixtureRequest) -> None:
    (mark,) = (m for m in test_what_qcam_sets_by_itself_changes_no_bit.pytestmark if m.name == "parametrize")
    shown = {key for options in mark.args[1] for key in options.get("config", {})}
    assert shown == HARMLESS


def test_a_session_of_qcam_gives_what_one_with_the_users_settings_alone_gives(own: Bundle) -> None:
    tensors = quantized_tensors(Graph(load_onnx(own, "int8")))
    inspected = InspectedModel(own, "int8", SessionSettings(), tensors).run(IMAGES)
    logits, *codes = everything(own)
    assert np.array_equal(inspected.outputs.logits, logits)
    for name, wanted in zip(tensors, codes, strict=True):
        assert np.array_equal(inspected.codes[name], wanted)


@pytest.mark.parametrize("value", ["0", "1"])
def test_what_a_command_is_given_stands_over_the_manifest(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(OLD)
    told: dict[str, str] = {}

    class Recording(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key: str, value: str) -> None:
            told[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Recording)
    DeployedModel(bundle, "int8", SessionSettings())
    assert told[S8_AS_IT_IS] == "1"  # what the code of before schema 2 set in silence
    told.clear()
    session = DeployedModel(bundle, "int8", SessionSettings(config={S8_AS_IT_IS: value, "session.force_spinning_stop": "0"}))
    assert session.config == session.placement.config == {S8_AS_IT_IS: value}
    assert (told[S8_AS_IT_IS], told["session.force_spinning_stop"]) == (value, "0")
    assert np.array_equal(session.run(IMAGES).logits, everything(bundle, config={S8_AS_IT_IS: value})[0])


def test_without_a_word_in_the_manifest_an_s8_file_runs_as_onnx_runtime_runs_it(tmp_path: Path, export_tiny: Any) -> None:
    bundle = export_tiny(tmp_path / "b", scheme="s8s8", precisions=("int8",))
    value = bundle.to_json()
    assert value["precisions"][0].pop("session") == {S8_AS_IT_IS: "1"}
    silent = written(bundle.folder, value | {"precisions": [value["precisions"][0] | {"session": {}}]})
    session = DeployedModel(silent, "int8", SessionSettings())
    assert session.config == {}
    assert "session_config" not in session.placement.to_json()
    assert np.array_equal(session.run(IMAGES).logits, everything(silent)[0])


def test_a_value_that_onnx_runtime_refuses_names_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = brought(tmp_path / "b").folder
    bundle = written(folder, manifest([described(folder, session={"session.a": "1"})]))
    monkeypatch.setattr(onnxruntime, "SessionOptions", Refusing)
    with pytest.raises(ProviderError, match=r"^the session configuration of int8-vendor, session\.a: no such entry$"):
        DeployedModel(bundle, "int8-vendor", SessionSettings())
    with pytest.raises(ProviderError, match=r"^session_config session\.a: no such entry$"):
        DeployedModel(bundle, "int8-vendor", SessionSettings(config={"session.a": "2"}))


class Refusing(onnxruntime.SessionOptions):
    def add_session_config_entry(self, key: str, value: str) -> None:
        if key == "session.a":
            raise RuntimeError("no such entry")
        super().add_session_config_entry(key, value)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that sessions were opened of."""
    names: list[str] = []
    make: Callable[..., Any] = onnxruntime.InferenceSession

    def open_session(model: Any, *given: Any, **named: Any) -> Any:
        names.append(Path(model).name)
        return make(model, *given, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    return names


def plain(path: Path, output: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {"pictures": PREPROCESSING.normalise(CROPS)})[0])


def test_where_logits_differ_they_are_the_originals_and_codes_the_copys(tmp_path: Path, opened: list[str]) -> None:
    theirs = network(tapped=False, bias=2.5)
    theirs.graph.node[-1].name = "theirs"
    bundle = brought(tmp_path / "b", original=theirs, proof="differs")
    images = PREPROCESSING.normalise(CROPS)
    session = DeployedModel(bundle, "int8-vendor", SessionSettings())
    assert sorted(opened) == ["int8.onnx", "theirs.onnx"]
    assert session.copy is not None
    parts: list[str] = []

    class Part:
        def __init__(self, name: str) -> None:
            parts.append(name)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    outputs = session.run(images, Part)
    assert parts == ["deployed", "copy of"]
    assert np.array_equal(outputs.logits, plain(bundle.folder / "theirs.onnx", "logits"))
    assert not np.array_equal(outputs.logits, plain(bundle.folder / "int8.onnx", "logits"))
    assert np.array_equal(outputs.tap, plain(bundle.folder / "int8.onnx", "r_q"))
    assert ["theirs" in ran.placement.kernel_of for ran in (session, session.copy)] == [True, False]
    session.close()
    session.open()
    again = session.run(images)
    assert np.array_equal(again.logits, outputs.logits)
    assert np.array_equal(again.tap, outputs.tap)
    inspected = InspectedModel(bundle, "int8-vendor", SessionSettings(), ["x_q", "r_q"]).run(images)
    assert inspected.undisturbed
    assert np.array_equal(inspected.outputs.logits, outputs.logits)
    assert np.array_equal(inspected.codes["r_q"], outputs.tap)


def test_where_logits_are_bitwise_the_originals_one_session_does(tmp_path: Path, opened: list[str]) -> None:
    bundle = brought(tmp_path / "b", original=network(tapped=False), proof="bitwise")
    session = DeployedModel(bundle, "int8-vendor", SessionSettings())
    assert opened == ["int8.onnx"]
    assert session.copy is None
    assert bundle.precision("int8-vendor").remark == ""
    outputs = session.run(PREPROCESSING.normalise(CROPS))
    assert np.array_equal(outputs.logits, plain(bundle.folder / "theirs.onnx", "logits"))


def test_an_original_is_held_against_the_manifest_before_it_runs(tmp_path: Path) -> None:
    other = network(tapped=False, name="x")
    bundle = brought(tmp_path / "b", original=other, proof="differs")
    with pytest.raises(BundleError, match=r"theirs\.onnx has the inputs x, bundle\.json names pictures as the only one"):
        DeployedModel(bundle, "int8-vendor", SessionSettings())
    nameless = network(tapped=False)
    nameless.graph.node[-1].output[0] = nameless.graph.output[0].name = "scores"
    bundle = brought(tmp_path / "c", original=nameless, proof="differs")
    with pytest.raises(BundleError, match=r"theirs\.onnx has no output logits, which bundle\.json names for int8-vendor"):
        DeployedModel(bundle, "int8-vendor", SessionSettings())


def test_an_original_reads_no_weights_of_which_there_is_no_hash(tmp_path: Path) -> None:
    bundle = brought(tmp_path / "b", original=network(tapped=False), proof="differs")
    onnx.save(
        network(tapped=False), bundle.folder / "theirs.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    with pytest.raises(BundleError, match=r"theirs\.onnx .*w\.bin"):
        DeployedModel(load_bundle(bundle.folder, verify=False), "int8-vendor", SessionSettings())


def test_the_input_of_a_file_is_told_by_the_manifest(tmp_path: Path) -> None:
    bundle = brought(tmp_path / "b", dtype="uint8", values="pixels", layout="NHWC")
    assert bundle.precision("int8-vendor").input.to_json() == PLAIN | {
        "dtype": "uint8", "values": "pixels", "layout": "NHWC",
    }  # fmt: skip
    found = DeployedModel(bundle, "int8-vendor", SessionSettings(io_binding=True)).run(PREPROCESSING.normalise(CROPS))
    session = onnxruntime.InferenceSession(str(bundle.path("int8-vendor")), providers=["CPUExecutionProvider"])
    assert np.array_equal(found.tap, session.run(["r_q"], {"pictures": CROPS})[0])


@pytest.mark.parametrize(("layout", "image"), [("NCHW", (3, *SIZE)), ("NHWC", (*SIZE, 3))])
def test_providers_that_build_engines_are_told_the_sizes_in_the_files_own_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, image: tuple[int, ...]
) -> None:
    found: list[Any] = []

    def listed(provider: str, given: Any, file: Any, *, tf32: bool) -> list[str]:
        found.append(file)
        return ["CPUExecutionProvider"]

    monkeypatch.setattr("qcam.runtime.deployed.session.listed_providers", listed)
    DeployedModel(brought(tmp_path / "b", layout=layout), "int8-vendor", SessionSettings())
    assert [file.image for file in found] == [image]
