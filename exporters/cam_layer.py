"""Which tensor carries the CAM layer: from a torch module path or an ONNX tensor name, with help when there is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn

import torch
from onnx import helper

from qcam.common import telling
from qcam.common.errors import QcamError
from qcam.exporters.layout import TO_FIRST, TO_LAST, is_map_with_channels_last, layout_of
from qcam.runtime.graph import Graph, unused

#: Operators that only make a map smaller.
_POOLING = frozenset({"MaxPool", "AveragePool", "LpPool"})


def resolve_cam_layer(graph: Graph, modules: dict[str, str], module: torch.nn.Module, requested: str) -> str:
    """Find the tensor of a CAM layer in the float graph.

    Args:
        graph: The exported float graph.
        modules: Torch module path → tensor, from the export.
        module: The torch model, for the paths that did not survive the export.
        requested: A module path, an ONNX tensor name, or empty for the last feature map of the graph.

    Returns:
        The tensor's name. Where its channels are last, that of the same map with channels first, which is put into the graph:
        `graph` is out of date then.

    Raises:
        QcamError: If the layer does not exist, is not spatial, or vanished by fusion; the nearest that exist are listed. If its
            layout cannot be told.
    """
    if not requested:
        return _with_channels_first(graph, _last_feature_map(graph))
    tensor = modules.get(requested, requested if requested in graph.producer else None)
    if tensor is None:
        _vanished(graph, modules, module, requested)
    if not graph.is_spatial(tensor):
        shape = "×".join("batch" if size is None else str(size) for size in graph.shapes.get(tensor, ())) or "unknown"
        near = _listed(_spatial_modules(graph, modules, module), requested)
        raise QcamError(f"CAM layer {requested} is no feature map (shape {shape}); spatial layers near it: {near}")
    if not _has_channels(graph, tensor):
        shape = "×".join("batch" if size is None else str(size) for size in graph.shapes[tensor])
        candidates = [path for path in _spatial_modules(graph, modules, module) if _has_channels(graph, modules[path])]
        near = _listed(candidates, requested)
        raise QcamError(
            f"CAM layer {requested} has axes of which the channels' cannot be told (shape {shape}); a CAM needs batch × "
            f"channels × height × width; layers of that kind near it: {near}"
        )
    return _with_channels_first(graph, tensor)


def _last_feature_map(graph: Graph) -> str:
    """Return the last map that the logits depend on, before whatever pools it: a pooled map shows less of where."""
    needed = graph.upstream(graph.outputs[:1])
    last = next((node.output[0] for node in reversed(graph.model.graph.node) if _is_map(graph, node.output[0], needed)), None)
    if last is None:
        raise QcamError("the model has no feature map with height and width (is it a transformer?); a CAM needs one")
    while graph.producer[last].op_type in _POOLING and _is_map(graph, graph.producer[last].input[0], needed):
        last = graph.producer[last].input[0]
    if not _has_channels(graph, last):
        raise QcamError(
            f"the model's last map {last} comes out of rearranged dimensions: it has axes of which the channels' cannot be "
            "told (a transformer?); name a layer of batch × channels × height × width with {cam_layer}"
        )
    return str(last)


def _has_channels(graph: Graph, tensor: str) -> bool:
    """Tell whether it is known which axis of a map holds its channels, and which height and width."""
    layout = layout_of(graph, tensor)
    return layout == "first" or (layout == "last" and is_map_with_channels_last(graph, tensor))


def _with_channels_first(graph: Graph, tensor: str) -> str:
    """Return a map with its channels first; of one that has them last, transposed there and back before it is read."""
    if layout_of(graph, tensor) == "first":
        return tensor
    nodes = graph.model.graph.node
    first, back = (unused(graph.model, f"{tensor}_channels_{which}") for which in ("first", "last"))
    for node in nodes:
        for place, name in enumerate(node.input):
            if name == tensor:
                node.input[place] = back
    at = next(place for place, node in enumerate(nodes) if tensor in node.output) + 1
    nodes.insert(at, helper.make_node("Transpose", [first], [back], name=f"node_{back}", perm=list(TO_LAST)))
    nodes.insert(at, helper.make_node("Transpose", [tensor], [first], name=f"node_{first}", perm=list(TO_FIRST)))
    shapes = (*graph.model.graph.value_info, *graph.model.graph.output)
    told = next(value for value in shapes if value.name == tensor)  # a map: `is_spatial` knows its shape
    for name, order in ((first, TO_FIRST), (back, (0, 1, 2, 3))):
        value = graph.model.graph.value_info.add()
        value.CopyFrom(told)
        value.name = name
        dimensions = told.type.tensor_type.shape.dim
        for place, source in enumerate(order):
            value.type.tensor_type.shape.dim[place].CopyFrom(dimensions[source])
    telling.note(f"{tensor} has its channels last; the CAM layer is {first}, the same map with its channels first")
    return first


def _is_map(graph: Graph, tensor: str, needed: set[str]) -> bool:
    return tensor in needed and tensor in graph.producer and graph.is_spatial(tensor)


def _vanished(graph: Graph, modules: dict[str, str], module: torch.nn.Module, requested: str) -> NoReturn:
    spatial = _spatial_modules(graph, modules, module)
    existing = dict(module.named_modules())
    if requested not in existing:
        tensors = [node.output[0] for node in graph.model.graph.node if graph.is_spatial(node.output[0])]
        near = difflib.get_close_matches(requested, [*spatial, *tensors], n=6, cutoff=0.0)
        raise QcamError(f"CAM layer {requested} does not exist; nearest layers and tensors: {', '.join(near)}")
    folded = f"{requested}.weight" in graph.initializers
    why = "BatchNorm was folded into it" if folded else "the exporter merged it into its neighbours"
    listed = _listed(spatial, requested, list(existing))
    raise QcamError(f"CAM layer {requested} vanished by fusion ({why}); nearest layers that exist: {listed}")


def _spatial_modules(graph: Graph, modules: dict[str, str], module: torch.nn.Module) -> list[str]:
    return [path for path, _ in module.named_modules() if path in modules and graph.is_spatial(modules[path])]


def _listed(candidates: Sequence[str], requested: str, order: Iterable[str] | None = None) -> str:
    """Name up to six candidates: by place in the network if an order is given, else by similarity of name."""
    if order is None:
        near = difflib.get_close_matches(requested, candidates, n=6, cutoff=0.0)
    else:
        place = {path: index for index, path in enumerate(order)}
        near = sorted(candidates, key=lambda path: abs(place[path] - place[requested]))[:6]
    return ", ".join(near) or "none"
