"""Workers and GPUs: who would share one, or find none."""

from __future__ import annotations

import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.engine.choice import EngineOptions, refuse_workers_without_gpus
from qcam.evaluate.engine.worker import SaliencyRequest
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.study.running import StudyRequest, plan_study
from qcam.runtime.deployed import SessionSettings


@pytest.mark.parametrize(
    ("engine", "settings", "device", "message"),
    [
        (
            EngineOptions("ray"),
            SessionSettings("CUDA"),
            "auto",
            r"provider CUDA on Ray with 0 GPUs .*: .*; give gpus_per_worker 1",
        ),
        (EngineOptions("ray"), SessionSettings("TensorRT"), "cpu", "provider TensorRT on Ray with 0 GPUs"),
        (EngineOptions("ray"), SessionSettings(), "cuda", "device cuda on Ray with 0 GPUs"),
        (EngineOptions(workers=2), SessionSettings("CUDA"), "auto", "provider CUDA with workers 2: all would share one GPU"),
        (EngineOptions(workers=2), SessionSettings(), "cuda", "device cuda with workers 2: all would share one GPU"),
        (
            EngineOptions("ray", gpus=1),
            SessionSettings("CUDA", provider_options={"device_id": "1"}),
            "auto",
            "provider_options device_id=1: on Ray each worker sees its own GPUs alone",
        ),
    ],
)
def test_workers_that_would_share_a_gpu_or_find_none_are_refused(engine, settings, device, message) -> None:
    with pytest.raises(QcamError, match=message):
        refuse_workers_without_gpus(engine, settings, device)


def test_one_worker_a_gpu_each_and_cpus_are_taken() -> None:
    for engine, settings, device in (
        (EngineOptions(workers=1), SessionSettings("CUDA", provider_options={"device_id": "1"}), "cuda"),
        (EngineOptions(), SessionSettings("CUDA"), "auto"),
        (EngineOptions("ray", gpus=0.5), SessionSettings("CUDA"), "cuda"),
        (EngineOptions("ray"), SessionSettings(), "auto"),
        (EngineOptions(workers=4), SessionSettings("OpenVINO"), "auto"),
    ):
        refuse_workers_without_gpus(engine, settings, device)


def test_it_is_told_before_anything_is_read(tmp_path) -> None:
    options = StudyOptions((), SessionSettings("CUDA"), saliency="none")
    request = StudyRequest((tmp_path / "nowhere",), None, options, SaliencyRequest("none"), engine=EngineOptions("ray"))
    with pytest.raises(QcamError, match="0 GPUs for each worker"):
        plan_study(request)
