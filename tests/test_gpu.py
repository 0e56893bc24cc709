"""docs/gpu.md and what makes it: the emulation of TF32, the steps of `make gpu` (rehearsed on the CPU), and the page."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gpu import BEGIN, END, PAGE, main, write_page
from gpu_steps import STEPS, Asked
from tf32 import TensorFloat32, cut

STEP = 2.0**-10


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("value", "dropped", "nearest"),
    [
        (1 + STEP, 1 + STEP, 1 + STEP),
        (1 + STEP / 2, 1.0, 1 + STEP),
        (1 + STEP / 4, 1.0, 1.0),
        (1 + 3 * STEP / 4, 1.0, 1 + STEP),
        (2 - STEP / 4, 2 - STEP, 2.0),
        (0.0, 0.0, 0.0),
        (float("inf"), float("inf"), float("inf")),
    ],
)
def test_an_operand_keeps_ten_bits_behind_the_point(value, dropped, nearest, sign):
    given = torch.tensor([sign * value], dtype=torch.float32)
    assert cut(given, nearest=False).item() == sign * dropped
    assert cut(given, nearest=True).item() == sign * nearest


def test_what_is_no_number_stays_none():
    assert torch.isnan(cut(torch.tensor([float("nan")]), nearest=True)).all()


def test_a_product_computes_with_cut_operands_and_whole_sums():
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator) for size in ((2, 3, 8, 8), (4, 3, 3, 3)))
    bias = torch.full((4,), 1 + STEP / 4)
    expected = torch.nn.functional.conv2d(cut(x, nearest=True), cut(weight, nearest=True), bias)
    with TensorFloat32(nearest=True) as mode:
        found = torch.nn.functional.conv2d(x, weight, bias)
    assert mode.products == 1
    assert torch.equal(found, expected)
    assert not torch.equal(found, torch.nn.functional.conv2d(x, weight, bias))


def test_a_gradient_passes_a_cut_operand():
    x = torch.tensor([[1 + STEP / 4, 2.0]], requires_grad=True)
    with TensorFloat32(nearest=False):
        torch.matmul(x, torch.tensor([[3.0], [5.0]])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[3.0, 5.0]]


def test_where_there_is_no_gpu_nothing_is_recorded_and_the_reason_is_said(tiny_bundle, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = PAGE.read_bytes()
    monkeypatch.setattr("gpu_steps.machine.has_gpu", lambda: False)
    told = CliRunner().invoke(main, [str(tiny_bundle.folder)])
    assert told.exit_code == 0
    assert told.output.startswith("skipped, nothing is recorded: ")
    assert PAGE.read_bytes() == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["machine", "placement", "repeat", "tf32", "mirrors", "profiles"])
def test_the_steps_run_and_show_what_they_found(tiny_bundle, tmp_path, name):
    record = json.loads(json.dumps(STEPS[name].run(Asked((tiny_bundle.folder,), 2, "CPU", tmp_path))))
    lines = STEPS[name].show(record)
    assert len(lines) == len(record["rows"]) + 2
    assert len({line.count("|") for line in lines}) == 1
    if name == "repeat":
        assert [row[2:5] for row in record["rows"]] == [["equal"] * 3] * 3


def test_a_profile_that_is_kept_is_read_as_the_session_read_it(tiny_bundle, tmp_path):
    from qcam.runtime.deployed import DeployedModel, SessionSettings
    from qcam.runtime.deployed.placement import read_profile

    STEPS["profiles"].run(Asked((tiny_bundle.folder,), 1, "CPU", tmp_path))
    kept = read_profile(tmp_path / "profiles" / f"{tiny_bundle.folder.name}-int8-CPU.json", 4, "")
    assert kept.kernels == DeployedModel(tiny_bundle, "int8", SessionSettings()).placement.kernels


def test_the_measured_part_alone_is_written(tmp_path):
    page = tmp_path / "gpu.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page(page, "new\n")
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    page.write_text("no lines\n")
    with pytest.raises(click.ClickException, match="lacks the lines"):
        write_page(page, "new")
    assert page.read_text() == "no lines\n"


def test_the_page_says_predicted_as_long_as_nothing_was_measured():
    text = PAGE.read_text(encoding="utf-8")
    measured = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert measured
    assert ("**Predicted, not run.**" in text) == measured.startswith("Nothing yet")
    readme = (Path(PAGE).parents[1] / "README.md").read_text(encoding="utf-8")
    assert ("No figure in this repository comes from a GPU" in readme) == measured.startswith("Nothing yet")


def test_figures_of_the_emulation_are_finite(tiny_bundle):
    from tf32 import measure, table

    rows = measure(tiny_bundle, 2)
    assert [row["what"] for row in rows][:3] == [
        "f32, TF32 to nearest v. without",
        "f32, TF32 bits dropped v. without",
        "int16 v. f32",
    ]
    assert all(np.isfinite(row["logit_error"]).all() for row in rows)
    assert all(max(row["logit_error"]) > 0 for row in rows if "dropped" in row["what"])
    assert len(table(rows, 2, "tiny").splitlines()) == len(rows) + 6
