"""Sessions that are opened again come from packed copies, which are the same bit for bit or are not used, and leave nothing."""

from __future__ import annotations

import gc
import logging
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from brought_files import PREPROCESSING, SIZE, brought, network

from qcam.common import machine
from qcam.common.errors import ProviderError
from qcam.common.files import sha256_file
from qcam.runtime.bundle import load_bundle
from qcam.runtime.deployed import DeployedModel, PackedCopies, SessionSettings, packed
from qcam.runtime.deployed.packed import GRAPH, WEIGHTS, digest, new_folder, packable, remove_folder

pytestmark = pytest.mark.usefixtures("temporary")

IMAGES = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
PICTURES = PREPROCESSING.normalise(np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The files that sessions were made of, with the options."""
    found: list[tuple[str, Any]] = []
    real = onnxruntime.InferenceSession

    def session(model: Any, options: Any = None, **more: Any) -> Any:
        found.append((Path(model).name, options))
        return real(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return found


def copies_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob(GRAPH))


def reopened(model: DeployedModel) -> DeployedModel:
    model.close()
    model.open()
    return model


def same(found: Any, wanted: Any) -> bool:
    return digest([found.logits, found.tap, *found.skips]) == digest([wanted.logits, wanted.tap, *wanted.skips])


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_session_is_opened_again_from_the_copy_and_computes_the_same_bits(tiny_bundle, temporary, opened, precision):
    copies = PackedCopies()
    plain = DeployedModel(tiny_bundle, precision, SessionSettings(threads=1))
    model = DeployedModel(tiny_bundle, precision, SessionSettings(threads=1), copies=copies)
    wanted = model.run(IMAGES)
    assert same(wanted, plain.run(IMAGES))
    assert model.placement.nodes
    assert model.placement.describe() == plain.placement.describe()
    for _ in range(2):
        assert same(reopened(model).run(IMAGES), wanted)
    own = f"{precision}.onnx"
    assert [name for name, _ in opened] == [own, own, GRAPH, GRAPH]
    assert opened[-1][1].graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert len(copies_in(temporary)) == 1
    copies.close()
    assert not list(temporary.iterdir())
    assert same(reopened(model).run(IMAGES), wanted)
    assert opened[-1][0] == own


def test_nothing_is_written_where_nothing_is_opened_again(tiny_bundle, temporary, opened):
    assert same(reopened(model := DeployedModel(tiny_bundle, "int8", SessionSettings())).run(IMAGES), model.run(IMAGES))
    assert [name for name, _ in opened] == ["int8.onnx"] * 2
    assert not list(temporary.iterdir())


def test_a_copy_that_computes_other_values_is_thrown_away_and_told_once(tiny_bundle, temporary, opened, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    copies = PackedCopies()
    model = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1), copies=copies)
    wanted = model.run(IMAGES)
    (graph,) = copies_in(temporary)
    weights = bytearray((graph.parent / WEIGHTS).read_bytes())
    weights[:] = bytes(byte ^ 1 for byte in weights)  # the last bit of a weight, here and there
    (graph.parent / WEIGHTS).write_bytes(weights)
    for _ in range(2):
        assert same(reopened(model).run(IMAGES), wanted)
    assert [name for name, _ in opened] == ["f32.onnx", GRAPH, "f32.onnx", "f32.onnx"]
    assert sum("it computes other values" in text and "f32.onnx" in text for text in caplog.messages) == 1
    assert not copies_in(temporary)


def test_a_copy_that_cannot_be_loaded_is_not_used(tiny_bundle, temporary, caplog):
    caplog.set_level(logging.INFO)
    copies = PackedCopies()
    model = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1), copies=copies)
    wanted = model.run(IMAGES)
    (graph,) = copies_in(temporary)
    graph.write_bytes(graph.read_bytes()[:100])
    assert same(reopened(model).run(IMAGES), wanted)
    assert sum("ONNX Runtime does not load it" in text for text in caplog.messages) == 1


def test_where_the_copy_cannot_be_written_the_file_is_opened_as_before(tiny_bundle, tmp_path):
    """A disk that takes no more, as a limit on the size of files: ONNX Runtime's own writing fails."""
    code = (
        "import logging, resource, signal, sys; from pathlib import Path\n"
        "import numpy as np\n"
        "from qcam.runtime.bundle import load_bundle\n"
        "from qcam.runtime.deployed import DeployedModel, PackedCopies, SessionSettings, packed\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "packed.in_memory = lambda _: False\n"
        "bundle, copies = load_bundle(Path(sys.argv[1])), PackedCopies()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "real = packed.PackedCopy.prepare\n"
        "def prepare(self, options):\n"
        "    limit = 4096 if self.writing else resource.RLIM_INFINITY\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    real(self, options)\n"
        "packed.PackedCopy.prepare = prepare\n"
        "model = DeployedModel(bundle, 'f32', SessionSettings(threads=1), copies=copies)\n"
        "one = model.run(np.ones((1, 3, 32, 32), np.float32)).logits\n"
        "model.close(); model.open()\n"
        "assert one.tobytes() == model.run(np.ones((1, 3, 32, 32), np.float32)).logits.tobytes()\n"
        "print(len(list(Path(sys.argv[2]).rglob('packed.*'))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_bundle.folder, tmp_path / "temporary"],
        env={"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "0\n"
    assert done.stderr.count("ONNX Runtime could not write one") == 1
    assert not list((tmp_path / "temporary").glob("qcam-*")), "the folder goes with the process"


def test_a_disk_that_is_nearly_full_is_left_alone_and_told_once(tiny_bundle, temporary, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(packed, "_LEFT_FREE", 1 << 62)
    copies = PackedCopies()
    for precision in ("f32", "int8"):
        reopened(DeployedModel(tiny_bundle, precision, SessionSettings(), copies=copies)).run(IMAGES)
    assert not copies_in(temporary)
    assert sum("MiB left" in text for text in caplog.messages) == 1


def test_no_copy_lies_in_memory(tiny_bundle, tmp_path, temporary, opened, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(packed, "in_memory", lambda place: place == temporary)
    monkeypatch.setattr(packed, "_LARGE_FILES", tmp_path / "nothing there")
    reopened(DeployedModel(tiny_bundle, "int8", SessionSettings(), copies=PackedCopies())).run(IMAGES)
    assert [name for name, _ in opened] == ["int8.onnx"] * 2
    assert sum("no folder for temporary files lies on a disk" in text for text in caplog.messages) == 1
    large = tmp_path / "large"
    large.mkdir()
    monkeypatch.setattr(packed, "_LARGE_FILES", large)
    folder = new_folder()
    assert folder is not None
    assert folder.parent == large
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_lies_in_memory_is_told_by_the_nearest_mount(tmp_path, monkeypatch):
    there = f"{tmp_path}/with\\040space"
    mounts = f"/dev/a / ext4 rw 0 0\ntmpfs {there} tmpfs rw 0 0\n/dev/b {there}/disk xfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda *_arguments, **_more: mounts)
    inside = tmp_path / "with space"
    assert [machine.in_memory(place) for place in (tmp_path, inside, inside / "x", inside / "disk" / "x")] == [
        False, True, True, False,
    ]  # fmt: skip


def test_settings_about_files_and_packing_and_other_providers_leave_sessions_as_they_were():
    assert packable("CPU", {"session.qdqisint8allowed": "1", "session.use_env_allocators": "0"}, "int8")
    assert not packable("CPU", {"session.disable_prepacking": "1"}, "uint8")
    assert not packable("CPU", {"session.save_model_format": "ORT"}, "float32")
    assert not packable("CUDA", {}, "float32")
    assert not packable("OpenVINO", {}, "float32")


def test_a_file_of_16_bits_whose_weights_are_not_packed_is_opened_itself(tiny_bundle, temporary, opened):
    model = DeployedModel(tiny_bundle, "int16", SessionSettings(threads=1), copies=PackedCopies())
    wanted = model.run(IMAGES)
    assert same(reopened(model).run(IMAGES), wanted)
    assert [name for name, _ in opened] == ["int16.onnx"] * 2
    assert not copies_in(temporary)


def test_processes_that_share_a_folder_make_one_copy_and_each_proves_it(tiny_bundle, temporary, opened):
    shared = new_folder()
    models = [DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1), copies=PackedCopies(shared)) for _ in range(2)]
    assert [bool(options.optimized_model_filepath) for _, options in opened] == [True, False]
    assert len(copies_in(temporary)) == 1
    assert same(*(reopened(model).run(IMAGES) for model in models))
    assert [name for name, _ in opened] == ["int8.onnx"] * 2 + [GRAPH] * 2
    DeployedModel(tiny_bundle, "int8", SessionSettings(threads=2), copies=PackedCopies(shared))
    DeployedModel(tiny_bundle, "int8", SessionSettings(config={"session.x64quantprecision": "1"}), copies=PackedCopies(shared))
    assert len(copies_in(temporary)) == 3, "other settings are another copy"


def test_who_loses_the_race_takes_the_winners_copy(tiny_bundle, temporary, opened, monkeypatch):
    shared, real = new_folder(), packed.PackedCopy.finish

    def overtaken(self: packed.PackedCopy) -> None:
        monkeypatch.setattr(packed.PackedCopy, "finish", real)
        DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1), copies=PackedCopies(shared))
        real(self)

    monkeypatch.setattr(packed.PackedCopy, "finish", overtaken)
    model = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1), copies=PackedCopies(shared))
    assert len(copies_in(temporary)) == 1
    reopened(model)
    assert opened[-1][0] == GRAPH


def test_copies_go_with_whoever_made_them(tiny_bundle, temporary):
    model = DeployedModel(tiny_bundle, "int8", SessionSettings(), copies=PackedCopies())
    assert copies_in(temporary)
    del model
    gc.collect()
    assert not list(temporary.iterdir())


@pytest.fixture
def beside(tiny_bundle: Any, tmp_path: Path) -> Any:
    """The tiny network with its float weights in a file beside it."""
    folder = tmp_path / "beside"
    shutil.copytree(tiny_bundle.folder, folder)
    model = onnx.load(folder / "f32.onnx")
    onnx.save(model, folder / "f32.onnx", save_as_external_data=True, location="f32.data", size_threshold=512)
    bundle = load_bundle(tiny_bundle.folder)
    entries = tuple(
        replace(
            entry,
            sha256=sha256_file(folder / "f32.onnx"),
            external={"f32.data": sha256_file(folder / "f32.data")},
        )
        if entry.name == "f32"
        else entry
        for entry in bundle.precisions
    )
    (folder / "bundle.json").write_text(replace(bundle, precisions=entries).manifest_text(), encoding="utf-8")
    return load_bundle(folder)


def test_weights_in_a_file_beside_the_graph_are_packed_too(tiny_bundle, beside, temporary, opened):
    model = DeployedModel(beside, "f32", SessionSettings(threads=1), copies=PackedCopies())
    wanted = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1)).run(IMAGES)
    assert same(reopened(model).run(IMAGES), wanted)
    assert opened[-1][0] == GRAPH


@pytest.mark.parametrize(
    "taken", [{"batch": 4}, {"batch": 1}, {"dtype": "uint8", "values": "pixels", "layout": "NHWC"}], ids=str
)
def test_files_of_a_fixed_batch_and_of_pixels_are_proven_by_what_they_take(tmp_path, opened, taken):
    bundle = brought(tmp_path / "b", **taken)
    model = DeployedModel(bundle, "int8-vendor", SessionSettings(threads=1), copies=PackedCopies())
    wanted = model.run(PICTURES)
    assert same(reopened(model).run(PICTURES), wanted)
    assert [name for name, _ in opened] == ["int8.onnx", GRAPH]


def test_an_original_and_the_copy_that_hands_out_its_tap_are_packed_each(tmp_path, temporary, opened):
    bundle = brought(tmp_path / "b", original=network(tapped=False, bias=2.5), proof="differs")
    model = DeployedModel(bundle, "int8-vendor", SessionSettings(threads=1), copies=PackedCopies())
    wanted = model.run(PICTURES)
    assert same(reopened(model).run(PICTURES), wanted)
    assert sorted(name for name, _ in opened) == ["int8.onnx", GRAPH, GRAPH, "theirs.onnx"]
    assert len(copies_in(temporary)) == 2


def test_a_file_of_fused_integer_operators_is_packed_too(tiny_bundle, tmp_path, opened):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(str(tiny_bundle.path("int8")), options, providers=["CPUExecutionProvider"])
    assert "QLinearConv" in {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}
    model = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1), file=tmp_path / "fused.onnx", copies=PackedCopies())
    wanted = model.run(IMAGES)
    assert same(reopened(model).run(IMAGES), wanted)
    assert opened[-1][0] == GRAPH


def test_a_copy_that_is_another_one_since_it_was_proven_is_proven_again(tiny_bundle, temporary, opened, caplog):
    caplog.set_level(logging.INFO)
    model = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1), copies=PackedCopies())
    wanted = model.run(IMAGES)
    assert same(reopened(model).run(IMAGES), wanted)
    model.close()
    (graph,) = copies_in(temporary)
    weights = graph.parent / WEIGHTS
    changed = bytes(byte ^ 1 for byte in weights.read_bytes())
    weights.unlink()
    weights.write_bytes(changed)
    assert same(reopened(model).run(IMAGES), wanted)
    assert [name for name, _ in opened] == ["f32.onnx", GRAPH, GRAPH, "f32.onnx"]
    assert any("it computes other values" in text for text in caplog.messages)


def test_a_full_disk_stops_new_copies_and_not_those_that_are_there(tiny_bundle, temporary, opened, monkeypatch):
    copies = PackedCopies()
    model = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1), copies=copies)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    other = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1), copies=copies)
    again = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1), copies=copies)
    opened.clear()
    for each in (model, other, again):
        reopened(each)
    assert [name for name, _ in opened] == [GRAPH, "int8.onnx", GRAPH]


def test_who_finds_a_copy_being_written_takes_it_when_it_is_there(tiny_bundle, temporary, opened):
    shared = new_folder()
    facts = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1), copies=PackedCopies(shared))
    (graph,) = shared.glob(f"*/{GRAPH}")
    busy = graph.parent.rename(shared / f".writing-{graph.parent.name}-x")
    model = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1), copies=PackedCopies(shared))
    assert len(list(shared.iterdir())) == 1, "one process writes it"
    opened.clear()
    assert same(reopened(model).run(IMAGES), facts.run(IMAGES))
    busy.rename(graph.parent)
    reopened(model)
    assert [name for name, _ in opened] == ["f32.onnx", GRAPH]
    remove_folder(shared)


def test_pictures_that_do_not_run_leave_the_session_as_it_is(tiny_bundle, temporary, monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    def fails(_self):
        raise ProviderError("no batch of 2")

    monkeypatch.setattr(DeployedModel, "_noticed", fails)
    model = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1), copies=PackedCopies())
    assert same(reopened(model).run(IMAGES), model.run(IMAGES))
    assert any("it does not run pictures of noise (no batch of 2)" in text for text in caplog.messages)


def test_no_more_pictures_are_shown_than_will_be_run_at_a_time(tiny_bundle, temporary):
    model = DeployedModel(tiny_bundle, "f32", SessionSettings(threads=1, batch=1), copies=PackedCopies())
    assert [len(values) for values in model._noticed()] == [1] * (2 + len(model.entry.skips))
