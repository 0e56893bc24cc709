"""OpenVINO for real: its package in an environment of its own, on the CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
RUN = """
import sys, numpy as np
from pathlib import Path
from qcam.common.errors import QcamError
from qcam.runtime.bundle import load_bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings
bundle, options = load_bundle(Path(sys.argv[1])), dict(entry.split("=") for entry in sys.argv[2:])
try:
    for precision in ("f32", "int8"):
        session = DeployedModel(bundle, precision, SessionSettings("OpenVINO", provider_options=options))
        print(session.placement.fallback or "no fallback", session.run(np.zeros((3, 3, 32, 32), np.float32)).logits.shape)
except QcamError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def openvino(tmp_path_factory, package_source):
    """Return what runs a bundle by a version of onnxruntime-openvino, with options of the provider."""
    folder = tmp_path_factory.mktemp("openvino") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(package_source)], check=True)

    def run(package, bundle, *options):
        subprocess.run([*pip, package], check=True)
        command = [python, "-c", RUN, str(bundle.folder), *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


def test_from_the_version_that_tells_where_nodes_run_it_runs_strictly_and_takes_its_options(openvino, tiny_bundle):
    ran = ["no fallback (3, 10)", "no fallback (3, 10)"]
    package = "onnxruntime-openvino>=1.24"
    assert openvino(package, tiny_bundle) == ran
    every = ("device_type=CPU", "precision=FP32", "num_of_threads=1", "num_streams=1", "model_priority=HIGH", "cache_dir=kept")
    assert openvino(package, tiny_bundle, *every, "enable_qdq_optimizer=0", "disable_dynamic_shapes=0") == ran
    (refused,) = openvino(package, tiny_bundle, "device_type=GPU")  # there is none
    assert "the OpenVINO provider could not be loaded" in refused


def test_versions_before_are_refused_by_name(openvino, tiny_bundle):
    (refused,) = openvino("onnxruntime-openvino==1.23.0", tiny_bundle)
    assert refused.startswith("onnxruntime-openvino 1.23.0 does not tell which node runs on which provider")
    assert refused.endswith('pip install "onnxruntime-openvino>=1.24"')
