"""A `.pt2` file becomes a program of torch's: looked at first, so that what torch would unpickle without asking is refused.

`torch.export.load` says of itself that it is not for files that one does not trust. It unpickles tensor subclasses and custom
objects, loads compiled code, and has Python evaluate the file's expressions; names of operators lead to whatever Python they
name. Files of plain networks need none of that. All of it is refused here, by name, before torch reads the file.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from qcam.common.errors import QcamError, WeightsError, first_line

#: Larger files hold networks that no ONNX file of 2 GiB holds.
_LARGEST = 2**32
_AGAIN = "save it again with torch.export.save, of float tensors alone"
#: Operators that a graph may call: ATen's and torchvision's, and arithmetic with sizes.
_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.[A-Za-z]\w*\.[A-Za-z]\w*"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge)"
    r"|torch\.sym_(int|float|max|min|not|ite)|math\.(trunc|ceil|floor)"
)
#: What the expressions of sizes are made of.
_WORDS = re.compile(
    r"Symbol|Integer|True|False|integer|positive|nonnegative|negative|nonzero|zero|real|Max|Min|Mod|Pow|Add|Mul|FloorDiv"
    r"|ModularIndexing|CleanDiv|CeilDiv|PythonMod|CeilToInt|FloorToInt|TruncToInt|IntTrueDiv|FloatTrueDiv|ToFloat"
    r"|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not"
)
_EXPRESSION = re.compile(r"[\w\s+\-*/(),<>=!&|~']*")
_SYMBOL = re.compile(r"[a-z]{1,2}\d+")
_NAME = re.compile(r"[A-Za-z_][\w.]*")


def read_program(path: Path) -> torch.export.ExportedProgram:
    """Read a file of `torch.export.save`.

    Args:
        path: The file.

    Returns:
        The program, on the processor that it was saved for.

    Raises:
        QcamError: If it is no such file, or torch would have to unpickle more than tensors, load compiled code or evaluate what
            is no size.
    """
    data = _read(path)
    _look_at(data, str(path))
    level = logging.getLogger("torch").level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torch").setLevel(logging.ERROR)
            return torch.export.load(io.BytesIO(data))
    except Exception as error:  # torch raises many kinds
        raise WeightsError(
            f"torch.export.load cannot read {path}: {first_line(error)}; save it again with this version of torch"
        ) from error
    finally:
        logging.getLogger("torch").setLevel(level)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise QcamError(f"{path} is no file; give the file that torch.export.save wrote")
        if path.stat().st_size > _LARGEST:
            raise QcamError(f"{path} has {path.stat().st_size / 1e9:.1f} GB; at most {_LARGEST / 1e9:.1f} GB are read")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise QcamError(f"cannot read {path}: {first_line(error)}") from error


def _look_at(data: bytes, where: str) -> None:
    """Refuse an archive in which there is more than a graph and plain tensors."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _refuse_records(archive, len(data), where)
            records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist() if _is_read(name)}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise WeightsError(f"{where} is no file of torch.export.save, or damaged ({first_line(error)}); {_AGAIN}") from error
    if "models/model.json" not in records:
        old = "of a torch before 2.8, which keeps pickles" if b"serialized_exported_program" in data else "without a graph"
        raise WeightsError(f"{where} is {_kind(data, old)}; {_AGAIN}")
    for name, content in records.items():
        if not name.endswith(".json"):
            _refuse_objects(content, name, where)
            continue
        try:
            told = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise WeightsError(f"{where}: {name} is no JSON ({first_line(error)}); {_AGAIN}") from error
        if name.startswith("data/"):
            _refuse_pickles(told, name, where)
        else:
            _refuse_code(told, where)


def _kind(data: bytes, otherwise: str) -> str:
    return "a TorchScript archive or a state dict, no exported program" if b"/data.pkl" in data else otherwise


def _refuse_records(archive: zipfile.ZipFile, size: int, where: str) -> None:
    """Refuse an archive as torch writes none: records twice, compressed, or compiled code."""
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise WeightsError(f"{where} holds one record twice; {_AGAIN}")
    if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
        raise WeightsError(f"{where}: its records are compressed, and torch never writes such a file; {_AGAIN}")
    if sum(record.file_size for record in archive.infolist()) > size:
        raise WeightsError(f"{where}: its records claim more bytes than the file has; {_AGAIN}")
    for name in names:
        inside = name.partition("/")[2]
        if inside.startswith(("data/aotinductor/", "data/executorch/")):
            raise WeightsError(f"{where} holds compiled code ({inside}), which is never loaded; {_AGAIN}")
        if inside.startswith("models/") and inside != "models/model.json":
            raise WeightsError(f"{where} holds another program beside its own ({inside}); {_AGAIN}")
        if inside.startswith(("data/weights/", "data/constants/")) and inside.endswith(".pt"):
            raise WeightsError(f"{where} keeps its tensors in a pickle ({inside}), as an older torch did; {_AGAIN}")


def _is_read(name: str) -> bool:
    inside = name.partition("/")[2]
    return inside.endswith(".json") or inside.startswith("data/sample_inputs/")


def _refuse_objects(content: bytes, name: str, where: str) -> None:
    """Refuse example inputs that need more than tensors: torch would go on and unpickle whatever there is."""
    if not content:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # each means: not tensors alone
        raise WeightsError(
            f"{where}: {name} holds more than tensors, which torch would unpickle: code of the file could run; {_AGAIN}"
        ) from error


def _refuse_pickles(told: Any, name: str, where: str) -> None:
    for held, payload in (told.get("config") or {}).items() if isinstance(told, dict) else ():
        if not isinstance(payload, dict) or payload.get("use_pickle") is not False:
            raise WeightsError(
                f"{where}: {ascii(held)[:80]} in {name} is pickled (a tensor subclass or an object), and torch would unpickle "
                f"it: code of the file could run; {_AGAIN}"
            )


def _refuse_code(told: Any, where: str) -> None:
    """Refuse a graph that names what is no operator, or expressions that are no sizes."""
    for key, value in _fields(told):
        wrong = ""
        if key == "target" and not _TARGETS.fullmatch(value):
            wrong = f"it calls {ascii(value)[:80]}, which is no operator of ATen or torchvision"
        elif key == "expr_str" and not _is_size(value):
            wrong = f"{ascii(value)[:80]} is no expression of sizes, and Python would evaluate it"
        elif key == "name" and value and not _NAME.fullmatch(value):
            wrong = f"{ascii(value)[:80]} is no name"
        if wrong:
            raise WeightsError(f"{where}: {wrong}; export the network with torch's own operators")


def _is_size(text: str) -> bool:
    if len(text) > 2000 or not _EXPRESSION.fullmatch(text):
        return False
    quoted = re.findall(r"'([^']*)'", text)
    words = re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'", " ", text))
    return all(map(_SYMBOL.fullmatch, quoted)) and all(_WORDS.fullmatch(word) or _SYMBOL.fullmatch(word) for word in words)


def _fields(told: Any) -> Iterator[tuple[str, str]]:
    """Yield every text that stands under a key, however deep."""
    todo = [told]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            yield from ((key, text) for key, text in value.items() if isinstance(text, str))
            todo += [item for item in value.values() if isinstance(item, (dict, list))]
        elif isinstance(value, list):
            todo += [item for item in value if isinstance(item, (dict, list))]
