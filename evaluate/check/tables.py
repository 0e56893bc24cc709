"""What a check found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from qcam.common.printable import printable
from qcam.evaluate.check.result import CheckResult
from qcam.evaluate.check.verdicts import Judged
from qcam.evaluate.showing.numbers import NONE, agreement, four_digits

_HEADINGS = (
    "precision", "simulated as", "codes at tap", "all codes", "max diff", "logit error", "top-1", "SIM", "CC", "CC min", "KLD",
    "verdict",
)  # fmt: skip
#: Where tensors of another scale are compared by their values: the column's heading, and its place.
_WITHIN, _WITHIN_AT = "within a step", 5
#: Columns that the headings, and one result, take in a terminal when results stand side by side.
_HEAD_WIDTH, _CELL_WIDTH = 17, 20


def as_tables(judged: Sequence[Judged], title: str, width: int | None = None) -> list[Table]:
    """Return the verdict as one table a model, one row for each precision and arithmetic.

    Args:
        judged: What was measured.
        title: Stands behind the model's name.
        width: Columns of the terminal; where rows do not fit, results stand side by side instead. None does not limit.
    """
    tables = []
    for model in dict.fromkeys(item.result.model for item in judged):
        items = [item for item in judged if item.result.model == model]
        rows, headings = [_cells(item) for item in items], list(_HEADINGS)
        if any(item.result.values for item in items):
            headings.insert(_WITHIN_AT, _WITHIN)
            for item, row in zip(items, rows, strict=True):
                row.insert(_WITHIN_AT, agreement(item.result.values_within))
        heading = _shown(f"{model}, {title}")
        lengths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        if width is None or sum(lengths) + 3 * len(lengths) + 1 <= width:
            tables.append(_table(heading, headings, rows, left=2))
            continue
        at_once = max(1, (width - _HEAD_WIDTH) // _CELL_WIDTH)
        for start in range(0, len(rows), at_once):
            turned = list(zip(headings, *rows[start : start + at_once], strict=True))
            tables.append(_table(heading, turned[0], turned[1:], left=1))
    return tables


def _shown(text: str) -> str:
    """Return a text that stands for itself in a table: no markup, in one line."""
    return escape(printable(text))


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(_shown(heading), justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(_shown, row))
    return table


def _cells(item: Judged) -> list[str]:
    result, figures = item.result, item.result.figures
    largest = result.largest_difference
    return [
        result.precision,
        result.arithmetic + (f" ({result.kernel})" if result.kernel else ""),
        agreement(figures["tap"]),
        agreement(figures["codes"]),
        "–" if largest is None else f"{largest:.0f}",
        mean_error([image.logit_error for image in result.images]),
        agreement(figures["top1"]),
        *(four_digits(figures[name]) for name in ("sim", "cc", "cc_min", "kld")),
        "–" if item.verdict is None else item.verdict.value,
    ]


def mean_error(errors: Sequence[float]) -> str:
    """Return the mean of errors as text; those that are undefined are left out and counted.

    >>> mean_error([0.0, 0.0]), mean_error([1e-5, 3e-5]), mean_error([2e-5, float("nan")]), mean_error([float("nan")])
    ('0', '2.0e-05', '2.0e-05 (1 undefined)', '–')
    """
    defined = [error for error in errors if error == error]
    if not defined:
        return NONE
    mean, left = sum(defined) / len(defined), len(errors) - len(defined)
    return (f"{mean:.1e}" if mean else "0") + (f" ({left} undefined)" if left else "")


def values_table(result: CheckResult) -> Table:
    """Return the tensors whose codes mean something else in the deployed file, by what they stand for."""
    title = _shown(f"{result.title}: tensors of another scale, zero point or type")
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("tensor", "operator", "in the deployed file"):
        table.add_column(name, overflow="fold")
    for name in (_WITHIN, "max diff"):
        table.add_column(name, justify="right", no_wrap=True)
    for tensor in result.values:
        table.add_row(
            _shown(tensor.name.removesuffix("_QuantizeLinear_Output")), _shown(tensor.operator), _shown(tensor.partner),
            agreement(tensor.share), f"{tensor.largest:.3g}",
        )  # fmt: skip
    table.caption = "a step, and max diff: of the coarser of the two scales"
    table.caption_justify = "left"
    return table


def tensor_table(result: CheckResult) -> Table:
    """Return every tensor in graph order: equal from the images on, and with its operator fed with the deployed codes."""
    table = Table(title=_shown(f"{result.title}: every tensor"), title_justify="left", title_style="bold")
    for name in ("tensor", "operator"):
        table.add_column(name, overflow="fold")
    for name in ("end to end", "max diff", "fed", "max diff"):
        table.add_column(name, justify="right", no_wrap=True)
    for tensor in result.tensors:
        table.add_row(
            _shown(tensor.name.removesuffix("_QuantizeLinear_Output")), _shown(tensor.operator), agreement(tensor.share),
            f"{tensor.largest:.3g}", agreement(tensor.forced_share), f"{tensor.forced_largest:.3g}",
        )  # fmt: skip
    table.caption = "fed: with the deployed codes of its inputs; only an operator that computes something else differs then"
    table.caption_justify = "left"
    return table
