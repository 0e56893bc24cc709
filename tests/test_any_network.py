"""Any network: six that no other test knows, from name to verdict; and the tool that tries them all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks" / "networks"))

import page
import run
from alive import bring_to_life
from measure import measure
from names import SAMPLE, THOROUGH, TIMM, every_name


@pytest.mark.slow
@pytest.mark.parametrize("network", SAMPLE)
def test_a_network_that_no_rule_was_made_on(network):
    row = measure(network)
    assert (row["result"], row["reason"]) == ("equal", "")
    assert row["codes"] > 10_000
    assert row["different"] == 0


def test_every_network_on_the_list_exists():
    import timm

    known = set(timm.list_models())
    listed = [name for names in TIMM.values() for name in names]
    assert [name for name in listed if name not in known] == []
    assert len(listed) == len(set(listed))
    assert set(SAMPLE) | set(THOROUGH) <= set(every_name())
    assert len(SAMPLE) == 6


def test_half_dead_networks_are_brought_to_life():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
            self.scale = torch.nn.Parameter(torch.full((4, 1, 1), 1e-6))
            self.temperature = torch.nn.Parameter(torch.ones(1))
            torch.nn.init.zeros_(self.norm.weight)

        def forward(self, x):
            return self.norm(self.conv(x)) * self.scale * self.temperature

    torch.manual_seed(0)
    block = Block().eval()
    images = np.random.default_rng(0).normal(3, 2, (6, 3, 9, 9)).astype(np.float32)
    assert not block(torch.from_numpy(images)).any()
    assert bring_to_life(block, images, 0, batch=3) == 3  # scale, and both of the norm
    assert block.temperature.item() == 1
    assert not block.training
    inside = block.conv(torch.from_numpy(images))
    assert torch.allclose(block.norm.running_mean, inside.mean(dim=(0, 2, 3)), atol=1e-4)
    assert block(torch.from_numpy(images)).std() > 0.1


def rows():
    equal = {"images": 2, "tensors": 3, "codes": 1000, "different": 0, "f32": 1e-6, "distinct_tensors": 1.0, "others": {}}
    return {
        "resnet18": {"network": "resnet18", "result": "equal", "reason": "", "mirror": "now", **equal},
        "timm:a": {"network": "timm:a", "result": "differs", "reason": "x|y", "mirror": "before", **equal, "different": 7},
        "timm:b": {"network": "timm:b", "result": "limit", "reason": "more memory", "images": 2, "mirror": "now"},
    }


def test_the_table_counts_what_passes_and_names_what_does_not():
    text = page.table(rows(), {"resnet18": "torchvision", "timm:a": "A", "timm:b": "B", "timm:c": "C"}, "now")
    assert "torchvision: **1** networks pass, of 1 that were tried and 1 listed." in text
    assert "timm: **0** networks of 0 families pass, of 2 that were tried and 3 listed." in text
    assert "| timm:a ¹ | 2 | 3 | 1,000 | 7 | 1e-06 | 100% | differs: x/y |" in text
    assert "limit: more memory" in text
    assert "Not tried yet: timm:c." in text


def test_rows_are_kept_and_measured_again_when_sources_change(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ROWS", tmp_path / "rows.jsonl")
    monkeypatch.setattr(run.read_rows, "__defaults__", (tmp_path / "rows.jsonl",))
    monkeypatch.setattr(run.write_rows, "__defaults__", (tmp_path / "rows.jsonl",))
    monkeypatch.setattr(run, "write_page", lambda *_: None)
    monkeypatch.setattr(run, "every_name", lambda: {"a": "A", "b": "B"})
    asked = []

    def stand_in(network, *_):
        asked.append(network)
        return {"network": network, "result": "equal" if network == "a" else "differs", "reason": "", "seconds": 1.0}

    monkeypatch.setattr(run, "measured", stand_in)
    for source, arguments, wanted in (
        ("1", [], ["a", "b"]), ("1", [], []), ("1", ["--only", "failed"], ["b"]), ("2", ["a"], ["a"]), ("2", [], ["b"]),
    ):  # fmt: skip
        monkeypatch.setattr(run, "source_hash", lambda source=source: source)
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        asked.clear()
        run.main()
        assert asked == wanted
    stored = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["network"], row["mirror"]) for row in stored] == [("a", "2"), ("b", "2")]


def test_a_network_that_ends_its_process_is_a_row():
    row = run.measured("no such network", 2, (), 24, 5)
    assert row["result"] == "refused"
    assert "no such network" in row["reason"]
    row = run.measured("resnet18", 2, (), 0.01, 5)
    assert row["result"] == "limit"
    assert "memory" in row["reason"]
