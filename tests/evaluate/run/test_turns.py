"""Where memory does not hold the sessions of all networks, one network has them at a time, and figures stay the same."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from studies import SAME

import qcam
from qcam.common import machine
from qcam.common.errors import OutOfMemoryError, ProviderError
from qcam.evaluate.engine import choice, processes
from qcam.evaluate.run import memory as memory_module
from qcam.evaluate.run import runner
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.run.pace import Pace
from qcam.evaluate.run.protocol import Expected
from qcam.evaluate.run.stages import REOPENING
from qcam.evaluate.run.turns import Turns
from qcam.images.sources import ImageFile
from qcam.runtime.bundle import load_bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings, packed
from qcam.runtime.deployed.session import DeployedOutputs

FULL = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : BFCArena Failed to allocate memory for requested buffer of size 1"


class Memory:
    """A provider's memory that holds so many sessions.

    Attributes:
        most: How many were open at the same time.
        opened: How many were opened in all.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, *, when_running: bool = False) -> None:
        import onnxruntime

        self.most = self.opened = 0
        held: set[int] = set()
        real = onnxruntime.InferenceSession

        class Session(real):  # type: ignore[misc,valid-type]
            def __init__(inner, *arguments: Any, **more: Any) -> None:
                if len(held) >= room and not when_running:
                    raise RuntimeError(FULL)
                super().__init__(*arguments, **more)
                held.add(id(inner))
                self.opened += 1
                self.most = max(self.most, len(held))

            def __del__(inner) -> None:
                held.discard(id(inner))

            def run(inner, outputs: Any, feeds: Any, options: Any = None) -> Any:
                if when_running and len(held) > room and len(next(iter(feeds.values()))) > 1:
                    raise RuntimeError(FULL)
                return super().run(outputs, feeds, options)

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)


@pytest.fixture(scope="module")
def two_networks(tiny_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tiny network under two names."""
    other = tmp_path_factory.mktemp("two") / "other"
    shutil.copytree(tiny_bundle.folder, other)
    renamed = replace(load_bundle(str(other)), model_id="other")
    (other / "bundle.json").write_text(renamed.manifest_text(), encoding="utf-8")
    return [tiny_bundle.folder, other]


def study(bundles: list[Path], photographs: Path, output: Path, **more: Any) -> Any:
    return qcam.study(
        [str(folder) for folder in bundles], images=photographs, saliency="none", output=output, threads=1, device="cpu",
        **{"batch_size": 2} | more,
    )  # fmt: skip


@pytest.mark.parametrize("when_running", [False, True], ids=["opening", "running"])
def test_networks_take_turns_and_figures_stay_the_same(
    two_networks, some_photographs, tmp_path, monkeypatch, caplog, when_running
):
    caplog.set_level(logging.WARNING)
    study(two_networks, some_photographs, tmp_path / "together")
    memory = Memory(monkeypatch, 3, when_running=when_running)
    study(two_networks, some_photographs, tmp_path / "apart")
    for name in SAME:
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "together" / name).read_bytes(), name
    assert memory.most == (6 if when_running else 3)
    assert memory.opened > 6
    assert sum("one network at a time" in text for text in caplog.messages) == 1


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, marks=pytest.mark.long),
        {"faithfulness": True, "fake_quant": False},
        pytest.param({"null_row": False, "batch_size": 4}, marks=pytest.mark.long),
    ],
)
def test_precisions_that_are_opened_for_their_turn_give_the_same_figures(
    two_networks, some_photographs, tmp_path, monkeypatch, more
):
    study(two_networks, some_photographs, tmp_path / "kept", **more)
    memory = Memory(monkeypatch, 100)
    monkeypatch.setattr(choice, "ROOM", 1)
    study(two_networks, some_photographs, tmp_path / "apart", **more)
    for name in SAME:
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes(), name
    assert memory.most == 1
    assert memory.opened >= 12  # six to see that they can be had, and six for their turn


def test_sessions_of_a_turn_come_from_packed_copies_which_are_gone_when_the_run_ends(
    two_networks, some_photographs, tmp_path, temporary, monkeypatch
):
    study(two_networks, some_photographs, tmp_path / "kept")
    assert not list(temporary.glob("qcam-packed-*")), "nothing is opened again"
    seen: list[int] = []
    real = DeployedModel._open_packed

    def counted(self: DeployedModel) -> bool:
        seen.append(len(list(temporary.rglob(packed.GRAPH))))
        return real(self)

    monkeypatch.setattr(DeployedModel, "_open_packed", counted)
    memory = Memory(monkeypatch, 100)
    monkeypatch.setattr(choice, "ROOM", 1)
    study(two_networks, some_photographs, tmp_path / "apart")
    assert set(seen) == {2}, "f32 and int8, the same files under the names of two networks"
    assert memory.opened == 6 + len(seen)
    assert not list(temporary.glob("qcam-packed-*"))
    for name in SAME:
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes(), name


def test_a_run_that_ends_by_an_error_leaves_no_copy(two_networks, some_photographs, tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(choice, "ROOM", 1)
    seen: list[Path] = []

    def broken(self: DeployedModel) -> bool:
        seen.extend(temporary.rglob(packed.GRAPH))
        raise ProviderError("broken")

    monkeypatch.setattr(DeployedModel, "_open_packed", broken)
    with pytest.raises(ProviderError, match="broken"):
        study(two_networks, some_photographs, tmp_path / "out")
    assert seen
    assert not list(temporary.glob("qcam-packed-*"))


def test_workers_share_copies_in_a_folder_of_the_driver(two_networks, some_photographs, tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(choice, "ROOM", 1)
    made: list[Path | None] = []
    held: list[int] = []
    real, close = processes.new_folder, processes.ProcessPool.close

    def new() -> Path | None:
        made.append(real())
        return made[-1]

    def closing(self: processes.ProcessPool) -> None:
        held.append(len(list(temporary.glob(f"qcam-packed-*/[0-9a-f]*/{packed.GRAPH}"))))
        close(self)

    monkeypatch.setattr(processes, "new_folder", new)
    monkeypatch.setattr(processes.ProcessPool, "close", closing)
    study(two_networks, some_photographs, tmp_path / "one")
    assert not made
    study(two_networks, some_photographs, tmp_path / "two", workers=2)
    assert [folder is not None and folder.parent for folder in made] == [temporary]
    assert held == [2]
    assert not list(temporary.glob("qcam-packed-*"))
    for name in SAME:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


def test_one_network_keeps_what_memory_there_is_and_takes_turns_with_the_rest(
    tiny_bundle, some_photographs, tmp_path, monkeypatch
):
    parts = memory_module.parts_of([tiny_bundle], [["f32", "int16", "int8"]], StudyOptions((), batch_size=2))
    room = memory_module.arranged(parts, None).all_bytes - 1
    apart = memory_module.arranged(parts, room).apart
    assert 0 < len(apart) < 3
    memory = Memory(monkeypatch, 100)
    monkeypatch.setattr(machine, "available_memory", lambda: room)
    study([tiny_bundle.folder], some_photographs, tmp_path / "out")
    assert memory.opened >= 3 + len(apart)
    assert memory.most == 3


def test_a_session_that_cannot_be_had_again_ends_the_run(two_networks, some_photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "ROOM", 1)
    real = DeployedModel.open

    def gone(self: DeployedModel) -> None:
        self._packed = None
        self._path = self._path.with_name("gone.onnx")
        real(self)

    monkeypatch.setattr(DeployedModel, "open", gone)
    with pytest.raises(ProviderError, match=r"cannot load .*gone\.onnx"):
        study(two_networks, some_photographs, tmp_path / "out")


def test_a_network_that_does_not_fit_alone_is_refused(two_networks, some_photographs, tmp_path, monkeypatch):
    Memory(monkeypatch, 2)
    with pytest.raises(
        OutOfMemoryError, match=r"int8\.onnx does not fit into the memory of CPU: .*BFCArena.*take fewer bundles"
    ):
        study(two_networks, some_photographs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_session_that_is_opened_again_computes_the_same(tiny_bundle):
    model = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1))
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    before, placement = model.run(images), model.placement
    model.close()
    model.open()
    after = model.run(images)
    assert isinstance(after, DeployedOutputs)
    np.testing.assert_array_equal(after.tap, before.tap)
    np.testing.assert_array_equal(after.logits, before.logits)
    assert model.placement == placement


def test_what_fails_for_another_reason_is_not_tried_again():
    class One:
        def open(self) -> None: ...
        def close(self) -> None:
            pytest.fail("closed for nothing")

    def fail() -> None:
        raise ValueError("another reason")

    turns: Turns[One] = Turns()
    for _ in range(2):
        turns.add(One)
    with pytest.raises(ValueError, match="another reason"):
        turns.run(turns.members[0], fail)
    assert not turns.apart


class Network:
    """A network of which memory holds one, once it is to run."""

    sequential = False

    def __init__(self, name: str, together: set[str]) -> None:
        self.bundle, self.opened, self._open = SimpleNamespace(model_id=name), 0, together
        self.open()

    def open(self) -> None:
        self.opened += self.bundle.model_id not in self._open
        self._open.add(self.bundle.model_id)

    def close(self) -> None:
        self._open.discard(self.bundle.model_id)

    def evaluate_all(self, batches: Any, clock: Any) -> Any:
        if len(self._open) > 1:
            raise OutOfMemoryError("full")
        model = self.bundle.model_id
        return [
            lambda samples=samples: (
                [SimpleNamespace(image=image.name, model=model, comparison="") for image in samples], [], []
            )
            for samples in batches
        ]


def test_turns_that_begin_in_a_run_are_taken_shard_by_shard_from_then_on(monkeypatch):
    def load(given: Any) -> runner.LoadedBatch:
        images = given.images
        return runner.LoadedBatch(images, {"a": list(images), "b": list(images)}, {}, {})

    monkeypatch.setattr(runner, "Loader", lambda *_arguments, **_more: SimpleNamespace(load=load))
    together: set[str] = set()
    options: Any = SimpleNamespace(batch_size=2, target="f32-top1")
    run = runner.ShardRunner([lambda name=name: Network(name, together) for name in "ab"], None, options)  # type: ignore[misc]
    shards = [[ImageFile(f"{shard}-{index}", Path("x")) for index in range(16)] for shard in range(2)] + [[]]
    done = list(run.evaluate(shards, {}, lambda _: None))
    assert [[outcome.image for outcome in outcomes] for outcomes, _ in done] == [[file.name for file in one] for one in shards]
    assert all([row.model for row in outcome.rows] == ["a", "b"] for outcomes, _ in done for outcome in outcomes)
    # Once at the start; then for three batches that were loaded already, for the rest of that shard, and for the next one.
    assert [one.opened for one in run.evaluators] == [1 + 5, 1 + 5]


class Reopened(Network):
    """A network that is opened for each of its turns."""

    def __init__(self, name: str, turns: list[tuple[str, list[int]]]) -> None:
        super().__init__(name, set())
        self._turns, self.expected = turns, Expected(opening=1.0, image=1.0)

    def build(self, device: str) -> None: ...

    def evaluate_all(self, batches: Any, clock: Any) -> Any:
        self._turns.append((self.bundle.model_id, [len(samples) for samples in batches]))
        with clock.stage(REOPENING):
            pass
        return super().evaluate_all(batches, clock)


def test_a_turn_is_over_the_images_of_several_shards_which_end_whole(monkeypatch):
    """Opening two networks takes 2 s, an image of both 2 s: 2 % would be 50 images, 60 seconds are 30."""

    def load(given: Any) -> runner.LoadedBatch:
        images = given.images
        return runner.LoadedBatch(images, {"a": list(images), "b": list(images)}, {}, {})

    monkeypatch.setattr(runner, "Loader", lambda *_arguments, **_more: SimpleNamespace(load=load))
    monkeypatch.setattr(Pace, "learn", lambda *_: None)
    turns: list[tuple[str, list[int]]] = []
    options: Any = SimpleNamespace(batch_size=8, target="f32-top1")
    run = runner.ShardRunner([lambda name=name: Reopened(name, turns) for name in "ab"], None, options, longest=60)  # type: ignore[misc]
    run.build("cpu")
    shards = [[ImageFile(f"{shard}-{index}", Path("x")) for index in range(16)] for shard in range(3)] + [[]]
    told: list[int] = []
    done = list(run.evaluate(shards, {}, told.append))
    assert turns == [("a", [8, 8, 8]), ("b", [8, 8, 8])] * 2
    assert [[outcome.image for outcome in outcomes] for outcomes, _ in done] == [[file.name for file in one] for one in shards]
    assert all([row.model for row in outcome.rows] == ["a", "b"] for outcomes, _ in done for outcome in outcomes)
    assert sum(told) == 2 * 48


def test_a_pace_follows_what_was_seen():
    pace = Pace(longest=300)
    assert not pace.reopens
    pace.expect(opening=1, image=0.5)
    assert pace.reopens
    assert pace.images() == 100
    pace.learn(16, running=80, opening=10)  # 5 s an image: 2 % would be 100 images, and 500 s
    assert pace.images() == 60
    pace.learn(16, running=16_000, opening=10)
    assert pace.images() == 1
