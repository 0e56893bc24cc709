"""JSON records made wrong, field by field and as a whole."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: Steps to a field: keys and places.
Steps = tuple[str | int, ...]
#: Values that no record has, as JSON text: what they are, and the text.
NOTHINGS = (
    ("NaN", "NaN"),
    ("-Infinity", "-Infinity"),
    ("1e999", "1e999"),
    ("a number of 400 digits", "9" * 400),
    ("a number of 5,000 digits", "9" * 5_000),
    ("text with NUL", '"a\\u0000b"'),
    ("text with half of a surrogate pair", '"a\\ud800b"'),
    ("lists 70 deep", "[" * 70 + "]" * 70),
    ("lists 100,000 deep", "[" * 100_000 + "]" * 100_000),
)
_MARK = "@@here@@"


def fields(value: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Yield every field of a record at any depth with where it is; of lists the first entry only."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*steps, key), item
            yield from fields(item, (*steps, key))
    elif isinstance(value, list) and value:
        yield (*steps, 0), value[0]
        yield from fields(value[0], (*steps, 0))


def named(steps: Steps) -> str:
    """Return how a field is written: `precisions[0].tap.scale`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def wrong_types(value: Any) -> list[Any]:
    """Return values of other types than a field has; none of a field that says nothing."""
    others: dict[type, list[Any]] = {
        bool: ["x", 3, None], int: ["x", 0.5, True, None], float: ["x", True, [], None], str: [3, True, [], None],
        list: ["x", {}, None], dict: ["x", [], None],
    }  # fmt: skip
    return others.get(type(value), [])


def put(record: Any, steps: Steps, value: Any) -> Any:
    """Return a copy of a record with another value of a field."""
    changed = copy.deepcopy(record)
    place = changed
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    return changed


def without(record: Any, steps: Steps) -> Any:
    """Return a copy of a record without a field."""
    changed = copy.deepcopy(record)
    place = changed
    for step in steps[:-1]:
        place = place[step]
    del place[steps[-1]]
    return changed


def text_with(record: Any, steps: Steps, text: str) -> str:
    """Return a record as JSON in which a field is any text, whether JSON allows it or not."""
    return json.dumps(put(record, steps, _MARK)).replace(f'"{_MARK}"', text)


def no_records(text: str) -> list[tuple[str, bytes]]:
    """Return files that hold no record, and what they are, made of the text of a good one."""
    data = text.encode()
    return [
        ("no byte", b""),
        ("cut in half", data[: len(data) // 2]),
        ("more behind its end", data + b"{}"),
        ("with a byte order mark", b"\xef\xbb\xbf" + data),
        ("in UTF-16", text.encode("utf-16")),
        ("with a byte that is no UTF-8", data.replace(b"{", b'{"\xff": 1, ', 1)),
        ("with NUL between its fields", data.replace(b"{", b"{\0", 1)),
        ("null", b"null"),
        ("a list", b"[]"),
        ("a text", b'"x"'),
        ("a number", b"7"),
        ("NaN", b"NaN"),
        ("an empty object", b"{}"),
        ("a key twice", data.replace(b"{", b'{"twice": 1, "twice": 2, ', 1)),
        ("a key with NUL", data.replace(b"{", b'{"a\\u0000": 1, ', 1)),
        ("a key with half of a surrogate pair", data.replace(b"{", b'{"a\\udfff": 1, ', 1)),
        ("objects 100,000 deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        ("lists without end", b"[" * 100_000),
        *((what, data.replace(b"{", b'{"more": ' + value.encode() + b", ", 1)) for what, value in NOTHINGS),
    ]


def linked_copy(source: Path, target: Path, *changed: str) -> Path:
    """Copy a folder whose large files nobody changes: they are linked; those that are changed are copied."""

    def take(one: str, other: str) -> None:
        if os.path.basename(one) in changed:
            shutil.copyfile(one, other)
        else:
            os.link(one, other)

    return Path(shutil.copytree(source, target, copy_function=take))


def variants(record: Any, keep: Callable[[Steps], bool]) -> Iterator[tuple[str, Steps, Any]]:
    """Yield a record with each field of another type, and without it: what was done, where, and the record."""
    for steps, value in list(fields(record)):
        if keep(steps):
            for other in wrong_types(value):
                yield f"{named(steps)} is {json.dumps(other)}", steps, put(record, steps, other)


def matches(steps: Steps, *patterns: Sequence[str]) -> bool:
    """Tell whether a field is one of some: keys in their order, `*` for any key or place."""
    return any(
        len(steps) == len(pattern) and all(p in ("*", str(step)) for step, p in zip(steps, pattern, strict=True))
        for pattern in patterns
    )
