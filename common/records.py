"""Records that come from a disk or from another process: the one door that they pass, which leaves typed values behind it.

What no record of this program can be is refused before a field is looked at: text that is not UTF-8 or not JSON, a key that
stands twice, NaN and infinity, numbers beyond 64 bits, half of a surrogate pair, a NUL, nesting or length without end. Then
msgspec holds every field against its type, and the message names the file and the field. Fields that nobody asks for are let
through: a later version of this program may have written them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from qcam.common.errors import QcamError, ResultsError, first_line
from qcam.common.storage import reason

#: Longest record that is read, in bytes, and how deep its lists and objects may lie in each other.
LONGEST, DEEPEST = 1 << 28, 64
#: What is to be done about a record of a result folder.
AGAIN = "run {qcam-eval} again with {force}"

_WIDEST = 1 << 64
_UNPRINTABLE = re.compile("[\x00\ud800-\udfff]")
#: Characters of a key that a message shows.
_SHOWN = 80
_WHOLE = "the whole"
_STEP = re.compile(r"\.(?P<field>[^.\[\]]+)|\[(?P<place>\d+|\.\.\.)\]")
_WANTED = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list",
    "object": "an object", "int | float": "a number",
}  # fmt: skip
_FOUND = _WANTED | {"float": "a number with a point", "bool": "a truth value", "null": "missing"}

Kind = TypeVar("Kind")


def read_record(
    source: Path | bytes | str,
    kind: type[Kind],
    where: str = "",
    *,
    error: type[QcamError] = ResultsError,
    advice: str = AGAIN,
    finite: bool = True,
    repeated: bool = False,
) -> Kind:
    """Read a record.

    Args:
        source: A file, or the content of one.
        kind: What it has to be: a dataclass, or any type that msgspec knows.
        where: What messages call it; empty for the path.
        error: What to raise.
        advice: What the user can do, for messages; empty where the caller says it.
        finite: Whether NaN and infinity are refused; few records hold them, and on purpose.
        repeated: Whether a key may stand twice in one object, the last one counting: other programs' files have that.

    Returns:
        The record.

    Raises:
        QcamError: `error`, if it cannot be read, is no JSON, or a field is missing or of another type.
    """
    where = where or _name(source)
    value = read_json(source, where, error=error, advice=advice, finite=finite, repeated=repeated)
    return as_record(value, kind, where, error=error, advice=advice)


def read_json(
    source: Path | bytes | str,
    where: str = "",
    *,
    error: type[QcamError] = ResultsError,
    advice: str = AGAIN,
    finite: bool = True,
    repeated: bool = False,
) -> Any:
    """Read JSON whose fields are looked at later, with `as_record`, or not at all (arguments and errors as in `read_record`).

    Returns:
        What `json.loads` returns, of bounded size and depth, no key twice unless allowed, and finite if so asked.
    """
    where = where or _name(source)
    try:
        return _parsed(_content(source), finite=finite, repeated=repeated)
    except (OSError, ValueError, RecursionError) as wrong:
        why = reason(wrong) if isinstance(wrong, OSError) else first_line(wrong)
        raise error(_with(f"cannot read {where}: {why}", advice)) from wrong


def as_record(value: Any, kind: type[Kind], where: str, *, error: type[QcamError] = ResultsError, advice: str = AGAIN) -> Kind:
    """Return what `read_json` returned as a record (arguments and errors as in `read_record`)."""
    import msgspec

    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as wrong:
        raise error(_with(f"{where}: {_in_words(str(wrong), value)}", advice)) from wrong


def _with(told: str, advice: str) -> str:
    return f"{told}; {advice}" if advice else told


def _name(source: Path | bytes | str) -> str:
    return str(source) if isinstance(source, Path) else "the record"


def record_bytes(path: Path) -> bytes:
    """Return the content of a record's file, of one without end no more than shows that.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:
        return stream.read(LONGEST + 1)


def _content(source: Path | bytes | str) -> str:
    """Return the text of a record.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too long, or not UTF-8.
    """
    if isinstance(source, Path):
        source = record_bytes(source)
    if len(source) > LONGEST:
        raise ValueError(f"it has more than {LONGEST >> 20} MiB, which no record of this program has")
    return source if isinstance(source, str) else source.decode("utf-8")


def _parsed(text: str, *, finite: bool, repeated: bool = False) -> Any:
    """Return the values of JSON text.

    Raises:
        ValueError: If it is none, or holds what no record does; names the field.
        RecursionError: If it lies too deep even for the parser.
    """
    value = json.loads(text, object_pairs_hook=None if repeated else _object, parse_constant=_Constant if finite else None)
    # In text that was UTF-8, neither is there but as an escape.
    escapes = "\\u" in text
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(f"its lists and objects lie more than {DEEPEST} deep in each other")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
                if escapes:
                    below += item
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                if escapes and _UNPRINTABLE.search(item):
                    what = f"the text {_brief(item)} holds a NUL or half of a surrogate pair"
                    raise ValueError(f"{_place_of(item, value)}: {what}")
            elif isinstance(item, float):
                if finite and not math.isfinite(item):
                    what = f"{item.said} is no number that JSON has" if isinstance(item, _Constant) else "it is beyond float64"
                    raise ValueError(f"{_place_of(item, value)}: {what}")
            elif isinstance(item, int) and abs(item) >= _WIDEST:
                raise ValueError(f"{_place_of(item, value)}: it has more than 64 bits")
        level, depth = below, depth + 1
    return value


class _Constant(float):
    """A number that JSON has not: NaN or an infinity, and how it was written."""

    def __init__(self, said: str) -> None:
        self.said = said


def _place_of(wanted: Any, value: Any) -> str:
    """Return where in a record the very object is; of a key the object that has it."""
    found = _steps_to(wanted, value)
    return _WHOLE if not found else found.removeprefix(".")


def _steps_to(wanted: Any, value: Any) -> str | None:
    if value is wanted:
        return ""
    below: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        if any(key is wanted for key in value):
            return ""
        below = ((f".{_shown(key)}", item) for key, item in value.items())
    elif isinstance(value, list):
        below = ((f"[{place}]", item) for place, item in enumerate(value))
    for step, item in below:
        rest = _steps_to(wanted, item)
        if rest is not None:
            return step + rest
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {_brief(next(name for name in names if names.count(name) > 1))} stands twice in one object")
    return found


def _in_words(message: str, value: Any) -> str:
    """Say in words what msgspec says: which field it is, what it is, and what it has to be."""
    told, _, at = message.partition(" - at ")
    steps = list(_STEP.finditer(at.strip("`")))
    if match := re.fullmatch("Expected `(.+)`, got `(.+)`", told):
        wanted, got = match[1].replace(" | null", ""), match[2]
        kinds = [_WANTED.get(kind, kind) for kind in ([wanted] if wanted in _WANTED else wanted.split(" | "))]
        path = _path(value, steps, lambda found: _kind(found) == got)
        return f"{path} is {_FOUND.get(got, got)} and has to be {' or '.join(kinds)}"
    if match := re.fullmatch("Expected `array` of (?:at (?:least|most) )?length .+, got ([0-9]+)", told):
        count = int(match[1])
        path = _path(value, steps, lambda found: isinstance(found, list) and len(found) == count)
        return f"{path} has {count} entries, another number than it has to have"
    if match := re.fullmatch("Object (missing required|contains unknown) field `(.+)`", told):
        missing, name = match[1].startswith("missing"), match[2]
        path = _path(value, steps, lambda found: isinstance(found, dict) and (name in found) is not missing)
        field = _shown(name) if path == _WHOLE else f"{path}.{_shown(name)}"
        return f"{field} is {'missing' if missing else 'not known'}"
    return f"{_path(value, steps, lambda _: True)}: {told.replace('`', '')}"


def _path(value: Any, steps: list[re.Match[str]], fits: Callable[[Any], bool]) -> str:
    """Return where in a record the value is that msgspec complains of, with the keys that it leaves out (`[...]`)."""
    found = _found(value, steps, fits)
    return _WHOLE if found == "" else (found or "a field").removeprefix(".")


def _found(value: Any, steps: list[re.Match[str]], fits: Callable[[Any], bool]) -> str | None:
    if not steps:
        return "" if fits(value) else None
    field, place = steps[0]["field"], steps[0]["place"]
    if place is not None and place != "...":
        rest = _found(value[int(place)], steps[1:], fits) if isinstance(value, list) and int(place) < len(value) else None
        return None if rest is None else f"[{place}]{rest}"
    for name in [field] if place is None else list(value) if isinstance(value, dict) else []:
        if isinstance(value, dict) and name in value:
            rest = _found(value[name], steps[1:], fits)
            if rest is not None:
                return f".{_shown(name)}{rest}"
    return None


def _kind(value: Any) -> str:
    """Return what msgspec calls the type of a value."""
    names = {dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _shown(name: str) -> str:
    return name if name.isprintable() and len(name) <= _SHOWN else _brief(name)


def _brief(text: str) -> str:
    """Return a text in quotes, so that it can be shown whatever is in it."""
    return ascii(text[:_SHOWN])
