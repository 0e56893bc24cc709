"""A `.pt2` file: what torch would unpickle, load or evaluate is refused before torch reads it."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_networks import as_program, own

from qcam.common.errors import QcamError
from qcam.models.programs import read_program

Records = dict[str, bytes]


class _Runs:
    """Code that a pickle runs: it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


def rewritten(path: Path, change: Callable[[Records], None], *, compressed: bool = False) -> Path:
    """Change the records of a program's archive, as its author could."""
    with zipfile.ZipFile(path) as archive:
        top = archive.namelist()[0].partition("/")[0]
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(f"{top}/{name}", content)
    return path


def in_json(name: str, change: Callable[[Any], None]) -> Callable[[Records], None]:
    def changed(records: Records) -> None:
        told = json.loads(records[name])
        change(told)
        records[name] = json.dumps(told).encode()

    return changed


def pickled_by_torch(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_program_is_read(tmp_path: Path) -> None:
    program = read_program(as_program(tmp_path))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(program.module(check_guards=False)(images), own().eval()(images))


def test_example_inputs_that_would_be_unpickled_run_nothing(tmp_path: Path) -> None:
    """torch itself reads them with weights_only=True first, and goes on without it."""
    marker = tmp_path / "ran"

    def change(records: Records) -> None:
        records["data/sample_inputs/model.pt"] = pickled_by_torch(_Runs(marker))

    path = rewritten(as_program(tmp_path), change)
    with pytest.raises(QcamError, match=r"data/sample_inputs/model\.pt holds more than tensors, which torch would unpickle"):
        read_program(path)
    assert not marker.exists()


@pytest.mark.parametrize("place", ["weights", "constants"])
def test_weights_and_constants_that_are_pickled_run_nothing(place: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    config = f"data/{place}/model_{place}_config.json"
    held = {"weights": "weight_0", "constants": "opaque_obj_0"}[place]

    def change(records: Records) -> None:
        entry = {"path_name": held, "is_param": False, "use_pickle": True, "tensor_meta": None}
        in_json(config, lambda told: told["config"].update({"body.0.weight": entry}))(records)
        records[f"data/{place}/{held}"] = pickle.dumps(_Runs(marker))

    path = rewritten(as_program(tmp_path), change)
    with pytest.raises(QcamError, match=rf"'body\.0\.weight' in {config} is pickled .*, and torch would unpickle it"):
        read_program(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "expression",
    ["__import__('os').getpid()", "exec(chr(49))", "Symbol('s0').func", "open('x')", "().__class__", "(" * 3000],
)
def test_an_expression_that_is_no_size_is_never_evaluated(expression: str, tmp_path: Path) -> None:
    def change(records: Records) -> None:
        text = records["models/model.json"].decode()
        assert "Symbol('s77', positive=True, integer=True)" in text
        told = text.replace("Symbol('s77', positive=True, integer=True)", expression)
        records["models/model.json"] = told.encode()

    with pytest.raises(QcamError, match="is no expression of sizes, and Python would evaluate it"):
        read_program(rewritten(as_program(tmp_path), change))


@pytest.mark.parametrize(
    "target",
    ["torch.os.system", "_operator.attrgetter", "torch.ops.mine.op.default", "#mine:x", "torch.ops.aten.relu.__call__"],
)
def test_an_operator_that_is_none_of_torch_s_is_never_called(target: str, tmp_path: Path) -> None:
    change = in_json("models/model.json", lambda told: told["graph_module"]["graph"]["nodes"][0].update(target=target))
    with pytest.raises(QcamError, match=r"it calls .*, which is no operator of ATen or torchvision"):
        read_program(rewritten(as_program(tmp_path), change))


def test_brackets_without_end_are_no_json(tmp_path: Path) -> None:
    def change(records: Records) -> None:
        records["data/weights/extra.json"] = b"[" * 100_000

    with pytest.raises(QcamError, match=r"extra\.json is no JSON \(.*recursion"):
        read_program(rewritten(as_program(tmp_path), change))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data/aotinductor/model/net.so", "holds compiled code"),
        ("data/weights/model.pt", "keeps its tensors in a pickle"),
        ("models/other.json", "holds another program beside its own"),
    ],
)
def test_records_that_a_plain_network_has_not_are_refused(name: str, message: str, tmp_path: Path) -> None:
    def change(records: Records) -> None:
        records[name] = b"{}"

    with pytest.raises(QcamError, match=message):
        read_program(rewritten(as_program(tmp_path), change))


def test_an_archive_as_torch_writes_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QcamError, match="its records are compressed"):
        read_program(rewritten(as_program(tmp_path), lambda _records: None, compressed=True))
    path = as_program(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"")
    with pytest.raises(QcamError, match="holds one record twice"):
        read_program(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no file of torch.export.save, or damaged"),
        (b"PK\3\4 cut", "is no file of torch.export.save, or damaged"),
        (pickled_by_torch({"w": torch.zeros(2)}), "is a TorchScript archive or a state dict, no exported program"),
    ],
)
def test_what_is_no_program_is_told_for_what_it_is(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(QcamError, match=message):
        read_program(path)
    with pytest.raises(QcamError, match=r"is no file; give the file that torch\.export\.save wrote"):
        read_program(tmp_path / "none.pt2")
