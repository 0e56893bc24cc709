"""How photographs become the input of imported files, and what their classes are called; what is assumed is told."""

from __future__ import annotations

from qcam.common.errors import QcamError
from qcam.common.vocabulary import InputValues, Interpolation
from qcam.exporters.export import override_preprocessing
from qcam.exporters.importing.decisions import Decisions
from qcam.exporters.importing.ordering import ImportOrder
from qcam.exporters.importing.parts import Part, plain
from qcam.images.preprocessing import Preprocessing
from qcam.models.wishes import class_names
from qcam.runtime.bundle import Bundle
from qcam.runtime.feeding import refuse_lost_pixels

#: How trained weights are told.
_TRAINED = {True: "yes", False: "no: no figure means anything", None: "not known"}


def preprocessing_of(order: ImportOrder, like: Bundle | None, parts: list[Part]) -> Preprocessing:
    """Return how photographs become inputs; what is assumed is told, mean and std never are."""
    noted = parts[0].noted
    taken = parts[0].entry.input
    if like is not None:
        found = like.preprocessing
        if (found.crop, found.channels) != (taken.size, taken.channels):
            raise QcamError(
                f"{order.file.name} takes {taken.channels} channels of {plain(taken.size)}, {order.whose} gives "
                f"{found.channels} of {plain(found.crop)}; give {{size}} and what belongs to it in its place"
            )
        noted.note("preprocessing", _preprocessing_words(found), f"{order.option} {like.model_id}")
    else:
        outside = [part.file.path.name for part in parts if part.entry.input.values == InputValues.NORMALISED]
        if order.mean is None and outside:
            raise QcamError(
                f"{outside[0]}: nothing in the graph normalises pictures, so it was done before it; give the {{mean}} and "
                "{std} that the network was trained with, or {like} with a bundle of the same network "
                "({mean} 0 {std} 1 for pixels "
                "of 0..1, {values} pixels for pixels of 0..255)"
            )
        if order.mean is not None and not outside:
            raise QcamError(f"{order.file.name} normalises pictures by itself; leave {{mean}} and {{std}} out")
        zeros, ones = (0.0,) * taken.channels, (1.0,) * taken.channels
        resize = None if order.squash else order.resize if order.resize is not None else max(taken.size)
        base = Preprocessing(None, taken.size, zeros, ones, order.interpolation or Interpolation.BILINEAR.value)
        found = override_preprocessing(
            base, resize=resize, squash=order.squash, mean=order.mean, std=order.std, interpolation=order.interpolation
        )
        told = [
            option
            for option, value in (("{resize}", order.resize or order.squash), ("{interpolation}", order.interpolation))
            if value
        ]
        assumed = "assumed; give {resize} and {interpolation} where it is another way" if not told else " and ".join(told)
        noted.note("resize", _resize_words(found), assumed)
        noted.note(
            "mean, std", f"{_numbers(found.mean)}; {_numbers(found.std)}",
            "{mean}, {std}" if order.mean is not None else "the graph normalises by itself",
        )  # fmt: skip
    if any(part.entry.input.values != InputValues.NORMALISED for part in parts):
        refuse_lost_pixels(found)
    return found


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _resize_words(found: Preprocessing) -> str:
    height, width = found.crop
    if found.resize is None:
        return f"squashed to {height} × {width}, {found.interpolation}"
    side = plain(found.resize) if isinstance(found.resize, tuple) else f"shorter side {found.resize}"
    return f"{side}, centre {height} × {width}, {found.interpolation}"


def _preprocessing_words(found: Preprocessing) -> str:
    return f"{_resize_words(found)}; mean {_numbers(found.mean)}, std {_numbers(found.std)}"


def class_names_of(order: ImportOrder, like: Bundle | None, part: Part) -> tuple[str, ...]:
    """Return the classes' names; ImageNet's are assumed for 1,000 of them, which is noted."""
    if like is not None:
        names = like.classes
        if len(names) != part.classes and (part.classes, len(names)) != (1, 2):
            raise QcamError(f"{order.file.name} has {part.classes} classes, {order.whose} {len(names)}")
        because = f"{order.option} {like.model_id}"
    else:
        names = class_names(part.classes, order.classes, order.file.name)
        because = "{classes}" if isinstance(order.classes, tuple) else "numbers, for no names are given"
        if part.classes == 1000 and not isinstance(order.classes, tuple):
            because = "assumed to be ImageNet's, for there are 1,000; give {classes} where they are others"
    part.noted.note("classes", f"{len(names)}: {names[0]}, {names[1]} …", because)
    return names


def note_trained(noted: Decisions, trained: bool | None) -> None:
    """Note whether the weights are trained.

    Args:
        noted: What was decided.
        trained: Whether they are; None where nobody says.
    """
    noted.note("trained", _TRAINED[trained], "{trained}" if trained is not None else "nobody says")
