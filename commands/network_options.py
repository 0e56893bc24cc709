"""What qcam-export and qcam-import both ask of a network: options, each defined once, and the decisions that both print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcam.commands import console
from qcam.commands.options import INPUT, OUTPUT, Function, option
from qcam.common.vocabulary import InputValues, Interpolation, Layout, words
from qcam.common.wording import in_options

if TYPE_CHECKING:
    from qcam.runtime.manifest import PrecisionEntry

#: A side, height and width, or a word.
Size = int | tuple[int, int] | str

#: What --trained says.
TRAINED = {"yes": True, "no": False, "unknown": None}
#: Most letters that a column of values is filled up to.
_WIDEST = 48


class TripleType(click.ParamType[tuple[float, ...]]):
    """One number for all channels, or three with commas, for R, G and B."""

    name = "R,G,B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers; refuse what is neither one nor three."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3):
            self.fail(f"{value!r} is not one number or three with commas, as in 0.485,0.456,0.406", param, ctx)
        return tuple(numbers)


class SizeType(click.ParamType[Size]):
    """A side in pixels, or height and width with a comma; `squash` where that is a choice."""

    name = "N|H,W"

    def __init__(self, *, squash: bool = False) -> None:
        """Take whether `squash` is a choice."""
        self._squash = squash

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        """Return the size; refuse what is none."""
        text = str(value)
        if self._squash and text == "squash":
            return text
        parts = text.split(",")
        sides = [int(part) for part in parts if part.strip().isdecimal() and part.isascii()]
        if len(sides) != len(parts) or len(sides) > 2 or not all(1 <= side <= 8192 for side in sides):
            also = ", or squash" if self._squash else ""
            self.fail(
                f"{text!r} is no size: give a whole number of pixels, or height and width as in 224,128 (height first){also}",
                param,
                ctx,
            )
        return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def mean(says: str, group: str, *, advanced: bool = False) -> Callable[[Function], Function]:
    """Return `--mean`; arguments as of `resize`."""
    return option("--mean", group=group, advanced=advanced, type=TripleType(), help=f"Mean of R,G,B on the 0..1 scale{says}")


def std(group: str, *, advanced: bool = False) -> Callable[[Function], Function]:
    """Return `--std`; arguments as of `resize`."""
    return option("--std", group=group, advanced=advanced, type=TripleType(), help="Standard deviation likewise.")


def resize(says: str, group: str, *, advanced: bool = False) -> Callable[[Function], Function]:
    """Return `--resize`.

    Args:
        says: The end of its help.
        group: The heading that it stands below.
        advanced: Whether only --help-all shows it.
    """
    return option(
        "--resize", group=group, advanced=advanced, type=SizeType(squash=True), metavar="N|H,W|squash",
        help=f"Shorter side before the crop; or height and width{says}",
    )  # fmt: skip


def interpolation(says: str, group: str, *, advanced: bool = False) -> Callable[[Function], Function]:
    """Return `--interpolation`; arguments as of `resize`."""
    return option(
        "--interpolation", group=group, advanced=advanced, type=click.Choice(words(Interpolation)),
        help=f"Resampling filter{says}",
    )  # fmt: skip


def trained(says: str, group: str, *, default: str | None = None) -> Callable[[Function], Function]:
    """Return `--trained`.

    Args:
        says: Its help.
        group: The heading that it stands below.
        default: What is taken without it, which help shows; None: nothing was said.
    """
    return option(
        "--trained", group=group, type=click.Choice(list(TRAINED)), default=default, show_default=default is not None, help=says
    )


def classes(says: str) -> Callable[[Function], Function]:
    """Return `--classes`.

    Args:
        says: What is taken without it.
    """
    return option(
        "--classes", group=INPUT, metavar="N|FILE",
        help=f"Number of classes, or a text file with one name a line; by default {says}.",
    )  # fmt: skip


def logits(says: str, group: str, *, advanced: bool = False) -> Callable[[Function], Function]:
    """Return `--logits`; arguments as of `resize`."""
    return option(
        "--logits", group=group, advanced=advanced, metavar="TENSOR",
        help=f"The class scores{says}; by default the one output of their shape.",
    )  # fmt: skip


def values(says: str, group: str) -> Callable[[Function], Function]:
    """Return `--values`; arguments as of `resize`."""
    return option("--values", group=group, advanced=True, type=click.Choice(words(InputValues)), help=f"What the input {says}")


def layout(says: str, group: str) -> Callable[[Function], Function]:
    """Return `--layout`; arguments as of `resize`."""
    return option("--layout", group=group, advanced=True, type=click.Choice(words(Layout)), help=f"Order of {says}")


def output(says: str) -> Callable[[Function], Function]:
    """Return `--output`, the folder of bundles.

    Args:
        says: Its help.
    """
    return option(
        "--output", group=OUTPUT, type=click.Path(path_type=Path, file_okay=False), default=Path("bundles"), show_default=True,
        help=says,
    )  # fmt: skip


def show_decisions(entry: PrecisionEntry) -> None:
    """Print what was decided about a file, and from what; nothing where nothing was."""
    from qcam.exporters.importing.decisions import decisions_of

    decisions = decisions_of(entry.quantization.further.get("imported"))
    columns = zip(*((decision.what, decision.value) for decision in decisions), strict=True)
    widths = [max((len(text) for text in column), default=0) for column in columns]
    for decision in decisions:
        left, middle = decision.what.ljust(widths[0]), decision.value.ljust(min(widths[1], _WIDEST))
        console.out.print(f"  {left}  {middle}  ({in_options(decision.because)})", markup=False)
