import json
import re
import shutil
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from qcam.commands import eval as eval_command
from qcam.commands import export as export_command
from qcam.evaluate.results.folder import read_rows
from qcam.images.embedded import evaluation_photographs


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for image in evaluation_photographs()[:4]:
        shutil.copy(image.path, folder / image.name)
    return folder


def started(*arguments, cwd):
    line = [sys.executable, "-m", "qcam.commands.eval", *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run a command in this process: PyTorch is imported once."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, main=eval_command.main):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return subprocess.CompletedProcess(arguments, ended.value.code, *capsys.readouterr())

    return run


def test_a_run_prints_the_table_and_writes_the_results(tiny_bundle, photographs, tmp_path):
    done = started(tiny_bundle.folder, "--images", photographs, "--saliency", "none", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 images, provider CPU" in done.stdout
    assert "int8 v. f32" in done.stdout
    text = " ".join(done.stdout.split())
    assert "int8: integer kernels (4 of 4, 100 % of 277 k multiply-accumulates)" in text
    assert "int16: float arithmetic between Q and DQ (0 of 4 integer kernels, 0 % of 277 k multiply-accumulates)" in text
    assert "the CPU provider has no 16-bit integer kernels" in text
    assert done.stderr.count("random weights") == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {f"{name}.parquet" for name in ("results", "references", "maps", "pictures", "clipping", "images")}
    data = {*tables, "summary.json", "run.json", "placement.json"}
    assert names == {*data, "table.md", "table.csv", "table.tex", "report.html", "figures", "grid-tiny.png"}
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| int8 v. f32 | SIM |" in table
    assert "| f32 again v. f32 | SIM | 1.000 ± 0.000 |" in table
    assert "int16: float arithmetic" in table
    assert "| Conv | QLinearConv | CPU | integer | 3 | 99.9 % |" in table
    assert "| Gemm | QGemm | CPU | integer | 1 | 0.1 % |" in table
    again = started(tiny_bundle.folder, "--images", photographs, "--saliency", "none", "--output", "out", cwd=tmp_path)
    assert again.returncode == 0
    assert "already holds the complete results" in again.stderr
    assert again.stdout == done.stdout
    assert again.stderr.count("random weights") == 1


def test_a_cpu_of_no_known_family_is_said_loudly(tiny_bundle, photographs, tmp_path):
    code = (
        "from qcam.runtime.deployed import probe\n"
        "real = probe._ask\n"
        "probe._ask = lambda q, c: 'neither [9]' if q.expected and len(q.answers) == 1 else real(q, c)\n"
        "from qcam.commands.eval import main; main()\n"
    )
    arguments = (tiny_bundle.folder, "--images", photographs, "--saliency", "none", "--output", "out", "--grid-rows", "0")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "computes as no kernel family that qcam knows" in " ".join(done.stderr.split())
    assert "depthwise convolution: neither [9]" in (tmp_path / "out" / "table.md").read_text()
    kernels = json.loads((tmp_path / "out" / "run.json").read_text())["kernels"]
    assert kernels["family"] == "unknown"
    assert kernels["answers"]["depthwise convolution"] == "neither [9]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no bundle"),
        (["{bundle}", "--images", "nowhere"], "no image folder at nowhere"),
        (["{bundle}", "--images", ""], "the images' place is empty; give a folder"),
        (["{bundle}", "--images", "{images}", "--saliency", "masks:"], "--saliency masks: names nothing; write masks:DIR"),
        (["{bundle}", "--provider", "GPU"], "execution provider 'GPU' is unknown"),
        (["{bundle}", "--provider", "CUDA"], "has no CUDA provider"),
        (["{bundle}", "--images", "{images}", "--saliency", "magic"], "saliency 'magic' is unknown"),
        (["{bundle}", "--session-config", "nonsense"], "is not of the form KEY=VALUE"),
        *(
            (["{bundle}", "--images", "{images}", name, "K=a", name, "K=b"], f"{name} K is given twice: 'a' and 'b'; give")
            for name in ("--session-config", "--provider-option", "--saliency-option", "--paper-weights")
        ),
        (["{bundle}", "--images", "{images}", "--labels", "no.csv"], "cannot read labels"),
        (["{bundle}", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["{bundle}", "--images", "{images}", "--colormap", "rainbow"], "'--colormap': 'rainbow' is not one of"),
        (["{bundle}", "--images", "{images}", "--paper-fix", "alpha"], "belong to protocol paper"),
        (["{bundle}", "--images", "{images}", "--protocol", "paper", "--paper-fix", "alfa"], "'alfa'"),
        (["{bundle}", "--images", "{images}", "--saliency-option", "size"], "not of the form KEY=VALUE"),
        (["{bundle}", "--images", "{images}", "--saliency", "masks:nowhere"], "no mask folder at"),
        (["{bundle}", "--images", "{images}", "--saliency", "masks:{bundle}"], "the mask folder: no mask in"),
        (["{bundle}", "--images", "{images}", "--saliency", "none", "--mask-void", "255"], "belong to masks:DIR"),
        (
            [
                "{bundle}",
                "--images",
                "{images}",
                "--precision",
                "f32",
                "--saliency",
                "none",
                "--no-null-row",
                "--no-fake-quant",
            ],
            "there is nothing to compare f32 with",
        ),
        ([], "no bundle given and none in bundles/"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(command, tiny_bundle, photographs, tmp_path, arguments, message):
    filled = [argument.format(bundle=tiny_bundle.folder, images=photographs) for argument in arguments]
    before = sorted(tmp_path.rglob("*"))
    done = command(*filled)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
    assert len(errors) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_interrupting_leaves_readable_results_and_the_same_command_goes_on(tiny_bundle, tmp_path, how):
    folder = tmp_path / "many"
    folder.mkdir()
    photographs = evaluation_photographs()
    for index in range(100):
        shutil.copy(photographs[index % len(photographs)].path, folder / f"{index:03d}.jpg")
    arguments = [tiny_bundle.folder, "--images", folder, "--saliency", "none", "--output", "out", "--grid-rows", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "qcam.commands.eval", *map(str, arguments)], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        # A shell's background job starts with SIGINT ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    parts = tmp_path / "out" / "parts"
    for _ in range(12000):
        if list(parts.glob("*.parquet")) or process.poll() is not None:
            break
        time.sleep(0.005)
    process.send_signal(how)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "The same command goes on from there" in told
    done = len({row.image for row in read_rows(tmp_path / "out" / "results.parquet")})
    assert 0 < done < 100
    resumed = started(*arguments, cwd=tmp_path)
    assert resumed.returncode == 0
    assert "shards are done already; going on" in resumed.stderr
    assert len({row.image for row in read_rows(tmp_path / "out" / "results.parquet")}) == 100
    assert json.loads((tmp_path / "out" / "run.json").read_text())["complete"] is True


@pytest.mark.parametrize("tool", ["eval", "export"])
def test_help_teaches_by_example_and_loads_no_torch(tool, tmp_path):
    line = [sys.executable, "-X", "importtime", "-m", f"qcam.commands.{tool}", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "torchvision", "onnx", "onnxruntime", "numpy", "pyarrow"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonesuch"], "model 'nonesuch' is unknown"),
        (["squeezenet1_1", "--weights", "random:x"], "the seed must be a whole number"),
        (["squeezenet1_1", "--weights", "random:0", "--resize", "big"], "or height and width as in 224,128 (height first)"),
        (["squeezenet1_1", "--weights", "random:0", "--crop", "300"], "does not hold a crop"),
        (["squeezenet1_1", "--weights", "random:0", "--calibration", "nowhere"], "no image folder at nowhere"),
        (["squeezenet1_1", "--weights", "random:0", "--opset", "9"], "opset 9 is not supported; choose 18 to 24"),
        (["--mean", "1,2"], "is not one number or three with commas"),
    ],
)
def test_a_bad_export_is_one_line_exit_code_2_and_nothing_written(command, tmp_path, arguments, message):
    done = command(*arguments, main=export_command.main)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_the_paper_s_protocol_runs_beside_the_deployed_one(command, lite0_bundle, photographs, tmp_path):
    arguments = [lite0_bundle.folder, "--images", photographs, "--saliency", "spectral", "--limit", "2", "--grid-rows", "0"]
    done = command(*arguments, "--protocol", "paper", "--paper-fix", "eval-mode,calibrated")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "2 images, provider PyTorch" in text
    assert "slips switched off: calibrated, eval-mode" in text
    assert "slips of the authors' code that are in: logits, 8bit, f32-top1, alpha, crop, float-maps" in text
    assert "nothing of it is deployed" in text
    assert "fake-quant v. deployed" not in text
    folder = tmp_path / "out" / "photographs-paper"  # never the folder of the deployed protocol
    run = json.loads((folder / "run.json").read_text())
    assert run["protocol"] == {"name": "paper", "fixes": ["calibrated", "eval-mode"]}
    assert run["kernels"] == {"family": "not applicable"}
    null = [row for row in read_rows(folder / "results.parquet") if (row.precision, row.comparison) == ("f32", "vs_f32")]
    assert [(row.SIM, row.CC) for row in null] == [(1.0, 1.0)] * 2  # in evaluation mode the float model is itself
    other = command(*arguments, "--protocol", "paper")
    assert other.returncode == 2
    assert "--paper-fix" in other.stderr


#: Names as a stranger's archive may hold them: a terminal's colours, a forged line, a tab, a change of direction, a formula.
ODD = ("a\x1b[31m\nerror: forged.jpg", "b\t\x07\u202egpj.jpg", "$x_1$ & <b>.jpg", "=1+1.jpg")
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def test_i4_odd_names_forge_nothing_on_terminals_or_in_files(command, tiny_bundle, photographs, tmp_path):
    folder = photographs / "\x1b[2Jfolder\n"
    folder.mkdir()
    for image, name in zip(sorted(photographs.glob("*.jpg")), ODD, strict=True):
        image.rename(folder / name)
    (folder / "bad\x1b.png").write_text("no picture")
    options = ("--images", photographs, "--saliency", "none", "--output", "out")
    done = command(tiny_bundle.folder, *options)
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert not _FORBIDDEN.search(text)
        assert not [line for line in text.splitlines() if line.startswith("error: forged")]
    assert r"\x1b[2Jfolder\n" in done.stdout  # the account names it
    assert r"bad\x1b.png" in done.stderr
    out = tmp_path / "out"
    for name in ("report.html", "table.md", "table.csv", "table.tex"):
        assert not _FORBIDDEN.search((out / name).read_text(encoding="utf-8")), name
    charts = [*(out / "figures").glob("*.svg")]
    assert charts
    for chart in charts:
        ElementTree.parse(chart)
    pages = re.findall("<svg.*?</svg>", (out / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    for svg in pages:
        ElementTree.fromstring(svg.replace("&nbsp;", " "))
    again = command(tiny_bundle.folder, *options, "--target", "own-top1")
    assert again.returncode == 2
    assert not _FORBIDDEN.search(again.stderr)


def test_every_run_accounts_for_images_and_labels(command, tiny_bundle, photographs, tmp_path):
    names = sorted(path.name for path in photographs.iterdir())
    (photographs / "notes.txt").write_text("x")
    (photographs / "more.tga").write_text("x")
    (tmp_path / "labels.csv").write_text(f"image,label\n{names[0]},class 3\n{names[1]},-1\ngone.jpg,class 1\n")
    options = ("--images", photographs, "--labels", "labels.csv", "--saliency", "none", "--output", "out")
    planned = command(tiny_bundle.folder, *options, "--dry-run")
    done = command(tiny_bundle.folder, *options, "--limit", "3")
    assert done.returncode == 0, done.stderr
    images = "images: 3 of 4 taken; 2 files not taken: 1 .tga, 1 .txt"
    labels = (
        "labels: 1 of 3 images labelled, by name, from labels.csv; 1 row names no image (gone.jpg); "
        f"1 image matches no row ({names[2]}); 1 label says none (-1 or empty)"
    )
    text = " ".join(done.stdout.split())
    assert images in text
    assert labels in text
    assert "limit: the first 3 images of 4" in text
    assert labels.replace("1 of 3", "1 of 4").replace("1 image matches no row", "2 images match no row")[:60] in planned.stdout
    account = json.loads((tmp_path / "out" / "run.json").read_text())["account"]
    assert [line["topic"] for line in account] == ["images", "labels", "limit"]
    assert account[1]["counts"]["rows_without_image"] == 1
    for name in ("table.md", "report.html"):
        assert "1 row names no image (gone.jpg)" in (tmp_path / "out" / name).read_text()
    more = command(tiny_bundle.folder, *options)
    assert more.returncode == 0, more.stderr
    assert "labels: 1 of 4 images labelled" in " ".join(more.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "label"], "no image has a label: labels: 0 of 4 images labelled; 1 folder is no class (unheard of)"),
        (["--label-format", "name"], "--label-format name: none of the folders is such a label (unheard of)"),
        (["--label-format", "none", "--target", "label"], "--label-format none: folders and archives are not asked"),
    ],
)
def test_h7_folders_that_are_no_class_are_named_where_labels_are_needed(
    command, tiny_bundle, photographs, tmp_path, arguments, message
):
    photographs.rename(tmp_path / "unheard of")
    photographs.mkdir()
    (tmp_path / "unheard of").rename(photographs / "unheard of")
    done = command(tiny_bundle.folder, "--images", photographs, "--output", "out", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1
    assert not (tmp_path / "out").exists()
