"""action.yml and .pre-commit-hooks.yaml: their steps, run on a scratch repository as their hosts run them."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())


@pytest.fixture
def repository(tmp_path, tiny_bundle, some_photographs):
    """A repository with a bundle and photographs."""
    folder = tmp_path / "repository"
    shutil.copytree(tiny_bundle.folder, folder / "bundles" / "tiny")
    shutil.copytree(some_photographs, folder / "val")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def run(repository, **inputs):
    """Run the step of action.yml that runs qcam; return its code, its outputs and the job summary."""
    given = {name: of["default"] for name, of in ACTION["inputs"].items()} | inputs
    (step,) = [step for step in ACTION["runs"]["steps"] if step.get("id") == "run"]
    files = {name: repository.parent / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for path in files.values():
        path.write_text("")
    environment = os.environ | {name: str(path) for name, path in files.items()} | {
        "GITHUB_ACTION_PATH": str(ROOT), "RUNNER_TEMP": str(repository.parent),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    for name, value in step["env"].items():
        assert value.startswith("${{ inputs.")
        environment[name] = given[value.removeprefix("${{ inputs.").removesuffix(" }}")]
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step["run"]], cwd=repository, env=environment, capture_output=True, text=True
    )
    outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return done, outputs, files["GITHUB_STEP_SUMMARY"].read_text()


QUICK = "--images=val\n--saliency=none\n--no-fake-quant\n--no-report"


def test_green_red_undecided_and_bad_input_are_told_apart(repository):
    done, outputs, summary = run(repository, gates="int8.worst_cc=-1\nint16.cc=0", arguments=QUICK)
    assert (done.returncode, outputs) == (0, {"code": "0", "verdict": "holds"}), done.stderr
    assert summary.startswith("## qcam: holds\n")
    assert "moves the CAM of" in summary
    assert "![The worst pictures of tiny](grid-tiny.png)" in summary
    kept = repository / ACTION["inputs"]["output"]["default"]
    assert {"verdict.md", "verdict.json", "junit.xml", "grid-tiny.png"} <= {path.name for path in kept.iterdir()}

    done, outputs, summary = run(repository, gates="int8.worst_cc=1", arguments=QUICK)
    assert (done.returncode, outputs["verdict"]) == (1, "falls short")
    assert "- tiny int8: worst_cc = " in summary
    assert ElementTree.parse(kept / "junit.xml").getroot().get("failures") == "1"

    labels = [f"{path.name},0" for path in sorted((repository / "val").iterdir())]
    (repository / "val.csv").write_text("\n".join(["image,label", *labels]) + "\n")
    mlperf = f"{QUICK}\n--gate=mlperf\n--labels=val.csv"
    assert run(repository, arguments=mlperf, output="labelled")[0].returncode == 3
    done, outputs, _ = run(repository, arguments=mlperf, output="labelled", undecided="pass")
    assert (done.returncode, outputs["verdict"]) == (0, "undecided")

    done, outputs, summary = run(repository, gates="int4.cc=1", arguments=QUICK)
    assert (done.returncode, outputs) == (2, {"code": "2", "verdict": "no verdict"})
    assert "no bundle is run at int4" in summary


def fake_qcam(repository, body):
    """Put a program called qcam before the real one; return the folder for PATH."""
    program = repository.parent / "fake" / "qcam"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/bash\n{body}\n")
    program.chmod(0o755)
    return program.parent


@pytest.mark.parametrize("code", [0, 1, 3])
def test_an_exit_code_without_a_verdict_is_none_also_beside_an_earlier_one(code, repository, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(fake_qcam(repository, f"exit {code}") / "python"))
    kept = repository / ACTION["inputs"]["output"]["default"]
    kept.mkdir()
    (kept / "verdict.md").write_text("## qcam: holds\n")
    done, outputs, summary = run(repository, undecided="pass")
    assert (done.returncode, outputs) == (2, {"code": "2", "verdict": "no verdict"})
    assert f"exit code {code}, and no verdict was written" in done.stderr
    assert "were gates given?" in summary
    assert "holds" not in summary


def test_what_a_program_says_stays_text_in_the_summary_and_words_stay_words(repository, monkeypatch):
    says = 'printf "%s\\n" "$@"; printf "begun\\n\\x60\\x60\\x60\\r# of a name\\n" >&2; exit 2'
    monkeypatch.setattr(sys, "executable", str(fake_qcam(repository, says) / "python"))
    word = "--images=a b; $(touch hacked) `touch hacked` \"'*"
    done, _, summary = run(repository, gates="int8.drift<jpeg95\n\n$HOME.cc=1", bundles="-x y", arguments=word)
    assert done.stdout.splitlines()[1:] == [
        "eval", "-x y", "--fail-under", "int8.drift<jpeg95", "--fail-under", "$HOME.cc=1", word, "--output", "qcam-verdict",
    ]  # fmt: skip
    assert not (repository / "hacked").exists()
    assert summary.splitlines()[2:] == ["    begun", "    ```", "    # of a name"]


def test_a_check_is_a_step_as_well(repository):
    words = "--images=val\n--precision=int8\n--no-other-cpus"
    done, outputs, summary = run(repository, command="check", bundles="bundles/tiny", gates="cc=0.9", arguments=words)
    assert (done.returncode, outputs["verdict"]) == (0, "holds"), done.stderr
    assert summary.startswith("## qcam-check: holds\n")


def test_the_job_for_gitlab_runs_and_leaves_what_it_names(repository):
    text = (ROOT / "docs" / "gates.md").read_text().partition("## In GitLab\n")[2]
    job = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["quantized"]
    (repository / "bundles" / "tiny").rename(repository / "bundles" / "resnet50")
    (line,) = job["script"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"{line} --saliency none --no-fake-quant --no-report"], cwd=repository, env=os.environ | {"PATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (1, job["allow_failure"]["exit_codes"]), done.stderr  # random weights, few images
    suite = ElementTree.parse(repository / job["artifacts"]["reports"]["junit"]).getroot()
    assert [case.get("name") for case in suite.iter("testcase")] != []
    assert (repository / job["artifacts"]["paths"][0] / "verdict.md").read_text().startswith("## qcam: ")


def test_what_is_installed_and_kept_are_what_inputs_say():
    install, _, keep = ACTION["runs"]["steps"]
    assert install["run"] == 'python -m pip install "$GITHUB_ACTION_PATH[$QCAM_EXTRAS]"'
    extras = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{name} = [" in extras for name in ACTION["inputs"]["extras"]["default"].split(","))
    assert (keep["if"], keep["with"]["path"]) == ("always()", "${{ inputs.output }}")
    assert keep["with"]["name"].startswith("${{ inputs.artifact || ")


@pytest.mark.parametrize("hook", yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text()), ids=lambda hook: hook["id"])
def test_hooks_for_pre_commit_run_in_a_repository(hook, repository):
    assert hook["language"] == "system"
    assert hook["pass_filenames"] is False
    words = [str(Path(sys.executable).parent / hook["entry"]), *hook["args"], "--images", "val"]
    if hook["id"] == "qcam-eval":
        words += ["--saliency", "none", "--fail-under", "int8.worst_cc=1"]
        next((repository / "val").iterdir()).rename(repository / "aside.jpg")
        before = subprocess.run(words, cwd=repository, capture_output=True, text=True)
        assert before.returncode == 1, before.stderr
        (repository / "aside.jpg").rename(repository / "val" / "aa.jpg")  # a commit later, results of something else are there
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True)
    assert done.returncode == (0 if hook["id"] == "qcam-check" else 1), shlex.join(words) + done.stderr
