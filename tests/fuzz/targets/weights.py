"""Bytes that come as weights: put into a network whole, or refused; no code of theirs runs."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from collections.abc import Iterator

import torch
from torch import nn

from fuzz.edits import as_json, edited
from fuzz.harness import Broken, scratch
from fuzz.reader import Reader, with_decisions
from qcam.models.checkpoints import read_checkpoint
from qcam.models.sources import fill_in
from qcam.models.wishes import Wishes

COVERED = ("qcam.models.checkpoints", "qcam.models.choice", "qcam.models.weights", "qcam.models.heads", "qcam.models.beside")
_ENDINGS = (".pth", ".safetensors", ".bin", ".pt")
_STORED = bytes(range(256)) * 4
torch.set_num_threads(1)


class _Net(nn.Module):
    """The smallest network with everything that weights of others bring: convolution, BatchNorm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fc(self.bn(self.conv(x)).mean((2, 3)))
        return found


def one(data: bytes) -> None:
    """Put one file into the network."""
    reader = Reader(data)
    ending, way = reader.pick(*_ENDINGS), reader.integer(0, 3)
    key = reader.pick(None, None, None, "state_dict", "", "model.ema", "x")
    classes = reader.pick(None, None, 5, 1, 3)
    file = reader.rest() if way < 2 else _as_safetensors(reader)
    if way == 1:
        file = _as_archive(file)
    path = scratch() / f"weights{ending}"
    path.write_bytes(file)
    checkpoint = read_checkpoint(path)
    net = _Net().eval()
    fill_in(net, checkpoint, "net", Wishes(key, classes))
    if not all(bool(value.isfinite().all()) for value in net.state_dict().values()):
        raise Broken("weights that were taken are finite")
    if net(torch.zeros(1, 3, 5, 5)).shape[0] != 1:
        raise Broken("a network with weights runs")


def _as_archive(pickle: bytes) -> bytes:
    """Put a pickle into an archive as torch writes it, with storages beside it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", "little")
        for place in range(8):
            archive.writestr(f"archive/data/{place}", _STORED)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _as_safetensors(reader: Reader) -> bytes:
    """Write a file of safetensors with an edited header."""
    header, values = _header()
    text = as_json(edited(header, reader, 4))
    return len(text).to_bytes(8, "little") + text + values


def _header() -> tuple[dict[str, object], bytes]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    values = b""
    for name, value in _Net().state_dict().items():
        data = value.numpy().tobytes()
        kind = "I64" if value.dtype == torch.int64 else "F32"
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(values), len(values) + len(data)]}
        values += data
    return header, values


def seeds() -> Iterator[bytes]:
    """Yield files as torch and safetensors write them, plain and wrapped, and pickles of them."""
    import random

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = _Net().state_dict()
    wrapped = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3, "args": {"lr": 0.1}}
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    for content in (state, wrapped, {"model": state, "model.ema": dict(state)}, halves, {"fc.weight": torch.zeros(2, 4)}):
        for archived in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=archived)
            yield with_decisions(buffer.getvalue(), 0, 0, 0, 0)
            if archived:
                with zipfile.ZipFile(buffer) as archive:
                    name = next(each for each in archive.namelist() if each.endswith("data.pkl"))
                    yield with_decisions(pickletools.optimize(archive.read(name)), 0, 1, 0, 0)
    header, values = _header()
    text = json.dumps(header).encode()
    yield with_decisions(len(text).to_bytes(8, "little") + text + values, 1, 0, 0, 0)
    numbers = random.Random(0)
    for _ in range(40):
        yield with_decisions(numbers.randbytes(30), 1, 2, 0, 0)
