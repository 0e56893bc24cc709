"""What every tool starts from: float networks and the calibration pictures, as plain files that need no qcam."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcam.common.files import readable_json, write_atomically
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import load_bundle, load_onnx

#: The network with random weights: its files prove that code is equal, and nothing else.
TINY = "tiny"
_TINY_INPUT = Preprocessing(36, (32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def write_inputs(bundles: Sequence[Path], folder: Path) -> list[str]:
    """Write NETWORK.onnx, NETWORK.npy and NETWORK.json for the networks of some bundles, and for the tiny one.

    Args:
        bundles: Bundles of trained networks with an f32 file.
        folder: Where to write; it is made.

    Returns:
        The names of the networks, the tiny one first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, TINY, tiny(), _TINY_INPUT, {"trained": False, "classes": [f"class {i}" for i in range(10)]})
    names = [TINY]
    for path in bundles:
        bundle = load_bundle(path)
        model, entry = load_onnx(bundle, "f32"), bundle.precision("f32")
        for output in [output for output in model.graph.output if output.name != entry.logits]:
            model.graph.output.remove(output)
        facts = {"trained": bundle.trained, "weights": bundle.weights.name, "classes": list(bundle.classes)}
        _write(folder, bundle.model_id, model, bundle.preprocessing, facts)
        names.append(bundle.model_id)
    return names


def _write(folder: Path, name: str, model: Any, preprocessing: Preprocessing, facts: dict[str, Any]) -> None:
    crops = [preprocessing.crop_image(decode(photograph.path).image) for photograph in evaluation_photographs()]
    pictures = io.BytesIO()
    np.save(pictures, preprocessing.normalise(np.stack(crops)))
    write_atomically(folder / f"{name}.npy", pictures.getvalue())
    write_atomically(folder / f"{name}.onnx", model.SerializeToString())
    write_atomically(folder / f"{name}.json", readable_json({"preprocessing": preprocessing.to_json(), **facts}))


def tiny(seed: int = 16) -> Any:
    """Return the tiny network: 3 × 32 × 32 in, 10 logits out; Conv, depthwise, residual Add, pooling, Gemm; 6,000 weights."""
    random = np.random.default_rng(seed)
    weights: list[Any] = []

    def constant(name: str, values: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def layer(name: str, *shape: int) -> list[str]:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        values = random.normal(0, spread, shape).astype(np.float32)
        bias = random.normal(0, 0.1, shape[0]).astype(np.float32)
        return [constant(f"{name}.weight", values), constant(f"{name}.bias", bias)]

    def conv(name: str, source: str, shape: tuple[int, ...], stride: int, group: int = 1) -> Any:
        pads = [shape[-1] // 2] * 4
        inputs = [source, *layer(name, *shape)]
        return helper.make_node(
            "Conv", inputs, [name], name, kernel_shape=list(shape[2:]), pads=pads, strides=[stride] * 2, group=group
        )

    zero, six = constant("zero", np.float32(0)), constant("six", np.float32(6))
    nodes = [
        conv("stem", "images", (16, 3, 3, 3), 2),
        helper.make_node("Clip", ["stem", zero, six], ["stem.act"], "stem.act"),
        conv("depthwise", "stem.act", (16, 1, 3, 3), 1, 16),
        helper.make_node("Clip", ["depthwise", zero, six], ["depthwise.act"], "depthwise.act"),
        conv("project", "depthwise.act", (16, 16, 1, 1), 1),
        helper.make_node("Add", ["stem.act", "project"], ["residual"], "residual"),
        conv("head", "residual", (32, 16, 3, 3), 2),
        helper.make_node("Relu", ["head"], ["head.act"], "head.act"),
        helper.make_node("GlobalAveragePool", ["head.act"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["features"], "flatten", axis=1),
        helper.make_node("Gemm", ["features", *layer("classifier", 10, 32)], ["logits"], "classifier", transB=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, TINY, [images], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="tiny, random weights")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model
