"""What a weights file holds: tensors under dotted names, read with `weights_only=True`, so that no code of the file runs.

Whatever mappings and lists it nests become dotted names (`{"state_dict": {"conv.weight": …}}` → `state_dict.conv.weight`), so
that a wrapper is a prefix like any other. Which of them are meant is found out in `choice`.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from qcam.common.errors import WeightsError, first_line
from qcam.models.weights import StateDict, refuse_odd_entries

#: How deep mappings are looked into.
_DEPTH = 8
#: Harmless types that training scripts keep beside weights. They are never made: a stand-in without content takes their place.
_RECORDS = (
    "argparse.Namespace", "types.SimpleNamespace",
    "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar", "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray._reconstruct", "numpy._core.numeric._frombuffer", "numpy.dtype", "numpy.ndarray",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath",
    "pathlib._local.Path", "pathlib._local.WindowsPath",
    "datetime.datetime", "datetime.date", "datetime.timedelta", "uuid.UUID", "decimal.Decimal",
)  # fmt: skip
_NUMPY_TYPES = tuple(
    f"numpy.dtypes.{kind}DType"
    for kind in (
        "Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32", "Float64",
        "LongDouble", "Str", "Bytes", "DateTime64", "TimeDelta64",
    )
)  # fmt: skip
_GLOBAL = re.compile(r"GLOBAL [`']?([\w.]+)")
#: How a file of before torch 1.6 begins, a number as pickle writes it.
_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_MEND = "save the weights alone: torch.save(model.state_dict(), FILE)"


class _Record:
    """Stands for an object that is not made: takes whatever it is given and keeps nothing."""

    named = "object"

    def __new__(cls, *_args: object, **_options: object) -> _Record:
        return object.__new__(cls)

    def __init__(self, *_args: object, **_options: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


_STAND_INS = [(type("_Record", (_Record,), {"named": name}), name) for name in (*_RECORDS, *_NUMPY_TYPES)]


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        origin: The file, for messages.
        tensors: Dotted name → tensor, in the file's order.
        versions: Dotted module path → what torch recorded of the module's version (`state_dict()._metadata`).
        others: Dotted name → type of what is no tensor.
        holders: Dotted name of a tensor → dotted name of the mapping that it stands in, empty for the file itself.
    """

    origin: str
    tensors: StateDict
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `.safetensors`, `.pth`, `.pt` or `.bin` file; nothing of it is run.

    Args:
        path: The file.

    Returns:
        Its tensors under dotted names, and what else it holds.

    Raises:
        WeightsError: If it cannot be read, needs an object that is not read, or holds no tensors under names.
    """
    if not is_file(path):
        raise WeightsError(
            f"{shortened(str(path))} is a folder; give the weights file in it"
            if is_folder(path)
            else f"no weights file at {shortened(str(path))}: no such file"
        )
    return _flattened(_safely_read(path), str(path))


def is_file(path: Path) -> bool:
    """Tell whether a path is a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; a name that no folder can have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def shortened(text: str) -> str:
    """Return a text for a message, its middle left out where it is long."""
    return text if len(text) <= 300 else f"{text[:140]}…{text[-140:]}"


def _safely_read(path: Path) -> Any:
    other = _another_kind(path)
    if other:
        raise WeightsError(f"cannot read weights from {path}: {other}")
    try:
        if path.suffix == ".safetensors" or _looks_like_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path, device="cpu")
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_STAND_INS)):
            warnings.simplefilter("ignore")  # torch's remarks on tensors that are refused later
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds; each means: this is no state dict
        raise WeightsError(f"cannot read weights from {path}: {_why_not(error)}") from error


def _another_kind(path: Path) -> str:
    """Say what a file is that holds no weights that are read, and what to do; empty if it may hold some."""
    with path.open("rb") as stream:
        start = stream.read(4096)
    text = start.lstrip().lower()
    if not start:
        return "it is empty; bring it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, which stands for the file; bring the file itself: git lfs pull"
    if text.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page, not the file that a link leads to; download the file itself"
    if text.startswith((b"{", b"[")) and b"\0" not in start:
        if b'"weight_map"' in start:
            return "it is the index of weights in several files, which are not joined; save them as one file"
        return "it is a JSON file; give a state dict (.pth or .safetensors)"
    if not _looks_like_safetensors(path) and start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5" and _MAGIC not in start[:64]:
        return f"it is a plain pickle, not a file of torch.save; {_MEND}"
    return _not_as_saved(path) if start.startswith(b"PK") else ""


def _not_as_saved(path: Path) -> str:
    """Say why a zip archive is none that torch writes: its records lie in it as they are, each once."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        return f"it is a damaged archive ({first_line(error)}); bring it again"
    if any(record.filename.rpartition("/")[2] == "constants.pkl" for record in records):
        return f"it is a TorchScript archive, a program; {_MEND}"
    size = sum(record.file_size for record in records)
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        return f"its records are compressed, to {size:,} bytes, and torch never writes such a file; {_MEND}"
    if size > path.stat().st_size:
        return f"its records claim {size:,} bytes, more than the file has; {_MEND}"
    return ""


def _looks_like_safetensors(path: Path) -> bool:
    """Tell a file of safetensors under another name: the length of its header, then the header, which is JSON."""
    with path.open("rb") as stream:
        start = stream.read(10)
    return start[8:10] == b'{"' and 0 < int.from_bytes(start[:8], "little") < path.stat().st_size


def _why_not(error: Exception) -> str:
    """Say why a file was not read, without the library's advice to trust it."""
    text = str(error)
    blocking = _GLOBAL.search(text)
    if blocking:
        return f"it holds {blocking.group(1)}, code or an object that is never loaded; {_MEND}"
    if "TorchScript" in text:
        return f"it is a TorchScript archive, a program; {_MEND}"
    line = first_line(error)
    if "weights_only" in line or "Weights only" in line or "weights only" in line:
        return f"it holds more than tensors and plain values; {_MEND}"
    return f"{line}; give a state dict (.pth or .safetensors)"


def _flattened(value: Any, origin: str) -> Checkpoint:
    found = Checkpoint(origin, {})
    mend = "save one with torch.save(model.state_dict(), …)"
    if isinstance(value, _Record):
        raise WeightsError(f"{origin} holds no state dict (names and tensors) but {value.named}; {mend}")
    if not isinstance(value, Mapping):
        raise WeightsError(f"{origin} holds no state dict (names and tensors); {mend}")
    for name, item in value.items():
        if not isinstance(name, str) and isinstance(item, torch.Tensor):
            raise WeightsError(
                f"{origin} holds no state dict (names and tensors): a name is {name!r}, of type {type(name).__name__}; {mend}"
            )
    _look_into(value, "", 0, set(), found)
    if not found.tensors:
        raise WeightsError(f"{origin} holds no state dict (names and tensors); {mend}")
    return found


def _look_into(value: Any, path: str, depth: int, seen: set[int], found: Checkpoint) -> bool:
    """Put the tensors in a mapping or a list under dotted names; tell whether there were any."""
    if id(value) in seen:  # the same weights under a second name
        return True
    seen.add(id(value))
    any_tensor = False
    versions = getattr(value, "_metadata", None)
    if isinstance(versions, Mapping):
        for name, version in versions.items():
            if isinstance(name, str) and isinstance(version, Mapping):
                found.versions[_joined(path, name)] = dict(version)
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in items:
        name = _joined(path, str(key))
        if isinstance(item, torch.Tensor):
            if name in found.tensors and found.tensors[name] is not item:
                raise WeightsError(
                    f"{found.origin} holds two tensors called {name}, one under the whole name and one in a mapping within; "
                    "save the one that is meant"
                )
            found.tensors[name] = item
            found.holders[name] = path
            any_tensor = True
        elif isinstance(item, (Mapping, list, tuple)) and depth < _DEPTH and _look_into(item, name, depth + 1, seen, found):
            any_tensor = True
        else:
            found.others[name] = item.named if isinstance(item, _Record) else type(item).__name__
    if not any_tensor:  # told as one thing
        for name in [name for name in found.others if name.startswith(f"{path}.")]:
            del found.others[name]
    return any_tensor


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def plain(checkpoint: Checkpoint) -> StateDict:
    """Return the tensors of a file that holds nothing else.

    Raises:
        WeightsError: If it holds something else, or tensors that are no plain arrays.
    """
    for name, kind in checkpoint.others.items():
        raise WeightsError(
            f"{checkpoint.origin} holds no state dict (names and tensors): {name} is of type {kind}; "
            "save one with torch.save(model.state_dict(), …)"
        )
    refuse_odd_entries(checkpoint.tensors, checkpoint.origin)
    return dict(checkpoint.tensors)
