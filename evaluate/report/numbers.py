"""Figures as text: what is nearly 1 does not pass for 1."""

from __future__ import annotations

#: Digits beyond which a figure is only said to be nearly 0 or 1.
_MOST = 5


def figure(value: float | None, digits: int = 3, most: int = _MOST) -> str:
    """Return a figure, with more digits where it would look like 0 or 1 without being it; `–` for None.

    Args:
        value: The figure.
        digits: Behind the point.
        most: Digits to which that is taken.

    >>> figure(1.0), figure(0.99996), figure(0.9123), figure(0.00004), figure(0.99999999), figure(-0.1)
    ('1', '0.99996', '0.912', '0.00004', '> 0.99999', '−0.100')
    >>> figure(1e-9), figure(-1e-11), figure(0.99996, most=4), figure(None)
    ('< 0.00001', '≈ 0', '> 0.9999', '–')
    """
    if value is None or value != value:
        return "–"
    if value in (0, 1, -1):
        return f"{abs(value):.0f}" if value >= 0 else "−1"
    for more in range(digits, most + 1):
        text = f"{value:.{more}f}"
        if float(text) not in (0, 1, -1):
            return text.replace("-", "−")
    if abs(value) < 0.5:
        return f"< {10**-most:.{most}f}" if value > 0 else "≈ 0"
    return f"> {1 - 10**-most:.{most}f}" if 0 < value < 1 else "≈ −1" if value < 0 else "≈ 1"


def spread(value: float | None, digits: int = 3) -> str:
    """Return a standard deviation.

    >>> spread(0.0), spread(0.00001), spread(0.1234), spread(1e-17)
    ('0', '0.00001', '0.123', '< 0.00001')
    """
    return figure(value, digits)


def difference(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign; a minus as typesetters write it.

    >>> difference(0.25), difference(-0.1), difference(0.0), difference(None), difference(0.00004), difference(-1e-9)
    ('+0.250', '−0.100', '0', '–', '+0.00004', '≈ 0')
    """
    if value is None or value != value:
        return "–"
    if value == 0:
        return "0"
    if abs(value) < 0.5 * 10**-_MOST:
        return "≈ 0"
    return ("+" if value > 0 else "−") + figure(abs(value), digits)


def share(value: float | None) -> str:
    """Return a share in per cent, never 100 % or 0 % of what is not all or nothing.

    >>> share(1.0), share(0.99999), share(0.25), share(0.0), share(0.00001), share(None)
    ('100 %', '> 99.9 %', '25 %', '0 %', '< 0.1 %', '–')
    """
    if value is None or value != value:
        return "–"
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    if 0 < value < 0.0005:
        return "< 0.1 %"
    text = f"{value * 100:.1f}".removesuffix(".0")
    return f"{text} %"


def count(number: int, word: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> count(1, "image"), count(12000, "image"), count(2, "class", "classes")
    ('1 image', '12,000 images', '2 classes')
    """
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def small_p(value: float | None) -> str:
    """Return a p value.

    >>> small_p(0.04), small_p(0.0000004), small_p(1.0), small_p(None)
    ('0.04', '< 0.0001', '1', '–')
    """
    if value is None:
        return "–"
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"
