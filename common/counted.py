"""How many of what, in a sentence."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun.

    Args:
        number: How many.
        noun: For one.
        plural: For any other number; by default with an s.

    >>> counted(1, "image"), counted(12000, "image"), counted(2, "class", "classes")
    ('1 image', '12,000 images', '2 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
