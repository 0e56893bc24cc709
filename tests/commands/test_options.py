"""How commands take and show their options."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

import qcam as qcam_api
from qcam.commands import check, export, report
from qcam.commands import eval as evaluate
from qcam.commands.qcam import main as qcam
from qcam.common.errors import QcamError
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.study import executor

COMMANDS = {"export": export.main, "eval": evaluate.main, "check": check.main, "report": report.main}


def said(command, *arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_qcam_name_is_the_command_of_that_name(name: str) -> None:
    code, out, _ = said(qcam, name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: qcam {name} ")
    assert out.partition("\n")[2] == said(COMMANDS[name], "--help")[1].partition("\n")[2]


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_every_command_says_its_version(name: str) -> None:
    code, out, _ = said(qcam, *filter(None, [name]), "--version")
    assert (code, out) == (0, f"qcam {version('qcam')}\n")


def test_python_m_qcam_is_qcam(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qcam", "report", "nowhere", "--output", "x"], capture_output=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert b"error: nowhere holds no results" in done.stderr


def test_an_unknown_command_is_exit_code_2() -> None:
    code, _, err = said(qcam, "evaluate")
    assert code == 2
    assert "No such command 'evaluate'" in err


def test_options_of_one_name_have_one_default_in_every_command_and_in_python() -> None:
    commands = {name: {param.name: param.default for param in command.params} for name, command in COMMANDS.items()}
    for option in ("batch_size", "device", "provider"):
        assert commands["check"][option] == commands["eval"][option]
        for function in (qcam_api.check, qcam_api.study):
            assert inspect.signature(function).parameters[option].default == commands["check"][option]
    assert CheckOptions().batch_size == commands["check"]["batch_size"]
    outputs = [param for command in COMMANDS.values() for param in command.params if param.name == "output"]
    assert [output.required for output in outputs] == [False] * len(COMMANDS)


@pytest.mark.parametrize("name", ["export", "eval", "check"])
def test_help_shows_the_basic_options_first_and_help_all_the_rest(name: str) -> None:
    command = COMMANDS[name]
    basic, everything = (said(command, option)[1] for option in ("--help", "--help-all"))
    shown = basic.partition("Examples:")[0]
    advanced = [param for param in command.params if getattr(param, "advanced", False)]
    assert advanced
    for param in command.params:
        if param.param_type_name != "option":
            continue
        assert param.opts[0] in everything, param.opts
        assert (f"  {param.opts[0]}" in shown) is (param not in advanced), param.opts
        assert param.group, f"{param.opts[0]} stands in no group"
    assert everything.index("Input:") < everything.index("Output:")
    assert max(map(len, everything.splitlines())) <= 80


def test_the_options_of_report_stand_in_groups() -> None:
    out = said(COMMANDS["report"], "--help")[1]
    places = [out.index(f"\n{group}:") for group in ("Input", "What is shown", "Output", "Other options")]
    assert places == sorted(places)


def test_the_groups_of_eval_are_in_order() -> None:
    out = said(COMMANDS["eval"], "--help-all")[1]
    basic = ["Input:", "What is compared:", "Output:", "Runtime:"]
    groups = [*basic, "Salient-object networks:", "Many workers:", "The paper's protocol:"]
    places = [out.index(f"\n{group}") for group in groups]
    assert places == sorted(places)
    short = said(COMMANDS["eval"], "--help")[1]
    assert [group for group in groups if f"\n{group}" in short] == basic


@pytest.mark.parametrize(
    ("given", "taken"),
    [(["f32,int8"], {"f32", "int8"}), (["int8", "--precision", "f32"], {"f32", "int8"}), (["fp32, int8"], {"f32", "int8"})],
)
def test_precisions_with_commas_and_other_names(tiny_bundle, some_photographs, check, given, taken) -> None:
    done = check(tiny_bundle.folder, "--images", some_photographs, "--limit", 1, "--no-other-cpus", "--precision", *given)
    assert {result["precision"] for result in done.report["results"]} == taken
    assert ("fp32 is called f32 here" in done.err) is (given == ["fp32, int8"])


def test_an_unknown_precision_to_export_is_named_with_the_choices() -> None:
    code, _, err = said(COMMANDS["export"], "--precision", "f32,int4")
    assert code == 2
    assert "'int4' is not one of f32, int16, int8" in err


@pytest.mark.parametrize("name", ["eval", "check"])
@pytest.mark.parametrize("wrong", ["int 8", "int8@vendor", "x" * 41, "f32,,int8"])
def test_what_is_no_name_of_a_precision_is_refused(name: str, wrong: str) -> None:
    code, _, err = said(COMMANDS[name], "--precision", wrong)
    assert code == 2
    assert "is no name of a precision: it has 1 to 40 letters" in err


@pytest.fixture
def with_vendor(tiny_bundle, tmp_path: Path) -> Path:
    """Return a bundle whose int8 stands under a name of its own."""
    folder = tmp_path / "vendored"
    shutil.copytree(tiny_bundle.folder, folder)
    value = json.loads((folder / "bundle.json").read_text())
    value["precisions"][2]["name"] = "int8-vendor"
    (folder / "bundle.json").write_text(json.dumps(value))
    return folder


def test_a_precision_of_somebodys_own_can_be_asked_for(with_vendor: Path, some_photographs, check) -> None:
    done = check(with_vendor, "--images", some_photographs, "--limit", 1, "--precision", "int8-vendor,f32")
    assert [result["precision"] for result in done.report["results"]] == ["f32", "int8-vendor"]
    refused = check(with_vendor, "--images", some_photographs, "--precision", "int8")
    assert refused.code == 2
    assert "vendored holds no int8, only f32, int16, int8-vendor" in refused.err


def test_a_study_refuses_a_precision_that_one_of_the_bundles_lacks_before_it_opens_any(
    with_vendor: Path, tiny_bundle, some_photographs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "deployed_openers", None)
    with pytest.raises(QcamError, match="tiny holds no int8-vendor, only f32, int16, int8"):
        qcam_api.study(
            [with_vendor, tiny_bundle], images=some_photographs, saliency="none", precisions=["int8-vendor", "f32"],
            output=tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_folder_of_one_bundle_and_one_photograph_are_taken(tiny_bundle, some_photographs, check) -> None:
    picture = sorted(some_photographs.iterdir())[0]
    done = check(tiny_bundle.folder.parent, "--images", picture, "--precision", "int8", "--no-other-cpus")
    assert "holds one bundle, tiny: taking it" in done.err
    assert [image["image"] for image in done.first["images"]] == [picture.name]


def test_what_is_near_a_bundle_is_told(tiny_bundle, some_photographs, check, tmp_path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "tiny").symlink_to(tiny_bundle.folder)
    done = check("tiny", "--images", some_photographs)
    assert done.code == 2
    assert "tiny is no bundle: there is no such folder; did you mean bundles/tiny?" in done.err
    done = check(tiny_bundle.path("int8"), "--images", some_photographs)
    assert done.code == 2
    assert "int8.onnx is a file inside a bundle, or none of qcam's; give the bundle's folder" in done.err
