"""The smallest and largest value of every activation, by one optimized run of the float graph in ONNX Runtime.

ONNX Runtime's own min-max calibrator does the same with its optimizations switched off and every activation kept, at several
times the cost of the inference. Here the reductions stand in the graph behind what they reduce, one result for each image, and
what is measured is only what a quantizer can ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import QcamError

#: Operators that an unsigned quantizer takes over: what they read is given the range of what they return.
_CLAMPING = frozenset({"Relu", "Clip"})
_AXES = "qcam_axes_of_rank_"
_REDUCTIONS = ("ReduceMin", "ReduceMax")


class CalibrationError(QcamError):
    """A tensor has no range; `tensor` is its name."""

    tensor: str = ""


Range = tuple[NDArray[np.float32], NDArray[np.float32]]


def minmax_ranges(
    model: onnx.ModelProto,
    folder: Path,
    batches: Iterable[NDArray[np.float32]],
    *,
    all_of_them: bool,
    keep: Iterable[str] = (),
    on_images: Callable[[int], None] = lambda _count: None,
) -> dict[str, Range]:
    """Run a float graph on images and return the range of every float activation.

    Args:
        model: Float ONNX graph with one image input (dynamic batch), shapes inferred; left as it was.
        folder: Where the graph with its reductions may be written.
        batches: float32, batch × 3 × height × width.
        all_of_them: Whether what a Relu or Clip alone reads is measured, too; otherwise it gets their results' range, as
            `onnxruntime.quantization` gives it for asymmetric activations.
        keep: Names of tensors to measure in any case.
        on_images: Called with the number of images done since the last call.

    Returns:
        Tensor name → minimum and maximum over all images, float32 scalars.

    Raises:
        CalibrationError: If a tensor is NaN or infinite on an image, or its range is; the first in the graph's order is named.
    """
    import onnxruntime

    alias = {} if all_of_them else _clamped(model, set(keep))
    measured = [name for name in _float_activations(model) if name not in alias]
    path = folder / "reduced.onnx"
    _save_with_reductions(model, measured, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Planned for the shapes of one run, every activation would have memory of its own.
    options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [f"{name}/{reduction}" for name in measured for reduction in _REDUCTIONS]
    feed = session.get_inputs()[0].name
    found: dict[str, Range] = {}
    for images in batches:
        values = session.run(names, {feed: images})
        for name, low, high in zip(measured, values[::2], values[1::2], strict=True):
            if not np.isfinite(high.astype(np.float64) - low).all() or not np.isfinite(np.float32(high.max() - low.min())):
                raise _overflows(model, name, float(low.min()), float(high.max()))
            before = found.get(name, (low, high))
            found[name] = (np.minimum(before[0], low).min(), np.maximum(before[1], high).max())
        on_images(len(images))
    return found | {name: found[other] for name, other in alias.items() if other in found}


def _overflows(model: onnx.ModelProto, name: str, low: float, high: float) -> CalibrationError:
    """Say which tensor has no range."""
    kinds = {output: node.op_type for node in model.graph.node for output in node.output}
    error = CalibrationError(
        f"the network overflows on calibration photographs: {name} ({kinds.get(name, 'input')}) is the first tensor whose "
        f"values have no finite range ({low:g} to {high:g}), and no integers hold that; check the weights, {{mean}} and {{std}}"
    )
    error.tensor = name
    return error


def _float_activations(model: onnx.ModelProto) -> list[str]:
    """Return the float tensors that the graph computes or is given, in its order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    values = {value.name: value for value in (*model.graph.value_info, *model.graph.output, *model.graph.input)}
    names = [value.name for value in model.graph.input] + [name for node in model.graph.node for name in node.output]
    return [
        name
        for name in dict.fromkeys(names)
        if name in values and name not in constants and values[name].type.tensor_type.elem_type == TensorProto.FLOAT
    ]


def _clamped(model: onnx.ModelProto, keep: set[str]) -> dict[str, str]:
    """Return what a clamping operator alone reads, with the name of that operator's result."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    given = {value.name for value in (*model.graph.input, *model.graph.output)} | keep
    return {
        name: nodes[0].output[0]
        for name, nodes in readers.items()
        if len(nodes) == 1 and nodes[0].op_type in _CLAMPING and name == nodes[0].input[0] and name not in given
    }


def _save_with_reductions(model: onnx.ModelProto, names: Iterable[str], path: Path) -> None:
    """Write a graph with reductions, over all but the images, each behind what it reduces; the graph is as before then."""
    graph = model.graph
    nodes, constants, outputs = list(graph.node), len(graph.initializer), len(graph.output)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output, *graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for rank in sorted({rank for rank in ranks.values() if rank > 1} if opset >= 18 else ()):
        graph.initializer.append(numpy_helper.from_array(np.arange(1, rank), f"{_AXES}{rank}"))
    reductions: dict[str, list[onnx.NodeProto]] = {}
    for name in names:
        rank = ranks.get(name, 0)
        inputs: list[str] = [name]
        attributes: dict[str, Any] = {"keepdims": 0}  # over everything: one number
        if rank > 1 and opset >= 18:
            inputs.append(f"{_AXES}{rank}")
        elif rank > 1:
            attributes["axes"] = list(range(1, rank))
        for reduction in _REDUCTIONS:
            output = f"{name}/{reduction}"
            reductions.setdefault(name, []).append(helper.make_node(reduction, inputs, [output], **attributes))
            graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    try:
        del graph.node[:]
        for name in (value.name for value in graph.input):
            graph.node.extend(reductions.get(name, []))
        for node in nodes:
            graph.node.append(node)
            for name in node.output:
                graph.node.extend(reductions.get(name, []))
        onnx.save(model, path)
    finally:
        del graph.node[:], graph.initializer[constants:], graph.output[outputs:]
        graph.node.extend(nodes)
