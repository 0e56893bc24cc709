"""The true classes of images: from a CSV file, from archives, or from the folders that images are in.

docs/inputs.md has the rules. Nothing is guessed: what may mean two things is refused with both, what means nothing is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from qcam.common.counted import counted
from qcam.common.errors import ImageSetError
from qcam.common.vocabulary import LabelFormat, require
from qcam.images.account import Account, examples
from qcam.images.imagenet import WNID, wnid_classes
from qcam.images.label_rows import ImagePlaces, LabelRow, read_rows
from qcam.images.names import ClassNames
from qcam.images.sources import Cell, ImageFile, Span

#: A whole number, also as data frames write it where a column has gaps: `3.0`.
_NUMBER = re.compile(r"[+-]?[0-9]{1,300}(?:\.0*)?")


@dataclass(frozen=True)
class Labelled:
    """An image set with labels, and what became of everything that was to give one.

    Attributes:
        images: The images, with labels where one is known.
        how: How labels were read, in words; empty where there are none.
        none: Images that are said to have no label (-1, or nothing).
        table: Whether a CSV file was given.
        unmatched: Rows of it that name no image.
        rowless: Images that match no row.
        foreign: Images whose label in the archive is none of the model's classes, each with it.
        folders: Images without a label in folders that are no class, each with the outermost of its folders.
        remarks: What else was decided.
    """

    images: list[ImageFile]
    how: str = ""
    none: tuple[str, ...] = ()
    table: bool = False
    unmatched: tuple[str, ...] = ()
    rowless: tuple[str, ...] = ()
    foreign: tuple[tuple[str, str], ...] = ()
    folders: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()

    def tell(self, account: Account, limit: int | None = None) -> None:
        """Add what became of labels to an account.

        Args:
            account: Takes the line.
            limit: Of how many images, the first ones, the run is.
        """
        taken = self.images[:limit]
        names = {image.name for image in taken}
        labelled = sum(image.label is not None for image in taken)
        none = sum(name in names for name in self.none)
        how = f", {self.how}" if self.how and labelled else ""
        parts = [f"{labelled:,} of {counted(len(taken), 'image')} labelled{how}"]
        counts = {"images": len(taken), "labelled": labelled, "none": none}
        if self.table:
            rowless = [name for name in self.rowless if name in names]
            counts |= {"rows_without_image": len(self.unmatched), "images_without_row": len(rowless)}
            parts.append(_counted(self.unmatched, "row names no image", "rows name no image"))
            parts.append(_counted(rowless, "image matches no row", "images match no row"))
        if none:
            parts.append(counted(none, "label says none (-1 or empty)", "labels say none (-1 or empty)"))
        foreign = [label for name, label in self.foreign if name in names]
        if foreign:
            counts["foreign"] = len(foreign)
            parts.append(
                _counted(foreign, "label in the archives is no class here", "labels in the archives are no classes here")
            )
        folders = list(dict.fromkeys(folder for name, folder in self.folders if name in names))
        if folders:
            counts["folders"] = len(folders)
            parts.append(_counted(folders, "folder is no class", "folders are no classes"))
        account.add("labels", "; ".join([*parts, *self.remarks]), **counts)


def _counted(names: Sequence[str], one: str, many: str) -> str:
    told = examples(sorted(set(names)))
    return counted(len(names), one, many) + (f" ({told})" if told else "")


def label_images(
    images: Sequence[ImageFile], classes: Sequence[str], labels: Path | None, label_format: str = LabelFormat.AUTO
) -> Labelled:
    """Give images their true class, from a CSV file, from their archive, or from the folders they are in.

    The row of the CSV file that names an image counts first, then the archive's own label, then, without a CSV file, the
    outermost folder that is a class. A label is a class name, the exact one before one that is spelled otherwise; where every
    label is an index that the model has, an index; for ImageNet's classes a WordNet id. Folders that are none of these are
    classes by their order where there are exactly as many as classes; those called `train`, `val` and the like are not.

    Args:
        images: The image set.
        classes: Class names in the order of the model's outputs.
        labels: CSV file with a header `image,label`, or None to look at the folders.
        label_format: How labels are read, one of `LabelFormat`.

    Returns:
        The same images with labels where one is known, and what became of the rest.

    Raises:
        ImageSetError: If the CSV cannot be read, lacks the columns, labels an image twice, or names a class the model does not
            have; or if anything may mean two things: a row, a label, a folder.
        MissingExtraError: If WordNet ids are to be read and timm is not installed.
    """
    form = require(LabelFormat, label_format, "label format")
    return _Labelling(images, classes, form).run(labels)


class _Labelling:
    """One image set on its way to labels."""

    def __init__(self, images: Sequence[ImageFile], classes: Sequence[str], form: LabelFormat) -> None:
        self._images = list(images)
        self._names = ClassNames(classes)
        self._count = len(classes)
        self._form = form
        self._found: dict[int, int | None] = {}  # place of an image → class
        self._none: list[str] = []
        self._how: dict[str, None] = {}
        self._remarks: list[str] = []

    def run(self, labels: Path | None) -> Labelled:
        unmatched: tuple[str, ...] = ()
        rowless: tuple[str, ...] = ()
        foreign: list[tuple[str, str]] = []
        folders: list[tuple[str, str]] = []
        if labels is not None:
            if self._form is LabelFormat.NONE:
                raise ImageSetError(f"{{label_format}} none reads no labels, and {labels} gives some; leave one of them out")
            unmatched, rowless = self._from_table(labels)
        if self._form is LabelFormat.NONE:
            self._remarks.append("{label_format} none: folders and archives are not asked")
        else:
            foreign = self._from_archives()
            if labels is None:
                folders = self._from_folders()
        for place, image in enumerate(self._images):  # labels that were there before
            if place not in self._found and not _archived(image) and image.label is not None:
                self._found[place] = image.label if 0 <= image.label < self._count else None
        images = [
            replace(image, label=self._found.get(place), stated=None, names=()) for place, image in enumerate(self._images)
        ]
        how = " and ".join(self._how)
        remarks = tuple(self._remarks)
        none = tuple(self._none)
        return Labelled(images, how, none, labels is not None, unmatched, rowless, tuple(foreign), tuple(folders), remarks)

    # ---- a CSV file

    def _from_table(self, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Read the CSV file; return the rows that name no image, and the images that no row names."""
        rows = read_rows(path)
        meant, how = self._reading({row.label for row in rows}, str(path), {row.label: row for row in reversed(rows)})
        places = ImagePlaces(self._images)
        given: dict[int, LabelRow] = {}
        unmatched = []
        for row in rows:
            place = places.of(row, path)
            if place is None:
                unmatched.append(row.image or f"line {row.line}")
                continue
            if place in given:
                before = given[place]
                raise ImageSetError(
                    f"{path} labels {self._images[place].name} twice: {before.label!r} in line {before.line} and {row.label!r} "
                    f"in line {row.line}; keep one of them"
                )
            given[place] = row
            self._take(place, row.label, meant)
        if not given and self._images:
            raise ImageSetError(
                f"{path} names none of the {len(self._images)} images; its column image holds names below the image folder"
            )
        if how:
            self._how[f"{how}, from {path.name}"] = None
        rowless = tuple(image.name for place, image in enumerate(self._images) if place not in given)
        return tuple(unmatched), rowless

    def _says_none(self, text: str) -> bool:
        """Tell whether a label says that there is none; a class of that very name is a class."""
        return not self._names.exactly(text) and (not text or _whole(text) == -1)

    def _take(self, place: int, text: str, meant: Callable[[str], int | None]) -> bool:
        """Label an image; tell whether the text was a class, or said that there is none."""
        none = self._says_none(text)
        self._found[place] = None if none else meant(text)
        self._none += [self._images[place].name] * none
        return none or self._found[place] is not None

    # ---- labels in words or numbers

    def _reading(
        self, texts: Collection[str], source: str, rows: Mapping[str, LabelRow]
    ) -> tuple[Callable[[str], int | None], str]:
        """Decide how labels are read, all of one source in one way.

        Args:
            texts: Every label there.
            source: Where they stand, for messages.
            rows: Label → the first row that has it; empty where an unknown label is no error.

        Returns:
            What gives the class of a label, None of one that is no class; and how, in words.

        Raises:
            ImageSetError: If they can be read in more than one way, or one of `rows` is no class.
        """
        texts = {text for text in texts if not self._says_none(text)}
        if not texts:
            return (lambda _: None), ""
        form = self._form if self._form is not LabelFormat.AUTO else self._form_of(texts, source)
        meaning = {text: self._meaning(text, form, source) for text in texts}
        unknown = sorted(text for text, index in meaning.items() if index is None)
        if unknown and rows:
            row = min((rows[text] for text in unknown), key=lambda row: row.line)
            raise ImageSetError(f"{source}: class {row.label!r} of {row.image} is none of {self._those(row.label, form)}")
        if form in (LabelFormat.INDEX, LabelFormat.INDEX1) and self._form is LabelFormat.AUTO and unknown:
            return (lambda _: None), ""
        how = (
            self._named(text for text, index in meaning.items() if index is not None)
            if form is LabelFormat.NAME
            else _HOW[form]
        )
        return meaning.__getitem__, how

    def _form_of(self, texts: Collection[str], source: str) -> LabelFormat:
        """Tell whether labels are names or indices."""
        numbers = {text: _whole(text) for text in texts}
        named = {text for text in texts if self._names.exactly(self._as_name(text))}
        if all(text in named or self._names.find(text) for text in texts):
            return LabelFormat.NAME
        if all(value is not None for value in numbers.values()):
            values = {value for value in numbers.values() if value is not None}
            self._refuse_from_one(values, source, "labels")
            twofold = sorted(text for text in named if self._names.exactly(self._as_name(text)) != [numbers[text]])
            if twofold:
                raise ImageSetError(
                    f"{source}: label {twofold[0]!r} is a class of that name and the index of another, and not all labels are "
                    "names; say which with {label_format} name or {label_format} index"
                )
            return LabelFormat.INDEX
        odd = sorted(text for text, value in numbers.items() if value is not None and text not in named)
        if odd:
            other = min(text for text in texts if numbers[text] is None)
            raise ImageSetError(
                f"{source}: labels are numbers ({odd[0]!r}) as well as names ({other!r}), and it cannot be told what "
                "a number means; write all as names, or all as indices"
            )
        return LabelFormat.NAME

    def _meaning(self, text: str, form: LabelFormat, source: str) -> int | None:
        """Return the class of a label under one format."""
        if form in (LabelFormat.INDEX, LabelFormat.INDEX1):
            value = _whole(text)
            index = -1 if value is None else value - (form is LabelFormat.INDEX1)
            return index if 0 <= index < self._count else None
        if form is LabelFormat.WNID:
            return self._wnid(text)
        found = self._names.index(self._as_name(text), source)
        return self._wnid(text) if found is None and self._form is LabelFormat.AUTO else found

    def _as_name(self, text: str) -> str:
        """Return a label as a class name: a class called 3 may stand there as 3.0."""
        value = _whole(text)
        return text if value is None or self._names.exactly(text) else str(value)

    def _named(self, texts: Iterable[str]) -> str:
        """Say how labels that are no numbers were read: by name, by WordNet id, or both."""
        forms = {LabelFormat.NAME if self._names.find(self._as_name(text)) else LabelFormat.WNID for text in texts}
        return " and ".join(_HOW[form] for form in (LabelFormat.NAME, LabelFormat.WNID) if form in forms)

    def _wnid(self, text: str) -> int | None:
        return self._wnids.get(text) if WNID.fullmatch(text) else None

    @cached_property
    def _wnids(self) -> dict[str, int]:
        return wnid_classes(self._names.classes)

    def _those(self, text: str, form: LabelFormat) -> str:
        """Say which classes there are, for the message about a label that is none."""
        if (form is LabelFormat.WNID or WNID.fullmatch(text)) and not self._wnids:
            return f"the model's {self._count} classes; WordNet ids are known for ImageNet-1k's classes only"
        if form is LabelFormat.WNID:
            return f"the WordNet ids (n01440764 …) of the model's {self._count} classes"
        if form in (LabelFormat.INDEX, LabelFormat.INDEX1):
            first = int(form is LabelFormat.INDEX1)
            return f"the model's {self._count} classes, which are {first} to {self._count - 1 + first} here"
        return f"the model's {self._count} classes{self._names.near(text)}"

    def _refuse_from_one(self, values: Collection[int], source: str, what: str) -> None:
        """Refuse numbers that seem to count from 1."""
        if values and min(values) >= 1 and max(values) == self._count:
            raise ImageSetError(
                f"{source}: {what} go up to {self._count} and none is 0, but the model's {self._count} classes are 0 to "
                f"{self._count - 1}; if they count from 1, say {{label_format}} index1"
                + ("; if they are no labels, {label_format} none" if what == "folders" else "")
            )

    # ---- archives

    def _from_archives(self) -> list[tuple[str, str]]:
        """Take the labels that archives give; return those that are none of the model's classes, with their images."""
        foreign: list[tuple[str, str]] = []
        left = {place: image for place, image in enumerate(self._images) if place not in self._found and _archived(image)}
        listed = {place: image for place, image in left.items() if image.names and image.label is not None}
        texts: dict[int, str] = {}
        for place, image in left.items():
            if image.stated is not None:
                texts[place] = image.stated
            elif image.label is not None and not image.names:
                texts[place] = str(image.label)
        same = {names: self._names.are(names) for names in {image.names for image in listed.values()}}
        ways: dict[str, None] = {}
        for place, image in listed.items():
            index = self._listed(image, same[image.names])
            self._found[place] = index
            if index is None:
                value = image.label or 0
                foreign.append((image.name, image.names[value] if value < len(image.names) else str(value)))
            else:
                ways[self._listed_how(image, same[image.names])] = None
        for way in ways:
            self._how[f"{way}, from the archives"] = None
        meant, how = self._reading(set(texts.values()), "labels in the archives", {})
        for place, text in texts.items():
            if not self._take(place, text, meant):
                foreign.append((self._images[place].name, text))
        if how and any(self._found[place] is not None for place in texts):
            self._how[f"{how}, from the archives"] = None
        return foreign

    def _listed_how(self, image: ImageFile, same: bool) -> str:
        """Say how a number whose meaning the archive gives was read."""
        if self._form is not LabelFormat.AUTO:
            return _HOW[self._form]
        text = image.names[image.label or 0]
        return _HOW[LabelFormat.WNID if WNID.fullmatch(text) and not same and not self._names.find(text) else LabelFormat.NAME]

    def _listed(self, image: ImageFile, same: bool) -> int | None:
        """Return the class of a number whose meaning the archive gives: by name, or by place in the very list of the model."""
        number = image.label or 0
        if not 0 <= number < len(image.names):
            return None
        if self._form in (LabelFormat.INDEX, LabelFormat.INDEX1):
            return self._meaning(str(number), self._form, "")
        if same or self._names.agrees(number, image.names[number]):
            return number
        text = image.names[number]
        if not self._names.find(text) and "," in text:  # tench, Tinca tinca
            text = text.partition(",")[0].strip()
        return self._meaning(text, self._form if self._form is LabelFormat.WNID else LabelFormat.NAME, "labels in the archives")

    # ---- folders

    def _from_folders(self) -> list[tuple[str, str]]:
        """Take folders for classes; return the images that are in no class, with the outermost of their folders."""
        parts = {place: _folders(image) for place, image in enumerate(self._images) if place not in self._found}
        chosen = self._folder_classes(parts)
        for place, index in chosen.items():
            self._found[place] = index
        return [(self._images[place].name, folders[0]) for place, folders in parts.items() if folders and place not in chosen]

    def _folder_classes(self, parts: Mapping[int, tuple[str, ...]]) -> dict[int, int]:
        """Return place of an image → class, of those in a folder that is one."""
        every = {folder for folders in parts.values() for folder in folders}
        if self._form is not LabelFormat.AUTO:
            chosen = _first(parts, lambda folder: self._meaning(folder, self._form, f"folder {folder}"))
            if self._form in (LabelFormat.INDEX, LabelFormat.INDEX1):
                lost = sorted(
                    folder for place, folders in parts.items() if place not in chosen
                    for folder in folders if _whole(folder) is not None
                )  # fmt: skip
                if lost:
                    raise ImageSetError(
                        f"folder {lost[0]} is none of {self._those(lost[0], self._form)}; rename it, or give {{labels}}"
                    )
            if parts and not chosen and any(parts.values()):
                raise ImageSetError(
                    f"{{label_format}} {self._form}: none of the folders is such a label ({examples(sorted(every))}); "
                    "leave it out, or give {labels}"
                )
            return self._told(chosen, f"{_HOW[self._form]}, from the folders")
        known: dict[str, int | None] = {}
        chosen = _first(parts, self._named_folder, known)
        numbers = {place: [f for f in folders if _whole(f) is not None] for place, folders in parts.items()}
        numbered = {place: folders for place, folders in numbers.items() if folders and place not in chosen}
        if chosen:
            self._leave(numbered, "others are class names")
            return self._told(chosen, f"{self._named(name for name in known if known[name] is not None)}, from the folders")
        if numbered:
            return self._folder_indices(numbered)
        return self._by_order(parts)

    def _folder_indices(self, numbered: Mapping[int, list[str]]) -> dict[int, int]:
        """Take folders for indices where each is one that the model has, written as one."""
        outermost = {folders[0] for folders in numbered.values()}
        values = {value for folder in outermost if (value := _whole(folder)) is not None}
        self._refuse_from_one(values, "the image folder", "folders")
        if values == set(range(self._count)) and len({len(folder) for folder in outermost}) == 1:  # 000 to 999 of 1,000 classes
            chosen = {place: int(folders[0]) for place, folders in numbered.items()}
        else:
            chosen = _first(numbered, lambda f: int(f) if _is_plain(f) and int(f) < self._count else None)
        if len(chosen) < len(numbered):
            self._leave(numbered, f"not each is an index of the model's {self._count} classes, without zeros before it")
            return {}
        return self._told(chosen, f"{_HOW[LabelFormat.INDEX]}, from the folders")

    def _named_folder(self, folder: str) -> int | None:
        """Return the class that a folder is by its name; a number is a name only where a class is called so."""
        if _whole(folder) is not None and not self._names.exactly(folder):
            return None
        return self._meaning(folder, LabelFormat.NAME, f"folder {folder}")

    def _by_order(self, parts: Mapping[int, tuple[str, ...]]) -> dict[int, int]:
        """Take folders for classes in the order of their names, where there are exactly as many; splits are no classes.

        Raises:
            ImageSetError: If folders inside them are as many, too, and would give other classes.
        """
        splits = sorted({folder for folders in parts.values() for folder in folders if _is_split(folder)})
        without = {place: [folder for folder in folders if not _is_split(folder)] for place, folders in parts.items()}
        inner = {place: folders for place, folders in without.items() if folders}
        while len(inner) == len(parts) and len({folders[0] for folders in inner.values()}) == 1 and all(
            len(folders) > 1 for folders in inner.values()
        ):  # fmt: skip
            inner = {place: folders[1:] for place, folders in inner.items()}
        possible: list[tuple[list[str], dict[int, int]]] = []
        for depth in range(min(map(len, inner.values()), default=0)):
            names = sorted({folders[depth] for folders in inner.values()})
            if len(names) == self._count:
                position = {name: index for index, name in enumerate(names)}
                possible.append((names, {place: position[folders[depth]] for place, folders in inner.items()}))
            elif depth == 0:  # folders inside others are no classes unless these are
                return {}
        if any(chosen != possible[0][1] for _, chosen in possible):
            candidates = " or ".join(f"({examples(names)})" for names, _ in possible)
            raise ImageSetError(
                f"the image folder: the model's {self._count} classes may be the folders {candidates}, by their order; name "
                "those after the classes, give {labels}, or {label_format} none for no labels"
            )
        if not possible:
            return {}
        if splits:
            self._remarks.append(f"folders that are called as splits are ({examples(splits)}) are no classes")
        return self._told(possible[0][1], "by the order of as many folders")

    def _told(self, chosen: dict[int, int], how: str) -> dict[int, int]:
        """Note how folders were read."""
        if chosen:
            self._how[how] = None
        return chosen

    def _leave(self, numbered: Mapping[int, list[str]], why: str) -> None:
        """Note folders that are numbers and were not taken for classes."""
        if numbered:
            told = examples(sorted({folders[0] for folders in numbered.values()}))
            fits = all(
                any(self._meaning(f, LabelFormat.INDEX, "") is not None for f in folders) for folders in numbered.values()
            )
            hint = "; {label_format} index takes them" if fits else ""
            self._remarks.append(f"folders that are numbers ({told}) are no labels: {why}{hint}")


_HOW = {
    LabelFormat.NAME: "by name",
    LabelFormat.INDEX: "by index",
    LabelFormat.INDEX1: "by index from 1",
    LabelFormat.WNID: "by WordNet id",
}

#: Names of folders that part an image set for training and testing.
_SPLIT = re.compile(
    r"(train|training|trainval|val|valid|validation|test|testing|dev|eval|evaluation|hold[-_ ]?out|held[-_ ]?out)"
    r"([-_ ]?(set|split|data|images|[0-9]{1,4}))?"
)


def _is_split(folder: str) -> bool:
    """Tell whether a folder is called as parts of an image set are, and not as a class."""
    return _SPLIT.fullmatch(folder.casefold()) is not None


def _whole(text: str) -> int | None:
    """Return the whole number that a text is, also with a decimal point and zeros; None if it is none."""
    return int(text.partition(".")[0]) if _NUMBER.fullmatch(text) else None


def _is_plain(text: str) -> bool:
    """Tell whether a text is an index as one writes it: digits, no zeros before them."""
    return text.isascii() and text.isdigit() and (text == "0" or not text.startswith("0"))


def _archived(image: ImageFile) -> bool:
    return isinstance(image.path, (Span, Cell))


def _folders(image: ImageFile) -> tuple[str, ...]:
    """Return the folders that an image is in, the outermost first; an archive is none."""
    parts = image.name.split("/")
    if isinstance(image.path, (Span, Cell)) and image.path.location.name in parts:
        parts.remove(image.path.location.name)
    return tuple(parts[:-1])


def _first(
    parts: Mapping[int, Iterable[str]], meaning: Callable[[str], int | None], known: dict[str, int | None] | None = None
) -> dict[int, int]:
    """Return place of an image → class of the outermost folder that is one; `known` takes what every folder means."""
    known = {} if known is None else known
    found = {}
    for place, folders in parts.items():
        for folder in folders:
            if folder not in known:
                known[folder] = meaning(folder)
            index = known[folder]
            if index is not None:
                found[place] = index
                break
    return found
