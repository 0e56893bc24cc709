"""What a mask's file says of each pixel: object, background, something between, or void.

Masks come as palette pictures and as ids of classes or instances (0 is background), as 0/1 and 0/255, as grey levels, as the
alpha of a cut-out, in 8, 16 and 32 bits. Which of these a file is, is taken from its own form where that leaves no doubt, and
is told; where it does leave doubt, the file is refused with the option that settles it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from qcam.common.errors import QcamError, first_line
from qcam.images.decoding import PictureError, damaged, open_picture
from qcam.images.levels import unsigned

#: The id that PASCAL VOC and those after it keep for pixels that count neither way.
VOID = 255
#: VOC's colour of it, in masks that were saved in colours.
_VOID_COLOUR = (224, 224, 192)
#: Share of an id's pixels that lie inside its area, at least; of levels on edges hardly any do.
_INSIDE = 0.5
#: From one id to its neighbour, as a rule, at least this part of all values is jumped over; levels run smoothly.
_JUMP = 0.05
#: Ids of 8 bits that are told from grey levels without being asked for reach no further than this.
_MOST_IDS = 100
_MOST_COLOURS = 256
#: So many values, each next to the one beside it, are a slope.
_SLOPE = 6
#: Grey, but for what a lossy format makes of it.
_NEARLY_GREY = 24

Ids = NDArray[np.int64]


class MaskError(Exception):
    """A mask that cannot be read as one; the message says why, and what settles it."""


@dataclass(frozen=True)
class MaskRules:
    """What is asked for in place of what a mask's own form says.

    Attributes:
        classes: Ids that are the object; `()` for all but 0; None: the file's form decides.
        soft: Whether every mask is read as levels, whatever its form.
        void: Ids that count neither way; None: 255 where other ids occur below it.
    """

    classes: tuple[int, ...] | None = None
    soft: bool = False
    void: tuple[int, ...] | None = None

    @classmethod
    def of(cls, classes: str | None, void: str | None) -> MaskRules:
        """Read what of a mask is the object, and what counts neither way.

        Args:
            classes: `any` (every id but 0), `levels` (no ids at all), or ids with commas; None: the file's form decides.
            void: Ids with commas, or `none`; None: 255 where other ids occur below it.

        Raises:
            QcamError: If it is something else.
        """
        named = None if classes in (None, "levels") else () if classes == "any" else _numbers("mask_classes", classes or "")
        left_out = None if void is None else () if void == "none" else _numbers("mask_void", void)
        if classes == "levels" and left_out:
            raise QcamError("mask classes: levels have no ids, so none of them can be void; leave one of the two out")
        both = sorted(set(named or ()) & set(left_out or ()))
        if both:
            raise QcamError(f"mask classes: {both[0]} cannot be object and void at once")
        return cls(named, classes == "levels", left_out)

    @property
    def ids(self) -> bool:
        """Whether masks are to be read as ids."""
        return self.classes is not None or bool(self.void)


#: Each mask's own form decides.
OWN_FORM = MaskRules()


@dataclass(frozen=True)
class MaskLevels:
    """A mask as it was read.

    Attributes:
        values: float32, height × width: 0 background, 1 object, NaN void.
        form: What the file was taken for, in a few words.
        void: Share of the pixels that are void, 0..1.
        classes: The ids that were asked for, in words; empty if any id counts.
    """

    values: NDArray[np.float32]
    form: str
    void: float = 0.0
    classes: str = ""


def read_mask(data: bytes, rules: MaskRules = OWN_FORM) -> MaskLevels:
    """Read a mask's file.

    Args:
        data: The file's bytes.
        rules: What is asked for in place of the file's own form.

    Raises:
        MaskError: If it is no picture, no mask, or could be several kinds of mask.
    """
    try:
        with warnings.catch_warnings(), open_picture(data) as opened:
            warnings.simplefilter("ignore")  # Pillow's own remarks on odd files; what matters of them is refused here
            frames = getattr(opened, "n_frames", 1)
            if frames > 1 and opened.format != "MPO":
                raise MaskError(f"holds {frames} pictures; save one picture a file")
            if data[:4] == b"\x89PNG" and data[24:25] == b"\x10" and data[25:26] in (b"\x02", b"\x06"):
                raise MaskError("is 16-bit colour, of which only the upper bytes are read; save it as 16-bit grey")
            opened.load()
            picture = ImageOps.exif_transpose(opened)
            whole = unsigned(opened, picture)
    except PictureError as error:
        raise MaskError(str(error)) from error
    except MaskError:
        raise
    except Exception as error:  # on damaged files Pillow raises KeyError, TypeError, struct.error … as well as its own
        raise MaskError(damaged(error) if str(error) else first_line(error)) from error
    if whole.mode == "F" and picture.mode == "I":  # 32 bits without a sign
        return _of_integers(np.asarray(picture).view(np.uint32).astype(np.int64), rules, 65535)
    return _of_picture(picture, rules)


def _of_picture(picture: Image.Image, rules: MaskRules) -> MaskLevels:
    indices = np.asarray(picture).astype(np.int64) if picture.mode == "P" else None
    alpha = _alpha(picture)
    # A palette whose background is transparent says the same twice.
    if alpha is not None and (indices is None or not np.array_equal(alpha == 0, indices == 0)):
        if rules.ids:
            raise MaskError("has transparency, so its ids are not to be had; save it without, or leave the mask options out")
        return MaskLevels(alpha.astype(np.float32) / np.float32(255), "alpha")
    if indices is not None and not rules.soft and (rules.ids or not _is_grey(picture)):
        return _of_ids(indices, rules, "palette indices", eight=True)
    if picture.mode == "1":
        return _of_ids(np.asarray(picture).astype(np.int64), rules, "0 and 1")
    if picture.mode == "F":
        return _of_floats(np.asarray(picture), rules)
    if picture.mode.startswith("I"):
        return _of_integers(np.asarray(picture).astype(np.int64), rules, 65535)
    if picture.mode in ("L", "LA", "La"):
        return _of_integers(np.asarray(picture.convert("L")).astype(np.int64), rules, 255)
    return _of_colours(np.asarray(picture.convert("RGB")), rules)


def _is_grey(picture: Image.Image) -> bool:
    """Tell whether a palette gives each index a grey of its own, so that its colours are levels, whatever their order."""
    colours = np.asarray(picture.convert("RGB"))
    if (colours.max(axis=-1) != colours.min(axis=-1)).any():
        return False
    indices = len(np.unique(np.asarray(picture)))
    return indices > 1 and len(np.unique(colours[..., 0])) == indices


def _alpha(picture: Image.Image) -> NDArray[np.uint8] | None:
    """Return the transparency, if it says anything: not the same everywhere."""
    if not picture.has_transparency_data:
        return None
    alpha = np.asarray(picture.convert("RGBA"))[..., 3]
    return None if alpha.min() == alpha.max() else alpha


def _of_integers(values: Ids, rules: MaskRules, top: int) -> MaskLevels:
    """Read whole numbers: as ids or as levels, by what they are."""
    found = np.unique(values)
    low, high = int(found[0]), int(found[-1])
    if low < 0:
        raise MaskError(f"holds {low}; a mask's values are not negative")
    if rules.ids:
        return _of_ids(values, rules, "ids", eight=top == 255)
    if rules.soft and high > top:
        raise MaskError(f"holds {high}, more than the {top} of a grey level")
    if not rules.soft:
        if high == low or (len(found) == 2 and low == 0):  # one value beside 0, whatever it is: ids and levels mean the same
            return MaskLevels((values > 0).astype(np.float32), f"{high} all over" if high == low else f"0 and {high}")
        told = _told_apart(values, found, top)
        if not told:
            shown = ", ".join(map(str, found[:6])) + (" …" if len(found) > 6 else "")
            raise MaskError(
                f"holds {shown}, which may be ids or grey levels; say which with {{mask_classes}} (any, levels, or the ids)"
            )
        if told == "ids":
            return _of_ids(values, rules, "ids", eight=top == 255)
    return MaskLevels((values / top).astype(np.float32), "grey levels" if top == 255 else "16-bit levels")


def _told_apart(values: Ids, found: Ids, top: int) -> str:
    """Return `ids` or `levels`, or nothing where it may be either.

    Ids come in areas, with jumps between them, and are few or without gaps. Levels run smoothly, or lie on the edges between
    black and white.
    """
    if found[-1] > top:
        return "ids"
    named = found[(found > 0) & (found != (VOID if top == VOID else top))]
    if not len(named):
        return "levels"
    counted = np.isin(values[:-1, :-1], named)
    inside = counted & (values[:-1, :-1] == values[1:, :-1]) & (values[:-1, :-1] == values[:-1, 1:])
    ranks = np.searchsorted(found, values)
    steps = np.concatenate([np.abs(np.diff(ranks, axis=axis)).ravel() for axis in (0, 1)])
    areas = inside.sum() >= _INSIDE * max(counted.sum(), 1)
    usual = float(np.median(steps[steps > 0]))
    jumps = usual >= _JUMP * len(found) and (usual > 1 or len(found) < _SLOPE)
    if not (areas and jumps):
        dark = found[-1] < (_MOST_IDS if top == VOID else top / 4)
        return "" if dark and (areas or top != VOID) else "levels"
    gapless = bool(named[0] == 1 and named[-1] == len(named))
    return "ids" if top != VOID or named[-1] <= _MOST_IDS or gapless else ""


def _of_ids(values: Ids, rules: MaskRules, form: str, *, eight: bool = False) -> MaskLevels:
    """Read ids: 0 is background, what is void counts neither way, all else is object unless classes are named."""
    if rules.void is not None:
        void = np.isin(values, rules.void)
    elif VOID in (rules.classes or ()):
        void = np.zeros(values.shape, bool)
    else:
        void = values == VOID if eight and ((values > 0) & (values < VOID)).any() else np.zeros(values.shape, bool)
    chosen = values != 0 if not rules.classes else np.isin(values, rules.classes)
    levels = np.where(void, np.float32(np.nan), chosen.astype(np.float32))
    named = f"{form}, object {_listed(rules.classes)}" if rules.classes else form
    return MaskLevels(levels, named, float(void.mean()), _listed(rules.classes))


def _of_floats(values: NDArray[np.floating], rules: MaskRules) -> MaskLevels:
    if rules.ids:
        raise MaskError("holds floating-point values, which are no ids; leave the mask options out")
    if not np.isfinite(values).all():
        raise MaskError("holds NaN or infinity; save it with numbers from 0 to 1")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise MaskError(f"holds floating-point values from {low:.4g} to {high:.4g}; save it with numbers from 0 to 1")
    return MaskLevels(values.astype(np.float32), "floating-point levels")


def _of_colours(values: NDArray[np.uint8], rules: MaskRules) -> MaskLevels:
    """Read a picture in colours: grey in truth, or one colour for each class on black."""
    spread = values.max(axis=-1).astype(np.int64) - values.min(axis=-1)
    if not spread.any():
        return _of_integers(values[..., 0].astype(np.int64), rules, 255)
    if spread.max() <= _NEARLY_GREY and not rules.ids:
        return MaskLevels(values.mean(axis=-1, dtype=np.float32) / np.float32(255), "grey levels, nearly")
    if rules.ids or rules.soft:
        raise MaskError("is a picture in colours, which has neither ids nor levels; save the indices themselves")
    packed = (values.astype(np.int64) << np.array([16, 8, 0])).sum(axis=-1)
    found = np.unique(packed)
    if len(found) > _MOST_COLOURS or found[0] != 0:
        raise MaskError("is a picture in colours and no mask; save the mask as indices, as levels, or as alpha")
    void_colour = (np.array(_VOID_COLOUR, np.int64) << np.array([16, 8, 0])).sum()
    void = (packed == void_colour) if len(found) > 2 else np.zeros(packed.shape, bool)
    levels = np.where(void, np.float32(np.nan), (packed != 0).astype(np.float32))
    return MaskLevels(levels, "colours on black", float(void.mean()))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        wanted = "any, levels, or ids with commas" if option == "mask_classes" else "none, or ids with commas"
        raise QcamError(f"{option.replace('_', ' ')} {text!r}: give {wanted}") from error
    if option == "mask_classes" and 0 in found:
        raise QcamError("mask classes: 0 is the background; name the ids of objects")
    if any(number < 0 for number in found):
        raise QcamError(f"{option.replace('_', ' ')} {text!r}: ids are not negative")
    return found


def _listed(numbers: Iterable[int] | None) -> str:
    return ", ".join(map(str, numbers or ()))
