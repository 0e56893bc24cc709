"""The plan of a run: its fingerprint and its shards' keys are those of earlier versions, so that old results go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from qcam.common import machine
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.study import plan as planning
from qcam.images.sources import ImageFile
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.gpu import Gpu

OPTIONS = StudyOptions(
    ("int8", "f32"), SessionSettings(threads=2, config={"session.x64quantprecision": "1"}), "masks:objects", batch_size=2
)


@pytest.fixture
def plan_of(tmp_path, monkeypatch):
    for name, content in {"a.png": b"one", "b.png": b"two", "c.png": b"three"}.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(machine, "cpu_features", lambda: ["avx2", "fma"])
    monkeypatch.setattr(machine, "versions", lambda: {"python": "3.13.1", "onnxruntime": "1.22.0"})
    monkeypatch.setattr(planning, "READING", 3)
    monkeypatch.setattr(planning, "SHARD_SIZE", 2)
    images = [ImageFile(name, tmp_path / name, label) for name, label in (("a.png", 7), ("b.png", None), ("c.png", 0))]
    bundles = [SimpleNamespace(model_id="net", fingerprint="ab" * 32)]

    def made(**changes):
        given = {"kernels": "vnni", "here": True, "sequential": False, "options": OPTIONS, "device": "cpu"} | changes
        return planning.make_plan(bundles, images, "cd" * 32, **given)

    return made


@pytest.mark.parametrize(
    ("changes", "of_the_plan", "of_the_last_shard"),
    [
        ({}, "c5208e1a6b3d177a", "a7811878ffea444e"),
        ({"sequential": True}, "c5208e1a6b3d177a", "86a00258c5c6353f"),
        ({"here": False, "kernels": None}, "3869e1a7fe417a1c", "a7811878ffea444e"),
    ],
)
def test_a_plan_and_its_shards_have_the_fingerprints_that_these_rules_gave_them(
    plan_of, changes, of_the_plan, of_the_last_shard
):
    plan = plan_of(**changes)
    assert plan.fingerprint[:16] == of_the_plan
    assert [key[:16] for key in plan.keys] == ["d624610838e34265", of_the_last_shard]


def test_models_without_f32_are_in_the_plan_only_where_there_are_any(plan_of):
    mixed = plan_of(options=replace(OPTIONS, without_f32=("net",)))
    assert mixed.fingerprint != plan_of().fingerprint
    assert mixed.conditions.to_json()["options"]["without_f32"] == ["net"]
    assert "without_f32" not in plan_of().conditions.to_json()["options"]
    assert planning.told_differences(plan_of().conditions.to_json(), mixed, Path()) == ["models without f32 (not said) → net"]
    assert (mixed.conditions.options.target_of("net"), mixed.conditions.options.target_of("other")) == ("own-top1", "f32-top1")


def test_a_plan_is_kept_in_the_words_of_earlier_versions(plan_of):
    kept = plan_of().conditions.to_json()
    assert json.loads(json.dumps(kept)) == kept
    assert list(kept) == [
        "bundles", "images", "saliency", "options", "device", "shard_size", "reading", "measuring", "cpu_features", "kernels",
        "versions",
    ]  # fmt: skip
    assert kept["images"] == {"count": 3, "fingerprint": "190fb268e6b409af9ad6be8031cd8cddb955034955c25391adb00f7a9b05aa95"}
    assert kept["cpu_features"] == ["avx2", "fma"]
    assert list(kept["options"])[:2] == ["precisions", "settings"]


def test_an_entry_that_only_the_recorded_plan_knows_is_a_difference(plan_of, tmp_path):
    now = plan_of()
    recorded = now.conditions.to_json()
    assert planning.told_differences(recorded, now, tmp_path) == []
    recorded["options"]["settings"]["later"] = True
    assert planning.told_differences(recorded | {"rule": 4}, now, tmp_path) == [
        "options.later yes → (not said)",
        "rule 4 → (not said)",
    ]


def test_what_left_the_processor_to_each_part_is_the_plan_of_any(plan_of, tmp_path):
    here, anywhere = plan_of(), plan_of(here=False, kernels=None)
    for before, now in ((here, anywhere), (anywhere, here)):
        recorded, settled = planning.settled(before.conditions.to_json(), now)
        assert settled.conditions == anywhere.conditions
        assert recorded == anywhere.conditions.to_json()


T4 = Gpu("Tesla T4", "7.5", "580.65.06", "13.0", "9.10.2")
H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.65.06", "13.0", "9.10.2")


def test_plans_of_two_gpus_differ_by_name(plan_of, tmp_path):
    recorded = plan_of(gpu=T4).conditions.to_json()
    assert planning.told_differences(recorded, plan_of(gpu=T4), tmp_path) == []
    assert planning.told_differences(recorded, plan_of(gpu=H100), tmp_path) == [
        "GPU Tesla T4 → NVIDIA H100 80GB HBM3",
        "compute capability 7.5 → 9.0",
    ]
    assert planning.told_differences(recorded, plan_of(gpu=replace(T4, driver="570.86.15", tensorrt="10.13.3")), tmp_path) == [
        "driver of the GPU 580.65.06 → 570.86.15",
        "TensorRT (none) → 10.13.3",
    ]
    assert "GPU (not said) → Tesla T4" in planning.told_differences(plan_of().conditions.to_json(), plan_of(gpu=T4), tmp_path)


def test_workers_leave_the_gpu_to_each_part_and_no_shard_s_key_depends_on_it(plan_of):
    here, anywhere = plan_of(gpu=T4), plan_of(here=False, kernels=None)
    recorded, settled = planning.settled(here.conditions.to_json(), anywhere)
    assert recorded == settled.conditions.to_json()
    assert here.keys == plan_of(gpu=H100).keys == anywhere.keys


def test_tf32_and_what_the_provider_is_told_are_in_the_plan_of_a_gpu_alone(plan_of, tmp_path):
    def on(device="cpu", **settings):
        return plan_of(options=replace(OPTIONS, settings=SessionSettings(**settings)), device=device)

    assert on().conditions.to_json() == on(tf32=True).conditions.to_json()  # it changes nothing where no GPU takes part
    assert on("cuda").conditions.to_json()["tf32"] is False
    cuda = on(provider="CUDA")
    recorded = cuda.conditions.to_json()
    assert recorded["options"]["settings"]["provider_options"] == {
        "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"
    }  # fmt: skip
    assert planning.told_differences(recorded, on(provider="CUDA", tf32=True), tmp_path) == ["TF32 no → yes"]
    told = on(provider="CUDA", provider_options={"prefer_nhwc": "1", "cudnn_conv_algo_search": "DEFAULT"})
    assert told.keys != cuda.keys
    assert planning.told_differences(recorded, told, tmp_path) == [
        "{provider_option} arena_extend_strategy=kSameAsRequested,cudnn_conv_algo_search=HEURISTIC → "
        "arena_extend_strategy=kSameAsRequested,cudnn_conv_algo_search=DEFAULT,prefer_nhwc=1"
    ]
    before = {name: value for name, value in recorded.items() if name != "tf32"}  # what a version recorded that knew no TF32
    assert "TF32 (not said) → no" in planning.told_differences(before, cuda, tmp_path)
