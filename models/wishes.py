"""What a caller knows about a network of his own: which weights of a file, how many classes and their names, channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qcam.common.errors import QcamError, first_line

#: More classes than any classifier has whose maps somebody looks at; a number beyond is a slip.
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class Wishes:
    """What a caller knows about a network of his own; None leaves it to the model and the file.

    Attributes:
        weights_key: What stands in front of the weights' names, where a file holds several sets of them.
        classes: Number of outputs, or the classes' names in their order.
        channels: 1 for a network of grey pictures, 3 for one of RGB.
        resize: Whether the caller says himself how pictures are resized, so that the model's own way is not asked for.
        interpolation: Whether he says by which filter.
    """

    weights_key: str | None = None
    classes: int | tuple[str, ...] | None = None
    channels: int | None = None
    resize: bool = False
    interpolation: bool = False

    def __post_init__(self) -> None:
        """Refuse what no network has.

        Raises:
            QcamError: If the number of classes or of channels cannot be, or a name is empty or stands twice.
        """
        if self.channels not in (None, 1, 3):
            raise QcamError(
                f"{{channels}} {self.channels}: a photograph has 3 channels, or 1 if it is made grey; choose 1 or 3"
            )
        if isinstance(self.classes, tuple):
            for name in self.classes:
                if not name or self.classes.count(name) > 1:
                    what = f"{name!r} twice" if name else "an empty name"
                    raise QcamError(f"{{classes}}: the names hold {what}; give every class a name of its own, one a line")
            if not self.classes:
                raise QcamError("{classes}: there are no names; give one a line")
        elif self.classes is not None and self.classes < 1:
            raise QcamError(f"{{classes}} {self.classes}: give a number from 1, or a file with one name a line")
        elif self.classes is not None and self.classes > MOST_CLASSES:
            raise QcamError(f"{{classes}} {self.classes:g}: give {MOST_CLASSES:,} at most")
        if self.weights_key is not None and not self.weights_key.strip():
            raise QcamError("{weights_key} is empty; give what stands in front of the names, or . for names without a prefix")

    def outputs(self) -> int | None:
        """Return the number of outputs that is wanted, as far as it is certain: two names may be the sides of one score."""
        if isinstance(self.classes, tuple):
            return len(self.classes) if len(self.classes) > 2 else None
        return self.classes


def class_names(count: int, wanted: int | tuple[str, ...] | None, model: str) -> tuple[str, ...]:
    """Return the classes' names: those given, else ImageNet's for 1,000 classes, numbers for any other count.

    One output is a score: below 0 it says the first of two names, above 0 the second.
    """
    named = max(2, count)
    if isinstance(wanted, int) and wanted != count:
        raise QcamError(
            f"{model} has {count} {'classes' if count > 1 else 'output'}, {{classes}} asks for {wanted}; leave it out"
        )
    if isinstance(wanted, tuple):
        if count == 1 and len(wanted) == 1:
            return (f"not {wanted[0]}", wanted[0])
        if len(wanted) != named:
            raise QcamError(
                f"{model} has {count} {'classes' if count > 1 else 'output'}, {{classes}} gives {len(wanted)} names; "
                f"give {named}, one a line"
            )
        return wanted
    if count != 1000:
        return tuple(str(index) for index in range(named))
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def read_classes(text: str) -> int | tuple[str, ...]:
    """Read the classes that were asked for: a number, or a file with one name a line.

    Raises:
        QcamError: If it is neither.
    """
    if not text.strip():
        raise QcamError("{classes} is empty; give a number, or a text file with one name a line")
    if text.isascii() and text.isdecimal():
        if len(text) > 9:
            raise QcamError(f"{{classes}} {text[:20]}{'…' * (len(text) > 20)}: give {MOST_CLASSES:,} at most")
        return int(text)
    path = Path(text)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise QcamError(
            f"{{classes}} {text}: give a number, or a text file with one name a line ({first_line(error)})"
        ) from error
    return tuple(line.strip() for line in lines[: len(lines) - (not lines[-1].strip() if lines else 0)])
