"""Where a package is not installed, each command and each function names it, and how to install it, in one line."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

#: What a device has: the base packages and ONNX Runtime.
HOST = ("torch", "torchvision", "timm", "jinja2", "matplotlib", "scipy", "statsmodels", "onnxscript", "safetensors", "pandas")

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run(code: str, blocked: tuple[str, ...], cwd: Path) -> subprocess.CompletedProcess[str]:
    program = BLOCKER.format(blocked=set(blocked)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd, timeout=120)


def command(name: str, *arguments: object) -> str:
    return f"from qcam.commands.{name} import main\nmain({list(map(str, arguments))!r})"


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning")]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("name", "package"), [("export", "torch"), ("eval", "torch"), ("check", "torch"), ("report", "jinja2")]
)
def test_a_command_on_a_device_names_the_extra(tiny_bundle, some_photographs, tmp_path, name, package) -> None:
    arguments = {
        "export": ("resnet50",),
        "eval": (tiny_bundle.folder, "--images", some_photographs, "--saliency", "none"),
        "check": (tiny_bundle.folder, "--images", some_photographs),
        "report": ("out", "--output", "report"),
    }[name]
    done = run(command(name, *arguments), HOST, tmp_path)
    one_line(done, f"qcam-{name}", f"needs the package {package}", 'pip install "qcam[host]"')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib", "scipy", "statsmodels"])
def test_a_study_says_at_once_what_its_report_would_lack(tiny_bundle, some_photographs, tmp_path, missing) -> None:
    arguments = (tiny_bundle.folder, "--images", some_photographs, "--saliency", "none")
    one_line(run(command("eval", *arguments), (missing,), tmp_path), f"needs the package {missing}", 'pip install "qcam[host]"')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["export", "eval", "check"])
def test_onnxruntime_is_an_extra_too(tiny_bundle, some_photographs, tmp_path, name) -> None:
    arguments = () if name == "export" else (tiny_bundle.folder, "--images", some_photographs)
    one_line(run(command(name, *arguments), ("onnxruntime",), tmp_path), "onnxruntime", 'pip install "qcam[cpu]"')


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("qcam.export('resnet50')", 'qcam.export needs the package torch, which is not installed: pip install "qcam[host]"'),
        ("qcam.study({bundle!r})", 'qcam.study needs the package torch, which is not installed: pip install "qcam[host]"'),
        ("qcam.check({bundle!r})", 'qcam.check needs the package torch, which is not installed: pip install "qcam[host]"'),
        (
            "qcam.explain({bundle!r}, {picture!r})",
            'qcam.explain needs the package torch, which is not installed: pip install "qcam[host]"',
        ),
        (
            "qcam.load_results({results!r}).to_pandas()",
            "to_pandas() needs the package pandas, which is not installed: pip install pandas",
        ),
        (
            "qcam.load_results({results!r}).report('report')",
            'qcam.report needs the package jinja2, which is not installed: pip install "qcam[host]"',
        ),
    ],
)
def test_a_function_names_the_extra(tiny_bundle, some_photographs, ran, tmp_path, call, says) -> None:
    picture = str(sorted(some_photographs.iterdir())[0])
    filled = call.format(bundle=str(tiny_bundle.folder), picture=picture, results=str(ran))
    code = f"import qcam\ntry: {filled}\nexcept qcam.MissingExtraError as error: print(error)"
    done = run(code, HOST, tmp_path)
    assert done.stdout == f"{says}\n", done.stderr


def test_what_needs_no_extra_works_without_any(tiny_bundle, ran, tmp_path) -> None:
    code = (
        "import qcam\n"
        f"bundle = qcam.load_bundle({str(tiny_bundle.folder)!r})\n"
        f"results = qcam.load_results({str(ran)!r})\n"
        "assert bundle._repr_html_() and results.to_arrow().num_rows and results.maps() and results.summary\n"
        "print('fine')"
    )
    done = run(code, (*HOST, "onnxruntime"), tmp_path)
    assert done.stdout == "fine\n", done.stderr


def test_a_module_that_no_extra_brings_stays_a_bug() -> None:
    from qcam.common.extras import naming_extras

    with pytest.raises(ModuleNotFoundError, match="nonesuch"), naming_extras("this"):
        import nonesuch  # noqa: F401


@pytest.mark.slow
def test_the_wheel_on_a_device(package_source, tiny_bundle, some_photographs, ran, tmp_path) -> None:
    """A bare environment: the built wheel, its base packages and ONNX Runtime."""

    def pip(*arguments: object) -> None:
        done = subprocess.run(
            [python, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=500,
        )
        if done.returncode:
            pytest.skip(f"pip cannot {arguments[0]} here: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")

    venv.create(tmp_path / "device", with_pip=True)
    python = tmp_path / "device" / "bin" / "python"
    pip("wheel", "--no-deps", "--wheel-dir", tmp_path / "wheels", package_source)
    (wheel,) = (tmp_path / "wheels").iterdir()
    pip("install", wheel, "onnxruntime")
    bare = tmp_path / "work"
    bare.mkdir()

    def device(*arguments: object) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "device" / "bin" / str(arguments[0])
        return subprocess.run([program, *map(str, arguments[1:])], capture_output=True, text=True, cwd=bare, timeout=120)

    assert device("qcam", "--version").returncode == 0
    host = 'pip install "qcam[host]"'
    one_line(device("qcam-export", "resnet50"), host)
    one_line(device("qcam-eval", tiny_bundle.folder, "--images", some_photographs, "--saliency", "none"), host)
    one_line(device("qcam", "check", tiny_bundle.folder, "--images", some_photographs), host)
    one_line(device("qcam-report", ran, "--output", "report"), host)
    code = (
        "import qcam\n"
        f"assert qcam.load_bundle({str(tiny_bundle.folder)!r}).model_id == 'tiny'\n"
        f"assert qcam.load_results({str(ran)!r}).to_arrow().num_rows\n"
        "from qcam.runtime.deployed import DeployedModel, SessionSettings\n"
        f"DeployedModel(qcam.load_bundle({str(tiny_bundle.folder)!r}), 'int8', SessionSettings())\n"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=bare)
    assert done.returncode == 0, done.stderr
    assert list(bare.iterdir()) == []
