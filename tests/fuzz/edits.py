"""Edits of good documents, decided by bytes: JSON values and protobuf messages with something odd at some place."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from fuzz.reader import Reader

#: What stands in no good document.
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 2**31, 2**53 + 1, 2**63, -(2**63), 10**40, 0.5, -0.0, 1e-320, 1e308, float("inf"),
    float("-inf"), float("nan"), "", " ", "x" * 5000, "\x00", "\x1b[31m", "a\nb", "../../x", "/x", "..", "file:///x", "é",
    "\ud800",
    "int8", "f32", "float32", "uint8", "{force}", "nan", "1", "9" * 5000, [], [None], [[]], {}, {"": None}, {"a": {}},
)  # fmt: skip
_INTS = (0, 1, -1, 2, 3, 7, 8, 127, 128, 255, 256, 65535, 2**31 - 1, -(2**31), 2**32, 2**62, -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 1e38, float("inf"), float("-inf"), float("nan"))
_DEPTH = 40


def edited(value: Any, reader: Reader, most: int = 3) -> Any:
    """Return a copy of a JSON value with some edits, perhaps none."""
    value = copy.deepcopy(value)
    for _ in range(reader.integer(0, most)):
        value = _edit(value, reader)
    return value


def _edit(root: Any, reader: Reader) -> Any:
    holder: Any = None
    key: Any = None
    value = root
    for _ in range(_DEPTH):
        if not (isinstance(value, (dict, list)) and value) or reader.integer(0, 5) == 0:
            break
        holder = value
        key = reader.pick(*value) if isinstance(value, dict) else reader.integer(0, len(value) - 1)
        value = value[key]
    if holder is None:
        return copy.deepcopy(reader.pick(*ODD)) if reader.integer(0, 20) == 20 else root
    way = reader.integer(0, 6)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, list):
        holder.extend(copy.deepcopy(holder[key]) for _ in range(reader.pick(1, 1, 2, 300)))
    elif way == 1:
        holder[reader.pick("", "x", "\x00", "\ud800", "further", *holder)] = copy.deepcopy(value)
    elif way == 2:  # another of the same document
        other = root
        for _ in range(_DEPTH):
            if not (isinstance(other, (dict, list)) and other) or reader.integer(0, 3) == 0:
                break
            other = other[reader.pick(*other)] if isinstance(other, dict) else other[reader.integer(0, len(other) - 1)]
        holder[key] = copy.deepcopy(other)
    elif way == 3 and isinstance(value, (int, float)) and not isinstance(value, bool):
        whole = int(value) if math.isfinite(value) else 0
        holder[key] = reader.pick(value + 1, value - 1, -value, 0.5 + value, value * 1000, whole)
    elif way == 3 and isinstance(value, str):
        holder[key] = reader.pick(value + "x", value[:-1], value * 2, value.upper(), f" {value}", f"{value}\x00", f"../{value}")
    else:
        holder[key] = copy.deepcopy(reader.pick(*ODD))
    return root


def as_json(value: Any) -> bytes:
    """Return a value as JSON, with what JSON has no word for written as Python does: NaN, Infinity, lone surrogates."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def edit_message(message: Message, reader: Reader) -> None:
    """Change one place of a protobuf message: what is there is removed, repeated, moved or made odd."""
    for _ in range(_DEPTH):
        present = message.ListFields()
        if not present:
            return
        field, value = reader.pick(*present)
        inner = field.type == FieldDescriptor.TYPE_MESSAGE
        if not _repeated(field):
            if inner and reader.integer(0, 7):
                message = value
                continue
            if inner or reader.integer(0, 7) == 0:
                message.ClearField(field.name)
            else:
                setattr(message, field.name, _scalar(field, value, reader))
            return
        place = reader.integer(0, len(value) - 1)
        if inner and reader.integer(0, 5):
            message = value[place]
            continue
        way = reader.integer(0, 3)
        if way == 0:
            del value[place]
        elif way == 1:
            value.append(copy.deepcopy(value[place]))
        elif way == 2:
            other = reader.integer(0, len(value) - 1)
            first, second = copy.deepcopy(value[place]), copy.deepcopy(value[other])
            for at, item in ((place, second), (other, first)):
                if inner:
                    value[at].CopyFrom(item)
                else:
                    value[at] = item
        elif not inner:
            value[place] = _scalar(field, value[place], reader)
        return


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED)


def _scalar(field: FieldDescriptor, value: Any, reader: Reader) -> Any:
    """Return another value of a field's type."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING and field.type == FieldDescriptor.TYPE_BYTES:
        cut = reader.integer(0, 255)
        return reader.pick(b"", value[:-1], value[: len(value) // 2], value + b"\0", b"\xff" * len(value), bytes(len(value)),
                           value[:cut] + b"\x7f" + value[cut + 1 :])  # fmt: skip
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return reader.pick("", f"{value}x", "x", "ai.onnx", "com.microsoft", "Relu", "Conv", "Loop", "QuantizeLinear",
                           "axis", "pads",
                           "../x", "\x00", "x" * 3000, "%s", "{force}")  # fmt: skip
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return reader.pick(*_FLOATS, value * 2, -value)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return not value
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return reader.pick(*field.enum_type.values_by_number)
    wide = kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
    signed = kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32)
    number = reader.pick(*_INTS, value + 1, value - 1, -value, value * 2)
    low, high = (-(2 ** (63 if wide else 31)) if signed else 0), 2 ** (63 if wide else 31) - 1
    return min(max(number, low), high)
