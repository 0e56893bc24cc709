"""`net.py:build`: a network that a function of the user's own file builds. Its code runs, and that is said before."""

from __future__ import annotations

import importlib.util
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

from qcam.common import telling
from qcam.common.errors import QcamError, first_line

_PLACE = re.compile(r"(.+\.py):(.*)", re.DOTALL)


def is_code(name: str) -> bool:
    """Tell whether a text names a function in a Python file, or a Python file alone."""
    return name.endswith(".py") or _PLACE.fullmatch(name) is not None


def parted(name: str) -> tuple[Path, str]:
    """Return the file and the function that a text names.

    Raises:
        QcamError: If it names no function.
    """
    found = _PLACE.fullmatch(name)
    path, function = (found[1], found[2]) if found else (name, "")
    if not function.isidentifier():
        raise QcamError(f"{name}: name the function that returns the network, as in {path}:build")
    return Path(path), function


def build(name: str) -> torch.nn.Module:
    """Run a Python file, and the function in it that builds a network.

    Args:
        name: File and function, as in `net.py:build`.

    Returns:
        What the function returns.

    Raises:
        QcamError: If there is no such file or function, its code fails (names file and line), or it returns no network.
    """
    path, function = parted(name)
    if not path.is_file():
        raise QcamError(f"{name}: there is no file {path}")
    telling.warn(f"{path}: its code is run now, to call {function}(); do so only with code that you trust")
    with _beside(path), _without_bytecode():
        try:
            called = _loaded(path)
        except (Exception, SystemExit) as error:
            raise QcamError(f"{path} cannot be run: {where_it_failed(error)}") from error
        build_network = getattr(called, function, None)
        if not callable(build_network):
            mine = {key: value for key, value in vars(called).items() if callable(value)}
            there = [key for key, value in mine.items() if getattr(value, "__module__", "") == called.__name__]
            raise QcamError(f"{path} has no function {function}; it has {', '.join(there[:8]) or 'none'}")
        try:
            module = build_network()
        except (Exception, SystemExit) as error:
            raise QcamError(f"{function}() of {path} failed: {where_it_failed(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise QcamError(f"{function}() of {path} returns {type(module).__name__}; let it return a torch.nn.Module")
    return module


def where_it_failed(error: BaseException) -> str:
    """Say in one line what an exception of somebody's code says, and the last line of that code that led to it.

    Args:
        error: The exception.

    Returns:
        Its type and text, after file and line where there is one that is neither a package's nor Python's own.
    """
    said = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}, line {error.lineno}: {said.partition(' (')[0]}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_installed(frame.filename)]
    return f"{own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}: {said}" if own else said


def _is_installed(file: str) -> bool:
    places = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    places += [str(Path(str(torch.__file__)).parent), str(Path(__file__).parents[1])]
    return file.startswith("<") or any(Path(file).is_relative_to(place) for place in places)


def _loaded(path: Path) -> ModuleType:
    """Run a file as a module of its own name, which no installed module has."""
    name = f"_qcam_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise QcamError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Let a file import what lies beside it, as when it is run by itself."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


@contextmanager
def _without_bytecode() -> Iterator[None]:
    """Write nothing beside the user's file."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
