"""Puts qemu's user-mode emulators and an arm64 root with ONNX Runtime into build/emulators: `make emulators`.

Nothing is installed and no root rights are needed: Debian's packages are downloaded with apt's own client into folders
of their own and unpacked, Python's wheels likewise. Each part is whole or absent, and made anew only when it no longer
fits this environment or this script has changed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import emulation
from emulation import EMULATORS, PACKAGES

#: Shared libraries of Python, numpy and onnxruntime; the interpreter's own packages carry its version in their names.
LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5")
INTERPRETER = ("python{0}-minimal", "libpython{0}-minimal", "libpython{0}-stdlib")
#: Newest first: what Debian's own C library can load.
PLATFORMS = (*(f"manylinux_2_{minor}_aarch64" for minor in (34, 31, 28, 27, 17)), "manylinux2014_aarch64")
#: Seconds for any one command: plenty for 100 MB, and an unreachable network shall not hang the caller.
LIMIT = 300
#: Says in each part what it was made from.
STAMP = ".made-from"
#: onnxruntime reads the processor's features here, and crashes at import on those of an x86.
CPUINFO = """\
processor\t: {0}
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd08
CPU revision\t: 1

"""


class Unreachable(Exception):
    """Something is not to be had here; the text says what and why, in a line."""


class Apt:
    """apt's client with folders of its own, for both architectures; the system's package sources stay as they are."""

    def __init__(self, folder: Path) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise Unreachable(f"no {tool} here: this needs Debian's package tools (or install qemu-user yourself)")
        self.folder = folder
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        settings = {
            "Dir::State": f"{folder}/state/", "Dir::State::status": f"{folder}/status", "Dir::Cache": f"{folder}/cache/",
            "APT::Architecture": "amd64", "APT::Architectures": "amd64,arm64", "APT::Sandbox::User": "root",
            "Acquire::Languages": "none", "Acquire::Retries": "2", "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20",
        }  # fmt: skip
        self.options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        # A source that fails matters only if a package is then missing: its complaint is kept for that case.
        complaint = _complaint(self._call("apt-get", "update").stderr)
        self.hint = f" (apt-get update: {complaint})" if complaint else ""

    def python(self) -> str:
        """Return the version of the package sources' Python for arm64, such as 3.11."""
        version = re.search(r"^Version: (\d+\.\d+)", self._call("apt-cache", "show", "python3:arm64").stdout, re.MULTILINE)
        if version is None:
            raise Unreachable(f"the package sources offer no Python for arm64{self.hint}")
        return version[1]

    def download(self, names: list[str]) -> list[Path]:
        """Fetch packages, verified by apt."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        done = self._call("apt-get", "download", *names, folder=folder)
        if done.returncode:
            raise Unreachable(f"cannot download {names[0]}: {_complaint(done.stderr)}{self.hint}")
        return sorted(folder.glob("*.deb"))

    def _call(self, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        call = [command[0], "-q", *self.options, *command[1:]]
        return _call(call, cwd=folder or self.folder, env=environment)


def make_qemu(folder: Path, apt: Apt) -> None:
    """Fetch the two emulators out of Debian's package of them all, or of its successor where that only points there."""
    wanted = {f"./usr/bin/qemu-{machine}{end}": machine for machine in ("x86_64", "aarch64") for end in ("-static", "")}
    for package in ("qemu-user-static", "qemu-user"):
        (archive,) = apt.download([f"{package}:amd64"])
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as members:
                for member in members:
                    if member.name in wanted and member.isreg() and (source := members.extractfile(member)):
                        target = folder / f"qemu-{wanted[member.name]}"
                        with source, target.open("wb") as file:
                            shutil.copyfileobj(source, file)
                        target.chmod(0o755)
            if process.stdout:
                process.stdout.read()  # padding behind the archive's end
        if all((folder / f"qemu-{machine}").is_file() for machine in wanted.values()):
            return
    raise Unreachable("the package sources' qemu-user-static and qemu-user hold no emulators of x86_64 and aarch64")


def make_arm64(folder: Path, apt: Apt) -> None:
    """Unpack Python and its libraries for arm64, and onnxruntime and numpy beside them."""
    version = apt.python()
    names = [*LIBRARIES, *(name.format(version) for name in INTERPRETER)]
    for archive in apt.download([f"{name}:arm64" for name in names]):
        if (done := _call(["dpkg-deb", "-x", archive, folder])).returncode:
            raise Unreachable(f"cannot unpack {archive.name}: {_complaint(done.stderr)}")
    if not (folder / "lib").exists():  # packages of a merged /usr leave this link to another package
        (folder / "lib").symlink_to("usr/lib")
    shutil.rmtree(folder / "usr/share", ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=EMULATORS) as wheels:
        platforms = [part for name in PLATFORMS for part in ("--platform", name)]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", version, *platforms, "--dest", wheels]
        if (done := _call([*command, f"onnxruntime=={emulation.installed_version()}", "numpy"])).returncode:
            raise Unreachable(f"cannot download onnxruntime and numpy for arm64: {_complaint(done.stderr)}")
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as file:
                file.extractall(folder / PACKAGES)
    (folder / "proc").mkdir()
    cpuinfo = "".join(CPUINFO.format(index) for index in range(os.cpu_count() or 1))
    (folder / "proc/cpuinfo").write_text(cpuinfo, encoding="utf-8")


def make(part: str, maker: Callable[[Path, Apt], None], wanted: str, apt: Apt) -> None:
    """Make a part beside its place, then put it there: it is whole or absent, and an old one stays until then."""
    print(f"  {part}: fetching ({wanted})", flush=True)
    target = EMULATORS / part
    with tempfile.TemporaryDirectory(dir=EMULATORS) as name:
        fresh = Path(name) / part
        fresh.mkdir()
        maker(fresh, apt)
        (fresh / STAMP).write_text(wanted, encoding="utf-8")
        if target.exists():
            target.rename(Path(name) / "old")
        fresh.rename(target)


def stale(parts: dict[str, str]) -> dict[str, str]:
    """Return the parts that are absent or made from something else than is now wanted."""
    stamps = {part: EMULATORS / part / STAMP for part in parts}
    return {
        part: wanted
        for part, wanted in parts.items()
        if not stamps[part].is_file() or stamps[part].read_text(encoding="utf-8") != wanted
    }


def main() -> int:
    """Make what is missing; return 1 and say why if some part cannot be had."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("error: the emulators run on Linux x86-64 only", file=sys.stderr)
        return 1
    EMULATORS.mkdir(parents=True, exist_ok=True)
    recipe = f"recipe {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"
    parts = {} if all(map(_system_has, ("x86_64", "aarch64"))) else {"qemu": recipe}
    parts["arm64"] = f"onnxruntime {emulation.installed_version()}, {recipe}"
    failed = False
    if missing := stale(parts):
        with tempfile.TemporaryDirectory(dir=EMULATORS) as folder:
            try:
                print("  reading the package sources", flush=True)
                apt = Apt(Path(folder))
                for part, wanted in missing.items():
                    try:
                        make(part, {"qemu": make_qemu, "arm64": make_arm64}[part], wanted, apt)
                    except (Unreachable, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
                        failed = True
                        print(f"error: {part}: {error}", file=sys.stderr)
            except Unreachable as error:
                failed = True
                print(f"error: {error}", file=sys.stderr)
    emulation.qemu.cache_clear()
    for kernel in emulation.KERNELS:
        print(f"  {kernel}: {emulation.why_not(kernel) or 'ready'}")
    return int(failed)


def _system_has(machine: str) -> bool:
    """Tell whether the system's own qemu serves."""
    path = emulation.qemu(machine)
    return path is not None and not path.is_relative_to(EMULATORS)


def _call(command: list, **options: object) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, **options)
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"{Path(command[0]).name} took more than {LIMIT} seconds") from error


def _complaint(stderr: str) -> str:
    """Return a client's first complaint, in a line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return next((line for line in lines if re.match(r"(E|W|Err|ERROR|error)\b", line)), lines[-1] if lines else "")[:300]


if __name__ == "__main__":
    sys.exit(main())
