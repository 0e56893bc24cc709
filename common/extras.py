"""Packages that only some tasks need: where one is missing, the user is told in one line how to install it."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from qcam.common.errors import MissingExtraError, first_line

#: Import name → what pip installs it with.
_INSTALLED_WITH = {
    "onnxruntime": '"qcam[cpu]" (or "qcam[cuda]", "qcam[openvino]")',
    **dict.fromkeys(
        ("jinja2", "matplotlib", "onnxscript", "safetensors", "scipy", "statsmodels", "timm", "torch", "torchvision"),
        '"qcam[host]"',
    ),
    **dict.fromkeys(("einops", "kornia", "transformers"), '"qcam[saliency]"'),
    **dict.fromkeys(("fsspec", "upath"), '"qcam[ray]" (or "qcam[s3]", "qcam[gcs]")'),
    "ray": '"qcam[ray]"',
    "s3fs": '"qcam[s3]"',
    "gcsfs": '"qcam[gcs]"',
    "pandas": "pandas",
}

#: What loaders say of a shared library, on Linux, macOS and Windows.
_NOT_LOADED = re.compile(
    r"cannot open shared object file|undefined symbol|version `[^']+' not found|Library not loaded|DLL load"
)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def require_packages(task: str, *packages: str) -> None:
    """Refuse a task at once, rather than after minutes, if a package that it needs is not installed.

    Args:
        task: What needs them, as in "the report".
        packages: Import names; none of them is imported.

    Raises:
        MissingExtraError: Names the first that is missing, and how to install it.
    """
    for package in packages:
        try:
            there = importlib.util.find_spec(package) is not None
        except (ImportError, ValueError):
            there = False
        if not there:
            raise MissingExtraError(_sentence(task, package))


@contextmanager
def naming_extras(task: str) -> Iterator[None]:
    """Turn a failed import of an optional package into one line that says how to install it, while the block runs.

    Args:
        task: What needs it, as in "the report".

    Raises:
        MissingExtraError: In place of `ModuleNotFoundError`, and of the error of a package that is installed but whose shared
            libraries cannot be loaded; a module that no extra brings stays what it is, a bug.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _INSTALLED_WITH:
            raise
        raise MissingExtraError(_sentence(task, package)) from error
    except (ImportError, OSError) as error:
        package = _cannot_load(error)
        if not package:
            raise
        raise MissingExtraError(
            f"{task} needs the package {package}, which is installed but cannot be loaded: {first_line(error)}; install that "
            f"library, or the package again: pip install --force-reinstall {_INSTALLED_WITH[package]}"
        ) from error


def names_extras(task: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Do what `naming_extras` does, around a whole function.

    Args:
        task: What needs the package, as in "qcam.study".
    """

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        @functools.wraps(function)
        def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            with naming_extras(task):
                return function(*args, **kwargs)

        return wrapped

    return decorate


def _cannot_load(error: Exception) -> str:
    """Return the optional package that was being imported when a shared library could not be loaded; otherwise nothing."""
    if not _NOT_LOADED.search(str(error)):
        return ""
    importing = ""
    trace = error.__traceback__
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in _INSTALLED_WITH:
            importing = package
        trace = trace.tb_next
    return importing


def _sentence(task: str, package: str) -> str:
    return f"{task} needs the package {package}, which is not installed: pip install {_INSTALLED_WITH.get(package, package)}"
