"""Whole runs of bundles as other tools make them: without f32, several int8 side by side, weights nobody vouches for."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from others_bundles import altered

import qcam
from qcam.commands import check as check_command
from qcam.commands import eval as eval_command
from qcam.commands import report as report_command
from qcam.common.errors import QcamError
from qcam.common.vocabulary import Reference
from qcam.evaluate.results.folder import read_rows
from qcam.runtime.bundle import Bundle

#: Names that a table of each medium has to have.
NO_F32 = "no f32 in the bundle: nothing is held against it"
UNKNOWN = "weights: not known whether trained"


def words(text: str) -> str:
    """Return a text in one line: terminals fold."""
    return " ".join(text.split())


def called(main: object, *arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "400"}).invoke(main, [str(argument) for argument in arguments])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ran:
    """A whole run of qcam-eval."""

    told: str
    folder: Path

    @property
    def run(self) -> dict:
        return json.loads((self.folder / "run.json").read_text())

    @property
    def table(self) -> str:
        return (self.folder / "table.md").read_text()

    @property
    def page(self) -> str:
        return (self.folder / "report.html").read_text()

    @property
    def csv(self) -> list[dict[str, str]]:
        return list(csv.DictReader((self.folder / "table.csv").read_text().splitlines()))

    @property
    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())

    def rows(self, model: str = "tiny") -> set[tuple[str, str]]:
        return {(row.precision, row.comparison) for row in read_rows(self.folder / "results.parquet") if row.model == model}


@pytest.fixture(scope="module")
def evaluated(some_photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    def run(*arguments: object) -> Ran:
        folder = tmp_path_factory.mktemp("evaluated") / "out"
        fixed = ["--images", some_photographs, "--saliency", "spectral", "--grid-rows", 2, "--output", folder]
        done = called(eval_command.main, *arguments, *fixed)
        assert done.exit_code == 0, done.output
        return Ran(words(done.output), folder)

    return run


@pytest.fixture(scope="module")
def without_f32(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two int8 and no float: one of a name of its own, which comes second."""
    folder = tmp_path_factory.mktemp("others") / "no-f32"
    return altered(tiny_bundle, folder, holds={"int8-vendor": "int8", "int8": "int8"})


@pytest.fixture(scope="module")
def ran(without_f32: Path, evaluated: Callable[..., Ran]) -> Ran:
    return evaluated(without_f32)


@pytest.fixture(scope="module")
def mixed(tiny_bundle: Bundle, evaluated: Callable[..., Ran], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One bundle with f32 beside one without, whose weights nobody knows, and one with random ones."""
    folder = tmp_path_factory.mktemp("mixed")
    names = {"f32": "f32", "int8": "int8", "int8-vendor": "int8", "w8a8-nncf": "int8"}
    known = altered(tiny_bundle, folder / "known", holds=names, model="mobilenet_v2")
    unknown = altered(tiny_bundle, folder / "unknown", holds={"w8a8-nncf": "int8"}, trained=None, model="vgg16")
    random = altered(tiny_bundle, folder / "random", holds={"f32": "f32", "int8": "int8"}, trained=False, model="resnet50")
    return evaluated(known, unknown, random)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "f32-top1"], "--target f32-top1 needs precision f32, and the bundle holds none, only int8-vendor, int8;"),
        (["--protocol", "paper"], "--protocol paper compares with f32, and"),
        (["--precision", "f32"], "holds no f32, only int8-vendor, int8"),
        (
            ["--saliency", "none", "--no-fake-quant", "--no-null-row"],
            "there is nothing to compare int8, int8-vendor with; take another precision along",
        ),
    ],
)
def test_what_needs_f32_is_refused_by_name_and_nothing_is_written(
    without_f32: Path, some_photographs: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    done = called(eval_command.main, without_f32, "--images", some_photographs, "--output", out, *arguments)
    assert done.exit_code == 2, done.output
    assert message in words(done.output)
    assert not out.exists()


def test_of_several_bundles_the_one_without_f32_is_named(
    tiny_bundle: Bundle, without_f32: Path, some_photographs: Path, tmp_path: Path
) -> None:
    whole = altered(tiny_bundle, tmp_path / "whole", holds={"f32": "f32", "int8": "int8"}, model="other")
    out = tmp_path / "out"
    done = called(eval_command.main, whole, without_f32, "--images", some_photographs, "--output", out, "--target", "f32-top1")
    assert done.exit_code == 2
    assert f"{without_f32}: --target f32-top1 needs precision f32" in words(done.output)
    assert not out.exists()


def test_explain_without_f32_is_refused_by_name_and_told_by_default(
    without_f32: Path, some_photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = next(some_photographs.iterdir())
    with pytest.raises(QcamError, match="target f32-top1 needs precision f32, and the bundle holds none"):
        qcam.explain(without_f32, picture, target="f32-top1")
    caplog.set_level("INFO")
    found = qcam.explain(without_f32, picture)
    assert found.precisions == ["int8", "int8-vendor"]
    assert [text for text in caplog.messages if "own-top1" in text] == [
        "tiny: no f32 to choose the class, each precision explains its own (target own-top1)"
    ]


def test_without_f32_every_precision_explains_its_own_and_that_is_told_and_planned(ran: Ran) -> None:
    assert ran.told.count("no f32 to choose the class, each precision explains its own (--target own-top1)") == 1
    options = ran.run["plan"]["options"]
    assert options["target"] == "own-top1"
    assert "without_f32" not in options


def test_by_name_own_top1_is_the_very_same_run(ran: Ran, without_f32: Path, some_photographs: Path) -> None:
    same = ["--images", some_photographs, "--saliency", "spectral", "--grid-rows", 2, "--output", ran.folder]
    done = called(eval_command.main, without_f32, *same, "--target", "own-top1")
    assert done.exit_code == 0
    assert "already holds the complete results of this very run" in words(done.output)
    assert "no f32 to choose" not in done.output


def test_without_f32_the_null_row_is_the_first_precision_s_and_nothing_is_held_against_f32(ran: Ran) -> None:
    each = {(name, made) for name in ("int8", "int8-vendor") for made in ("vs_saliency", "fake_quant_vs_deployed")}
    assert ran.rows() == each | {("int8", "vs_itself")}
    null = [row for row in read_rows(ran.folder / "results.parquet") if row.comparison == "vs_itself"]
    assert [(row.CC, row.SIM, row.logit_error, row.top1_agrees) for row in null] == [(1.0, 1.0, 0.0, True)] * 4


def test_without_f32_every_medium_is_complete_and_says_so_once(ran: Ran) -> None:
    said = f"tiny: {NO_F32}; the null row is int8 against itself"
    for text in (ran.told, ran.table):
        assert text.count(NO_F32) == 1
        assert said in text
    assert said in ran.page
    assert f"<li>{NO_F32[0].upper()}{NO_F32[1:]} (tiny).</li>" in ran.page
    for text in (ran.told, ran.table, ran.page, (ran.folder / "table.tex").read_text()):
        assert "int8 again v. int8" in text
        assert "int8-vendor v. salient object" in text
        assert "int8-vendor fake-quant v. deployed" in text
        assert "v. f32" not in text
    made = {(line["precision"], line["comparison"]) for line in ran.csv if line["comparison"] not in set(Reference)}
    assert made == ran.rows()
    assert "against the salient object." in ran.page
    assert "against float" not in ran.page
    assert "Null row without f32: int8 run a second time gives the very same CAMs (CC exactly 1)." in ran.page
    assert "v. int8 again: SIM 1, CC 1, KLD" in ran.page
    assert (ran.folder / "grid-no-f32.png").stat().st_size > 10_000
    assert {path.name for path in (ran.folder / "figures").glob("*.svg")} >= {
        "distribution-vs_saliency-CC.svg", "distribution-fake_quant_vs_deployed-CC.svg"
    }  # fmt: skip


def test_without_f32_precisions_are_tested_against_each_other(ran: Ran) -> None:
    tests = {(test["comparison"], test["first"], test["second"]) for test in ran.summary["tests"]}
    assert tests == {("vs_saliency", "int8", "int8-vendor")}
    assert ran.summary["flips"] == []
    assert "int8-vendor less int8, v. salient object" in ran.page


def test_the_report_is_made_again_of_the_folder_alone(ran: Ran, tmp_path: Path) -> None:
    done = called(report_command.main, ran.folder, "--output", tmp_path / "report")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report" / "report.html").read_text() == ran.page


def test_with_some_bundles_of_f32_each_goes_by_what_it_holds(mixed: Ran) -> None:
    options = mixed.run["plan"]["options"]
    assert (options["target"], options["without_f32"]) == ("f32-top1", ["vgg16"])
    assert "target f32-top1 (own-top1 of vgg16)" in mixed.table
    assert "vgg16: no f32 to choose the class" in mixed.told
    assert mixed.rows("vgg16") == {
        ("w8a8-nncf", comparison) for comparison in ("vs_saliency", "vs_itself", "fake_quant_vs_deployed")
    }
    names = ("f32", "int8", "int8-vendor", "w8a8-nncf")
    made = ("vs_saliency", "vs_f32", "fake_quant_vs_deployed")
    assert mixed.rows("mobilenet_v2") == {(name, comparison) for name in names for comparison in made}
    assert "| w8a8-nncf again v. w8a8-nncf | SIM | – | 1.000 ± 0.000 | – |" in mixed.table
    assert f"vgg16: {NO_F32}; the null row is w8a8-nncf against itself" in mixed.table
    assert mixed.table.count(NO_F32) == 1


def test_every_name_is_tested_against_f32_and_against_the_next(mixed: Ran) -> None:
    tests = {(test["first"], test["second"]) for test in mixed.summary["tests"] if test["model"] == "mobilenet_v2"}
    assert tests == {
        ("f32", "int8"), ("f32", "int8-vendor"), ("f32", "w8a8-nncf"), ("int8", "int8-vendor"), ("int8-vendor", "w8a8-nncf")
    }  # fmt: skip
    flips = [flip["precision"] for flip in mixed.summary["flips"] if flip["model"] == "mobilenet_v2"]
    assert flips == ["int8", "int8-vendor", "w8a8-nncf"]


def test_names_of_their_own_have_colours_of_their_own_in_every_chart(mixed: Ran) -> None:
    for chart in ("overview", "distribution-vs_saliency-CC"):
        drawn = (mixed.folder / "figures" / f"{chart}.svg").read_text()
        assert all(colour in drawn for colour in ("#117733", "#882255", "#d55e00"))
    assert "var(--other1)" in mixed.page
    assert "var(--other2)" in mixed.page


def test_weights_that_nobody_knows_are_said_everywhere_shown_and_not_held_against_the_paper(mixed: Ran) -> None:
    assert mixed.run["models"]["vgg16"]["weights"]["trained"] is None
    for text in (mixed.told, mixed.table, (mixed.folder / "table.tex").read_text()):
        assert f"vgg16: {UNKNOWN}" in text
    by_model = {line["model"]: line["weights"] for line in mixed.csv}
    assert by_model == {"mobilenet_v2": "trained", "vgg16": "unknown", "resnet50": "random"}
    held = {line["model"] for line in mixed.csv if line["published_mean"]}
    assert held == {"mobilenet_v2"}
    beside = mixed.table.partition("Measured; published; difference:")[2].split("\n")[2]
    assert beside == "|  |  | mobilenet_v2 |"
    assert '<th scope="col">vgg16 <span class="tag">not known whether trained</span></th>' in mixed.page
    assert '<th scope="col">resnet50 <span class="tag bad">random weights</span></th>' in mixed.page
    assert f"vgg16: {UNKNOWN}. Figures are shown; none is held against a published one." in mixed.page
    assert "vgg16 has random weights" not in mixed.told
    assert "resnet50 has random weights" in mixed.told


def test_a_dry_run_says_what_is_not_known(tiny_bundle: Bundle, some_photographs: Path, tmp_path: Path) -> None:
    bundle = altered(tiny_bundle, tmp_path / "b", holds={"int8": "int8"}, trained=None)
    arguments = ["--images", some_photographs, "--saliency", "none", "--dry-run", "--output", tmp_path / "out"]
    done = called(eval_command.main, bundle, *arguments)
    assert done.exit_code == 0, done.output
    assert f"model: tiny ({UNKNOWN}), int8, bundle" in words(done.output)
    assert "target own-top1" in words(done.output)
    assert not (tmp_path / "out").exists()


def test_a_check_promises_by_the_file_s_codes_not_by_its_name(
    tiny_bundle: Bundle, some_photographs: Path, tmp_path: Path, known_cpu: str
) -> None:
    holds = {"int8-vendor": "int8", "a16": "int16"}
    bundle = altered(tiny_bundle, tmp_path / "b", holds=holds, trained=None)
    done = called(check_command.main, bundle, "--images", some_photographs, "--every-tensor", "--output", tmp_path / "check")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "check" / "check.json").read_text())
    found = {result["precision"]: result for result in told["results"]}
    assert list(found) == ["a16", "int8-vendor"]
    assert (found["int8-vendor"]["exact"], found["int8-vendor"]["kernel"]) == (True, known_cpu)
    assert {"codes", "cc"} < {gate["name"] for gate in found["int8-vendor"]["gates"]}
    assert found["int8-vendor"]["figures"]["codes"] == 1
    assert (found["a16"]["exact"], found["a16"]["kernel"]) == (False, "")
    assert told["bundles"]["tiny"]["trained"] is None
    assert {item["precision"] for item in told["other_cpus"]} <= {"int8-vendor"}
    assert f"tiny: {UNKNOWN}" in words(done.output)
    placed = json.loads((tmp_path / "check" / "placement.json").read_text())["tiny"]
    assert placed["int8-vendor"]["disagreements"] == []
    assert (tmp_path / "check" / "tensors-tiny-int8-vendor-integer.png").is_file()


def test_codes_of_mixed_widths_are_followed_as_they_are_deployed(
    tiny_bundle: Bundle, some_photographs: Path, tmp_path: Path
) -> None:
    folder = altered(tiny_bundle, tmp_path / "b", holds={"int8": "int8"})
    model = onnx.load(folder / "int8.onnx")
    picture = model.graph.input[0].name
    wide = onnx.numpy_helper.from_array(np.zeros((), np.uint16), "wide_zero_point")
    model.graph.initializer.append(wide)
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == picture)
    for node in (quantizer, *(node for node in model.graph.node if node.input[0] == quantizer.output[0])):
        node.input[2] = wide.name
    for value in [*model.graph.value_info]:
        if value.name == quantizer.output[0]:
            value.type.tensor_type.elem_type = onnx.TensorProto.UINT16
    onnx.save(model, folder / "int8.onnx")
    told = json.loads((folder / "bundle.json").read_text())
    told["precisions"][0]["sha256"] = hashlib.sha256((folder / "int8.onnx").read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(told))
    done = called(check_command.main, folder, "--images", some_photographs, "--limit", 1, "--output", tmp_path / "check")
    assert done.exit_code == 0, done.output
    (result,) = json.loads((tmp_path / "check" / "check.json").read_text())["results"]
    assert result["exact"] is True
    assert {gate["name"]: gate["holds"] for gate in result["gates"]}["codes"]
    assert result["figures"]["codes"] == 1
    assert any(remark.startswith("float kernels: the runtime's own") for remark in result["remarks"])


def test_a_deployed_file_is_judged_against_the_only_quantized_precision(
    tiny_bundle: Bundle, some_photographs: Path, tmp_path: Path
) -> None:
    several = altered(tiny_bundle, tmp_path / "several", holds={"a8": "int8", "a16": "int16"})
    fixed = ["--images", some_photographs, "--deployed", tiny_bundle.path("int8"), "--output", tmp_path / "check"]
    refused = called(check_command.main, several, *fixed)
    assert refused.exit_code == 2
    assert "holds no int8, only a8, a16; say with --precision which of them the deployed file" in words(refused.output)
    assert not (tmp_path / "check").exists()
    one = altered(tiny_bundle, tmp_path / "one", holds={"f32": "f32", "int8-vendor": "int8"})
    done = called(check_command.main, one, *fixed)
    assert done.exit_code == 0, done.output
    (result,) = json.loads((tmp_path / "check" / "check.json").read_text())["results"]
    assert (result["precision"], result["figures"]["codes"]) == ("int8-vendor", 1)
