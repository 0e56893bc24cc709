"""A file that is skimmed is the file, without the values of its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import BundleError
from qcam.runtime.skimmed import skim

SMALL, LARGE = np.arange(4, dtype=np.int64), np.ones((200, 100), np.float32)


def save(path: Path) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product"), helper.make_node("Reshape", ["y", "s"], ["z"], "shaped")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 200])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(LARGE, "w"), numpy_helper.from_array(SMALL, "s")],
        value_info=[helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 100])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="a test")
    onnx.save(model, path)
    return model


def test_all_is_there_but_the_values_of_large_initializers(tmp_path):
    model = save(tmp_path / "model.onnx")
    skimmed = skim(tmp_path / "model.onnx")
    assert not skimmed.graph.initializer[0].raw_data
    skimmed.graph.initializer[0].raw_data = LARGE.tobytes()
    assert skimmed == model


def test_the_files_of_a_bundle_have_the_same_graph(tiny_bundle):
    for entry in tiny_bundle.precisions:
        whole, skimmed = onnx.load(tiny_bundle.path(entry.name)), skim(tiny_bundle.path(entry.name))
        for tensor in whole.graph.initializer:
            if len(tensor.raw_data) > 1 << 16:
                tensor.ClearField("raw_data")
        assert skimmed == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\xff" * 64,
        lambda data: b"no file",
        lambda data: b"\x0f",
    ],
    ids=["cut", "empty", "endless number", "text", "kind"],
)
def test_a_damaged_file_is_refused_as_its_reader_refuses_it(tmp_path, damage):
    path = tmp_path / "model.onnx"
    save(path)
    path.write_bytes(damage(path.read_bytes()))
    try:
        onnx.load(path)
    except Exception:
        with pytest.raises(BundleError, match=r"cannot read .*model\.onnx as an ONNX file"):
            skim(path)
    else:  # protobuf takes an empty file for an empty model
        assert skim(path) == onnx.load(path)
