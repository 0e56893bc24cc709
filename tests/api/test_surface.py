"""What `import qcam` offers: names, rooms beside them, nothing heavy before it is used."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import qcam

ROOMS = ("common", "images", "calibration", "models", "runtime", "exporters", "evaluate", "commands")
HEAVY = {
    "torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "pyarrow", "pandas", "scipy", "statsmodels", "matplotlib",
    "jinja2", "PIL", "fsspec", "ray",
}  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """Return the heavy packages that a program has imported in the end."""
    told = f"{code}\nimport sys, json\nprint(json.dumps([name for name in {sorted(HEAVY)!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_no_public_name_is_a_room() -> None:
    assert not set(qcam.__all__) & set(ROOMS)


def test_the_api_is_the_same_once_every_room_is_imported() -> None:
    """A room that is imported becomes an attribute of the package: no public name may be hidden by one."""
    code = (
        "import importlib, inspect, types\n"
        f"for room in {ROOMS!r}: importlib.import_module(f'qcam.{{room}}')\n"
        "for room in ('commands.eval', 'commands.check', 'evaluate.check', 'exporters.export'):"
        " importlib.import_module(f'qcam.{room}')\n"
        "import qcam\n"
        "for name in qcam.__all__: assert not isinstance(getattr(qcam, name), types.ModuleType), name\n"
        "assert all(callable(getattr(qcam, name)) for name in ('export', 'load_bundle', 'study', 'check', 'explain'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in qcam.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_explained(name: str) -> None:
    assert inspect.getdoc(getattr(qcam, name))
    assert name in dir(qcam)


def test_the_version_is_the_package_s() -> None:
    assert qcam.__version__ == version("qcam")


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'qcam' has no attribute 'evaluat'"):
        qcam.evaluat  # noqa: B018


def test_import_qcam_imports_nothing_heavy() -> None:
    assert loaded_by("import qcam; qcam.__all__; qcam.__version__; qcam.QcamError") == set()


@pytest.mark.parametrize("name", ["export", "import_onnx", "study", "check", "explain"])
def test_naming_a_function_imports_nothing_heavy(name: str) -> None:
    assert loaded_by(f"import qcam; qcam.{name}") == set()


@pytest.mark.parametrize("command", ["qcam", "export", "importing", "eval", "check", "report", "fetch"])
@pytest.mark.parametrize("option", ["--help", "--help-all", "--version"])
def test_help_imports_nothing_heavy(command: str, option: str) -> None:
    code = f"from qcam.commands.{command} import main\ntry: main([{option!r}])\nexcept SystemExit: pass"
    assert loaded_by(code) == set()


def test_type_checkers_see_what_is_loaded_lazily() -> None:
    """The names below TYPE_CHECKING are those of `__all__`."""
    text = Path(qcam.__file__).read_text(encoding="utf-8")
    before = text.split("#: Public name")[0]
    for name in qcam.__all__:
        assert name in before, name
    homes = qcam._HOMES
    assert set(homes) == set(qcam.__all__) - {"__version__"}
    for name, module in homes.items():
        assert hasattr(importlib.import_module(module), name)
