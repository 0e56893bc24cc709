"""The CUDA package on a machine without CUDA, for real: installed in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from qcam.images.embedded import evaluation_photographs

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cuda_python(tmp_path_factory, package_source):
    """A Python with qcam's base dependencies and onnxruntime-gpu; no torch."""
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU: the refusal cannot be shown here")
    folder = tmp_path_factory.mktemp("cuda") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Not qcam[cuda], which brings CUDA's libraries (2 GB): that they are missing is what is shown here.
    subprocess.run([*pip, str(package_source), "onnxruntime-gpu>=1.24"], check=True)
    return python


def run(python, *arguments, cwd):
    command = [python, "-m", "qcam.commands.eval", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_the_extra_asks_for_what_the_package_offers(cuda_python, tmp_path):
    (asked,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cuda"]
    code = "from importlib.metadata import metadata as m; print(*m('onnxruntime-gpu').get_all('Provides-Extra'))"
    done = subprocess.run([cuda_python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    wanted = asked.partition("[")[2].partition("]")[0].split(",")
    assert wanted == ["cuda", "cudnn"]
    assert set(wanted) <= set(done.stdout.split())


def test_a_wheel_installs_no_top_level_rooms(cuda_python, tmp_path):
    code = "import qcam.runtime.bundle, importlib.util as u; print([u.find_spec(n) for n in ('runtime', 'evaluate', 'common')])"
    done = subprocess.run([cuda_python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[None, None, None]"


def test_cuda_without_its_libraries_is_refused_with_the_loaders_words(cuda_python, tiny_bundle, tmp_path):
    images = evaluation_photographs()[0].path.parent
    arguments = (tiny_bundle.folder, "--images", images, "--saliency", "none", "--output", tmp_path / "out")
    done = run(cuda_python, *arguments, "--provider", "CUDA", cwd=tmp_path)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "the CUDA provider could not be loaded" in errors[0]
    assert "cannot open shared object file" in errors[0]
    assert "CUDA and cuDNN" in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_same_package_runs_on_the_cpu_without_torch_up_to_the_gradients(cuda_python, tiny_bundle, tmp_path):
    images = evaluation_photographs()[0].path.parent
    arguments = (tiny_bundle.folder, "--images", images, "--saliency", "none", "--output", tmp_path / "out")
    done = run(cuda_python, *arguments, "--provider", "CPU", cwd=tmp_path)
    assert done.returncode == 2
    assert 'pip install "qcam[host]"' in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_device_without_torch_can_run_a_bundle(cuda_python, tiny_bundle, tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from qcam.runtime.bundle import load_bundle; from qcam.runtime.deployed import DeployedModel, SessionSettings\n"
        "session = DeployedModel(load_bundle(Path(sys.argv[1])), 'int8', SessionSettings())\n"
        "print(session.run(np.zeros((2, 3, 32, 32), np.float32)).tap.dtype, session.placement.integer_kernels)\n"
    )
    done = subprocess.run(
        [cuda_python, "-c", code, tiny_bundle.folder], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["uint8", "4"]
