"""Names from outside in one form: equal names of files and classes compare as equal, however their letters are composed."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from qcam.common.errors import ImageSetError
from qcam.common.vocabulary import near

#: What may be left out or exchanged between two spellings of a class, besides white space and case.
_LOOSE = frozenset("_-'\u2019.,")


def one_form(text: str) -> str:
    """Return a text in Unicode's composed form (NFC): as macOS stores names and as others write them are one."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Return a class name as spellings of it share it: case, white space and ``_-'.,`` do not count; empty without a letter.

    >>> folded("Golden_Retriever") == folded("golden retriever")
    True
    >>> folded("-1")
    ''
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(letter for letter in plain if not letter.isspace() and letter not in _LOOSE)
    return kept if any(letter.isalpha() for letter in kept) else ""


class ClassNames:
    """A model's classes by name: the exact name first, then one that differs in spelling only.

    Attributes:
        classes: Names in the order of the model's outputs.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """Index the names."""
        self.classes = tuple(classes)
        self._exact: dict[str, list[int]] = {}
        self._folded: dict[str, list[int]] = {}
        for index, name in enumerate(self.classes):
            self._exact.setdefault(one_form(name), []).append(index)
            if folded(name):
                self._folded.setdefault(folded(name), []).append(index)

    def exactly(self, text: str) -> list[int]:
        """Return the classes of exactly this name."""
        return self._exact.get(one_form(text), [])

    def find(self, text: str) -> list[int]:
        """Return the classes that a text may name: those of exactly this name, else those spelled otherwise."""
        return self.exactly(text) or self._folded.get(folded(text), [])

    def index(self, text: str, where: str, extra: Mapping[str, int] | None = None) -> int | None:
        """Return the class that a text names; None if it names none.

        Args:
            text: The name.
            where: What it labels, for the message.
            extra: Further names → classes, which count last.

        Raises:
            ImageSetError: If it names several; lists them.
        """
        found = self.find(text)
        if len(found) > 1:
            candidates = " or ".join(f"{index} ({self.classes[index]})" for index in found)
            raise ImageSetError(
                f"{where}: {text!r} may be class {candidates}; give the exact name, or indices with {{label_format}} index, or "
                "{label_format} none for no labels"
            )
        return found[0] if found else (extra or {}).get(text)

    def agrees(self, index: int, text: str) -> bool:
        """Tell whether a class has a name, or one of the names that stand there with commas, in any spelling."""
        if not 0 <= index < len(self.classes):
            return False
        name = self.classes[index]
        if one_form(name) == one_form(text):
            return True
        return bool(folded(name)) and folded(name) in {folded(text), *map(folded, text.split(","))}

    def are(self, names: Sequence[str]) -> bool:
        """Tell whether a list of names is that of these classes, in their order; of a hundred one may be another word."""
        if len(names) != len(self.classes):
            return False
        return sum(not self.agrees(index, name) for index, name in enumerate(names)) <= len(names) // 100

    def near(self, text: str) -> str:
        """Return a hint at classes whose names are near, or nothing."""
        close = near(text, self.classes)
        return f"; did you mean {' or '.join(close)}?" if close else ""
