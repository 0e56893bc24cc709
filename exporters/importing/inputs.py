"""How a foreign file takes pictures: layout, type, size, a fixed batch, and whether it normalises by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from qcam.common.errors import QcamError, UnsupportedGraphError
from qcam.common.vocabulary import InputValues, Layout
from qcam.exporters.importing.decisions import Decisions
from qcam.exporters.layout import layout_of
from qcam.runtime.feeding import Input
from qcam.runtime.graph import Graph, attribute, type_name
from qcam.runtime.tables import QUANTIZERS

#: Channels that a picture can have.
_CHANNELS = (1, 3)
#: How wide a picture's values are once they are normalised: from [0, 1], and twice that, to what small deviations make of it.
_NARROWEST, _WIDEST = 0.9, 12.0
#: From this factor on, values of 0..1 were spread: a layer that only follows normalised values has one near 1.
_SPREADS = 1.5
#: What is subtracted of pixels that are not scaled (Caffe's way) is at least so much.
_PIXELS_LESS = 20.0
#: ImageNet's mean pixel in the order B, G, R; the other way round nobody has to be told.
_BLUE_FIRST = (103.94, 116.78, 123.68)
_AXES = {Layout.NCHW: (1, 2, 3), Layout.NHWC: (3, 1, 2)}


@dataclass(frozen=True)
class Asked:
    """What was asked for about the input.

    Attributes:
        size: Height and width; None: as the file says.
        layout: NCHW or NHWC; None: as the file says.
        values: normalised, unit or pixels; None: as the file says.
        normalising: Whether mean and std are given, which a file that normalises by itself has no use for.
    """

    size: tuple[int, int] | None = None
    layout: str | None = None
    values: str | None = None
    normalising: bool = False


def dimensions(model: ModelProto) -> tuple[str, list[int | None], int]:
    """Return name, shape and type of a graph's one input."""
    name = Graph(model).image_input
    told = next(value.type.tensor_type for value in model.graph.input if value.name == name)
    sizes = [size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None for size in told.shape.dim]
    return name, sizes, told.elem_type


def fixed_size(model: ModelProto, size: tuple[int, int] | None, layout: str | None) -> None:
    """Write the size that was asked for into a graph's input where the file leaves it open, so that shapes follow from it.

    Args:
        model: The model; its input is changed.
        size: Height and width.
        layout: NCHW or NHWC, where it was asked for.
    """
    name, sizes, _ = dimensions(model)
    if size is None or len(sizes) != 4:
        return
    last = layout == Layout.NHWC or (layout is None and sizes[1] not in _CHANNELS and sizes[3] in _CHANNELS)
    told = next(value.type.tensor_type for value in model.graph.input if value.name == name)
    for axis, side in zip(_AXES[Layout.NHWC if last else Layout.NCHW][1:], size, strict=True):
        if sizes[axis] is None:
            told.shape.dim[axis].dim_value = side


def find_input(graph: Graph, asked: Asked, where: str, noted: Decisions) -> Input:
    """Find how a file takes pictures.

    Args:
        graph: The normalised graph, its input's size known if it was asked for.
        asked: What was asked for.
        where: What messages call the file.
        noted: Takes what was decided.

    Returns:
        How it takes pictures.

    Raises:
        QcamError: If that cannot be told, names the option that tells it; if what was asked for is not what the file says.
        UnsupportedGraphError: If the input is no picture.
    """
    name, sizes, kind = dimensions(graph.model)
    shape = "×".join("?" if size is None else str(size) for size in sizes) or "unknown"
    if len(sizes) != 4:
        raise UnsupportedGraphError(
            f"{where}: input {name} has shape {shape}; a picture has four dimensions: batch, channels, height, width"
        )
    if kind not in (TensorProto.FLOAT, TensorProto.UINT8):
        raise UnsupportedGraphError(
            f"{where}: input {name} is of type {type_name(kind)}; float32 and uint8 are imported"
        )
    dtype = "float32" if kind == TensorProto.FLOAT else "uint8"
    layout, because = _layout(graph, name, sizes, asked, where)
    noted.note("input", f"{name}, {layout}, {dtype}", because)
    axis, *sides = _AXES[Layout(layout)]
    channels = sizes[axis] or _channels_read(graph, name)
    if channels not in _CHANNELS:
        said = "an unknown number of" if channels is None else str(channels)
        raise UnsupportedGraphError(f"{where}: input {name} takes {said} channels; a photograph has 3, or 1 if it is grey")
    size = _size([sizes[side] for side in sides], asked.size, name, shape, where)
    noted.note("size", f"{size[0]} × {size[1]}, {channels} channels" + (", fed as R, G, B" if channels == 3 else ""),
               "the file" if None not in [sizes[side] for side in sides] else "{size}")  # fmt: skip
    batch = sizes[0]
    noted.note("batch", "any" if batch is None else f"fixed to {batch}", "the file")
    values = _values(graph, name, dtype, channels, asked, where, noted)
    return Input(name, layout, dtype, size, channels, batch, values)


def _layout(graph: Graph, name: str, sizes: list[int | None], asked: Asked, where: str) -> tuple[str, str]:
    """Return the layout, and what says so: the operators behind the input, else its sizes."""
    follows = {"first": Layout.NCHW, "last": Layout.NHWC}.get(layout_of(graph, name) or "")
    fits = [layout for layout, axes in _AXES.items() if sizes[axes[0]] in (*_CHANNELS, None)]
    if follows is not None and fits and follows not in fits:
        follows = None  # operators that treat other axes so
    found = follows or (fits[0] if len(fits) == 1 else None)
    if asked.layout is not None:
        if found is not None and asked.layout != found:
            raise QcamError(f"{where}: input {name} is {found.value}, {{layout}} says {asked.layout}; leave it out")
        return asked.layout, "the file" if found is not None else "{layout}"
    if found is None:
        raise QcamError(f"{where}: neither sizes nor operators tell the layout of input {name}; give {{layout}} NCHW or NHWC")
    return found.value, "the operators behind it" if follows is not None else "its sizes"


def _channels_read(graph: Graph, name: str) -> int | None:
    """Return how many channels the first convolutions read, where the input itself does not say."""
    todo, seen = [name], set()
    while todo:
        tensor = todo.pop(0)
        for node in graph.consumers.get(tensor, []):
            if node.op_type == "Conv" and node.input[0] == tensor:
                shape = graph.shapes.get(node.input[1])
                weight = graph.initializers.get(node.input[1])
                sizes = list(weight.dims) if weight is not None else list(shape or ())
                group = attribute(node, "group", 1)
                if len(sizes) == 4 and sizes[1] and isinstance(group, int):
                    return int(sizes[1]) * group
            elif node.output[0] not in seen:
                seen.add(node.output[0])
                todo.append(node.output[0])
    return None


def _size(sides: list[int | None], asked: tuple[int, int] | None, name: str, shape: str, where: str) -> tuple[int, int]:
    if asked is not None:
        if any(side not in (None, wanted) for side, wanted in zip(sides, asked, strict=True)):
            raise QcamError(
                f"{where}: input {name} has shape {shape}, which is not the size {asked[0]},{asked[1]} that was asked for; "
                "leave {size} out, or take a {like} of that size"
            )
        return asked
    if sides[0] is None or sides[1] is None:
        raise QcamError(f"{where}: input {name} has shape {shape}, so its size is not known; give {{size}} H,W")
    return sides[0], sides[1]


def _values(graph: Graph, name: str, dtype: str, channels: int, asked: Asked, where: str, noted: Decisions) -> str:
    """Return what the input's values are; the constants right behind it tell where the graph normalises."""
    found = _normalisation(graph, name, channels)
    told = None if found is None else _scale_of(*found)
    if found is not None and _blue_first(*found):
        raise UnsupportedGraphError(
            f"{where}: {_words(found)} behind input {name}: those are ImageNet's means of B, G, R, and pictures are fed as R, "
            "G, B; save the file with its first weights and means in that order"
        )
    if dtype == "uint8":
        told, because = InputValues.PIXELS, "an input of uint8"
        if asked.values not in (None, told):
            raise QcamError(f"{where}: input {name} is of uint8, so its values are pixels; leave {{values}} out")
    elif asked.values is not None:
        if told is not None and asked.values != told:
            raise QcamError(
                f"{where}: {{values}} says {asked.values}, but {_words(found)} behind input {name}, so its values are "
                f"{told.value}; leave {{values}} out"
            )
        told, because = InputValues(asked.values), "{values}"
    elif found is None:
        told, because = InputValues.NORMALISED, "nothing behind it normalises"
    elif told is None:
        raise QcamError(
            f"{where}: {_words(found)} behind input {name}, which does not tell whether its values are normalised before, "
            "0..1 or 0..255; give {values} normalised, unit or pixels"
        )
    else:
        because = f"the graph normalises: {_words(found)}"
    spans = {InputValues.NORMALISED: "normalised outside", InputValues.UNIT: "0..1", InputValues.PIXELS: "0..255"}
    noted.note("values", spans[told], because)
    return told.value


def _words(found: tuple[NDArray[np.float64], NDArray[np.float64]] | None) -> str:
    if found is None:
        return "nothing is done"
    factor, offset = (",".join(f"{value:.4g}" for value in dict.fromkeys(part.tolist())) for part in found)
    return f"x · {factor} + {offset}"


def _scale_of(factor: NDArray[np.float64], offset: NDArray[np.float64]) -> InputValues | None:
    """Tell from x · factor + offset what x is; None if it may be several things."""
    steps = np.abs(factor)
    if np.all((steps * 255 >= _NARROWEST) & (steps * 255 <= _WIDEST)):
        return InputValues.PIXELS
    if np.all((np.abs(offset) > _PIXELS_LESS) & (-offset / factor >= 0) & (-offset / factor <= 255)):
        return InputValues.PIXELS
    if np.all((steps >= _SPREADS) & (steps <= _WIDEST) & (np.abs(factor / 2 + offset) <= 1)):
        return InputValues.UNIT
    return None


def _blue_first(factor: NDArray[np.float64], offset: NDArray[np.float64]) -> bool:
    """Tell whether what is subtracted are ImageNet's means in the order of Caffe's files, on 0..255 or 0..1."""
    means = -offset / factor
    return any(bool(np.allclose(means * scale, _BLUE_FIRST, atol=1.5)) for scale in (1.0, 255.0))


def _normalisation(graph: Graph, name: str, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return factor and offset of what the operators right behind the input do to it, by channel; None if they do nothing."""
    factor, offset = np.ones(channels), np.zeros(channels)
    done = False
    tensor = name
    while True:
        readers = graph.consumers.get(tensor, [])
        if len(readers) != 1 or tensor in graph.outputs:
            break
        node = readers[0]
        if node.op_type == "DequantizeLinear" and tensor == name:  # codes come in: their scale is what normalises
            step = _step(graph, node, tensor, channels)
        elif node.op_type in (*QUANTIZERS, "Cast", "Transpose"):
            tensor = str(node.output[0])
            continue
        else:
            step = _step(graph, node, tensor, channels)
        if step is None:
            break
        factor, offset = factor * step[0], offset * step[0] + step[1]
        done = True
        tensor = str(node.output[0])
    return (factor, offset) if done else None


def _step(graph: Graph, node: NodeProto, tensor: str, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return factor and offset of one operator; None if it is none that normalises."""
    if node.op_type == "BatchNormalization" and node.input[0] == tensor:
        scale, bias, mean, variance = (_numbers(graph, name, channels) for name in node.input[1:5])
        epsilon = attribute(node, "epsilon", 1e-5)
        if scale is None or bias is None or mean is None or variance is None or not isinstance(epsilon, float):
            return None
        factor = scale / np.sqrt(variance + epsilon)
        return factor, bias - mean * factor
    if node.op_type == "DequantizeLinear":
        scale, zero = (_numbers(graph, name, channels) for name in node.input[1:3])
        return None if scale is None or zero is None else (scale, -zero * scale)
    if node.op_type not in ("Sub", "Add", "Mul", "Div") or len(node.input) != 2:
        return None
    first = node.input[0] == tensor
    number = _numbers(graph, node.input[1] if first else node.input[0], channels)
    one = np.ones(channels)
    if number is None:
        return None
    if node.op_type == "Add":
        return one, number
    if node.op_type == "Sub":
        return (one, -number) if first else (-one, number)
    if node.op_type == "Mul":
        return number, 0 * one
    return (1 / number, 0 * one) if first and np.all(number != 0) else None


def _numbers(graph: Graph, name: str, channels: int) -> NDArray[np.float64] | None:
    """Return a constant as one number for each channel; None if it is none of one or so many."""
    producer = graph.producer.get(name)
    value = graph.constant(name)
    if value is None and producer is not None and producer.op_type == "DequantizeLinear":  # a quantized constant
        codes, scale, zero = (graph.constant(part) for part in producer.input[:3])
        if codes is not None and scale is not None and zero is not None and scale.size == 1:
            value = (codes.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)
    if value is None or value.size not in (1, channels) or value.dtype.kind not in "fiu":
        return None
    return np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,))
