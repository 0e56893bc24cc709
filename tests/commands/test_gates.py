"""Gates in a build: qcam-eval --fail-under and --gate, qcam-check --reproduce, and what they leave behind."""

import json
import shutil
import subprocess
from xml.etree import ElementTree

import fsspec
import pytest

import qcam
from qcam.commands import check as check_command
from qcam.commands import eval as eval_command
from qcam.common.errors import QcamError
from qcam.common.verdict import Verdict

QUICK = ("--saliency", "none", "--no-fake-quant", "--no-report", "--grid-rows", "0", "--output", "out")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, main=eval_command.main):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return subprocess.CompletedProcess(arguments, ended.value.code, *capsys.readouterr())

    return run


def test_a_study_is_judged_and_judged_again_without_a_run(tiny_bundle, some_photographs, tmp_path, command):
    where = (tiny_bundle.folder, "--images", some_photographs, *QUICK)
    done = command(*where, "--fail-under", "int8.worst_cc=-1", "--fail-under", "int16.cc=0")
    assert done.returncode == 0, done.stderr
    assert "verdict: holds" in done.stdout
    folder = tmp_path / "out"
    assert (folder / "verdict.md").read_text().startswith("## qcam: holds")
    assert json.loads((folder / "verdict.json").read_text())["verdict"] == "holds"
    assert ElementTree.parse(folder / "junit.xml").getroot().get("tests") == "2"

    short = command(*where, "--fail-under", "int8.worst_cc=1")
    assert short.returncode == 1
    kept = command("--reproduce", "out", main=check_command.main)
    assert kept.returncode == 2
    assert "out/verdict.json is a verdict of qcam-eval, and only those of qcam-check are reproduced" in kept.stderr
    assert "then give qcam-report out and that folder" in kept.stderr
    assert "already holds the complete results" in short.stderr
    assert short.stderr.count("tiny int8: worst_cc = ") == 1
    assert "at least 1 wanted: falls short" in short.stderr
    assert "worst_cc" not in short.stdout
    assert ElementTree.parse(folder / "junit.xml").getroot().get("failures") == "1"

    few = command(*where, "--fail-under", "int8.top1=0.999")
    assert few.returncode == (1 if "falls short" in few.stderr else 3)
    unlabelled = command(*where, "--gate", "mlperf")
    assert unlabelled.returncode == 2
    told = " ".join(unlabelled.stderr.split())
    assert "gate accuracy=0.99 asks which classes are right, and no image has a label" in told
    assert "give --labels FILE" in told
    assert not (folder / "verdict.json").exists() or "accuracy" not in (folder / "verdict.json").read_text()

    results = qcam.load_results(folder)
    assert results.verdict is None
    judged = results.judge("int8.worst_cc=-1")
    assert judged.verdict is Verdict.HOLDS
    assert judged.reason == ""
    with pytest.raises(QcamError, match="no bundle is run at int4"):
        results.judge("int4.cc=1")
    with pytest.raises(QcamError, match="no gate is asked for; give gates or presets"):
        results.judge()


@pytest.mark.parametrize("behind_a_url", [False, True])
def test_a_verdict_does_not_outlive_the_results_that_it_judges(
    behind_a_url, tiny_bundle, some_photographs, memory_store, tmp_path, command, monkeypatch
):
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    place = f"{memory_store}/out" if behind_a_url else tmp_path / "out"
    files = fsspec.url_to_fs(str(place))[0]
    where = (tiny_bundle.folder, "--images", some_photographs, *QUICK[:-2], "--output", place)

    def names():
        return {path.rpartition("/")[2] for path in files.ls(str(place), detail=False)}

    first = command(*where, "--limit", "2", "--fail-under", "int8.worst_cc=-1")
    assert first.returncode == 0, first.stderr
    assert {"verdict.md", "verdict.json", "junit.xml"} < names()
    more = command(*where)
    assert "results of the first 2 of these images: going on from there" in more.stderr
    assert "results.parquet" in names()
    assert not {"verdict.md", "verdict.json", "junit.xml"} & names()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fail-under", "int4.cc=1"), "no bundle is run at int4, only at f32, int16, int8"),
        (("--fail-under", "int8.cc=98"), "give 0.99 for 99 %"),
        (("--gate", "maps", "--references", "none"), "leave --references none out"),
        (("--fail-under", "int8.cc=1", "--protocol", "paper"), "--fail-under judges what is deployed"),
    ],
)
def test_what_cannot_be_decided_is_refused_before_anything_runs(words, told, tiny_bundle, some_photographs, tmp_path, command):
    done = command(tiny_bundle.folder, "--images", some_photographs, *QUICK, *words)
    assert done.returncode == 2, done.stdout
    assert told in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_check_is_reproduced_bit_for_bit(tiny_bundle, some_photographs, tmp_path, command, known_cpu):
    bundle = shutil.copytree(tiny_bundle.folder, tmp_path / "bundle")
    asked = (bundle, "--images", some_photographs, "--precision", "int8", "--no-other-cpus", "--threads", "1")
    assert command(*asked, main=check_command.main).returncode == 0
    verdict = tmp_path / "out" / "check" / "verdict.json"
    told = json.loads(verdict.read_text())
    assert (told["family"], told["images"]["place"]) == (known_cpu, str(some_photographs))
    assert (verdict.parent / "verdict.md").read_text().startswith("## qcam-check: holds\n")

    again = command("--reproduce", verdict.parent, main=check_command.main)
    assert again.returncode == 0, again.stderr
    assert "reproduced, bit for bit: 1 result; the verdict was: holds" in again.stdout

    told["results"][0]["figures"]["cc"] = 0.5
    told["results"][0]["digest"] = "0" * 64
    verdict.write_text(json.dumps(told))
    other = command("--reproduce", verdict, main=check_command.main)
    assert other.returncode == 1
    assert "tiny int8 integer: cc 0.5 then, 1 now" in other.stderr
    told["family"] = "another"
    verdict.write_text(json.dumps(told))
    elsewhere = command("--reproduce", verdict, main=check_command.main)
    assert elsewhere.returncode == 3
    assert f"kernel family: another then, {known_cpu} now" in elsewhere.stdout

    refused = command("--reproduce", verdict, "--kernel", "avx2", main=check_command.main)
    assert refused.returncode == 2
    assert "--kernel is not taken with --reproduce" in refused.stderr
    told["bundles"]["tiny"]["fingerprint"] = "0" * 64
    verdict.write_text(json.dumps(told))
    changed = command("--reproduce", verdict, main=check_command.main)
    assert changed.returncode == 2
    assert "bundle tiny is another one than the verdict is of" in changed.stderr
    verdict.write_text(json.dumps(told | {"options": {"threads": "many"}}))
    broken = command("--reproduce", verdict, main=check_command.main)
    assert broken.returncode == 2
    assert "verdict.json: options.threads is text and has to be a whole number" in broken.stderr


def test_the_gates_of_a_check_go_by_name(tiny_bundle, some_photographs, command):
    asked = (tiny_bundle.folder, "--images", some_photographs, "--precision", "int8", "--no-other-cpus")
    assert command(*asked, "--gate", "maps", main=check_command.main).returncode == 0
    refused = command(*asked, "--gate", "codes", "--fail-under", "cc=1", main=check_command.main)
    assert refused.returncode == 2
    assert "--gate codes stands alone" in refused.stderr
