"""What a release would upload, tried: wheel and sdist, checked by twine, installed in bare environments (`make packages`).

Environments: the base alone (commands name what they lack), host and cpu (a bundle is exported, run, checked), ray (a study on
a cluster of one machine). Exit code 1 if anything fails, with what was said.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[1]
#: A network of a few layers, exported with random weights, which are marked.
_NET = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, stride=2), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 5),
    )
"""
_EXPORT = (
    "qcam", "export", "net.py:build", "--trained", "no", "--crop", "64", "--resize", "72", "--mean", "0.5", "--std", "0.25",
    "--classes", "5", "--calibration", "photographs", "--name", "net",
)  # fmt: skip
_STUDY = ("qcam", "eval", "bundles/net", "--images", "photographs", "--saliency", "none", "--no-report", "--grid-rows", "0")
#: Environment → extras, and what is run in it: a command, its exit code, and a text that it has to print.
_ENVIRONMENTS: dict[str, tuple[str, list[tuple[Sequence[str], int, str]]]] = {
    "base": ("", [
        (("python", "-c", "import qcam; print(qcam.__version__)"), 0, "."),
        (("qcam", "--version"), 0, "qcam"),
        (("qcam", "check", "bundles/net"), 2, "pip install"),
        (("qcam", "export", "net.py:build"), 2, "pip install"),
    ]),
    "host,cpu": ("host,cpu", [
        (_EXPORT, 0, "net"),
        ((*_STUDY, "--output", "out"), 0, "int8"),
        (("qcam", "check", "bundles/net", "--images", "photographs", "--no-other-cpus"), 0, "holds"),
        (("qcam", "report", "out", "--output", "report"), 0, "report"),
    ]),
    "host,cpu,ray": ("host,cpu,ray", [
        (_EXPORT, 0, "net"),
        ((*_STUDY, "--engine", "ray", "--workers", "1", "--output", "out"), 0, "int8"),
    ]),
}  # fmt: skip


def main() -> None:
    """Build, check, install, run."""
    failed = []
    with tempfile.TemporaryDirectory(prefix="packages-") as folder:
        place = Path(folder)
        source = place / "source"
        subprocess.run(["git", "clone", "-q", str(_ROOT), str(source)], check=True)
        _run([sys.executable, "-m", "build", "--outdir", str(place / "dist"), str(source)], place)
        made = sorted((place / "dist").iterdir())
        wheel, sdist = (next(path for path in made if path.name.endswith(ending)) for ending in (".whl", ".tar.gz"))
        told = _run([sys.executable, "-m", "twine", "check", "--strict", *map(str, made)], place)
        print(told.strip(), flush=True)
        for number, (name, (extras, steps)) in enumerate(_ENVIRONMENTS.items()):
            package = sdist if "ray" in name else wheel
            work = place / f"work-{number}"
            _scene(work)
            venv.create(place / f"env-{number}", with_pip=True)
            scripts = place / f"env-{number}" / "bin"
            _run([str(scripts / "pip"), "install", "-q", f"{package}[{extras}]" if extras else str(package)], place)
            for words, code, said in steps:
                command = [str(scripts / words[0]), *words[1:]]
                done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
                text = done.stdout + done.stderr
                good = done.returncode == code and said in text and "Traceback" not in text
                shown = f"{package.name} [{extras}]: {' '.join(words[:3])}"
                print(f"{shown}: {'as it should be' if good else 'FAILED'}", flush=True)
                if not good:
                    failed.append(f"[{extras}] {' '.join(words)}: exit {done.returncode}, {code} wanted\n{text[-2000:]}")
    print("\n".join(failed))
    sys.exit(bool(failed))


def _scene(work: Path) -> None:
    """Make a network and photographs: what a bare environment has none of."""
    from qcam.images.embedded import calibration_photographs

    (work / "photographs").mkdir(parents=True)
    (work / "net.py").write_text(_NET)
    for place, image in enumerate(calibration_photographs()[:4]):
        (work / "photographs" / f"{place}{Path(image.name).suffix}").write_bytes(Path(str(image.path)).read_bytes())


def _run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
