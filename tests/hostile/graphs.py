"""ONNX files of a bundle, changed: constants moved out of the file, manifests made right again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hostile.harness import edit_json, sha256


def entry_of(bundle: Path, precision: str) -> dict[str, Any]:
    """Return a precision's entry in the manifest."""
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(entry for entry in manifest["precisions"] if entry["name"] == precision)
    return found


def change_graph(bundle: Path, precision: str, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Change a precision's ONNX file, and make the manifest right again."""
    path = bundle / entry_of(bundle, precision)["file"]
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    sign_bundle(bundle, precision)
    return path


def sign_bundle(bundle: Path, precision: str, **further: object) -> None:
    """Make the manifest's SHA-256 of a precision right; `further` fields of its entry are set."""

    def edit(manifest: Any) -> None:
        for entry in manifest["precisions"]:
            if entry["name"] == precision:
                entry["sha256"] = sha256(bundle / entry["file"])
                entry.update(further)

    edit_json(bundle / "bundle.json", edit)


def largest_weight(model: onnx.ModelProto) -> onnx.TensorProto:
    """Return the initializer with the most values."""
    return max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))


def move_out(model: onnx.ModelProto, folder: Path, location: str, *, constant: bool) -> Path:
    """Move the largest weight into a file outside the graph, as an initializer or as the value of a Constant node.

    Args:
        model: The graph, changed in place.
        folder: Of the ONNX file.
        location: What the graph calls the file.
        constant: Whether a Constant node takes the initializer's place.

    Returns:
        The file.
    """
    tensor = largest_weight(model)
    data = numpy_helper.to_array(tensor).tobytes()
    path = Path(location) if location.startswith("/") else folder / location
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    outside = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    outside.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(data)))):
        outside.external_data.add(key=key, value=value)
    place = next(i for i, each in enumerate(model.graph.initializer) if each.name == tensor.name)
    del model.graph.initializer[place]
    if constant:
        node = helper.make_node("Constant", [], [outside.name], name="outside", value=outside)
        model.graph.node.insert(0, node)
    else:
        model.graph.initializer.append(outside)
    return path


def other_weights(path: Path) -> None:
    """Change every value of a file of int8 or float32 weights a little, and not its size."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    path.write_bytes(np.roll(data, 36).tobytes())
