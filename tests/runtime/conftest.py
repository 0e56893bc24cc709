"""What tests of the runtime share: bundles with weights in other files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from qcam.common.files import sha256_file
from qcam.runtime.bundle import MANIFEST, Bundle, load_bundle
from qcam.runtime.external import every_tensor, external_hashes


def put_outside(model: onnx.ModelProto, folder: Path, location: str) -> None:
    """Move the values of every tensor into one file beside the model, but axes and shapes: ONNX Runtime wants them inside."""
    data = b""
    for _, tensor in every_tensor(model):
        if tensor.HasField("raw_data") and tensor.data_type != TensorProto.INT64:
            values = tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", len(data)), ("length", len(values))):
                tensor.external_data.add(key=key, value=str(value))
            data += values
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    (folder / location).write_bytes(data)


def constants_of(model: onnx.ModelProto) -> None:
    """Turn the first large initializer of a model into a Constant node."""
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], name="held", value=tensor))
    model.graph.initializer.remove(tensor)


def record(folder: Path) -> None:
    """Bring a manifest up to its files."""
    value = json.loads((folder / MANIFEST).read_text())
    for entry in value["precisions"]:
        entry["sha256"] = sha256_file(folder / entry["file"])
        entry["external"] = external_hashes(folder / entry["file"])
    (folder / MANIFEST).write_text(json.dumps(value))


@pytest.fixture
def record_files() -> Callable[[Path], None]:
    return record


@pytest.fixture
def external_bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The tiny network, every value of it in files beside the ONNX files, one weight in a Constant node."""
    folder = tmp_path / "outside"
    shutil.copytree(tiny_bundle.folder, folder)
    for entry in tiny_bundle.precisions:
        model = onnx.load(folder / entry.file)
        constants_of(model)
        put_outside(model, folder, f"weights/{entry.name}.bin")
        (folder / entry.file).write_bytes(model.SerializeToString())
    record(folder)
    return load_bundle(folder)
