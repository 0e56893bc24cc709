"""Studies on a GPU, which is not here: what is recorded of it, and that two of them never meet in one study."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from qcam.common.errors import ProviderError, QcamError, ResultsError
from qcam.evaluate.engine.choice import EngineOptions
from qcam.evaluate.engine.requirements import check_requirements, refuse_missing_gpu, unmet
from qcam.evaluate.engine.worker import SaliencyRequest
from qcam.evaluate.results.folder import RUN, write_run
from qcam.evaluate.results.records import WorkerRecord
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.study import study as study_module
from qcam.evaluate.study.running import StudyRequest, plan_study
from qcam.evaluate.study.study import Study
from qcam.images.embedded import evaluation_photographs
from qcam.images.listing import find_images
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.gpu import Gpu

T4 = Gpu("Tesla T4", "7.5", "580.65.06", "13.0", "9.10.2")
H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.65.06", "13.0", "9.10.2")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for image in evaluation_photographs()[:4]:
        shutil.copy(image.path, folder / image.name)
    return folder


@pytest.fixture
def study_on(tiny_bundle, photographs, tmp_path, monkeypatch):
    """A study whose sessions seem to run on a GPU; None for the CPU as it is."""
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)

    def make(gpu: Gpu | None, **settings: object) -> Study:
        monkeypatch.setattr("qcam.evaluate.run.facts._on_gpu", lambda sessions: gpu is not None)
        monkeypatch.setattr("qcam.evaluate.run.facts.read_gpu", lambda index: gpu)
        options = StudyOptions(("f32", "int8"), SessionSettings(**settings), saliency="none", batch_size=2, fake_quant=False)
        return Study([tiny_bundle], find_images(photographs), None, options, tmp_path / "out")

    return make


def finish(study: Study) -> dict:
    study.prepare("cpu", force=False).run()
    return json.loads((study.place.folder / RUN).read_text())


def test_where_no_gpu_takes_part_none_is_asked_for_and_none_recorded(study_on, monkeypatch) -> None:
    study = study_on(None)
    monkeypatch.setattr("qcam.evaluate.run.facts.read_gpu", lambda index: pytest.fail("a GPU was asked for"))
    run = finish(study)
    assert not {"gpu", "tf32"} & set(run["plan"])
    assert "provider_options" not in run["plan"]["options"]["settings"]
    assert all("gpu" not in worker for worker in run["workers"])
    assert not [line for line in run["notes"] if "GPU" in line]


def test_the_gpu_is_in_the_plan_in_every_part_and_below_every_table(study_on) -> None:
    run = finish(study_on(T4))
    assert run["plan"]["gpu"] == asdict(T4)
    assert [worker["gpu"] for worker in run["workers"]] == [asdict(T4)]
    (line,) = [line for line in run["notes"] if line.startswith("GPU")]
    assert line.startswith("GPU: Tesla T4 (7.5), driver 580.65.06, CUDA 13.0, cuDNN 9.10.2; float32 in float32 (TF32 off)")
    assert study_on(T4).prepare("cpu", force=False).complete


@pytest.mark.parametrize(
    ("other", "named"),
    [(H100, "GPU Tesla T4 → NVIDIA H100 80GB HBM3"), (replace(T4, driver="590.10"), "driver of the GPU 580.65.06 → 590.10")],
)
def test_results_of_another_gpu_are_refused_by_name(study_on, other, named) -> None:
    study = study_on(T4)
    finish(study)
    before = (study.place.folder / RUN).read_bytes()
    with pytest.raises(ResultsError, match=rf"holds results of other settings .*{named}"):
        study_on(other).prepare("cpu", force=False)
    assert (study.place.folder / RUN).read_bytes() == before


def test_parts_of_workers_with_another_gpu_are_refused_by_name_too(study_on, monkeypatch) -> None:
    """A plan of workers leaves the GPU to each part; a killed run leaves parts and such a plan."""
    study = study_on(T4)
    study = study.prepare("cpu", force=False)
    monkeypatch.setattr(study_module, "join_parts", lambda *_: (_ for _ in ()).throw(QcamError("killed")))
    with pytest.raises(QcamError, match="killed"):
        study.run()
    monkeypatch.undo()
    folder = study.place.folder
    run = json.loads((folder / RUN).read_text())
    del run["plan"]["gpu"]
    write_run(folder / RUN, run | {"plan": run["plan"] | {"cpu_features": None, "kernels": None}})
    parts = sorted((folder / "parts").iterdir())
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    monkeypatch.setattr("qcam.evaluate.run.facts._on_gpu", lambda sessions: True)
    monkeypatch.setattr("qcam.evaluate.run.facts.read_gpu", lambda index: H100)
    other = Study(study.bundles, study.plan.images, None, study.options, folder)
    other = other.prepare("cpu", force=False)
    with pytest.raises(ResultsError, match=r"holds results of Tesla T4 .*, and this is NVIDIA H100 .*what two GPUs compute"):
        other.run()
    with pytest.raises(ResultsError, match=r"give requirements gpu=Tesla T4 to go on there, another folder, .*or force=True"):
        other.run()
    assert sorted((folder / "parts").iterdir()) == parts
    monkeypatch.setattr("qcam.evaluate.run.facts.read_gpu", lambda index: T4)
    same = Study(study.bundles, study.plan.images, None, study.options, folder)
    assert finish(same)["complete"] is True


def test_tf32_is_told_below_every_table(study_on) -> None:
    run = finish(study_on(T4, tf32=True))
    (line,) = [line for line in run["notes"] if line.startswith("GPU")]
    assert "products of float32 in TF32 where it has it, kernels that repeat themselves" in line


def test_a_gpu_can_be_required_by_a_part_of_its_name() -> None:
    for required, worker, missing in (
        ("t4", WorkerRecord(node="n", gpu=T4), ""),
        (" H100 ", WorkerRecord(node="n", gpu=H100), ""),
        ("H100", WorkerRecord(node="n", gpu=T4), "n computes on Tesla T4, and {require} gpu=H100 wants another GPU"),
        ("H100", WorkerRecord(node="n"), "n computes on no GPU, and {require} gpu=H100 wants one"),
    ):
        assert unmet([("gpu", required)], worker) == missing
    with pytest.raises(QcamError, match=r"gpu=: give a part of the GPU's name"):
        check_requirements([("gpu", " ")])


def test_a_required_gpu_that_is_not_here_is_refused_before_anything_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("qcam.evaluate.engine.requirements.gpu_names", lambda: ["Tesla T4", "NVIDIA A100-SXM4-40GB"])
    refuse_missing_gpu([("kernel", "vnni"), ("gpu", "a100")])
    engine = EngineOptions(requirements=(("gpu", "H100"),))
    request = StudyRequest((tmp_path / "nowhere",), None, StudyOptions(()), SaliencyRequest("none"), engine=engine)
    with pytest.raises(ProviderError, match="has no such GPU; it has 0: Tesla T4, 1: NVIDIA A100-SXM4-40GB"):
        plan_study(request)
    monkeypatch.setattr("qcam.evaluate.engine.requirements.gpu_names", list)
    with pytest.raises(ProviderError, match="it has none"):
        plan_study(request)
