"""A tiny quantized network as other tools write it: any layout, type, values and batch of its input; and a bundle around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcam.common.files import sha256_file
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import MANIFEST, Bundle, load_bundle

SIZE, CLASSES = (8, 6), 4
PREPROCESSING = Preprocessing(resize=SIZE, crop=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TAP = {"tensor": "r", "output": "r_q", "dtype": "uint8", "scale": 0.03125, "zero_point": 0}
#: What a manifest says of the network as `network` makes it by default.
PLAIN: dict[str, Any] = {
    "name": "pictures", "layout": "NCHW", "dtype": "float32", "size": list(SIZE), "channels": 3, "batch": None,
    "values": "normalised",
}  # fmt: skip


def network(*, tapped: bool = True, bias: float = 0.0, **taken: Any) -> onnx.ModelProto:
    """Return an int8 QDQ network: quantized input, Conv, Relu, quantized tap, mean, Gemm; its input as `taken` says."""
    told = PLAIN | taken
    numbers = np.random.default_rng(3)
    made: list[onnx.NodeProto] = []
    held: list[TensorProto] = []

    def constant(name: str, value: Any) -> str:
        held.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(operator: str, *inputs: str, to: str, **attributes: Any) -> str:
        made.append(helper.make_node(operator, list(inputs), [to], name=f"{operator}_{to}", **attributes))
        return to

    x = told["name"]
    if told["dtype"] == "uint8":
        made.append(helper.make_node("Cast", [x], ["cast"], name="Cast_cast", to=TensorProto.FLOAT))
        x = "cast"
    if told["layout"] == "NHWC":
        x = node("Transpose", x, to="nchw", perm=[0, 3, 1, 2])
    if told["values"] == "pixels":
        x = node("Div", x, constant("full", np.float32(255)), to="unit")
    if told["values"] != "normalised":
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (PREPROCESSING.mean, PREPROCESSING.std))
        x = node("Div", node("Sub", x, constant("mean", mean), to="centred"), constant("std", std), to="normalised")
    scale, zero = constant("x_s", np.float32(1 / 32)), constant("x_z", np.uint8(120))
    x = node("DequantizeLinear", node("QuantizeLinear", x, scale, zero, to="x_q"), scale, zero, to="x_d")
    constant("w_c", numbers.integers(-90, 90, (5, 3, 3, 3)).astype(np.int8))
    w = node("DequantizeLinear", "w_c", constant("w_s", np.float32(1 / 128)), constant("w_z", np.int8(0)), to="w")
    x = node("Relu", node("Conv", x, w, to="c", pads=[1, 1, 1, 1]), to="r")
    scale, zero = constant("r_s", np.float32(1 / 32)), constant("r_z", np.uint8(0))
    x = node("DequantizeLinear", node("QuantizeLinear", x, scale, zero, to="r_q"), scale, zero, to="r_d")
    x = node("GlobalAveragePool", x, to="p")
    batch = told["batch"]
    shape = constant("shape", np.array([0 if batch is None else batch, 5], np.int64))  # a fixed batch is fixed inside as well
    weights = constant("g_w", numbers.normal(size=(CLASSES, 5)).astype(np.float32))
    offsets = constant("g_b", np.full(CLASSES, bias, np.float32))
    node("Gemm", node("Reshape", x, shape, to="f"), weights, offsets, to="logits", transB=1)
    image = [3, *SIZE] if told["layout"] == "NCHW" else [*SIZE, 3]
    kind = TensorProto.UINT8 if told["dtype"] == "uint8" else TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    if tapped:
        outputs.append(helper.make_tensor_value_info("r_q", TensorProto.UINT8, None))
    graph = helper.make_graph(
        made, "g", [helper.make_tensor_value_info(told["name"], kind, [batch or "n", *image])], outputs, held
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def manifest(precisions: list[dict[str, Any]], **further: Any) -> dict[str, Any]:
    """Return a manifest of schema 2."""
    return {
        "schema_version": 2,
        "model": {"id": "brought", "source": "test", "weights": {"name": "theirs"}},
        "preprocessing": PREPROCESSING.to_json(),
        "cam_layer": {"tensor": "r"},
        "calibration": {},
        "precisions": precisions,
        "versions": {},
        "classes": [f"class {number}" for number in range(CLASSES)],
    } | further


def described(folder: Path, file: str = "int8.onnx", name: str = "int8-vendor", **further: Any) -> dict[str, Any]:
    """Return what a manifest of schema 2 says of a file made by `network`."""
    return {
        "name": name, "file": file, "sha256": sha256_file(folder / file), "logits": "logits", "tap": TAP, "skips": [],
        "quantization": {"format": "QDQ"}, "input": PLAIN, "session": {},
    } | further  # fmt: skip


def brought(folder: Path, *, original: onnx.ModelProto | None = None, proof: str = "", **taken: Any) -> Bundle:
    """Make and open a bundle of one such file, with an original beside it if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(network(**taken), folder / "int8.onnx")
    further: dict[str, Any] = {"input": PLAIN | taken}
    if original is not None:
        onnx.save(original, folder / "theirs.onnx")
        further |= {"original": {"file": "theirs.onnx", "sha256": sha256_file(folder / "theirs.onnx")}, "proof": proof}
    return written(folder, manifest([described(folder, **further)]))


def written(folder: Path, value: Mapping[str, Any]) -> Bundle:
    """Write a manifest and open the bundle."""
    (folder / MANIFEST).write_text(json.dumps(value))
    return load_bundle(folder)
