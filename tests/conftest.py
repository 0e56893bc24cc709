"""Bundles that many tests share: a tiny network for machinery, the real ones for what only they can show."""

from __future__ import annotations

import os

#: Threads of several processes that wait for work by spinning take the cores from each other; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import fcntl
import functools
import json
import logging
import shutil
import tempfile
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from result_folders import large, ran, results
from torch import nn

from qcam.commands import check as check_command
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.images.preprocessing import Preprocessing
from qcam.models.sources import LoadedModel, load_model
from qcam.models.weights import hash_parameters
from qcam.runtime.bundle import Bundle, load_bundle
from qcam.runtime.deployed import packed
from qcam.runtime.deployed.probe import probe_kernels

__all__ = ["large", "ran", "results"]  # fixtures of results, used by tests of several rooms

torch.set_num_threads(2)

TINY_CLASSES = tuple(f"class {index}" for index in range(10))


class TinyNet(nn.Module):
    """Every structure that matters: folded BatchNorm, a skip connection, ReLU6, global pooling, a Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU6())
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.branch(x))
        return self.classifier(self.head(x).mean((2, 3)))


def tiny_model(seed: int = 0, *, dead: bool = False) -> LoadedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TinyNet()
        if dead:  # no class depends on the feature map: every gradient and so every CAM is zero
            nn.init.zeros_(module.classifier.weight)
        else:
            nn.init.normal_(module.classifier.weight, std=2.0)
    module.eval().requires_grad_(False)
    preprocessing = Preprocessing(resize=36, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    weights = {"name": f"random:{seed}", "sha256": hash_parameters(module), "trained": False}
    return LoadedModel("tiny", "test", module, preprocessing, TINY_CLASSES, weights, "head")


@pytest.fixture
def on_terminal() -> Iterator[None]:
    """Library code tells what it tells on standard error, as under a command."""
    from qcam.commands.console import shown_on_terminal

    with shown_on_terminal():
        yield


def made_once(factory: pytest.TempPathFactory, place: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first of this run's processes that wants it makes; pytest-xdist starts several."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each process has a folder of its own below that of the run
    folder, made = root / "once" / place, root / "once" / f"{place}.made"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(folder)
            made.touch()
    return folder


def bundle_made_once(factory: pytest.TempPathFactory, place: str, make: Callable[[Path], object]) -> Bundle:
    return load_bundle(made_once(factory, place, make))


@pytest.fixture(scope="session")
def shared_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder that several tests read, made by one of them."""
    return functools.partial(made_once, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    def make(folder: Path) -> Bundle:
        return export_bundle(tiny_model(), calibration_photographs(), ExportOptions(), folder)

    return bundle_made_once(tmp_path_factory, "tiny/tiny", make)


@pytest.fixture(scope="session")
def export_tiny() -> Callable[..., Bundle]:
    def export(folder: Path, *, seed: int = 0, dead: bool = False, force: bool = False, **options: object) -> Bundle:
        model = tiny_model(seed, dead=dead)
        return export_bundle(model, calibration_photographs(), ExportOptions(**options), folder, force=force)

    return export


@pytest.fixture(scope="session")
def lite0_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """EfficientNet-Lite0 with its real ImageNet weights."""

    def make(folder: Path) -> Bundle:
        return export_bundle(load_model("efficientnet_lite0", None), calibration_photographs(), ExportOptions(), folder)

    return bundle_made_once(tmp_path_factory, "lite0/efficientnet_lite0", make)


@pytest.fixture(scope="session")
def reduced_lite0_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same network with weights of 7 bits."""

    def make(folder: Path) -> Bundle:
        options = ExportOptions(precisions=("f32", "int8"), reduce_range=True)
        return export_bundle(load_model("efficientnet_lite0", None), calibration_photographs()[:3], options, folder)

    return bundle_made_once(tmp_path_factory, "efficientnet_lite0-reduced", make)


@pytest.fixture(scope="session")
def seeded_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Any other model with seeded weights: machinery only, no figure of it means anything."""

    def get(name: str) -> Bundle:
        def make(folder: Path) -> Bundle:
            return export_bundle(load_model(name, "random:0"), calibration_photographs()[:3], ExportOptions(), folder)

        return bundle_made_once(tmp_path_factory, f"seeded/{name.replace(':', '-')}/bundle", make)

    return functools.cache(get)


@pytest.fixture(scope="session")
def object_store_endpoint() -> Iterator[str]:
    """A real object store on this machine, known to this process and its children by the environment; credentials are fake."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    known = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "AKIAFAKEKEYFAKEKEY00",
        "AWS_SECRET_ACCESS_KEY": "fake/secret+fake/secret+fake/secret+fake",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in known.items():
            patch.setenv(name, value)
        yield known["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def object_store(object_store_endpoint: str) -> str:
    """An empty bucket: s3://NAME."""
    import s3fs

    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture
def refuse_credentials(object_store_endpoint: str) -> Iterator[Callable[[], None]]:
    """From the call on, the object store refuses everybody until the test ends."""

    def allow(requests: str) -> None:
        url = f"{object_store_endpoint}/moto-api/reset-auth"
        request = urllib.request.Request(url, requests.encode(), {"Content-Type": "text/plain"}, method="POST")
        urllib.request.urlopen(request).close()

    yield lambda: allow("0")
    allow("inf")


@pytest.fixture
def memory_store() -> Iterator[str]:
    """An empty folder in memory: memory://NAME, for this process alone."""
    from fsspec.implementations.memory import MemoryFileSystem

    name = f"store-{uuid.uuid4().hex[:12]}"
    yield f"memory://{name}"
    for path in [path for path in MemoryFileSystem.store if path.startswith(f"/{name}/")]:
        del MemoryFileSystem.store[path]


@dataclass(frozen=True)
class Checked:
    """What one run of qcam-check gave."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "check.json").read_text())

    @property
    def first(self) -> dict[str, Any]:
        (result,) = self.report["results"]
        return result


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Checked]:
    """Run the command in this process: PyTorch is imported once."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Checked:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            check_command.main(["--output", str(tmp_path / "out"), *map(str, arguments)])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Checked(ended.value.code, captured.out, captured.err, tmp_path / "out")

    return run


@pytest.fixture(scope="session")
def some_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("some") / "photographs"
    folder.mkdir()
    for image in evaluation_photographs()[:4]:
        shutil.copy(image.path, folder / image.name)
    return folder


@pytest.fixture(scope="session")
def package_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is made of, so that building it leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source") / "qcam"
    folder.mkdir()
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):  # what src/ links to is copied
        path = Path(__file__).parents[1] / name
        shutil.copytree(path, folder / name) if path.is_dir() else shutil.copy(path, folder / name)
    return folder


@pytest.fixture
def known_cpu() -> str:
    """The kernel family of this machine; where it is unknown, nothing promises equal codes."""
    probe = probe_kernels()
    if probe.family is None:
        pytest.skip(f"this CPU's kernels fit no known family: {probe.reason}")
    return probe.name


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test alone, which counts as one on a disk."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(packed, "in_memory", lambda _: False)
    return folder
