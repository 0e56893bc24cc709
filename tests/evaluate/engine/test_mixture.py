"""Shards of differing machines in one run: recorded in each part, told below every table and in the report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.report.finishing import Presentation, finish
from qcam.evaluate.results.folder import RUN
from qcam.evaluate.results.records import WorkerRecord
from qcam.evaluate.run.facts import WorkerFacts
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.study import executor as executor_module
from qcam.evaluate.study import study as study_module
from qcam.evaluate.study.record import mixtures
from qcam.evaluate.study.study import Study
from qcam.images.embedded import evaluation_photographs
from qcam.images.listing import find_images


def worker(kernel, shards, **versions):
    return WorkerRecord(kernel=kernel, shards=shards, versions=versions)


def test_one_kind_of_worker_is_no_mixture():
    assert mixtures([]) == []
    assert mixtures([worker("vnni", 3, onnxruntime="1.32.0"), worker("vnni", 1, onnxruntime="1.32.0")]) == []


def test_what_differs_is_named_with_its_shards():
    told = mixtures([worker("vnni", 3, torch="2.14"), worker("avx2", 2, torch="2.14"), worker("vnni", 4, torch="2.15")])
    assert "shards of differing int8 kernels are mixed (avx2: 2 shards, vnni: 7 shards)" in told[0]
    assert "{require} kernel=NAME" in told[0]
    assert told[1:] == ["shards of differing versions of torch are mixed (2.14: 5 shards, 2.15: 4 shards)"]


def test_the_table_and_the_report_warn(tiny_bundle, tmp_path, monkeypatch: pytest.MonkeyPatch):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for image in evaluation_photographs()[:6]:
        shutil.copy(image.path, photographs / image.name)
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    options = StudyOptions(("f32", "int8"), saliency="none", batch_size=2)
    study = Study([tiny_bundle], find_images(photographs), None, options, tmp_path / "out")
    kernels = iter(("vnni", "avx2", "avx2"))
    real = executor_module.write_part

    def elsewhere(store, part, outcomes, state, about):
        real(store, part, outcomes, state, replace(about, kernel=next(kernels), node="another"))

    monkeypatch.setattr(executor_module, "write_part", elsewhere)
    study = study.prepare("cpu", force=False)
    assert isinstance(study.facts, WorkerFacts)
    study.run()
    run = json.loads((tmp_path / "out" / RUN).read_text())
    assert [(worker["kernel"], worker["shards"]) for worker in run["workers"]] == [("vnni", 1), ("avx2", 2)]
    said = "shards of differing int8 kernels are mixed (avx2: 2 shards, vnni: 1 shard)"
    (warning,) = [line for line in run["warnings"] if line.startswith(said)]
    assert warning.endswith("; --require kernel=NAME keeps a run to one")  # a file has the words of the commands
    told = study.warnings(study.results())
    (same,) = [line for line in told if line.startswith(said)]
    assert same.endswith("; {require} kernel=NAME keeps a run to one")
    assert not [line for line in told if "random weights" in line]  # load_bundles has warned
    assert [line for line in run["warnings"] if "random weights" in line]
    finish(study.results(), "out", study.clock, Presentation(grid_rows=0))
    for name in ("table.md", "report.html"):
        assert said in (tmp_path / "out" / name).read_text(), name


def test_what_is_required_holds_for_parts_that_are_there_too(tiny_bundle, tmp_path, monkeypatch: pytest.MonkeyPatch):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for image in evaluation_photographs()[:6]:
        shutil.copy(image.path, photographs / image.name)
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    images, options = find_images(photographs), StudyOptions(("f32", "int8"), saliency="none", batch_size=2)

    def study(*requirements):
        return Study([tiny_bundle], images, None, options, tmp_path / "out", requirements=requirements)

    written = []
    real = executor_module.write_part

    def elsewhere(store, part, outcomes, state, about):
        written.append(real(store, part, outcomes, state, replace(about, kernel="avx2", node="old")))

    monkeypatch.setattr(executor_module, "write_part", elsewhere)
    monkeypatch.setattr(study_module, "join_parts", lambda *_: (_ for _ in ()).throw(QcamError("stop")))
    first = study().prepare("cpu", force=False)
    with pytest.raises(QcamError, match="stop"):
        first.run()
    assert len(written) == 3
    second = study(("kernel", "avx2")).prepare("cpu", force=False)
    assert second.todo == []
    third = study(("kernel", "vnni")).prepare("cpu", force=False)
    assert third.todo == [0, 1, 2]
    monkeypatch.undo()
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    last = study().prepare("cpu", force=False)
    last.run()
    with pytest.raises(QcamError, match="results that old computes with the kernels of avx2, and requirements"):
        study(("kernel", "vnni")).prepare("cpu", force=False)
