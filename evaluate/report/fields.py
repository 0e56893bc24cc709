"""A JSON object of a result folder, asked field by field for what each has to be; an error names file and field."""

from __future__ import annotations

from typing import Any

from qcam.common.errors import ResultsError


class Fields:
    """An object out of a JSON file.

    A field that is missing or null is what its reader gives for nothing; a field of another type is refused.
    """

    def __init__(self, value: Any, file: str, where: str = "") -> None:
        """Take a value that has to be an object.

        Args:
            value: From `json.loads`; None stands for an empty object.
            file: The file it comes from, for messages.
            where: The object's place in the file: `plan.images`; empty for the file itself.

        Raises:
            ResultsError: If it is no object.
        """
        self._file, self._where = file, where
        if value is not None and not isinstance(value, dict):
            raise self._wrong(where or "the whole", value, "an object")
        self.raw: dict[str, Any] = value or {}

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        value = self._value(name, str, "a text")
        return default if value is None else str(value)

    def needed_text(self, name: str) -> str:
        """Return a text that must be there.

        Raises:
            ResultsError: If it is not.
        """
        return str(self._needed(name, str, "a text"))

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a truth value."""
        value = self._value(name, bool, "true or false")
        return default if value is None else bool(value)

    def number(self, name: str) -> float | None:
        """Return a number; None where there is none."""
        value = self._value(name, (int, float), "a number")
        return None if value is None else float(value)

    def needed_number(self, name: str) -> float:
        """Return a number that must be there.

        Raises:
            ResultsError: If it is not.
        """
        return float(self._needed(name, (int, float), "a number"))

    def count(self, name: str) -> int | None:
        """Return a whole number; None where there is none."""
        value = self._value(name, int, "a whole number")
        return None if value is None else int(value)

    def needed_count(self, name: str) -> int:
        """Return a whole number that must be there.

        Raises:
            ResultsError: If it is not.
        """
        return int(self._needed(name, int, "a whole number"))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self._value(name, list, "a list") or []
        for place, item in enumerate(value):
            if not isinstance(item, str):
                raise self._wrong(f"{self._path(name)}[{place}]", item, "a text")
        return tuple(value)

    def part(self, name: str) -> Fields:
        """Return the object in a field; an empty one where there is none."""
        return Fields(self.raw.get(name), self._file, self._path(name))

    def parts(self, name: str) -> list[Fields]:
        """Return the objects in a list."""
        value = self._value(name, list, "a list") or []
        return [Fields(item, self._file, f"{self._path(name)}[{place}]") for place, item in enumerate(value)]

    def items(self) -> dict[str, Fields]:
        """Return the objects in all fields, by name."""
        return {name: self.part(name) for name in self.raw}

    def _value(self, name: str, kind: Any, wanted: str) -> Any:
        value = self.raw.get(name)
        # To Python, true is a number.
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise self._wrong(self._path(name), value, wanted)
        return value

    def _needed(self, name: str, kind: Any, wanted: str) -> Any:
        value = self._value(name, kind, wanted)
        if value is None:
            raise self._wrong(self._path(name), value, wanted)
        return value

    def _path(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def _wrong(self, path: str, value: Any, wanted: str) -> ResultsError:
        found = "missing" if value is None else f"of type {type(value).__name__}"
        return ResultsError(f"{self._file}: {path} is {found} and has to be {wanted}; run {{qcam-eval}} again with {{force}}")
