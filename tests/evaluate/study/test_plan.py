"""The plan of a run: its fingerprint and its shards' keys are those of earlier versions, so that old results go on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from qcam.common import machine
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.study import plan as planning
from qcam.images.sources import ImageFile
from qcam.runtime.deployed import SessionSettings

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
        given = {"kernels": "vnni", "here": True, "sequential": False} | changes
        return planning.make_plan(bundles, images, "cd" * 32, OPTIONS, "cpu", **given)

    return made


@pytest.mark.parametrize(
    ("changes", "of_the_plan", "of_the_last_shard"),
    [
        ({}, "91f697834e2c447e", "82553d103b212a49"),
        ({"sequential": True}, "91f697834e2c447e", "348135b6b8e9b698"),
        ({"here": False, "kernels": None}, "767e0d3aac79dfd5", "82553d103b212a49"),
    ],
)
def test_a_plan_and_its_shards_have_the_fingerprints_that_earlier_versions_gave_them(
    plan_of, changes, of_the_plan, of_the_last_shard
):
    plan = plan_of(**changes)
    assert plan.fingerprint[:16] == of_the_plan
    assert [key[:16] for key in plan.keys] == ["7738117120bd51ad", of_the_last_shard]


def test_a_plan_is_kept_in_the_words_of_earlier_versions(plan_of):
    kept = plan_of().conditions.to_json()
    assert json.loads(json.dumps(kept)) == kept
    assert list(kept) == [
        "bundles", "images", "saliency", "options", "device", "shard_size", "reading", "cpu_features", "kernels", "versions",
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
