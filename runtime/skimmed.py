"""An ONNX file without the values of its weights: what a graph looks like, without reading half a gigabyte for it.

Protobuf writes each field as a number, a kind and, of what is longer than a number, its length: what is not wanted is passed
over. Nothing is computed from such a model; what runs is the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto

from qcam.runtime.external import parse_onnx

#: Numbers of fields in onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
#: Values of more bytes are left out.
_LARGE = 1 << 16
#: Kinds of fields in protobuf's encoding: a number, eight bytes, a length and so many bytes, four bytes.
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def skim(path: Path) -> ModelProto:
    """Read an ONNX file without the values of its large initializers: names, types and shapes are there.

    Args:
        path: The file.

    Raises:
        BundleError: If it is no ONNX file.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _skimmed(data)
    except (OSError, ValueError, IndexError):  # empty, cut off, no such file: its reader says it better
        return parse_onnx(path)
    except Exception as error:  # protobuf's own kinds, by version
        if type(error).__name__ != "DecodeError":
            raise
        return parse_onnx(path)


def _skimmed(data: mmap.mmap) -> ModelProto:
    model, graph = bytearray(), bytearray()
    tensors: list[TensorProto] = []
    for number, start, value, end in _fields(data, 0, len(data)):
        if number != _GRAPH:
            model += data[start:end]
            continue
        for inner, begin, inside, finish in _fields(data, value, end):
            if inner != _INITIALIZER:
                graph += data[begin:finish]
                continue
            kept = bytearray()
            for field, first, content, last in _fields(data, inside, finish):
                if field != _RAW_DATA or last - content <= _LARGE:
                    kept += data[first:last]
            tensors.append(TensorProto.FromString(bytes(kept)))
    result: ModelProto = ModelProto.FromString(bytes(model))
    result.graph.CopyFrom(GraphProto.FromString(bytes(graph)))
    result.graph.initializer.extend(tensors)
    return result


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of a message: the number, where the field, its value and the next field begin.

    Raises:
        ValueError: If a field reaches past the message, or is of an unknown kind.
    """
    place = start
    while place < end:
        begin = place
        key, place = _varint(data, place)
        kind, value = key & 7, place
        if kind == _VARINT:
            _, place = _varint(data, place)
        elif kind == _BYTES:
            length, value = _varint(data, place)
            place = value + length
        elif kind in (_EIGHT, _FOUR):
            place += 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if place > end:
            raise ValueError("a field reaches past its message")
        yield key >> 3, begin, value, place


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Return a number written in groups of seven bits, and the place behind it."""
    result = shift = 0
    while True:
        byte = data[place]
        place += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, place
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
