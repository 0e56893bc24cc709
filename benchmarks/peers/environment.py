"""The peers' own Python environment: made on first use, with qcam's versions of the packages that both have."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

#: Where it is made, from the repository's root.
FOLDER = Path("build/peers")
#: Its Python.
PYTHON = FOLDER / "bin" / "python"
#: Below it: the newer release of a package that is there in the paper's version.
NEWER = "newer"
_SHARED = ("torch", "torchvision", "onnx", "onnxruntime", "numpy", "pillow")
_HERE = Path(__file__).parent


def make(on_stage: Callable[[str], None]) -> None:
    """Make the environment, or do nothing if it is there and up to date.

    Args:
        on_stage: Called with a few words before what takes minutes.

    Raises:
        subprocess.CalledProcessError: If pip fails; it has said why.
    """
    pins = "".join(f"{name}=={metadata.version(name).partition('+')[0]}\n" for name in _SHARED)
    files = [_HERE / f"requirements{suffix}.txt" for suffix in ("", "-bare", "-newer")]
    wanted = hashlib.sha256("".join([pins, *(file.read_text(encoding="utf-8") for file in files)]).encode()).hexdigest()
    stamp = FOLDER / ".installed"
    if PYTHON.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    on_stage(f"making {FOLDER}, the peers' environment; installing takes a few minutes")
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    constraints = FOLDER / "constraints.txt"
    constraints.write_text(pins, encoding="utf-8")
    full, bare, newer = (["-r", str(file)] for file in files)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, *full, "-c", str(constraints)], check=True)
    subprocess.run([*pip, "--no-deps", *bare], check=True)
    subprocess.run([*pip, "--no-deps", "--upgrade", "--target", str(FOLDER / NEWER), *newer], check=True)
    stamp.write_text(wanted, encoding="utf-8")
