"""Figures as text, for every medium, in two styles.

Exact (`figure`, `share`, …): what is nearly 1 does not pass for 1; for reading. Fixed (`fixed…`): always the same number of
digits; for tables in files, which are compared and read by programs.
"""

from __future__ import annotations

#: Digits beyond which a figure is only said to be nearly 0 or 1.
_MOST = 5
#: What a figure begins with that is only known to lie beyond the digits shown.
_BOUNDS = "<>≈"
#: Stands for a figure that there is not.
NONE = "–"


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
        return NONE
    if value in (0, 1, -1):
        return f"{abs(value):.0f}" if value >= 0 else "−1"
    for more in range(digits, most + 1):
        text = f"{value:.{more}f}"
        if float(text) not in (0, 1, -1):
            return text.replace("-", "−")
    if abs(value) < 0.5:
        return f"< {10**-most:.{most}f}" if value > 0 else "≈ 0"
    return f"> {1 - 10**-most:.{most}f}" if 0 < value < 1 else "≈ −1" if value < 0 else "≈ 1"


def share(value: float | None) -> str:
    """Return a share in per cent, never 100 % or 0 % of what is not all or nothing.

    >>> share(1.0), share(0.99999), share(0.25), share(0.0), share(0.00001), share(None)
    ('100 %', '> 99.9 %', '25 %', '0 %', '< 0.1 %', '–')
    """
    if value is None or value != value:
        return NONE
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    if 0 < value < 0.0005:
        return "< 0.1 %"
    text = f"{value * 100:.1f}".removesuffix(".0")
    return f"{text} %"


def mean(value: float, std: float | None, digits: int | None = 3) -> str:
    """Return a mean and its standard deviation; a share alone.

    Args:
        value: The mean.
        std: The standard deviation.
        digits: Behind the point; None for a share.

    >>> mean(0.25, 0.0), mean(0.99999999, 1e-9), mean(0.25, 0.4, None)
    ('0.250 ± 0', '> 0.99999', '25 %')
    """
    text = one(value, digits)
    if digits is None:
        return text
    deviation = figure(std, digits)
    # `> 0.99999 ± < 0.00001` says no more than its first half.
    return text if text[0] in _BOUNDS and deviation[0] in _BOUNDS else f"{text} ± {deviation}"


def interval(low: float | None, high: float | None, digits: int | None = 3) -> str:
    """Return an interval; empty where there is none, or none that says anything. Arguments as `mean`.

    >>> interval(0.25, 0.5), interval(0.5, 0.5), interval(0.999999991, 0.999999992), interval(0.25, 0.5, None)
    ('0.250 to 0.500', '', '', '25 % to 50 %')
    """
    if low is None or high is None or low == high:
        return ""
    ends = one(low, digits), one(high, digits)
    return "" if ends[0] == ends[1] and ends[0][0] in _BOUNDS else f"{ends[0]} to {ends[1]}"


def multiple(value: float) -> str:
    """Return how many times as large something is, with two digits.

    >>> multiple(0.9612), multiple(0.0042), multiple(12.34), multiple(1234.0), multiple(0.0)
    ('0.96', '0.0042', '12', '1,234', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"


def drift(value: float) -> str:
    """Return 1 - CC with two digits.

    >>> drift(0.00254), drift(0.25), drift(0.0), drift(1.2e-7)
    ('0.0025', '0.25', '0', '1.2e-07')
    """
    return f"{value:.2g}"


def one(value: float | None, digits: int | None = 3) -> str:
    """Return a figure, or a share where `digits` is None."""
    return share(value) if digits is None else figure(value, digits)


def difference(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign; a minus as typesetters write it.

    >>> difference(0.25), difference(-0.1), difference(0.0), difference(None), difference(0.00004), difference(-1e-9)
    ('+0.250', '−0.100', '0', '–', '+0.00004', '≈ 0')
    """
    if value is None or value != value:
        return NONE
    if value == 0:
        return "0"
    if abs(value) < 0.5 * 10**-_MOST:
        return "≈ 0"
    return ("+" if value > 0 else "−") + figure(abs(value), digits)


def small_p(value: float | None) -> str:
    """Return a p value.

    >>> small_p(0.04), small_p(0.0000004), small_p(1.0), small_p(None)
    ('0.04', '< 0.0001', '1', '–')
    """
    if value is None:
        return NONE
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def fixed(value: float, digits: int | None = 3) -> str:
    """Return a figure with so many digits, rounded first so that none is -0.000; a share in per cent where `digits` is None.

    >>> fixed(0.25), fixed(-0.0001), fixed(0.9999, 2), fixed(0.25, None)
    ('0.250', '0.000', '1.00', '25.0%')
    """
    return f"{value:.1%}" if digits is None else f"{round(value, digits) + 0.0:.{digits}f}"


def fixed_mean(value: float, std: float | None, digits: int | None = 3) -> str:
    """Return a mean and its standard deviation; a share alone. Arguments as `mean`.

    >>> fixed_mean(0.25, 0.0), fixed_mean(0.25, 0.4, None)
    ('0.250 ± 0.000', '25.0%')
    """
    return fixed(value, digits) if digits is None or std is None else f"{fixed(value, digits)} ± {fixed(std, digits)}"


#: Most digits that an interval is shown with.
_TOLD_APART = 10
#: What a figure differs by from another, or from 0, when nothing but rounding made the difference.
_ROUNDING = 1e-9


def fixed_interval(low: float, high: float, digits: int | None = 3) -> str:
    """Return an interval, with as many digits as tell its ends apart; one figure for equal ends, `≈ 0` for rounding.

    >>> fixed_interval(0.25, 0.5), fixed_interval(1.0, 1.0), fixed_interval(0.9999998, 1.0), fixed_interval(0.0, 1e-13)
    ('0.250 to 0.500', '1.000', '0.9999998 to 1.0000000', '≈ 0')
    """
    if low == high and not 0 < abs(low) < _ROUNDING:
        return fixed(low, digits)
    if max(abs(low), abs(high)) < _ROUNDING:
        return "≈ 0"
    for more in (None,) if digits is None else range(digits, _TOLD_APART):
        ends = fixed(low, more), fixed(high, more)
        if ends[0] != ends[1]:
            return " to ".join(ends)
    return f"{low:.3g} to {high:.3g}"


def fixed_difference(value: float, digits: int = 2) -> str:
    """Return a difference with its sign.

    >>> fixed_difference(0.25), fixed_difference(-0.1)
    ('+0.25', '-0.10')
    """
    return f"{value:+.{digits}f}"


def fine_difference(value: float) -> str:
    """Return a difference with four digits, or as a power of ten where they would all be 0.

    >>> fine_difference(0.25), fine_difference(-0.0000025), fine_difference(0.0), fine_difference(6.9e-18)
    ('+0.2500', '-2.5e-06', '0', '≈ 0')
    """
    if value == 0:
        return "0"
    if abs(value) < _ROUNDING:
        return "≈ 0"
    return f"{value:+.4f}" if abs(value) >= 0.0001 else f"{value:+.1e}"


def agreement(value: float | None) -> str:
    """Return a share of equal codes in per cent, never rounded up to 100 %: one code of a million counts.

    >>> agreement(1.0), agreement(0.25), agreement(0.999999), agreement(0.9999999999), agreement(None)
    ('100 %', '25.00 %', '99.999900 %', '99.999999 %', '–')
    """
    if value is None:
        return NONE
    if value == 1:
        return "100 %"
    return f"{value * 100:.2f} %" if value < 0.9999 else f"{min(value * 100, 99.999999):.6f} %"


def four_digits(value: float | None) -> str:
    """Return a figure with four digits; what is nearly 1 does not pass for 1.

    >>> four_digits(0.5), four_digits(0.99996), four_digits(1.0), four_digits(-1e-9), four_digits(None)
    ('0.5000', '> 0.9999', '1.0000', '0.0000', '–')
    """
    if value is None:
        return NONE
    return "> 0.9999" if 0.99995 <= value < 1 - 1e-6 else f"{abs(value) if abs(value) < 5e-5 else value:.4f}"
