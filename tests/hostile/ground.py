"""Good bundles, photographs and runs that attacks start from, made by the tree under attack, each when it is first wanted."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hostile.harness import Outcome, Scene, Tree
from qcam.images.embedded import evaluation_photographs

#: Whatever is a matter of figures.
SAME = ("results.parquet", "maps.parquet", "pictures.parquet", "images.parquet", "summary.json")
#: Short runs: one process, no simulation, no pictures.
OPTIONS = ("--no-fake-quant", "--no-report", "--grid-rows", "0", "--workers", "1", "--threads", "1", "--batch-size", "4")
_FEW, _MANY = 6, 40


class Ground:
    """What is good.

    Attributes:
        tree: What made it.
        folder: Where it lies.
    """

    def __init__(self, tree: Tree, folder: Path) -> None:
        self.tree = tree
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._scene = Scene(tree, self, folder)

    def eval(self, *arguments: object, output: Path, saliency: str = "spectral") -> Outcome:
        """Run qcam-eval shortly."""
        return self._scene.run("qcam-eval", *arguments, *OPTIONS, "--saliency", saliency, "--output", output)

    @cached_property
    def bundle(self) -> Path:
        """Return a bundle of the tests' tiny network."""
        return self._bundle("tiny", 0)

    @cached_property
    def other_bundle(self) -> Path:
        """Return one with other weights."""
        return self._bundle("other/tiny", 1)

    def named_bundle(self, identity: str, folder: str) -> Path:
        """Return a bundle of a model id."""
        return self._bundle(folder, 0, identity)

    @cached_property
    def photographs(self) -> Path:
        """Return a folder of six photographs."""
        return self._photographs("photographs", _FEW)

    @cached_property
    def other_photographs(self) -> Path:
        """Return a folder of six others under the same names."""
        return self._photographs("other-photographs", _FEW, first=10)

    @cached_property
    def many(self) -> Path:
        """Return a folder of forty: three shards."""
        return self._photographs("many", _MANY)

    @cached_property
    def run(self) -> Path:
        """Return the results of a complete run."""
        return self._results(self.bundle, "--images", self.photographs, name="run")

    @cached_property
    def other_run(self) -> Path:
        """Return those of another: other weights, other photographs."""
        return self._results(self.other_bundle, "--images", self.other_photographs, name="other-run")

    @cached_property
    def whole(self) -> Path:
        """Return the results of the run of forty that was left alone."""
        return self._results(self.bundle, "--images", self.many, name="whole")

    @cached_property
    def killed(self) -> Path:
        """Return what the same run left when it was killed half way: at least two parts."""
        return self._killed(self.bundle, self.many, "killed")

    @cached_property
    def killed_other(self) -> Path:
        """Return the like of a run of other weights."""
        return self._killed(self.other_bundle, self.many, "killed-other")

    @cached_property
    def killed_images(self) -> Path:
        """Return the like of a run of other images under the same names."""
        return self._killed(self.bundle, self._photographs("other-many", _MANY, first=5), "killed-images")

    @cached_property
    def check(self) -> Path:
        """Return what qcam-check found, tensor by tensor."""
        folder = self.folder / "check"
        words = ("--images", self.photographs, "--limit", 2, "--precision", "int8", "--every-tensor", "--no-other-cpus")
        done = self._scene.run("qcam-check", self.bundle, *words, "--threads", 1, "--output", folder)
        assert (folder / "check.json").is_file(), done.err
        return folder

    @cached_property
    def tar(self) -> Path:
        """Return a tar file of two photographs."""
        path = self.folder / "two.tar"
        write_tar(path, {file.name: file.read_bytes() for file in sorted(self.photographs.iterdir())[:2]})
        return path

    def _bundle(self, name: str, seed: int, identity: str = "tiny") -> Path:
        folder = self.folder / "bundles" / name
        script = Path(__file__).with_name("make_bundle.py")
        command = [sys.executable, script, self.tree.root / "tests" / "conftest.py", folder, str(seed), identity]
        done = subprocess.run(
            list(map(str, command)), env=self.tree.environment(self.folder), cwd=self.folder,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return folder

    def _photographs(self, name: str, count: int, first: int = 0) -> Path:
        folder = self.folder / name
        folder.mkdir()
        images = evaluation_photographs()
        for index in range(count):
            shutil.copy(images[(first + index) % len(images)].path, folder / f"{index:03d}.jpg")
        return folder

    def _results(self, *arguments: object, name: str) -> Path:
        folder = self.folder / name
        done = self.eval(*arguments, output=folder)
        assert done.code == 0, done.err
        return folder

    def _killed(self, bundle: Path, images: Path, name: str) -> Path:
        folder = self.folder / name
        for _ in range(8):
            shutil.rmtree(folder, ignore_errors=True)
            words = (bundle, "--images", images, *OPTIONS, "--saliency", "spectral", "--output", folder)
            self._scene.run("qcam-eval", *words, until=lambda: len(list((folder / "parts").glob("[!.]*.parquet"))) >= 2)
            if len(parts_of(folder)) >= 2:
                return folder
        raise AssertionError("the run could not be killed half way")


def parts_of(folder: Path) -> list[Path]:
    """Return the finished parts of a run that was killed, in its order."""
    return sorted((folder / "parts").glob("[!.]*.parquet"))


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Write a tar file."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_image_table(path: Path, images: list[bytes]) -> None:
    """Write a Parquet file of images."""
    pq.write_table(pa.table({"image": pa.array(images, pa.binary())}), path)
